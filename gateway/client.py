"""The shell around one client connection: an asyncio protocol that performs what its machines say.

Guards two rules: an error in handling one client's bytes ends that connection and nothing else; and
reads pause whenever the client has more waiting here than it may, so that what is kept of its input
is bounded by one read.
"""

from __future__ import annotations

import asyncio
import ssl
from math import inf
from typing import TYPE_CHECKING, Final, cast

from connserver import telemetry
from connserver.errors import ClientError
from gateway import effects, greeting
from gateway.admission import Entry, counted_as
from gateway.connection import Connection
from gateway.deadlines import STEP_S
from gateway.effects import Effect, Forward, Shut
from gateway.framing import Close, Detected, Event, Frames, Peer, Pong, Refuse, Send, StartTls
from gateway.line import Line
from gateway.session import HALF_CLOSED, Session, overloaded
from gateway.speaker import Speaker, set_options
from gateway.tls import Channel

if TYPE_CHECKING:
    from gateway.server import Gateway

SLICE_BYTES: Final = 4_096
"""Read at once of a WebSocket: it may hold hundreds of empty frames, each of which costs some work."""

CLOSING_S: Final = 5.0
"""After the last byte was written, a client has so long to read it and to close."""

INTAKE_SHARE: Final = 4
"""A client that leaves a quarter of its unsent limit unread gets no further requests carried out."""

log = telemetry.get_logger(__name__)
noise = telemetry.RateLimited(log, per_s=1.0, burst=20)


