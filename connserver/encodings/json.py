"""JSON: one object a message. Bytes are base64 text; everything else has its own type.

Guards one rule: a name given twice is refused, though the parser (orjson, for its speed) keeps the
last one in silence. After parsing, the members are counted and compared with how many the text can
hold at most: each member costs one colon. Where the counts agree there is provably no duplicate;
otherwise a text with colons in its values, or one that is wrong, is looked at more closely.

orjson also reads an integer beyond 64 bits as a float. The exact path therefore sees every message with a
float so large, and refuses the integer; a large float is written with an exponent or a point.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

from connserver.conversion import to_text
from connserver.errors import ClientError
from connserver.limits import LARGEST_INTEGER, Limits
from connserver.model import Message, check_message, unique_map

_separator = re.compile(rb'"[ \t\r\n]*:').findall


def decode(data: bytes, limits: Limits, require_msg: bool = True) -> Message:
    """The message in this JSON text; ClientError says where it is wrong."""
    try:
        message = orjson.loads(data)
    except ValueError as error:
        too_deep = "depth" in str(error) or "recursion" in str(error).lower()
        raise ClientError(
            "too_large" if too_deep else "bad_message", f"not a JSON message: {error}"
        ) from None
    members = check_message(message, limits, require_msg)
    if members != data.count(b":") and members != len(_separator(data)):
        _look_closely(data)
    return message  # type: ignore[no-any-return]  # checked above


def encode(message: Message) -> bytes:
    """The message on one line. Values must be of the model: a float that is not finite is written as null."""
    return orjson.dumps(message, default=_base64)


def _base64(value: object) -> str:
    if type(value) is not bytes:
        raise TypeError(f"{type(value).__name__} is outside the model of messages")
    return to_text(value)


def _look_closely(data: bytes) -> None:
    """Parse again, exactly. The text is known to be JSON of few levels, so no recursion runs deep."""
    try:
        json.loads(data, object_pairs_hook=unique_map, parse_int=_exact_integer, parse_constant=_no_constant)
    except ValueError as error:
        raise ClientError("bad_message", f"not a JSON message: {error}") from None


def _exact_integer(text: str) -> Any:
    # Seventeen characters hold a sign and the sixteen digits of the largest integer.
    if len(text) > 17 or not -LARGEST_INTEGER <= int(text) <= LARGEST_INTEGER:
        raise ValueError("an integer beyond ±(2^53-1)")
    return 0


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
