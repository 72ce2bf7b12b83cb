"""The canonical model: what a message is, whatever encoding it came in.

Guards one rule: past this file a message holds only what every encoding can carry and every client
language can hold. A message is a map of names to values; a value is null, a boolean, an integer
within ±(2^53-1), a finite float, text of XML 1.0 characters, bytes, a list, or a map of the same
kind. The text encodings have no types: their leaves stay text until `connserver.conversion` turns
them into what a callback's annotation asks for.

`pack` and `unpack` are the canonical form, msgpack, in which messages travel between processes and
are kept in the log.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgpack

from connserver.errors import ClientError, WireError
from connserver.limits import LARGEST_INTEGER, NAME_CHARS, Limits

Value: TypeAlias = bool | int | float | str | bytes | list["Value"] | dict[str, "Value"] | None
Message: TypeAlias = dict[str, Value]

RESERVED: Final = frozenset(
    ("msg", "id", "status", "error", "reason", "code", "seq", "n", "from", "retry_after_ms")
)
"""Names the protocol itself gives a meaning to: results and room fields may not carry them."""

MOST_LEVELS: Final = 100
"""Nesting that is never exceeded, whatever is configured: it keeps every recursion here shallow, and
orjson refuses to write more than 254 levels."""

UNSURE: Final = 1 << 40
"""Added to the number of members for each float beyond the exact integers; see `measure`."""

_name = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{NAME_CHARS - 1}}}\Z").match
_outside_xml = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]").search

if TYPE_CHECKING:
    _Siblings = list[Value]
else:
    _Siblings = list


class Siblings(_Siblings):
    """Elements of one name repeated side by side in an XML message, in their order.

    They are a list where the annotation wants a list and a duplicate name everywhere else, and that
    is only known once the callback is. The class survives `pack` and `unpack`.
    """

    __slots__ = ()


def is_name(text: str) -> bool:
    """Whether this can be the name of a field or a method."""
    return _name(text) is not None


def check_message(message: Any, limits: Limits, require_msg: bool = True) -> int:
    """Refuse whatever is not a message of the model.

    Raises ClientError: `bad_message` for what is outside the model, `too_large` for what is beyond
    a limit. `limits.nesting_levels` counts maps and lists around a value, the message being the
    first; `limits.fields` counts the fields of one map. The total is bounded by the message's size.
    `require_msg` is left off for replies, which have no method. The result is that of `measure`.
    """
    if type(message) is not dict:
        raise ClientError("bad_message", f"a message is a map of fields, not {type_word(message)}")
    levels = limits.nesting_levels
    members = measure(message, levels if levels < MOST_LEVELS else MOST_LEVELS, limits.fields)
    if require_msg:
        method = message.get("msg")
        if type(method) is not str:
            raise ClientError("bad_message", "the field 'msg', which names the method, is missing or no text")
        if method not in _known_names and _name(method) is None:
            raise ClientError("bad_message", f"the method name {shown(method)} in 'msg' is no name")
    return members


def check_value(value: Any, limits: Limits) -> None:
    """Refuse one value (a result, a room's field) that is outside the model; ClientError as above."""
    measure([value], min(limits.nesting_levels, MOST_LEVELS) + 1, limits.fields)


def measure(container: Any, levels: int, fields: int) -> int:
    """Check a map or list and all within; returns how many members its maps have altogether.

    The count lets the JSON decoder prove that no name was given twice. A float beyond the exact
    integers adds UNSURE to it, because there a JSON parser reads integers and floats alike.
    """
    if levels <= 0:
        raise ClientError("too_large", "the message is nested in too many levels of maps and lists")
    members = 0
    values = container
    if type(container) is dict:
        members = len(container)
        if members > fields:
            raise ClientError("too_large", f"a map of {members} fields; at most {fields} are allowed")
        if not container.keys() <= _known_names:
            _check_names(container)
        values = container.values()
    for value in values:
        kind = type(value)
        if kind is str:
            if not value.isprintable() and _outside_xml(value):
                raise ClientError("bad_message", f"{_place(container, value)} {bad_text(value)}")
        elif kind is int:
            if not _LEAST_INTEGER <= value <= LARGEST_INTEGER:
                raise ClientError("bad_message", f"{_place(container, value)} is an integer beyond ±(2^53-1)")
        elif kind is dict or kind is list or kind is Siblings:
            members += measure(value, levels - 1, fields)
        elif kind is float:
            if not _LEAST_INTEGER <= value <= LARGEST_INTEGER:
                if not isfinite(value):
                    raise ClientError(
                        "bad_message", f"{_place(container, value)} is a float that is not finite"
                    )
                members += UNSURE
        elif not (value is None or kind is bool or kind is bytes):
            raise ClientError(
                "bad_message", f"{_place(container, value)} is {type_word(value)}, outside the model"
            )
    return members


_LEAST_INTEGER: Final = -LARGEST_INTEGER
_known_names: set[Any] = set()
"""Names found to be names lately, so that most are looked up instead of matched."""
_MOST_KNOWN_NAMES: Final = 4096
"""Beyond it all are forgotten: a client that invents names costs the others a match each, no memory."""


def _check_names(members: dict[Any, Any]) -> None:
    for name in members:
        if type(name) is not str or _name(name) is None:
            raise ClientError("bad_message", bad_name(name))
    if len(_known_names) + len(members) > _MOST_KNOWN_NAMES:
        _known_names.clear()
    _known_names.update(members)


def _place(container: Any, value: object) -> str:
    """Where in a map or list a value stands that has to be refused."""
    if type(container) is dict:
        return "the field " + next(shown(name) for name, member in container.items() if member is value)
    return "an item of a list"


def bad_name(name: object) -> str:
    """The sentence that refuses a name."""
    if type(name) is not str:
        return f"a field's name is {type_word(name)}; names are text"
    return (
        f"{shown(name)} is no field name: at most {NAME_CHARS} letters, digits, '_', '.' and '-', "
        "with a letter or '_' first"
    )


def bad_text(text: str) -> str:
    """What is wrong with text that XML 1.0 cannot carry, to be put after the name of its field."""
    found = _outside_xml(text)
    where = f"U+{ord(found[0]):04X} at {found.start()}" if found else "a character"
    return f"has {where}, which is not among the characters of XML 1.0"


def shown(value: object) -> str:
    """A value as a sentence to a client may show it: short, and on one line."""
    if type(value) is not str:
        return type_word(value)
    return ascii(value if len(value) <= 40 else value[:37] + "...")


def type_word(value: object) -> str:
    """What kind of value this is, in the protocol's words."""
    return _TYPE_WORDS.get(type(value)) or f"a {type(value).__name__}"


_TYPE_WORDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "text",
    bytes: "bytes",
    list: "a list",
    dict: "a map",
    Siblings: "a repeated element",
}


