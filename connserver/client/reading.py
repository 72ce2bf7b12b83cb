"""Fields of a gateway's messages, read with suspicion: a field of the wrong type counts as not there."""

from __future__ import annotations

from connserver.errors import ERROR_CODES, ClientError, Refused
from connserver.model import Message, Value

HEAD = ("msg", "id", "status")


def whole(message: Message, name: str, default: int = 0) -> int:
    """A whole number from 0 up."""
    value = message.get(name)
    return value if type(value) is int and value >= 0 else default


def text(message: Message, name: str, default: str = "") -> str:
    """A text."""
    value = message.get(name)
    return value if type(value) is str else default


def result_of(reply: Message) -> Message:
    """A good reply without what only says that it is one."""
    return {name: value for name, value in reply.items() if name not in HEAD}


def error_of(reply: Message) -> ClientError:
    """The error in a reply; a code that this version does not know comes as `Refused` with that code."""
    error, reason = text(reply, "error"), text(reply, "reason", "no reason given")
    if error == "refused":
        return Refused(text(reply, "code", "refused"), reason)
    if error not in ERROR_CODES:
        return Refused(error or "unnamed", reason)
    return ClientError(
        error,
        reason,
        code=text(reply, "code") or None,
        retry_after_ms=whole(reply, "retry_after_ms") if "retry_after_ms" in reply else None,
        incident=text(reply, "incident") or None,
    )


def listed(value: Value) -> list[Message]:
    """The maps in a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
