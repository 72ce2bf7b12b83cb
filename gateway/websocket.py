"""WebSocket connections: the handshake, and messages from frames and back.

Guards one rule: a frame is never more than it claims to be. Sizes are limited while reading, text is
UTF-8, each subprotocol has its one kind of frame, and compression is not offered (it costs some 64 KiB a
connection, and a few bytes may unpack to many).

The protocol itself is the library `websockets`, of which only the part without sockets is used. Measured
(`scripts/bench/encodings.py`; the same shared machine, CPU per 100-byte message received and sent):
websockets 6.1 µs, wsproto 25-32 µs; picows is faster but only comes with its own asyncio transport, so
that it cannot share a port with the other encodings. Outgoing frames are neither masked nor compressed, so
their header is written here, which takes 1.3 µs off.

Subprotocols: `connserver.v1.json`, `.xml` and `.classic` have text frames, `.msgpack` binary ones, one
message each; `.stream`, or `binary` as socket proxies call it, has a byte stream in binary frames, as if
it were a plain socket. Without a subprotocol the first frame decides: text by its first character,
binary a byte stream.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from struct import Struct
from typing import Final
from urllib.parse import urlsplit

from websockets.datastructures import MultipleValuesError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from connserver.encodings import Encoding
from gateway import http
from gateway.detection import detect_message
from gateway.framing import Close, Detected, Event, Frames, Pong, Refuse, Send
from gateway.stream import Stream

CLOSE_UNSUPPORTED: Final = 1003
CLOSE_NOT_UTF8: Final = 1007
CLOSE_TOO_LARGE: Final = 1009
CLOSE_DRAINING: Final = 1012
CLOSE_OVERLOADED: Final = 1013
CLOSE_SESSION_EXPIRED: Final = 4001
CLOSE_REPLACED: Final = 4002
CLOSE_KICKED: Final = 4003

PREFIX: Final = "connserver.v1."
_ENCODINGS: Final = {
    f"{PREFIX}json": Encoding.JSON,
    f"{PREFIX}msgpack": Encoding.MSGPACK,
    f"{PREFIX}xml": Encoding.XML,
    f"{PREFIX}classic": Encoding.CLASSIC,
}
_STREAMS: Final = (f"{PREFIX}stream", "binary")
SUBPROTOCOLS: Final = tuple(Subprotocol(name) for name in (*_ENCODINGS, *_STREAMS))

_REASON_BYTES: Final = 123
"""What fits into a close frame beside the code (RFC 6455, 5.5)."""
_SILENT: Final = logging.Logger("gateway.websocket", level=logging.CRITICAL + 1)
"""The library would log; machines do not. What matters comes out as an event."""


def handshake(
    head: bytes, limit: int, allowed_origins: Sequence[str], ready: bool
) -> tuple[WebSocket | None, bytes]:
    """Judge a request's complete head: a WebSocket and its handshake, or nothing and a refusal to send."""
    protocol = ServerProtocol(
        subprotocols=SUBPROTOCOLS, select_subprotocol=_select_subprotocol, max_size=limit, logger=_SILENT
    )
    protocol.receive_data(head)
    request = next((event for event in protocol.events_received() if isinstance(event, Request)), None)
    if request is None:
        refusal = b"".join(protocol.data_to_send())
        return None, refusal or http.response(HTTPStatus.BAD_REQUEST, "This is no HTTP/1.1 request.\n")
    try:
        answer = _answer(request, allowed_origins, ready)
    except (MultipleValuesError, ValueError):
        answer = http.response(HTTPStatus.BAD_REQUEST, "A header of this request is wrong.\n")
    if answer is not None:
        return None, answer
    protocol.send_response(protocol.accept(request))
    socket = WebSocket(protocol, limit) if protocol.state is OPEN else None
    return socket, b"".join(protocol.data_to_send())


