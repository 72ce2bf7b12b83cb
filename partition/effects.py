"""What a callback leaves behind: the seam between running plugins and everything around them.

Dispatch turns one call into one `Outcome`. If the callback raised, `images` and `effects` are
empty: nothing of it happened. Effects are in the order in which the callback asked for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from connserver.errors import ClientError
from connserver.messages import Image
from connserver.model import Message, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSend:
    """`ctx.room(name).send(**fields)`: an ordered event to the members of a room, wherever."""

    room: str
    fields: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomUpdate:
    """`ctx.room(name).update(key, value, at=)`: a volatile value; `value` None removes it."""

    room: str
    key: str
    value: Value
    at: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomJoin:
    """`ctx.room(name).join(user)` / `.leave(user)`: membership of a user's sessions, by a plugin."""

    room: str
    user: int
    join: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`ctx.view(center, radius)`: what a session sees of volatile values with a place; None: all."""

    session: int
    view: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BotAct:
    """`ctx.bot(name)`: what the plugin's bot does (`act` of partition.bots), exactly once."""

    name: str
    plugin: str
    act: str
    room: str = ""
    fields: Message | None = None
    hears: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotUpdate:
    """`ctx.bot(name).update(room, key, value, at=)`: a volatile value of the bot's."""

    name: str
    plugin: str
    room: str
    key: str
    value: Value
    at: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """`ctx.tell(user, msg, **fields)`: a direct event to every session of a user object."""

    user: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`ctx.call(oid, fn, …, then=)`: exactly-once call of an internal method on another object.

    `then` is the internal method to run on `origin` (the object that called) with the result, or "".
    `arguments` travel with the call and come back to `then`. `deferred`: the client's answer waits
    for what `then` returns (the callback returned the Reply).
    """

    target: int
    origin: int
    method: str
    arguments: Message
    then: str
    deferred: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """A durable timer on an object: run `method` on it at `due` (Unix seconds). `cancel` removes it."""

    oid: int
    name: str
    method: str
    due: float
    arguments: Message
    cancel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Blocking work to run outside the loop; its result comes back as an internal call on `oid`."""

    oid: int
    function: str
    arguments: Message
    then: str


Effect: TypeAlias = (
    RoomSend | RoomUpdate | RoomJoin | Look | BotAct | BotUpdate | Tell | Call | SetTimer | Background
)


VOLATILE = (RoomUpdate, BotUpdate, Look)
"""Effects that may be lost: a call that has no others has changed nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is calling: a client's session (with its roles), or the cluster itself."""

    user: int
    session: int
    name: str
    roles: frozenset[str]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The result of one callback. Exactly one of `result` (also None) and `error` counts.

    `deferred`: the answer comes from the `then` of one of the calls in `effects`.
    `transient_only`: objects changed, but only in transient fields: nothing to commit.
    `unfinished`: the callback failed, was interrupted, or is not there; a plugin's own no is an answer.
    """

    result: Value = None
    error: ClientError | None = None
    deferred: bool = False
    images: list[Image] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    transient_only: bool = False
    unfinished: bool = False
