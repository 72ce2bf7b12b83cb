"""Gateway (or another worker) ↔ worker: numbered streams."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from connserver.codec import message


class RequestKind(IntEnum):
    """What an item from a gateway is; `bodies[i]` is a packed canonical map for each."""

    CALL = 0
    """A client's message."""
    LOGIN = 1
    """`{user, roles, encoding, message?, proof?}`: bind this connection to the user; answers with BOUND.
    `message` is the login message to answer; without it the login is implicit. `proof`: what a plugin
    is to judge, where one is the login provider."""
    RESUME = 2
    """`{resume, n, rooms, encoding, message}`: bind this connection to a living session.
    With `rebind` (and no `message`): the gateway tells a new grant what this
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
    """`{session, user, oid, roles, resume, n}`: this connection is logged in; its client has had direct
    events up to `n`."""
    CLOSE = 3
    """`{code, reason}` (a WebSocket close code): send what is queued, then close."""
    VOLATILE = 4
    """Latest-value-wins; the gateway may drop it for a slow client. Body has `room` and `key`s."""


@message(10)
@dataclass(frozen=True, slots=True)
class OpenStream:
    """First message of a sender to a worker. `sender`: gateway name, or "group:N" of a worker.

    `received`: the `op` of the last Outputs that this gateway took from this group under any grant, 0
    for none: the stream begins with the outputs after it that the gateway has not had.
    """

    sender: str
    boot: int
    grant: int
    received: int


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
