"""The four encodings of protocol 1, each in a module of its own, and the tables that choose one.

Guards one rule: what comes out of `decode` is a message of the model, completely checked, whatever
the bytes were; ClientError is the only exception. `encode` writes what the model holds, without a
terminator, in a form that `decode` reads back as the same message (its leaves as text where the
encoding has no types).

Measured with `scripts/bench/encodings.py` where `orjson.loads` alone takes 0.6 µs, a message of four fields
and about 90 bytes, µs of CPU to decode and check / to encode: JSON 2.4 / 0.3, msgpack 3.4 / 0.5,
classic 3.4 / 2.2, XML 6.8 / 2.2; `pack` 0.5, `unpack` 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from connserver.encodings import classic, json, msgpack, xml
from connserver.limits import Limits
from connserver.model import Message


class Encoding(IntEnum):
    """How a connection's messages are written. The numbers travel between processes: never change one."""

    CLASSIC = 1
    XML = 2
    JSON = 3
    MSGPACK = 4


_DECODERS: Final[dict[int, Callable[[bytes, Limits, bool], Message]]] = {
    Encoding.CLASSIC: classic.decode,
    Encoding.XML: xml.decode,
    Encoding.JSON: json.decode,
    Encoding.MSGPACK: msgpack.decode,
}

_ENCODERS: Final[dict[int, Callable[[Message], bytes]]] = {
    Encoding.CLASSIC: classic.encode,
    Encoding.XML: xml.encode,
    Encoding.JSON: json.encode,
    Encoding.MSGPACK: msgpack.encode,
}


def decode(encoding: int, data: bytes, limits: Limits, require_msg: bool = True) -> Message:
    """The message in `data`, completely checked; ClientError `bad_message` or `too_large`.

    `require_msg` is left off by a client reading replies, which have no `msg`. A size limit is the
    framing's: here only levels and fields are limited.
    """
    return _DECODERS[encoding](data, limits, require_msg)


def encode(encoding: int, message: Message) -> bytes:
    """The bytes of a message of the model, without a terminator; TypeError for what is outside it."""
    return _ENCODERS[encoding](message)
