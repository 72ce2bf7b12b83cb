"""The methods every session has: hello, ping, time, logout, methods, room.*.

Each is a row of BUILTINS: `(desk, session, question, fields) → reply fields`, or None where the
answer comes later. What a built-in may refuse it raises as ClientError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from connserver.errors import ClientError
from connserver.hello import greet
from connserver.ids import named_id
from connserver.limits import (
    ROOM_HISTORY,
    ROOM_NAME_CHARS,
    ROOM_VALUE_BYTES,
    ROOM_WHO_PAGE,
    ROOMS_PER_SESSION,
)
from connserver.model import RESERVED, Message, Value, pack
from partition.questions import Question
from partition.sessions import Session

if TYPE_CHECKING:
    from partition.group import Group

Builtin = Callable[["Group", Session, Question, Message], Message | None]


def _arguments(fields: Message, *allowed: str) -> Message:
    arguments = {name: value for name, value in fields.items() if name not in ("msg", "id")}
    for name in arguments:
        if name not in allowed:
            raise ClientError("bad_argument", f"{name}: {fields['msg']!s} takes no such field")
    return arguments


def _room(fields: Message) -> str:
    room = fields.get("room")
    if not isinstance(room, str) or not 0 < len(room) <= ROOM_NAME_CHARS:
        raise ClientError("bad_argument", f"room: a name of 1 to {ROOM_NAME_CHARS} characters is wanted")
    return room


def _whole(fields: Message, name: str, default: int, largest: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if type(value) is not int or not 0 <= value <= largest:
        raise ClientError("bad_argument", f"{name}: a whole number from 0 to {largest} is wanted")
    return value


def hello(group: Group, session: Session, question: Question, fields: Message) -> Message:
    """What this server speaks and allows."""
    return greet(fields, group.limits, group.keepalive_ms, group.now)


def ping(group: Group, session: Session, question: Question, fields: Message) -> Message:
    """The same fields back."""
    return {name: value for name, value in fields.items() if name not in RESERVED}


def time(group: Group, session: Session, question: Question, fields: Message) -> Message:
    """Unix seconds, decimal."""
    return {"time": round(group.now, 3)}


def methods(group: Group, session: Session, question: Question, fields: Message) -> Message:
    """What this session may call."""
    return {"methods": group.describe(session.roles)}


def logout(group: Group, session: Session, question: Question, fields: Message) -> Message | None:
    """The end of the session; the connection closes after the answer."""
    group.logins.end_session(session, question)
    return None


def login(group: Group, session: Session, question: Question, fields: Message) -> Message:
    """A connection has one session; another user needs another connection, or a logout first."""
    raise ClientError("conflict", f"this connection is logged in already, as {session.name}")


def room_join(group: Group, session: Session, question: Question, fields: Message) -> Message | None:
    """Membership; answered by the room's home, then as much history as asked for."""
    _arguments(fields, "room", "history")
    room = _room(fields)
    history = _whole(fields, "history", 0, ROOM_HISTORY)
    if room not in session.rooms and len(session.rooms) >= ROOMS_PER_SESSION:
        raise ClientError("conflict", f"this session is in {ROOMS_PER_SESSION} rooms; leave one first")
    group.join_room(session, room, question, history)
    return None


def room_leave(group: Group, session: Session, question: Question, fields: Message) -> Message | None:
    """The end of a membership."""
    _arguments(fields, "room")
    room = _room(fields)
    if room not in session.rooms:
        raise ClientError("not_found", f"not a member of {room}")
    group.leave_room(session, room, question)
    return None


def room_who(group: Group, session: Session, question: Question, fields: Message) -> Message | None:
    """User names of the members, in pages."""
    _arguments(fields, "room", "after", "limit")
    room = _room(fields)
    after = fields.get("after", "")
    if not isinstance(after, str):
        raise ClientError("bad_argument", "after: a user name is wanted")
    limit = _whole(fields, "limit", ROOM_WHO_PAGE, ROOM_WHO_PAGE)
    _member(session, room)
    group.ask_room(room, "room.who", question, {"after": after, "limit": limit})
    return None


def room_send(group: Group, session: Session, question: Question, fields: Message) -> Message | None:
    """An ordered event to every member."""
    room = _room(fields)
    _member(session, room)
    own = {name: value for name, value in fields.items() if name not in ("msg", "id", "room")}
    for name in own:
        if name in RESERVED:
            raise ClientError("bad_argument", f"{name}: this name is the protocol's own")
    group.ask_room(room, "room.send", question, {"sender": session.name, "fields": own})
    return None


def room_update(group: Group, session: Session, question: Question, fields: Message) -> Message:
    """A volatile value; the latest of a sender and key wins."""
    _arguments(fields, "room", "key", "value")
    room, key = _room(fields), fields.get("key")
    if not isinstance(key, str) or not 0 < len(key) <= ROOM_NAME_CHARS:
        raise ClientError("bad_argument", f"key: a name of 1 to {ROOM_NAME_CHARS} characters is wanted")
    _member(session, room)
    value: Value = fields.get("value")
    if len(pack({"value": value})) > ROOM_VALUE_BYTES:
        raise ClientError("too_large", f"value: a volatile value has at most {ROOM_VALUE_BYTES} bytes")
    group.update_room(room, session.oid, session.name, key, value)
    return {}


def _member(session: Session, room: str) -> None:
    if room not in session.rooms:
        raise ClientError("forbidden", f"not a member of {room}: send room.join first")


def room_home(room: str) -> int:
    """The object that a room is: where it is at home."""
    return named_id("room", room)


BUILTINS: dict[str, Builtin] = {
    "hello": hello,
    "ping": ping,
    "time": time,
    "methods": methods,
    "login": login,
    "session.resume": login,
    "logout": logout,
    "room.join": room_join,
    "room.leave": room_leave,
    "room.who": room_who,
    "room.send": room_send,
    "room.update": room_update,
}
