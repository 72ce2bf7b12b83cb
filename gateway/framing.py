"""Bytes of a connection to messages, and back: the events of a connection, and where messages end.

Guards one rule: time is linear in the bytes received, however they are cut into pieces, and nothing
is kept beyond one unfinished message of limited size. Only new bytes are ever searched, and runs of
terminators (a flood of NULs) cost no event each.

Classic messages end with NUL or an empty line, XML with NUL, JSON with NUL or LF (CR before it is white
space). Empty messages are ignored. What the client ends its messages with, it is answered with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from connserver.encodings import Encoding


@dataclass(frozen=True, slots=True)
class Detected:
    """From its first bytes the connection's encoding is known; it never changes."""

    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Frames:
    """Complete messages in the order received, not yet decoded, each within the size limit."""

    encoding: Encoding
    payloads: list[bytes]


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes to write as they are: HTTP answers, the policy file, WebSocket handshakes, pongs and closes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """A named error for the client (`error` of the protocol's closed list); then a close if `close`."""

    error: str
    reason: str
    close: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection once everything is written. `code` is WebSocket's (0 on a plain socket)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client speaks TLS: give `received` to a TLS engine and what it decrypts to a new, secure
    `Connection`. This one is done."""

    received: bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """The client's address as a proxy told it; None where the proxy speaks for itself."""

    address: str | None
    port: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The WebSocket client answered a ping."""


Event: TypeAlias = Detected | Frames | Send | Refuse | Close | StartTls | Peer | Pong

_BLANK: Final = b" \t\r\n"
_TERMINATORS: Final = {
    Encoding.CLASSIC: b"\0",
    Encoding.XML: b"\0",
    Encoding.JSON: b"\n",
    Encoding.MSGPACK: b"",
}


_JSON = Encoding.JSON

FLOOD: Final = 64
"""Messages in one read from which runs of empty ones are looked for."""

_RUNS: Final = {
    Encoding.CLASSIC: re.compile(rb"\n\n\n+"),
    Encoding.XML: re.compile(rb"\0[\0%b]*\0" % re.escape(_BLANK)),
    Encoding.JSON: re.compile(rb"\n[%b]*\n" % re.escape(_BLANK)),
}


def terminator(encoding: Encoding) -> bytes:
    """What ends a message on a plain socket where the client has not shown what it uses."""
    return _TERMINATORS[encoding]


def too_large(limit: int) -> Refuse:
    """The refusal of a message beyond the size limit; where the next one begins is not known then."""
    return Refuse("too_large", f"a message is longer than {limit} bytes", close=True)


class Splitter:
    """Cuts a byte stream into messages of one encoding.

    `limit` may change at any time and counts for what is fed afterwards. Once `overflowed`, nothing
    comes out any more.
    """

    __slots__ = ("_held", "_pending", "encoding", "limit", "overflowed", "terminator")

    def __init__(self, encoding: Encoding, limit: int) -> None:
        self.encoding = encoding
        self.limit = limit
        self.terminator = terminator(encoding)
        self.overflowed = False
        self._pending = bytearray()
        self._held = b""  # classic only: a CR whose LF may come

    @property
    def is_pending(self) -> bool:
        """Whether a message has begun that is not finished."""
        return bool(self._pending)

    def has_room_for(self, data: bytes) -> bool:
        """Whether no message can become too large with these bytes (and a CR that is held back)."""
        return not self.overflowed and len(self._pending) + len(data) < self.limit

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes complete."""
        if self.overflowed:
            return []
        encoding = self.encoding
        if encoding is _JSON and not self._pending and len(data) <= self.limit:
            newline, nul, end = data.find(b"\n"), data.find(b"\0"), len(data) - 1
            if (newline == end and nul < 0) or (nul == end and newline < 0):
                # one message and its end, as most reads are
                payload = data[:end].strip(_BLANK)
                if payload:
                    self.terminator = data[end:]
                return [payload] if payload else []
        ends_with_nul = b"\0" in data
        separator, blank = b"\0", _BLANK
        if encoding is Encoding.JSON:
            separator = b"\n"
            if ends_with_nul:
                data = data.replace(b"\0", b"\n")
        elif encoding is Encoding.CLASSIC:
            separator, blank = b"\n\n", b"\n"
            data = self._with_plain_lines(data, ends_with_nul)
        if separator not in data:
            self._keep(data if self._pending else data.lstrip(blank))
            return []
        if data.count(separator) > FLOOD:
            # empty messages by the thousand must not become that many objects
            data = _RUNS[encoding].sub(separator, data)
        parts = data.split(separator)
        if self._pending:
            parts[0] = bytes(self._pending + parts[0])
            self._pending = bytearray()  # a new one: the old may have grown to the size limit
        rest = parts.pop().lstrip(blank)
        payloads = [payload for part in parts if (payload := part.strip(blank))]
        if payloads:
            self.terminator = b"\0" if ends_with_nul else b"\n"
            if len(data) > self.limit or len(payloads[0]) > self.limit:
                payloads = self._within_limit(payloads)
        if rest and not self.overflowed:
            self._keep(rest)
        return payloads

    def _keep(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) > self.limit:
            self.overflowed = True
            self._pending = bytearray()

    def _within_limit(self, payloads: list[bytes]) -> list[bytes]:
        for position, payload in enumerate(payloads):
            if len(payload) > self.limit:
                self.overflowed = True
                return payloads[:position]
        return payloads

    def _with_plain_lines(self, data: bytes, has_nul: bool) -> bytes:
        """Classic with LF alone for CRLF, the empty line for NUL, and a possible half of an end in front."""
        if self._held:
            data = self._held + data
            self._held = b""
        if b"\r" in data:
            if data.endswith(b"\r"):
                self._held = b"\r"
                data = data[:-1]
            data = data.replace(b"\r\n", b"\n")
        if has_nul:
            data = data.replace(b"\0", b"\n\n")
        if self._pending and self._pending[-1] == 10 and data.startswith(b"\n"):
            del self._pending[-1:]
            data = b"\n" + data
        return data
