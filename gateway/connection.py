"""One client's connection, as a machine: bytes in, events out; no sockets, clocks or logs.

Guards one rule: from the first byte on, a connection is in exactly one stage and never goes back:
PROXY header (where the listener expects it), detection, then one of a message stream, an HTTP request
and perhaps a WebSocket; after a Close it is deaf. `pending_since` tells the shell since when something
unfinished is being received, so that whatever is never finished can be timed out in every stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from connserver.encodings import Encoding
from connserver.limits import Limits
from gateway import http, websocket
from gateway.detection import Speaks, policy_file
from gateway.framing import Close, Event, Frames, Peer, Refuse, Send, StartTls, too_large
from gateway.proxy_protocol import parse_header
from gateway.stream import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a listener's connections have in common. `port` is the one clients connect to."""

    limits: Limits
    tls: bool = False
    proxy_protocol: bool = False
    policy_domains: tuple[str, ...] = ()
    port: int = 0
    allowed_origins: tuple[str, ...] = ()


class _Stage(Enum):
    PROXY = "PROXY header"
    STREAM = "detection and messages of a plain socket"
    HTTP = "HTTP request"
    WEBSOCKET = "WebSocket"
    CLOSED = "closed"


_STREAM = _Stage.STREAM  # looked up once: nearly every read asks for it


