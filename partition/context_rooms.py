"""`ctx.room(…)` and `ctx.bot(…)` of a running callback: what is said to rooms, as effects.

Guards the same rule as the context: what cannot be sent is refused at the call that hands it over.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from connserver.limits import LARGEST_INTEGER, ROOM_NAME_CHARS, ROOM_VALUE_BYTES
from connserver.model import Message, Value, pack
from connserver.plugin.context import Bot, Callback, Room, Target
from connserver.plugin.values import outgoing, outgoing_fields, unreserved
from partition.effects import BotAct, BotUpdate, RoomJoin, RoomSend, RoomUpdate
from partition.references import oid_of

if TYPE_CHECKING:
    from partition.context import RunContext


def place_of(at: tuple[float, float]) -> tuple[float, float]:
    """A place in the plane; ValueError for what is none."""
    try:
        x, y = map(float, at)
    except (TypeError, ValueError):
        raise ValueError(f"{at!r} is no place: (x, y) is wanted, two numbers") from None
    if not (isfinite(x) and isfinite(y) and max(abs(x), abs(y)) <= LARGEST_INTEGER):
        raise ValueError(f"{at!r} is no place: x and y are finite, within ±(2^53-1)")
    return x, y


def room_name(name: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= ROOM_NAME_CHARS:
        raise ValueError(f"{name!r} is no room: a name of 1 to {ROOM_NAME_CHARS} characters is wanted")
    return str(outgoing(name))


def _said(room: str, fields: Mapping[str, Any]) -> Message:
    """The fields of an event to a room; ValueError for what cannot be sent."""
    what = f"an event to room {room}"
    if "room" in fields:
        raise ValueError(f"{what}: the name 'room' is taken by the room itself")
    return unreserved(outgoing_fields(fields, what), what)


def _volatile(key: str, value: Any) -> Value:
    """The value of a volatile key; ValueError for what cannot be sent."""
    if not isinstance(key, str) or not 0 < len(key) <= ROOM_NAME_CHARS:
        raise ValueError(f"{key!r} is no key: a name of 1 to {ROOM_NAME_CHARS} characters is wanted")
    checked = outgoing(value)
    if len(pack({"value": checked})) > ROOM_VALUE_BYTES:
        raise ValueError(f"the value of {key!r} is larger than {ROOM_VALUE_BYTES} bytes; send it instead")
    return checked


class RunRoom(Room):
    """`ctx.room(name)`."""

    __slots__ = ("_context", "_name")

    def __init__(self, context: RunContext, name: str) -> None:
        self._context = context
        self._name = name

    def send(self, **fields: Any) -> None:
        self._context.add(RoomSend(room=self._name, fields=_said(self._name, fields)))

    def update(self, key: str, value: Any, *, at: tuple[float, float] | None = None) -> None:
        checked, place = _volatile(key, value), None if at is None else place_of(at)
        self._context.add(RoomUpdate(room=self._name, key=key, value=checked, at=place))

    def join(self, user: Target) -> None:
        self._context.add(RoomJoin(room=self._name, user=oid_of(user), join=True))

    def leave(self, user: Target) -> None:
        self._context.add(RoomJoin(room=self._name, user=oid_of(user), join=False))


class RunBot(Bot):
    """`ctx.bot(name)`."""

    __slots__ = ("_context", "_name")

    def __init__(self, context: RunContext, name: str) -> None:
        self._context = context
        self._name = name

    def join(self, room: str, *, hears: Callback | None = None) -> None:
        heard = ""
        if hears is not None:
            method = self._context.plugins.internal_of(hears)
            method.signature.check_call({"room": room, "sender": "", "seq": 1, "fields": {}})
            heard = method.name
        self._act("join", room_name(room), hears=heard)

    def leave(self, room: str) -> None:
        self._act("leave", room_name(room))

    def send(self, room: str, /, **fields: Any) -> None:
        self._act("send", room_name(room), fields=_said(room, fields))

    def update(self, room: str, key: str, value: Any, *, at: tuple[float, float] | None = None) -> None:
        self._context.add(
            BotUpdate(
                name=self._name,
                plugin=self._context.method.plugin,
                room=room_name(room),
                key=key,
                value=_volatile(key, value),
                at=None if at is None else place_of(at),
            )
        )

    def remove(self) -> None:
        self._act("remove", "")

    def _act(self, act: str, room: str, *, fields: Message | None = None, hears: str = "") -> None:
        plugin = self._context.method.plugin
        self._context.add(
            BotAct(name=self._name, plugin=plugin, act=act, room=room, fields=fields, hears=hears)
        )
