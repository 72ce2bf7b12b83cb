"""What a gateway answers itself, before a connection has a session: hello, ping, time, and errors.

Guards one rule: every reply, whoever makes it, has `msg`, the request's `id` in its own type, and
`status`. Once a session is bound its worker answers everything, so that answers keep their order.
"""

from __future__ import annotations

from connserver.conversion import convert
from connserver.errors import ClientError
from connserver.hello import greet
from connserver.limits import Limits
from connserver.model import RESERVED, Message, Value

UNNAMED = "error"
"""`msg` of a reply to something that could not be read far enough to know its method."""


def reply(message: Message, fields: Message) -> Message:
    """A reply to this request: `fields` begin with `status`."""
    head: Message = {"msg": message["msg"]}
    if "id" in message:
        head["id"] = message["id"]
    return {**head, **fields}


def refusal(message: Message | None, error: ClientError) -> Message:
    """The error reply to this request, or to one that could not be read."""
    if message is None:
        return {"msg": UNNAMED, **error.fields()}
    return reply(message, {**error.fields()})


def hello(message: Message, limits: Limits, keepalive_ms: int, wall: float) -> Message:
    """What this server speaks and allows."""
    return reply(message, {"status": 0, **greet(message, limits, keepalive_ms, wall)})


def ping(message: Message) -> Message:
    """The same fields back."""
    same = {name: value for name, value in message.items() if name not in RESERVED}
    return reply(message, {"status": 0, **same})


def time(message: Message, wall: float) -> Message:
    """Unix seconds, decimal."""
    return reply(message, {"status": 0, "time": round(wall, 3)})


def goodbye(code: int, reason: str) -> Message:
    """The last event on a socket that has no close frame: why the gateway closes it."""
    return {"msg": "goodbye", "code": code, "reason": reason}


KEEPALIVE: Message = {"msg": "keepalive"}
"""Sent when nothing was for `keepalive_ms`, so that clients and middle boxes know the line lives."""


def whole(message: Message, name: str, default: int) -> int:
    """A whole number argument, also from an encoding without types; ClientError names it."""
    if name not in message:
        return default
    try:
        value = convert(message[name], int)
    except ValueError as error:
        raise ClientError("bad_argument", f"{name}: {error}") from None
    assert type(value) is int
    return value


def resume_arguments(message: Message) -> Message:
    """`n` and `rooms` of `session.resume`, checked, with the numbers that text encodings lack."""
    arguments: Message = {}
    if message.get("n") not in (None, ""):
        arguments["n"] = whole(message, "n", 0)
    rooms = message.get("rooms")
    if rooms in (None, ""):
        return arguments
    if isinstance(rooms, dict):
        rooms = [rooms]
    if not isinstance(rooms, list):
        raise ClientError("bad_argument", "rooms: a list of {room, seq} is wanted")
    seen: list[Value] = []
    for entry in rooms:
        if not isinstance(entry, dict) or not isinstance(entry.get("room"), str):
            raise ClientError("bad_argument", "rooms: a list of {room, seq} is wanted")
        seen.append({"room": entry["room"], "seq": whole(entry, "seq", 0)})
    arguments["rooms"] = seen
    return arguments