_SIBLINGS_CODE: Final = 1


def _pack_rest(value: object) -> msgpack.ExtType:
    """Called by the packer for whatever is not exactly a type of the model."""
    if type(value) is Siblings:
        items = msgpack.packb(list(value), strict_types=True, default=_pack_rest)
        return msgpack.ExtType(_SIBLINGS_CODE, items)
    raise TypeError(f"{type_word(value)} is outside the model of messages and cannot be packed")


_pack = msgpack.Packer(strict_types=True, default=_pack_rest).pack
"""One packer for all: half the time of one per message. It holds the interpreter lock throughout,
except in `_pack_rest`, which therefore never uses it."""


def pack(message: Message) -> bytes:
    """The canonical bytes of a message or another map of the model; TypeError for foreign types."""
    return bytes(_pack(message))


def unpack(data: bytes) -> Message:
    """Read what `pack` wrote; WireError for anything else. Limits and names are not checked again."""
    try:
        message = msgpack.unpackb(
            data, raw=False, strict_map_key=True, object_pairs_hook=unique_map, ext_hook=_unpack_rest
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(
            f"{len(data)} bytes are no packed message: {error or type(error).__name__}"
        ) from error
    if type(message) is not dict:
        raise WireError(f"packed bytes hold {type_word(message)} where a message was expected")
    return message


def unpack_checked(data: bytes) -> Message:
    """The same in half the time, for what another process has checked and packed: names given twice
    are not looked for. WireError as above."""
    try:
        message = msgpack.unpackb(data, strict_map_key=True, ext_hook=_unpack_rest)
    except (ValueError, TypeError, msgpack.UnpackException):
        return unpack(data)  # which names the fault
    return message if type(message) is dict else unpack(data)


def unique_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A map of these members; ValueError where a name is given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[Any] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {shown(name)} is given twice")
            seen.add(name)
    return found


def _unpack_rest(code: int, data: bytes) -> Siblings:
    if code != _SIBLINGS_CODE:
        raise ValueError(f"extension type {code} is not known")
    items = msgpack.unpackb(
        data, raw=False, strict_map_key=True, object_pairs_hook=unique_map, ext_hook=_unpack_rest
    )
    if type(items) is not list:
        raise ValueError("repeated elements are not a list")
    return Siblings(items)
