"""Every message between two processes: one frozen dataclass each, with its tag on the wire.

Read as a table of contents of the cluster: who says what to whom. `connserver.codec` turns them
into bytes. Words: a *grant* is a worker's right to execute for its group (fresh per gossip start,
view and attach); a *boot* is the random number of one life of a gateway; a *stream* is the numbered
sequence of messages between one gateway's (or worker's) boot and one grant, one per direction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from connserver.codec import message

# --- what a log keeps -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Image:
    """An object as it is after an operation; `data` (msgpack map of kept fields) None = deleted."""

    oid: int
    kind: str
    schema: int
    data: bytes | None


@message(1)
@dataclass(frozen=True, slots=True)
class Entry:
    """What one turn of a worker changed: absolute after-images, and what is to leave once committed.

    `outputs` are packed `Outputs` items by gateway boot: (boot, targets, kinds, answers, bodies).
    """

    images: list[Image]
    outputs: list[OutputBatch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OutputBatch:
    """Items for one gateway, as parallel arrays.

    `targets[i]`: the connections (numbers given by that gateway) that `bodies[i]` goes to;
    `kinds[i]`: an OutputKind; `answers[i]`: the request's sequence for a REPLY, else 0.
    """

    gateway: int
    targets: list[list[int]]
    kinds: list[int]
    answers: list[int]
    bodies: list[bytes]


# --- gateway (or another worker) ↔ worker: numbered streams ------------------------------------------


class RequestKind(IntEnum):
    """What an item from a gateway is; `bodies[i]` is a packed canonical map for each."""

    CALL = 0
    """A client's message."""
    LOGIN = 1
    """`{user, roles, encoding, message?}`: bind this connection to the user; answers with BOUND.
    `message` is the login message to answer; without it the login is implicit."""
    RESUME = 2
    """`{resume, n, rooms, encoding, message}`: bind this connection to a living session.
    With `rebind` (and `user`, `roles`, no `message`): the gateway tells a new grant what this
    connection is bound to."""
    REJECTED = 3
    """A refused message: the finished error reply, sent back in its order."""
    GONE = 4
    """The connection is closed; the session lives on for the resume window. Body empty."""


class OutputKind(IntEnum):
    """What an item to a gateway is; bodies are packed canonical maps."""

    REPLY = 0
    EVENT = 1
    BOUND = 2
    """`{session, user, oid, roles, resume}`: this connection is logged in."""
    CLOSE = 3
    """`{code, reason}` (a WebSocket close code): send what is queued, then close."""
    VOLATILE = 4
    """Latest-value-wins; the gateway may drop it for a slow client. Body has `room` and `key`s."""


@message(10)
@dataclass(frozen=True, slots=True)
class OpenStream:
    """First message of a sender to a worker. `sender`: gateway name, or "group:N" of a worker."""

    sender: str
    boot: int
    grant: int


@message(11)
@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The worker holds this grant and starts both streams at number 1."""

    grant: int


@message(12)
@dataclass(frozen=True, slots=True)
class WrongGrant:
    """The stream's grant is not the worker's (0: it has none now); learn the route again."""

    grant: int
    current: int


@message(13)
@dataclass(frozen=True, slots=True)
class Requests:
    """All that a gateway has for one worker in a loop turn, as parallel arrays.

    `connections`: the gateway's numbers, never used twice in a boot; `sequences`: rising per
    connection, from 1; `number`/`acked`: this stream's number and the last one received back.
    """

    grant: int
    number: int
    acked: int
    connections: list[int]
    kinds: list[int]
    sequences: list[int]
    bodies: list[bytes]


@message(14)
@dataclass(frozen=True, slots=True)
class Outputs:
    """All that a worker has for one gateway after a commit. `op`: the log position they rest on."""

    grant: int
    number: int
    acked: int
    view: int
    op: int
    targets: list[list[int]]
    kinds: list[int]
    answers: list[int]
    bodies: list[bytes]


@message(15)
@dataclass(frozen=True, slots=True)
class Parcels:
    """Exactly-once calls of one group to another: `numbers` are dense per (source, target) group."""

    grant: int
    number: int
    acked: int
    source: int
    numbers: list[int]
    bodies: list[bytes]


@message(16)
@dataclass(frozen=True, slots=True)
class ParcelsDone:
    """The target group has committed every parcel of this source up to `upto`."""

    grant: int
    number: int
    acked: int
    target: int
    upto: int


@message(17)
@dataclass(frozen=True, slots=True)
class StreamAck:
    """Everything up to `acked` has arrived; said when there is nothing else to carry it."""

    grant: int
    acked: int


@message(18)
@dataclass(frozen=True, slots=True)
class StreamProbe:
    """`last` was the newest number sent and is not acknowledged; ask again if it is missing."""

    grant: int
    last: int


@message(19)
@dataclass(frozen=True, slots=True)
class StreamResend:
    """Numbers from `first` on are missing here; send them again."""

    grant: int
    first: int


# --- worker ↔ the gossip process of its node ---------------------------------------------------------


@message(30)
@dataclass(frozen=True, slots=True)
class Attach:
    """A worker is there, has loaded its group and its plugins, and listens at `endpoint`."""

    group: int
    pid: int
    endpoint: str
    archived: int


@message(31)
@dataclass(frozen=True, slots=True)
class Role:
    """What the worker is from now on. `grant` 0: backup. `view`/`era` of the group's log."""

    group: int
    grant: int
    primary: bool
    era: int
    view: int


