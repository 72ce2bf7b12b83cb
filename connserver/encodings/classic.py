r"""Classic: the original's own form, one `name:value` a line.

    msg:chat.say
    room:lobby
    text:50%25 off, 100 % sure
    pos.x:1.5
    tags.0:red
    tags.1:blue
    offers{}:
    seen[]:
    guild~:

Guards one rule: the form is unambiguous though it has no types. A line is split at its first colon.
In names and values `%XX` stands for a byte of UTF-8 and a `%` without two hex digits is itself, as old
clients send it; NUL, CR, LF and `%` are written so, and in a name a `.` that does not mean nesting.
A dot in a name goes one level down: into a map by a name, into a list by an index (0, 1, 2 … in
order). Since no name can hold them, `[]`, `{}` and `~` after a name mark the empty list, the empty map and
null, and have no value. Lines end with LF or CRLF. Every other leaf is text until it is converted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final
from urllib.parse import unquote_to_bytes

from connserver.conversion import to_text
from connserver.errors import ClientError
from connserver.limits import Limits
from connserver.model import MOST_LEVELS, Message, Value, bad_name, check_message, is_name, shown

_index = re.compile(r"(0|[1-9][0-9]{0,5})\Z").match
_MARKS: Final[dict[str, Callable[[], Value]]] = {"[]": list, "{}": dict}
_NULL_MARK: Final = "~"
_to_escape = re.compile("[%\0\r\n]").search
_ESCAPES: Final = {ord("%"): "%25", 0: "%00", ord("\r"): "%0D", ord("\n"): "%0A"}


def decode(data: bytes, limits: Limits, require_msg: bool = True) -> Message:
    """The message in these lines; ClientError names the line that is wrong."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ClientError("bad_message", f"not UTF-8 at byte {error.start}") from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    message: Message = {}
    for line in text.strip("\n").split("\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise ClientError("bad_message", f"the line {shown(line)} has no colon: write name:value")
        if "%" in value:
            value = _unescape(value)
        if name.isidentifier() and name.isascii():
            if name in message:
                raise ClientError("bad_message", f"the name {shown(name)} is given twice")
            message[name] = value
        else:
            _put_nested(message, name, value, min(limits.nesting_levels, MOST_LEVELS))
    check_message(message, limits, require_msg)
    return message


def encode(message: Message) -> bytes:
    """The message as lines, each ended by LF."""
    lines: list[str] = []
    for name, value in message.items():
        if type(value) is str:
            lines.append(f"{_name(name)}:{_escape(value)}\n")
        else:
            _write(_name(name), value, lines)
    return "".join(lines).encode()


def _escape(text: str) -> str:
    return text.translate(_ESCAPES) if _to_escape(text) else text


def _name(name: str) -> str:
    return name.replace(".", "%2E") if "." in name else name


def _write(path: str, value: Value, lines: list[str]) -> None:
    if isinstance(value, dict):
        for name, member in value.items():
            _write(f"{path}.{_name(name)}", member, lines)
        if not value:
            lines.append(f"{path}{{}}:\n")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _write(f"{path}.{index}", item, lines)
        if not value:
            lines.append(f"{path}[]:\n")
    elif value is None:
        lines.append(f"{path}~:\n")
    else:
        lines.append(f"{path}:{_escape(to_text(value))}\n")


def _unescape(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ClientError("bad_message", f"the escapes in {shown(text)} are not UTF-8") from None


def _put_nested(message: Message, path: str, text: str, levels: int) -> None:
    """Put a value under a name that is more than letters: a path, a marked or an escaped name."""
    name, value = _unmark(path, text)
    steps = name.split(".")
    if len(steps) > levels:
        raise ClientError("too_large", "the message is nested in too many levels of maps and lists")
    at: dict[str, Value] | list[Value] = message
    for step, following in pairwise(steps):
        key = _key(at, step, path)
        if _is_new(at, key):
            inner: dict[str, Value] | list[Value] = [] if _index(following) else {}
            _put(at, key, inner)
            at = inner
            continue
        found: Value = at[key]  # type: ignore[index]  # _key gives what the container takes
        # An empty container was marked as such: its name has been given.
        if not found or not isinstance(found, dict | list):
            raise ClientError("bad_message", f"{shown(path)} lies within a name that is given already")
        at = found
    key = _key(at, steps[-1], path)
    if not _is_new(at, key):
        raise ClientError("bad_message", f"the name {shown(path)} is given twice")
    _put(at, key, value)


def _unmark(path: str, text: str) -> tuple[str, Value]:
    """The name without its mark, and the value: the mark's, or the text."""
    make = _MARKS.get(path[-2:])
    null = path.endswith(_NULL_MARK)
    if make is None and not null:
        return path, text
    if text:
        raise ClientError("bad_message", f"{shown(path)} is marked as empty and has a value")
    return (path[:-1], None) if null or make is None else (path[:-2], make())


def _key(at: dict[str, Value] | list[Value], step: str, path: str) -> str | int:
    """The name or index that one step of a path means in this container."""
    if isinstance(at, list):
        if not _index(step) or int(step) > len(at):
            raise ClientError("bad_message", f"{shown(path)}: the next index here is {len(at)}")
        return int(step)
    name = _unescape(step) if "%" in step else step
    if not is_name(name):
        raise ClientError("bad_message", bad_name(name))
    return name


def _is_new(at: dict[str, Value] | list[Value], key: str | int) -> bool:
    return key == len(at) if isinstance(at, list) else key not in at


def _put(at: dict[str, Value] | list[Value], key: str | int, value: Value) -> None:
    if isinstance(at, list):
        at.append(value)
    else:
        at[str(key)] = value