def _answer(request: Request, allowed_origins: Sequence[str], ready: bool) -> bytes | None:
    """The answer to a request that is no upgrade, or comes from a page that may not connect."""
    if "Upgrade" not in request.headers:
        path = request.path.partition("?")[0]
        return http.health(ready) if path == "/healthz" else http.upgrade_required()
    origin, host = request.headers.get("Origin"), request.headers.get("Host")
    if origin is not None and not origin_allowed(origin, host, allowed_origins):
        return http.response(
            HTTPStatus.FORBIDDEN, f"Pages of the origin {ascii(origin)[:200]} may not connect here.\n"
        )
    return None


def origin_allowed(origin: str, host: str | None, allowed: Sequence[str]) -> bool:
    """Whether a browser's page of this origin may connect.

    `allowed` lists origins as browsers write them (`https://game.example`), or `*` for all; empty means the
    host that the request itself names, on any port. Programs that are no browsers send no origin.
    """
    if allowed:
        return "*" in allowed or origin.lower() in {one.lower().rstrip("/") for one in allowed}
    own = urlsplit(f"//{host}").hostname if host else None
    return own is not None and urlsplit(origin).hostname == own


def _select_subprotocol(protocol: ServerProtocol, asked: Sequence[Subprotocol]) -> Subprotocol | None:
    if not asked:
        return None
    return ServerProtocol.select_subprotocol(protocol, asked)


