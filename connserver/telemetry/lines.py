"""How a log record becomes one line, in logfmt or JSON. Pure.

Guards two rules. One record is one line, whatever a client managed to put into a field: every
character that is not printable is written as an escape, so no line can be forged and no terminal
driven. And secrets are not written: fields named like one are replaced, and passwords inside
connection strings are cut out of every text, tracebacks included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

VALUE_CHARS: Final = 2_000
"""A value is cut here: a line is for reading, and clients choose some of the values."""
TRACEBACK_CHARS: Final = 20_000
"""A traceback keeps its end, which says what happened."""
FIELDS: Final = 40
ITEMS: Final = 50
"""Items of a list or map within a value."""
LEVELS_DEEP: Final = 4
REDACTED: Final = "[redacted]"

HEAD: Final = ("time", "level", "node", "process", "event")
LONG_FIELDS: Final = frozenset({"traceback"})

_SECRET = re.compile(
    r"(?i)(^|[_.-])(tokens?|secrets?|passwords?|passwd|passphrase|dsn|conninfo|authorization|cookies?|"
    r"credentials?|jwt|resume)(?=$|[_.-])"
)
_PLAIN_ENDING = re.compile(r"(?i)[_.-](file|path|ms|s|bytes|count)$")
_PASSWORD = re.compile(r"(?i)\b(password|passwd|sslpassword)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s'\"&]+)")
_URI_PASSWORD = re.compile(r"(\w://[^\s/:@]{0,200}:)[^\s/@]{1,500}@")
_BARE = re.compile(r"[A-Za-z0-9_./:@+,*#%$\[\]-]+\Z")
_KEY = re.compile(r"[^A-Za-z0-9_.-]")


def is_secret(key: str) -> bool:
    """Whether a field of this name must not be written: `token`, `db_password`, not `secret_file`."""
    return _SECRET.search(key) is not None and _PLAIN_ENDING.search(key) is None


def scrub(text: str) -> str:
    """A text without the passwords of connection strings in it."""
    return _URI_PASSWORD.sub(rf"\1{REDACTED}@", _PASSWORD.sub(rf"\1\2{REDACTED}", text))


def timestamp(seconds: float) -> str:
    """Unix seconds as UTC in ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def prepare(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields ready to be written: clean names, secrets replaced, sizes bounded."""
    out: dict[str, Any] = {}
    for number, (key, value) in enumerate(fields.items()):
        if number == FIELDS:
            out["fields_left_out"] = len(fields) - FIELDS
            break
        name = _KEY.sub("_", str(key))[:100] or "_"
        # A field may not pass for the head of the line.
        name = f"{name}_" if name in HEAD else name
        out[name] = REDACTED if is_secret(name) else _plain(value, name in LONG_FIELDS, LEVELS_DEEP)
    return out


def _plain(value: Any, long: bool, levels: int) -> Any:
    """A value made of what JSON has, no longer than allowed."""
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or value.bit_length() <= 128 else hex(value)[:VALUE_CHARS]
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value[:VALUE_CHARS]).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping) and levels:
        items = list(value.items())[:ITEMS]
        return {
            str(key): REDACTED if is_secret(str(key)) else _plain(item, False, levels - 1)
            for key, item in items
        }
    if isinstance(value, list | tuple | set | frozenset) and levels:
        return [_plain(item, False, levels - 1) for item in list(value)[:ITEMS]]
    return _cut(scrub(value if isinstance(value, str) else _text(value)), long)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # an object's own __str__ is foreign code, and a log line must not raise
        return f"<{type(value).__name__}: {type(error).__name__} in str()>"


def _cut(text: str, long: bool) -> str:
    if long:
        return text if len(text) <= TRACEBACK_CHARS else "…" + text[-TRACEBACK_CHARS:]
    return text if len(text) <= VALUE_CHARS else text[:VALUE_CHARS] + "…"


def logfmt(head: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    """`time=… level=info node=n1 process=w-n1-0 event=group.promoted view=7`, without a line end."""
    return " ".join([f"{key}={_logfmt_value(value)}" for key, value in {**head, **fields}.items()])


def json_line(head: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    """One JSON object on one line, without a line end."""
    return _json({**head, **fields})


def _logfmt_value(value: Any) -> str:
    if isinstance(value, str):
        return value if _BARE.match(value) else _quoted(value)
    if isinstance(value, list | dict):
        return _quoted(_json(value))
    return _scalar(value)


def _json(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(key)}:{_json(item)}" for key, item in value.items()) + "}"
    text = _scalar(value)
    # JSON has no word for these, and a line that no parser takes is a line lost.
    return f'"{text}"' if text in ("nan", "inf", "-inf") else text


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.12g}" if isinstance(value, float) else str(int(value))


_NAMED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str) -> str:
    """The text in quotes with JSON's escapes for all that cannot be printed as it is."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return (
        '"'
        + "".join([char if char.isprintable() and char not in _NAMED else _escape(char) for char in text])
        + '"'
    )


def _escape(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
