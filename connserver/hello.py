"""The answer to `hello`: the same from a gateway before the login and from a worker after it."""

from __future__ import annotations

from connserver import __version__
from connserver.conversion import convert
from connserver.errors import ClientError
from connserver.limits import PROTOCOL_VERSION, Limits
from connserver.model import Message, Value

SERVER = f"connserver/{__version__}"


def greet(message: Message, limits: Limits, keepalive_ms: int, wall: float) -> Message:
    """What this server speaks and allows; a client of a later protocol is told the one we have.

    `wall` in Unix seconds. ClientError `bad_argument` for a version that never was.
    """
    asked = message.get("protocol", PROTOCOL_VERSION)
    try:
        version = convert(asked, int)
    except ValueError as error:
        raise ClientError("bad_argument", f"protocol: {error}") from None
    assert isinstance(version, int)
    if version < 1:
        raise ClientError("bad_argument", "protocol: the first version is 1")
    shown: dict[str, Value] = {
        "message_bytes": limits.message_bytes,
        "messages_per_s": limits.messages_per_s,
        "bytes_per_s": limits.bytes_per_s,
        "burst": limits.burst,
        "fields": limits.fields,
        "nesting_levels": limits.nesting_levels,
        "requests_in_flight": limits.requests_in_flight,
    }
    return {
        "protocol": min(version, PROTOCOL_VERSION),
        "server": SERVER,
        "limits": shown,
        "keepalive_ms": keepalive_ms,
        "time_ms": int(wall * 1000),
    }
