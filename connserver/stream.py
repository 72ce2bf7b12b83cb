"""Numbered streams: nothing between two processes is lost or doubled while both live.

ZeroMQ loses what is in flight when a connection breaks. Each side therefore numbers its messages
from 1, keeps them until the other acknowledges, and asks again for a gap. A stream belongs to one
boot and one grant; a new grant starts new streams. Pure: times are passed in, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from connserver.codec import encode
from connserver.limits import STREAM_PROBE_MS, STREAM_RETAINED_MESSAGES
from connserver.messages import StreamAck, StreamProbe, StreamResend


@dataclass(slots=True)
class Sender:
    """The sending half. What it keeps is whatever the shell needs to send a number again."""

    next: int = 1
    kept: deque[tuple[int, bytes]] = field(default_factory=deque)
    idle_since: float = 0.0

    def number(self) -> int:
        """The number the next message must carry."""
        return self.next

    def sent(self, data: bytes, now: float) -> bool:
        """Keep a message that was given the next number; False: the stream is over its bound."""
        if not self.kept:
            self.idle_since = now
        self.kept.append((self.next, data))
        self.next += 1
        return len(self.kept) <= STREAM_RETAINED_MESSAGES

    def acknowledged(self, upto: int, now: float) -> None:
        """The other side has everything up to this number."""
        if self.kept and self.kept[0][0] <= upto:
            self.idle_since = now
            while self.kept and self.kept[0][0] <= upto:
                self.kept.popleft()

    def again(self, first: int, now: float) -> list[bytes]:
        """What was asked for again, in order."""
        self.idle_since = now
        return [data for number, data in self.kept if number >= first]

    def probe(self, now: float) -> int:
        """The last number sent if it has gone unacknowledged for too long, else 0."""
        if not self.kept or now - self.idle_since < STREAM_PROBE_MS / 1000:
            return 0
        self.idle_since = now
        return self.next - 1

    def check_invariants(self) -> None:
        """Kept numbers are dense and end right before the next."""
        numbers = [number for number, _ in self.kept]
        assert numbers == list(range(self.next - len(numbers), self.next)), numbers


@dataclass(slots=True)
class Receiver:
    """The receiving half. `arrived` is the acknowledgement to send back."""

    arrived: int = 0
    asked: int = 0

    def accept(self, number: int) -> bool:
        """Whether this message is the next one; a repeated or too early one is to be dropped."""
        if number != self.arrived + 1:
            return False
        self.arrived = number
        return True

    def missing(self, newest: int) -> int:
        """The first number to ask for again when `newest` is known to exist, else 0.

        Asks once per gap; a probe (which comes at intervals) asks anew by calling `forget`.
        """
        if newest <= self.arrived or self.asked == self.arrived + 1:
            return 0
        self.asked = self.arrived + 1
        return self.asked

    def forget(self) -> None:
        """A probe came: what was asked for may itself have been lost."""
        self.asked = 0


class Duplex:
    """Both halves of one stream and the three messages that keep it whole.

    `send` hands bytes to the peer; whether they arrive is what the numbers are for.
    """

    __slots__ = ("_ack_due", "_send", "grant", "heard", "receiver", "sender")

    def __init__(self, grant: int, send: Callable[[bytes], object], now: float) -> None:
        self.grant = grant
        self.sender = Sender()
        self.receiver = Receiver()
        self.heard = now
        self._send = send
        self._ack_due = False

    def post(self, make: Callable[[int, int], Any], now: float) -> bool:
        """Send `make(number, acked)`; False: the other side is too far behind, start anew."""
        data = encode(make(self.sender.number(), self.receiver.arrived))
        self._ack_due = False
        within = self.sender.sent(data, now)
        self._send(data)
        return within

    def accept(self, number: int, acked: int, now: float) -> bool:
        """Whether a numbered message is the next; a gap is asked for, a repeat acknowledged."""
        self.heard = now
        self.sender.acknowledged(acked, now)
        self._ack_due = True
        if self.receiver.accept(number):
            return True
        first = self.receiver.missing(number)
        if first:
            self._send(encode(StreamResend(self.grant, first)))
        return False

    def control(self, message: StreamAck | StreamProbe | StreamResend, now: float) -> None:
        """The other side says where it is, asks where we are, or asks again."""
        self.heard = now
        match message:
            case StreamAck():
                self.sender.acknowledged(message.acked, now)
            case StreamProbe():
                self.receiver.forget()
                first = self.receiver.missing(message.last)
                again = (
                    StreamResend(self.grant, first) if first else StreamAck(self.grant, self.receiver.arrived)
                )
                self._send(encode(again))
            case StreamResend():
                for data in self.sender.again(message.first, now):
                    self._send(data)

    @property
    def at_rest(self) -> bool:
        """Whether nothing has to be acknowledged, by either side."""
        return not (self._ack_due or self.sender.kept)

    def tick(self, now: float, *, greet: bool = False) -> None:
        """Acknowledge what nothing else carried back; ask where the other side is. `greet`: say
        something in any case, so that the peer knows this end lives."""
        if self._ack_due or greet:
            self._ack_due = False
            self._send(encode(StreamAck(self.grant, self.receiver.arrived)))
        last = self.sender.probe(now)
        if last:
            self._send(encode(StreamProbe(self.grant, last)))