@message(32)
@dataclass(frozen=True, slots=True)
class WorkerReport:
    """Once a second, for `status`: positions, storage and plugins of one worker."""

    group: int
    grant: int
    commit: int
    archived: int
    storage: str
    storage_error: str
    details: dict[str, Any]


# --- gossip: membership and routes ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """Where a group is served. `state`: "ready", "starting" or "unavailable", `reason` why.

    Of two entries for a group the greater (era, view, grant) is the newer.
    """

    group: int
    first_partition: int
    last_partition: int
    era: int
    view: int
    grant: int
    node: str
    endpoint: str
    replicas: list[str]
    state: str
    reason: str


@message(40)
@dataclass(frozen=True, slots=True)
class Routes:
    """The routing table as one gossip process knows it; published on change and once a second."""

    cluster: str
    sender: str
    version: int
    entries: list[RouteEntry]


@message(41)
@dataclass(frozen=True, slots=True)
class GetRoutes:
    """Ask a gossip process's local socket for its Routes (the answer to a slow SUB join)."""

    process: str


@message(42)
@dataclass(frozen=True, slots=True)
class GatewayReport:
    """Once a second from each gateway to its node's gossip process."""

    name: str
    pid: int
    endpoint: str
    clients: int
    messages_per_s: float
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process as its supervisor sees it. `state`: starting, ready, stopped, failed, backoff."""

    node: str
    role: str
    name: str
    pid: int
    state: str
    restarts: int
    endpoint: str
    reason: str


@message(43)
@dataclass(frozen=True, slots=True)
class ProcessTable:
    """From a host's supervisor to the gossip processes of its nodes, on change and once a second."""

    host: str
    processes: list[ProcessRecord]
    storage: dict[str, Any]


# --- administration: CLI and supervisor → gossip (→ worker) --------------------------------------------


@message(50)
@dataclass(frozen=True, slots=True)
class AdminRequest:
    """`command` with `arguments`; `number` comes back in the reply. Workers get theirs forwarded."""

    number: int
    command: str
    arguments: dict[str, Any]


@message(51)
@dataclass(frozen=True, slots=True)
class AdminReply:
    """`error` empty: `result` is the answer. Otherwise a sentence that says what to do."""

    number: int
    result: Any
    error: str


# --- gossip ↔ gossip: PUB topic b"gossip", and directly -----------------------------------------------


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the sender knows of another node: the newest heartbeat of it that anyone has seen.

    `state`: "alive", "suspect", "dead" or "stopped". `accused`: alive here, but somebody holds this
    incarnation for dead, so that the node has to raise it.
    """

    node: str
    incarnation: int
    number: int
    state: str
    accused: bool


@dataclass(frozen=True, slots=True)
class RecordVersion:
    """The newest record of a node that the sender has; greater (incarnation, version) is newer."""

    node: str
    incarnation: int
    version: int


@message(60)
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Ten times a second from each gossip process to all others. `number` rises by one each time.

    `digest` is the configuration's, `placement` that of the placement it holds ("" none yet);
    `leaving`: the node stops in order and is not to be waited for.
    """

    cluster: str
    node: str
    incarnation: int
    number: int
    leaving: bool
    digest: str
    placement: str
    sightings: list[Sighting]
    records: list[RecordVersion]


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """How far the log of a group has come on one node; a group not named is in era 1, view 0."""

    group: int
    era: int
    view: int


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker of a node. `state`: "ready", "loading", or "gone" (its grant is kept, it is dead)."""

    group: int
    pid: int
    endpoint: str
    grant: int
    state: str
    commit: int
    archived: int
    storage: str
    storage_error: str
    plugins: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class GatewayRecord:
    """A gateway of a node, from its last report."""

    name: str
    pid: int
    endpoint: str
    clients: int
    messages_per_s: float


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """Something a person should act on. `severity`: "warning" or "critical"; `since_ms`: Unix time."""

    since_ms: int
    severity: str
    text: str
    about: str


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """All that one node says of itself; nobody else changes it. `refusal`: why it serves nothing."""

    node: str
    incarnation: int
    version: int
    refusal: str
    positions: list[GroupPosition]
    workers: list[WorkerRecord]
    gateways: list[GatewayRecord]
    processes: list[ProcessRecord]
    storage: dict[str, Any]
    alerts: list[AlertRecord]


@message(61)
@dataclass(frozen=True, slots=True)
class GetRecords:
    """Send me your newest records of these nodes; a heartbeat said that you have them."""

    nodes: list[str]


@message(62)
@dataclass(frozen=True, slots=True)
class Records:
    """The answer to GetRecords."""

    records: list[NodeRecord]


@message(63)
@dataclass(frozen=True, slots=True)
class GetIntroduction:
    """Say who you are; the sender misses a placement, or cannot use your configuration."""

    cluster: str


@message(64)
@dataclass(frozen=True, slots=True)
class Introduction:
    """Who a gossip process is: digests of each section of its cluster.toml, and its placement."""

    cluster: str
    node: str
    incarnation: int
    sections: dict[str, str]
    placement: list[list[str]]


@message(65)
@dataclass(frozen=True, slots=True)
class Forward:
    """An administrator's request for the worker of `group` on the receiving node."""

    number: int
    group: int
    command: str
    arguments: dict[str, Any]


@message(66)
@dataclass(frozen=True, slots=True)
class Forwarded:
    """The answer to Forward, as an AdminReply has it."""

    number: int
    result: Any
    error: str
