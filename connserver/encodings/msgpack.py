"""msgpack: one map a message, with strict UTF-8, without extension types, in binary WebSocket frames.

Guards one rule: a few bytes never claim much memory. A list's header announces its length, and the
parser allocates that before it sees an item, once for each level of nesting: 64 KiB of nested headers
made it claim half a gigabyte for a moment. Where there are so many possible headers that this could
matter, the message is first walked without building anything: where that finds it complete, every item
announced is there.
"""

from __future__ import annotations

from typing import Final, NoReturn

import msgpack

from connserver.errors import ClientError
from connserver.limits import Limits
from connserver.model import Message, check_message, pack, unique_map

UNCHECKED_ITEMS: Final = 1 << 18
"""List items (8 bytes each) that the headers of one message may announce before they are checked."""


def decode(data: bytes, limits: Limits, require_msg: bool = True) -> Message:
    """The message in these bytes; ClientError says what is wrong."""
    size = len(data)
    try:
        if (data.count(b"\xdc") + data.count(b"\xdd")) * size > UNCHECKED_ITEMS:
            _walk(data)
        message = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=unique_map,
            ext_hook=_no_extension,
            timestamp=0,
            max_array_len=size,
            max_map_len=size,
        )
    except msgpack.StackError:
        raise ClientError("too_large", "the message is nested in too many levels of maps and lists") from None
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        what = str(error) or _WORDS.get(type(error).__name__, type(error).__name__)
        raise ClientError("bad_message", f"not a msgpack message: {what}") from None
    check_message(message, limits, require_msg)
    return message  # type: ignore[no-any-return]  # checked above


def encode(message: Message) -> bytes:
    """The message as one map: the same bytes as the canonical form."""
    return pack(message)


def _walk(data: bytes) -> None:
    """Raise OutOfData unless the first value in these bytes is complete."""
    walker = msgpack.Unpacker(max_buffer_size=len(data))
    walker.feed(data)
    walker.skip()


_WORDS: Final = {
    "FormatError": "a byte that starts no value",
    "OutOfData": "it ends too early",
}


def _no_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} is not allowed")