class Connection:
    """The stages of one connection.

    `secure` is set for the inside of TLS: no TLS again, and no PROXY header. `ready` is what /healthz
    answers. Messages are limited to `login_message_bytes` until `message_limit` is set otherwise.
    """

    __slots__ = ("_head", "_ready", "_settings", "_stage", "_stream", "_tls", "_websocket", "pending_since")

    def __init__(self, settings: Settings, *, secure: bool = False, ready: bool = True) -> None:
        self._settings = settings
        self._tls = settings.tls and not secure
        self._ready = ready
        self._stage = _Stage.PROXY if settings.proxy_protocol and not secure else _Stage.STREAM
        self._stream = Stream(settings.limits.login_message_bytes)
        self._websocket: websocket.WebSocket | None = None
        self._head = bytearray()  # of an HTTP request, or a PROXY header, while it is incomplete
        self.pending_since: float | None = None

    @property
    def encoding(self) -> Encoding | None:
        """The connection's encoding, once it is known."""
        return self._websocket.encoding if self._websocket is not None else self._stream.encoding

    @property
    def is_websocket(self) -> bool:
        """Whether the handshake of a WebSocket has been answered."""
        return self._websocket is not None

    @property
    def is_closed(self) -> bool:
        """Whether a Close or a refusal that closes has been given out; nothing is read any more."""
        return self._stage is _Stage.CLOSED

    @property
    def message_limit(self) -> int:
        """Longest message, in bytes; a new limit counts for what is fed afterwards."""
        return self._stream.limit

    @message_limit.setter
    def message_limit(self, limit: int) -> None:
        self._stream.limit = limit
        if self._websocket is not None:
            self._websocket.limit = limit

    def messages(self, data: bytes, now: float) -> list[bytes] | None:
        """The messages that these bytes complete, where they cannot bring anything else: the way of nearly
        every read. None: nothing was taken, `feed` has to."""
        splitter = self._stream.splitter
        if splitter is None or self._stage is not _STREAM or not splitter.has_room_for(data):
            return None
        payloads = splitter.feed(data)
        if splitter.is_pending:
            self._note_pending(True, bool(payloads), now)
        else:
            self.pending_since = None
        return payloads

    def feed(self, data: bytes, now: float) -> list[Event]:
        """What these bytes bring, in order; `now` in the unit that `pending_since` shall have."""
        splitter = self._stream.splitter
        if splitter is not None and self._stage is _STREAM:
            payloads = splitter.feed(data)
            events: list[Event] = [Frames(splitter.encoding, payloads)] if payloads else []
            if splitter.overflowed:
                events.append(too_large(splitter.limit))
                self._stage = _Stage.CLOSED
            self._note_pending(splitter.is_pending, bool(payloads), now)
            return events
        return self._feed_other(data, now)

    def _feed_other(self, data: bytes, now: float) -> list[Event]:
        stage = self._stage
        if stage is _Stage.WEBSOCKET and self._websocket is not None:
            events = self._websocket.feed(data)
        elif stage is _Stage.STREAM:
            events = self._feed_stream(data)
        elif stage is _Stage.HTTP:
            events = self._feed_http(data)
        elif stage is _Stage.PROXY:
            events = self._feed_proxy(data, now)
        else:
            return []
        is_complete = False
        for event in events:
            if isinstance(event, Frames):
                is_complete = True
            elif isinstance(event, Close) or (isinstance(event, Refuse) and event.close):
                self._stage = _Stage.CLOSED
        self._note_pending(self._is_pending(), is_complete or self._stage is not stage, now)
        return events

    def _note_pending(self, is_pending: bool, is_complete: bool, now: float) -> None:
        """Once what was pending is complete, what is pending now has just begun."""
        if not is_pending:
            self.pending_since = None
        elif is_complete or self.pending_since is None:
            self.pending_since = now

    def end(self) -> list[Event]:
        """The client sends no more. What it has begun is not carried out: its end may be missing."""
        unfinished = (
            self._stage is _Stage.STREAM and self._stream.encoding is not None and self._stream.is_pending
        )
        self._stage = _Stage.CLOSED
        self.pending_since = None
        if unfinished:
            return [Refuse("bad_message", "the connection ended within a message", close=True)]
        return []

    def send(self, payloads: list[bytes]) -> bytes:
        """Encoded messages as the bytes of one write. Empty while the encoding is not known."""
        if self._websocket is not None:
            return self._websocket.send(payloads)
        end = self._stream.terminator
        if not end:
            return b""
        return end.join([*payloads, b""]) if len(payloads) > 1 else payloads[0] + end

    def ping(self) -> bytes:
        """A WebSocket ping; nothing on a plain socket."""
        return self._websocket.ping() if self._websocket is not None else b""

    def close(self, code: int, reason: str) -> bytes:
        """What to write before closing: a WebSocket close frame; nothing on a plain socket. Then deaf."""
        self._stage = _Stage.CLOSED
        self.pending_since = None
        return self._websocket.close(code, reason) if self._websocket is not None else b""

    def _is_pending(self) -> bool:
        if self._stage is _Stage.STREAM:
            return self._stream.is_pending
        if self._websocket is not None:
            return self._stage is _Stage.WEBSOCKET and self._websocket.is_pending
        return self._stage is not _Stage.CLOSED and bool(self._head)

    def _feed_stream(self, data: bytes) -> list[Event]:
        stream = self._stream
        events = stream.feed(data)
        if stream.encoding is not None or stream.found is None:
            return events
        first = stream.take_first()
        match stream.found:
            case Speaks.HTTP_GET:
                self._stage = _Stage.HTTP
                return self._feed_http(first)
            case Speaks.HTTP_OTHER:
                return [Send(http.method_not_allowed(first)), Close(0, "an HTTP method other than GET")]
            case Speaks.POLICY_REQUEST:
                answer = policy_file(self._settings.policy_domains, self._settings.port)
                return [Send(answer), Close(0, "policy file sent")]
            case Speaks.TLS if self._tls:
                self._stage = _Stage.CLOSED
                return [StartTls(first)]
            case Speaks.TLS:
                return [Close(0, "TLS, which is not configured on this port")]
        return [Close(0, "the first bytes belong to no known encoding")]

    def _feed_http(self, data: bytes) -> list[Event]:
        """Collect the head of a request and answer it; bytes behind it already belong to the WebSocket."""
        searched = max(0, len(self._head) - len(http.HEAD_END) + 1)
        self._head += data
        end = self._head.find(http.HEAD_END, searched, http.HEAD_BYTES)
        if end < 0:
            if len(self._head) < http.HEAD_BYTES:
                return []
            return [Send(http.head_too_large()), Close(0, "an HTTP request with too large a head")]
        end += len(http.HEAD_END)
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._head = bytearray()
        socket, answer = websocket.handshake(
            head, self._stream.limit, self._settings.allowed_origins, self._ready
        )
        if socket is None:
            return [Send(answer), Close(0, "an HTTP request, answered")]
        self._websocket = socket
        self._stage = _Stage.WEBSOCKET
        events = [Send(answer), *socket.begin()]
        return events + socket.feed(rest) if rest else events

    def _feed_proxy(self, data: bytes, now: float) -> list[Event]:
        """Collect the PROXY header; bytes behind it are the client's own."""
        self._head += data
        try:
            header = parse_header(bytes(self._head))
        except ValueError as error:
            return [Close(0, f"no PROXY header, which this listener expects: {error}")]
        if header is None:
            return []
        rest = bytes(self._head[header.size :])
        self._head = bytearray()
        self._stage = _Stage.STREAM
        events: list[Event] = [Peer(header.address, header.port)]
        return events + self.feed(rest, now) if rest else events
