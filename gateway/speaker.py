"""The sending half of a client connection: encode, queue, join, frame, encrypt, write.

Guards two rules: what a loop turn has for a client leaves in one write, and what a client leaves
unread is bounded.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from typing import TYPE_CHECKING, Final

from connserver import telemetry
from connserver.encodings import encode
from connserver.model import Message
from gateway.connection import Connection
from gateway.delivery import Broadcast, Outbox
from gateway.effects import Shut
from gateway.session import Session
from gateway.tls import Channel

if TYPE_CHECKING:
    from gateway.server import Gateway

NOTSENT_LOWAT_BYTES: Final = 16_384
"""What the kernel may hold unsent: beyond it stale volatile values can still be replaced here."""

TOO_SLOW: Final = Shut(1013, "unread output is over its limit: resume", spoken=True)
"""The end of a connection whose client does not read. It comes after what is unread, if that is ever read."""

noise = telemetry.RateLimited(telemetry.get_logger(__name__), per_s=1.0, burst=20)


class Speaker(asyncio.Protocol):
    """Speaks to one client. `is_blocked`: the kernel has taken no more since the last write."""

    __slots__ = (
        "_framing",
        "_gateway",
        "_queued",
        "_sent_at",
        "_tls",
        "_transport",
        "is_blocked",
        "number",
        "outbox",
        "session",
    )

    _transport: asyncio.Transport
    _framing: Connection
    session: Session

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._tls: Channel | None = None
        self._queued = False
        self._sent_at = 0.0
        self.number = 0
        self.is_blocked = False
        self.outbox = Outbox()

    def say(self, message: Message) -> None:
        """Queue one message for the end of the turn."""
        encoding = self.session.encoding
        if encoding is not None:
            self.put(encode(encoding, message))

    def deliver(self, broadcast: Broadcast) -> None:
        """The same for what goes to many."""
        encoding = self.session.encoding
        if encoding is not None:
            self.put(broadcast.encoded(encoding))

    def put(self, payload: bytes) -> None:
        """Queue an encoded message."""
        self.outbox.queue.append(payload)
        if not self._queued:
            self._queued = True
            self._gateway.to_flush(self)

    def flush(self) -> None:
        """Write what is queued, in one go."""
        self._queued = False
        payloads = self.outbox.take()
        if not payloads or self._transport.is_closing():
            return
        self._write(self._framing.send(payloads))
        if self.session.is_closed:
            return
        if self.is_blocked and self._unsent > self._gateway.rules.limits.unsent_bytes:
            noise.info("client.too_slow", connection=self.number, unsent=self._unsent)
            self._gateway.counts.too_slow += 1
            self.shut(TOO_SLOW)

    def shut(self, effect: Shut) -> None:
        """Say why, then close in order."""
        raise NotImplementedError

    @property
    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size() + self.outbox.size

    def _write(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.send(data)
            data = self._tls.outgoing
        self._write_raw(data)

    def _write_raw(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._sent_at = self._gateway.loop.time()
            self._transport.write(data)

    def failed(self, what: str) -> None:
        """An error of ours while handling `what`: it costs this connection and no other."""
        noise.error("client.failed", connection=self.number, what=what, traceback=traceback.format_exc())
        self._gateway.counts.failed += 1
        self._transport.abort()


def set_options(sock: socket.socket | None, keepalive_ms: int) -> None:
    """What every client socket is set to: no delay, little unsent in the kernel, dead peers found."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2 * keepalive_ms)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