class Client(Speaker):
    """One connection. `line` exists once something was forwarded for it."""

    __slots__ = (
        "_address",
        "_closing_at",
        "_ended",
        "_look_at",
        "_reading",
        "_timer",
        "_unfed",
        "line",
    )

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self._address = ""
        self._reading = True
        self._unfed = b""
        self._timer: asyncio.Handle | None = None
        self._closing_at = inf
        self._ended = False
        self._look_at = inf
        self.line: Line | None = None

    # --- asyncio ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        gateway = self._gateway
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._address = counted_as(peer[0]) if peer else ""
        entry = gateway.doors.enter(self._address)
        now = gateway.loop.time()
        self.session = Session(gateway.next_number(), gateway.rules, now)
        self.number = self.session.number
        self._framing = Connection(gateway.settings, ready=gateway.is_ready)
        if entry is Entry.DROPPED:
            self._address = ""
            self.session.closed()
            self._transport.abort()
            return
        if entry is Entry.REFUSED:
            self.session.refuse(_too_many())
        self._transport.set_write_buffer_limits(high=0)
        set_options(transport.get_extra_info("socket"), gateway.rules.keepalive_ms)
        self._sent_at = now
        gateway.clients[self.number] = self
        self._look_again(now + min(gateway.rules.limits.login_ms, gateway.rules.keepalive_ms) / 1000)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        try:
            self._received(data)
        except Exception:
            self.failed("bytes from a client")

    def eof_received(self) -> bool:
        """The client sends no more; it still gets its answers."""
        self._ended = True
        if self.session.is_closed:
            return False
        try:
            self._half_closed()
        except Exception:
            self.failed("the end of a client's bytes")
        return True

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to."""
        self.is_blocked = True

    def resume_writing(self) -> None:
        """All that was written is with the kernel: send what was held back, take requests again."""
        self.is_blocked = False
        if self.session.is_closed:
            return
        try:
            for message in self.outbox.take_states():
                self.say(message)
            if self.session.backlog or not self._reading:
                self.work()
        except Exception:
            self.failed("a client that reads again")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        gateway = self._gateway
        gateway.clients.pop(self.number, None)
        if self._address:
            gateway.doors.leave(self._address)
            self._address = ""
        self.session.closed()
        self._cancel_timer()
        gateway.left(self)

    # --- what comes in ----------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        session, gateway = self.session, self._gateway
        if session.is_deaf:
            return
        now = gateway.loop.time()
        session.allowance.bytes -= len(data)
        if self._tls is not None:
            data = self._decrypted(data)
        if len(data) > SLICE_BYTES or self._unfed:
            data = self._slice(data)
        if data:
            self._feed(data, now)
        self._work(now)
        since = self._framing.pending_since
        if since is not None:
            finish_by = since + gateway.rules.limits.message_ms / 1000
            if finish_by + STEP_S < self._look_at:
                self._look_again(finish_by)

    def _feed(self, data: bytes, now: float) -> None:
        backlog = self.session.backlog
        for event in self._framing.feed(data, now):
            if type(event) is Frames:
                backlog += event.payloads
            else:
                self._happened(event, now)

    def _slice(self, data: bytes) -> bytes:
        """The part of what was read that is looked at in this turn."""
        if self._unfed:
            self._unfed += data
            return b""
        if self.session.encoding is not None and not self._framing.is_websocket:
            return data
        self._unfed = data[SLICE_BYTES:]
        return data[:SLICE_BYTES]

    def _happened(self, event: Event, now: float) -> None:
        match event:
            case Detected():
                if self._gateway.rules.authenticator.implicit:
                    # nothing has to be proved here, so nothing is gained by a smaller limit
                    self._framing.message_limit = self._gateway.rules.limits.message_bytes
                self.perform(self.session.detected(event.encoding))
            case Send() if not self.session.backlog:
                self.flush()
                self._write(event.data)
            case Send() | Refuse() | Close():
                self.session.backlog.append(event)
            case Peer():
                self._proxied(event)
            case StartTls():
                self._start_tls(event.received, now)
            case Pong():
                pass

    def _half_closed(self) -> None:
        self.session.backlog.extend(
            event for event in self._framing.end() if isinstance(event, (Refuse, Close))
        )
        self.session.backlog.append(HALF_CLOSED)
        self.work()

    def _proxied(self, peer: Peer) -> None:
        if peer.address is None:
            return
        doors = self._gateway.doors
        doors.leave(self._address)
        self._address = counted_as(peer.address)
        match doors.enter(self._address):
            case Entry.REFUSED:
                self.session.refuse(_too_many())
            case Entry.DROPPED:
                self._address = ""
                self._transport.abort()
            case Entry.ADMITTED:
                pass

    def _start_tls(self, received: bytes, now: float) -> None:
        context = self._gateway.tls_context
        assert context is not None, "the framing only finds TLS where it is configured"
        self._tls = Channel(context)
        self._framing = Connection(self._gateway.settings, secure=True, ready=self._gateway.is_ready)
        plain = self._decrypted(received)
        if plain:
            self._feed(plain, now)

    def _decrypted(self, data: bytes) -> bytes:
        assert self._tls is not None
        try:
            plain = self._tls.receive(data)
        except ssl.SSLError as error:
            noise.info("tls.refused", connection=self.number, reason=error.reason or type(error).__name__)
            self._write_raw(self._tls.outgoing)
            self._transport.close()
            return b""
        self._write_raw(self._tls.outgoing)
        return plain

    # --- working through it -----------------------------------------------------------------------------

    def work(self) -> None:
        """Go on with what the client sent, after an answer or a pause."""
        self._timer = None
        if self.session.is_closed:
            return
        try:
            now = self._gateway.loop.time()
            if self._unfed and not self.session.backlog:
                self._feed_rest(now)
            self._work(now)
        except Exception:
            self.failed("a client's messages")

    def _feed_rest(self, now: float) -> None:
        data, self._unfed = self._unfed[:SLICE_BYTES], self._unfed[SLICE_BYTES:]
        if not self.session.is_deaf:
            self._feed(data, now)
        if not self._unfed and self._tls is not None and self._tls.ended:
            self.session.backlog.append(HALF_CLOSED)

    def work_soon(self) -> None:
        """Go on in the next loop turn, unless that or a pause is already set."""
        if self._timer is None:
            self._timer = self._gateway.loop.call_soon(self.work)

    def _work(self, now: float) -> None:
        session, gateway = self.session, self._gateway
        if self.is_blocked and self._unsent > gateway.rules.limits.unsent_bytes // INTAKE_SHARE:
            self._set_reading(False, now)
            return
        if self._timer is not None:
            # a pause is running: what has come meanwhile waits for its end
            self._set_reading(False, now)
            return
        line = self.line
        in_flight = len(line.pending) if line is not None else 0
        wanted = session.work(gateway.rules, now, in_flight, gateway.home(line))
        if len(wanted) == 1 and type(wanted[0]) is Forward:
            gateway.forward(self, wanted[0].items)
        else:
            self.perform(wanted)
            if session.is_closed:
                return
        if self._unfed and not session.backlog:
            self.work_soon()
        reading = self._timer is None and not session.backlog and not self._unfed
        if reading != self._reading:
            self._set_reading(reading, now)

    def _set_reading(self, wanted: bool, now: float) -> None:
        if wanted == self._reading or self._transport.is_closing():
            return
        self._reading = wanted
        if not wanted:
            self._transport.pause_reading()
            return
        self._transport.resume_reading()
        if self._framing.pending_since is not None:
            # it was not the client that was slow
            self._framing.pending_since = now

    def perform(self, wanted: list[Effect]) -> None:
        """Do what the session's machine has decided."""
        for effect in wanted:
            match effect:
                case Forward():
                    self._gateway.forward(self, effect.items)
                case effects.Answer():
                    for message in effect.messages:
                        self.say(message)
                case effects.Join():
                    self._gateway.join(self, effect.group)
                case effects.Hold():
                    self._timer = self._gateway.loop.call_later(effect.seconds, self.work)
                case effects.Again():
                    self.work_soon()
                case effects.Write():
                    self.flush()
                    self._write(effect.data)
                case Shut():
                    self.shut(effect)
                case effects.Keepalive():
                    self._keep_alive()
                case effects.Overdue():
                    self._gateway.overdue(self)

    # --- what goes out ----------------------------------------------------------------------------------

    def _keep_alive(self) -> None:
        if self.is_blocked:
            return
        if self._framing.is_websocket:
            self._write(self._framing.ping())
        else:
            self.say(greeting.KEEPALIVE)

    def shut(self, effect: Shut) -> None:
        """Send what is queued and say why, then close in order: end our side, wait for the client's."""
        self.session.closed()
        if effect.spoken and not self._framing.is_websocket:
            self.say(greeting.goodbye(effect.code, effect.reason))
        self.flush()
        self.session.encoding = None  # from here on there are no words: events still on their way end here
        self._write(self._framing.close(effect.code, effect.reason))
        if self._tls is not None:
            self._tls.close()
            self._write_raw(self._tls.outgoing)
        self._cancel_timer()
        self._gateway.left(self)
        now = self._gateway.loop.time()
        self._closing_at = now + CLOSING_S
        self._look_again(self._closing_at)
        if self._ended:
            self._transport.close()
        elif not self._transport.is_closing():
            # closing with unread bytes would reset the connection and take the last messages with it
            self._set_reading(True, now)
            self._transport.write_eof()

    def drain(self, code: int, reason: str) -> None:
        """Take nothing more in; close once everything received is answered."""
        self.session.end(code, reason)
        self.work()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # --- time -------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """A deadline that was noted for this client has come."""
        if now + STEP_S < self._look_at:
            return
        if self.session.is_closed:
            if now >= self._closing_at:
                self._transport.abort()
            elif self._closing_at < inf:
                self._look_again(self._closing_at)
            return
        line = self.line
        wanted, next_look = self.session.look(
            self._gateway.rules,
            now,
            unfinished=self._framing.pending_since if self._reading else None,
            oldest=line.oldest if line is not None else inf,
            sent=self._sent_at,
        )
        self.perform(wanted)
        if not self.session.is_closed:
            self._look_again(next_look)

    def _look_again(self, when: float) -> None:
        self._look_at = when
        self._gateway.deadlines.at(self.number, when)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def bound(self) -> None:
        """The client is logged in."""
        self.session.bound()
        self._framing.message_limit = self._gateway.rules.limits.message_bytes


def _too_many() -> ClientError:
    return overloaded("too many connections to this gateway, or from this address")
