"""Gossip ↔ gossip: heartbeats, records, introductions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from connserver.codec import message
from connserver.messages.routes import ProcessRecord


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
    `leaving`: the node stops in order and is not to be waited for; `farewell`: why this process has to end
    now, or "".
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
    farewell: str = ""


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """A node's replica of a group. `status`: blank, forming, normal, view_change or recovering.

    `head`, `commit`, `base` and `archived` are ops of its log; `ready`: a worker could take over here;
    `problem`: what keeps the replica from taking part, in a sentence, or "".
    """

    group: int
    era: int
    view: int
    status: str
    head: int
    commit: int
    base: int
    archived: int
    ready: bool
    problem: str


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker of a node. `state`: "serving" (it holds `grant`), "ready" (it follows the log), "loading",
    or "gone" (dead). `grant` is the last one it had, also when that is void.

    `quarantined`: what killed its worker and does not run any more; `parked_calls`, `held_timers`: what
    waits for an operator, or for a plugin.
    """

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
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    parked_calls: int = 0
    held_timers: int = 0


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