class WebSocket:
    """One connection after its handshake.

    While `_only` is set every frame is of that opcode; with `_stream` binary frames are a byte stream.
    """

    __slots__ = ("_encoding", "_failed", "_limit", "_only", "_opcode", "_parts", "_protocol", "_stream")

    def __init__(self, protocol: ServerProtocol, limit: int) -> None:
        self._protocol = protocol
        self._limit = limit
        name = protocol.subprotocol
        self._encoding = _ENCODINGS.get(name) if name else None
        self._only: Opcode | None = None
        if name:
            self._only = Opcode.TEXT if self._encoding not in (None, Encoding.MSGPACK) else Opcode.BINARY
        self._stream: Stream | None = Stream(limit) if name in _STREAMS else None
        self._opcode = Opcode.CONT  # of the fragmented message being received
        self._parts = bytearray()
        self._failed = False

    @property
    def encoding(self) -> Encoding | None:
        """The encoding, once subprotocol or first frame have decided it."""
        return self._stream.encoding if self._stream is not None else self._encoding

    @property
    def limit(self) -> int:
        """The size limit of a message, in bytes."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._protocol.max_message_size = limit
        if self._stream is not None:
            self._stream.limit = limit

    @property
    def is_pending(self) -> bool:
        """Whether a frame, a fragmented message or a message of the stream has begun and is not finished."""
        # Of a frame just its header may be missing here; nothing is kept for it, so nothing need time out.
        return (
            bool(self._protocol.reader.buffer)
            or self._protocol.current_size is not None
            or (self._stream is not None and self._stream.is_pending)
        )

    def begin(self) -> list[Event]:
        """What is known right after the handshake."""
        return [Detected(self._encoding)] if self._encoding is not None else []

    def feed(self, data: bytes) -> list[Event]:
        """The events of these bytes; after a Close nothing more comes."""
        protocol = self._protocol
        protocol.receive_data(data)
        events: list[Event] = []
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            opcode = frame.opcode
            if frame.fin and (opcode is Opcode.TEXT or opcode is Opcode.BINARY):
                self._take(opcode, bytes(frame.data), events)
            elif opcode is Opcode.PONG:
                events.append(Pong())
            elif opcode is not Opcode.PING and opcode is not Opcode.CLOSE:
                self._take_fragment(frame, events)
            if self._failed:  # by us; what the library refuses comes after the frames it has given out
                break
        out = b"".join(protocol.data_to_send())
        if out:
            events.append(Send(out))
        sent = protocol.close_sent
        if sent is not None:
            events.append(Close(int(sent.code), sent.reason))
        elif protocol.eof_sent:
            events.append(Close(1006, "the connection ended within a frame"))
        return events

    def send(self, payloads: list[bytes]) -> bytes:
        """Encoded messages as frames, for one write; nothing before the encoding is known or once closed."""
        encoding = self.encoding
        if encoding is None or self._protocol.state is not OPEN:
            return b""
        if self._stream is not None:
            end = self._stream.terminator
            payloads = [end.join([*payloads, b""])]
        headers = _TEXT if self._stream is None and encoding is not Encoding.MSGPACK else _BINARY
        out: list[bytes] = []
        for payload in payloads:
            size = len(payload)
            out.append(headers[size] if size < 126 else _long_header(headers[0][0], size))
            out.append(payload)
        return b"".join(out)

    def ping(self) -> bytes:
        """A ping to write; the client's Pong shows that it is there."""
        return _PING if self._protocol.state is OPEN else b""

    def close(self, code: int, reason: str) -> bytes:
        """A close frame to write before the connection is closed; nothing where one was sent already."""
        if self._protocol.state is not OPEN:
            return b""
        self._fail(code, reason)
        return b"".join(self._protocol.data_to_send())

    def _fail(self, code: int, reason: str) -> None:
        self._failed = True
        short = reason.encode()[:_REASON_BYTES].decode(errors="ignore")
        self._protocol.fail(code, short)

    def _take_fragment(self, frame: Frame, events: list[Event]) -> None:
        if frame.opcode is not Opcode.CONT:
            self._opcode = frame.opcode
        self._parts += frame.data
        if frame.fin:
            data = bytes(self._parts)
            self._parts.clear()
            self._take(self._opcode, data, events)

    def _take(self, opcode: Opcode, data: bytes, events: list[Event]) -> None:
        """One complete WebSocket message."""
        if opcode is not self._only:
            if self._only is not None:
                self._fail(CLOSE_UNSUPPORTED, f"this connection has {self._only.name.lower()} frames only")
                return
            self._only = opcode
            if opcode is Opcode.BINARY:
                self._stream = Stream(self._limit)
        if self._stream is not None:
            self._take_bytes(self._stream, data, events)
        elif opcode is Opcode.BINARY:
            self._append(Encoding.MSGPACK, data, events)
        else:
            self._take_text(data, events)

    def _take_text(self, data: bytes, events: list[Event]) -> None:
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError as error:
                self._fail(CLOSE_NOT_UTF8, f"text frame: not UTF-8 at byte {error.start}")
                return
        payload = data.rstrip(b"\0")
        if not payload or payload.isspace():
            return
        encoding = self._encoding
        if encoding is None:
            encoding = detect_message(payload)
            if encoding is None:
                self._fail(CLOSE_UNSUPPORTED, "text frame: no message begins with this character")
                return
            self._encoding = encoding
            events.append(Detected(encoding))
        self._append(encoding, payload, events)

    def _take_bytes(self, stream: Stream, data: bytes, events: list[Event]) -> None:
        found = stream.feed(data)
        if stream.found is not None and stream.encoding is None:
            self._fail(CLOSE_UNSUPPORTED, "binary frames: no message of a byte stream begins like this")
            return
        for event in found:
            if isinstance(event, Refuse):
                self._fail(CLOSE_TOO_LARGE, event.reason)
            else:
                events.append(event)

    def _append(self, encoding: Encoding, payload: bytes, events: list[Event]) -> None:
        last = events[-1] if events else None
        if isinstance(last, Frames):
            last.payloads.append(payload)
        else:
            events.append(Frames(encoding, [payload]))


_TEXT: Final = tuple(bytes((0x80 | Opcode.TEXT, size)) for size in range(126))
_BINARY: Final = tuple(bytes((0x80 | Opcode.BINARY, size)) for size in range(126))
_PING: Final = bytes((0x80 | Opcode.PING, 0))
_HEADER_16: Final = Struct(">BBH").pack
_HEADER_64: Final = Struct(">BBQ").pack


def _long_header(first: int, size: int) -> bytes:
    return _HEADER_16(first, 126, size) if size < 65_536 else _HEADER_64(first, 127, size)
