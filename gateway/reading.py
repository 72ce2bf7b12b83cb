"""A client's frame as a message: decoded, and its `id` given the type that its encoding cannot say.

Guards one rule: exactly-once is for every client. It needs an integer `id`, and classic and XML know
only text; so in these a text that is how an integer is written counts as that integer. It is echoed
as the same text.
"""

from __future__ import annotations

import re
from typing import Final

from connserver.encodings import Encoding, decode
from connserver.limits import LARGEST_INTEGER, Limits
from connserver.model import Message

_INTEGER: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,15})\Z")
_UNTYPED: Final = frozenset({int(Encoding.CLASSIC), int(Encoding.XML)})


def read_message(encoding: int, payload: bytes, limits: Limits) -> Message:
    """The message in a frame; ClientError `bad_message` or `too_large`."""
    message = decode(encoding, payload, limits)
    if encoding in _UNTYPED and "id" in message:
        text = message["id"]
        if type(text) is str and _INTEGER.match(text) and abs(int(text)) <= LARGEST_INTEGER:
            message["id"] = int(text)
    return message
