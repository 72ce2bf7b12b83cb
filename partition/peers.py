"""The streams that others have opened to this worker: gateways, and workers with parcels.

Guards: a stream is only served under the grant it was opened for; items are executed in the order
in which they were numbered; what a gateway has is learnt from what it acknowledges; a gateway that
has fallen silent is reported, so that its sessions can wait for their clients elsewhere. A group may have
two streams here: a former primary does not know yet that it is none. Each hears of its parcels, for
nobody can tell here which of the two goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from connserver.codec import encode
from connserver.messages import (
    OpenStream,
    OutputBatch,
    Outputs,
    Parcels,
    ParcelsDone,
    Requests,
    StreamAck,
    StreamOpened,
    StreamProbe,
    StreamResend,
    WrongGrant,
)
from connserver.stream import Duplex

SILENT_S = 5.0
"""A peer that says nothing for this long (it greets once a second) is taken for dead."""

GREET_S = 1.0

HELD_S = 10.0
"""So long after a grant began a gateway that sessions or outputs name may take to open its stream."""

WORK = (Requests, Parcels)
"""What brings something to execute."""

Send = Callable[[bytes, bytes], object]
Received = Callable[[int, int], None]
"""The gateway of this boot has all outputs up to this op."""


@dataclass(slots=True)
class Peer:
    """One open stream. `boot` is the gateway's (or the other worker's) life."""

    identity: bytes
    name: str
    boot: int
    duplex: Duplex
    serial: int
    begun: bool = False
    """Whether a first parcel has come over this stream."""
    told: bool = False
    """Whether a group knows our cursor; before that it hears of no parcel."""
    posted: deque[tuple[int, int]] = field(default_factory=deque)
    """(number, op) of outputs that the gateway has not acknowledged."""

    def acknowledged(self, number: int) -> int:
        """The op of the last outputs up to this number; 0 if it acknowledges none anew."""
        op = 0
        while self.posted and self.posted[0][0] <= number:
            op = self.posted.popleft()[1]
        return op


class Peers:
    """All open streams of this worker's present grant."""

    def __init__(self, grant: int, send: Send, received: Received = lambda boot, op: None) -> None:
        self.grant = grant
        self._send = send
        self._received = received
        self._by_identity: dict[bytes, Peer] = {}
        self._by_boot: dict[int, Peer] = {}
        self._by_group: dict[int, list[Peer]] = {}
        self._greeted = 0.0
        self._serials = 0

    def receive(self, identity: bytes, message: Any, now: float) -> tuple[Peer, Requests | Parcels] | None:
        """One message of an open stream; what is to be executed now, if it brought anything."""
        peer = self._by_identity.get(identity)
        if peer is None or getattr(message, "grant", None) != self.grant:
            self._send(identity, encode(WrongGrant(getattr(message, "grant", 0), self.grant)))
            return None
        if isinstance(message, WORK):
            accepted = peer.duplex.accept(message.number, message.acked, now)
            self._acknowledged(peer, message.acked)
            return (peer, message) if accepted else None
        if isinstance(message, StreamAck | StreamProbe | StreamResend):
            peer.duplex.control(message, now)
            if isinstance(message, StreamAck):
                self._acknowledged(peer, message.acked)
        return None

    def _acknowledged(self, peer: Peer, number: int) -> None:
        op = peer.acknowledged(number) if peer.posted else 0
        if op:
            self._received(peer.boot, op)

    def open(self, identity: bytes, message: OpenStream, now: float) -> Peer | None:
        """Begin a stream; None if it is for another grant. A gateway is told next what it lacks."""
        if message.grant != self.grant:
            self._send(identity, encode(WrongGrant(message.grant, self.grant)))
            return None
        duplex = Duplex(self.grant, lambda data: self._send(identity, data), now)
        self._serials += 1
        peer = Peer(identity, message.sender, message.boot, duplex, self._serials)
        former = self._by_identity.get(identity)
        if former is not None:
            self._forget(former)
        self._by_identity[identity] = peer
        source = source_of(message.sender)
        if source is not None:
            self._by_group.setdefault(source, []).append(peer)
        else:
            self._by_boot[message.boot] = peer
        self._send(identity, encode(StreamOpened(self.grant)))
        return peer

    def outputs(self, batch: OutputBatch, view: int, op: int, now: float) -> None:
        """Send committed outputs to their gateway; one that is not here begins with what it lacks."""
        peer = self._by_boot.get(batch.gateway)
        if peer is None:
            return

        def make(number: int, acked: int) -> Outputs:
            peer.posted.append((number, op))
            return Outputs(
                self.grant, number, acked, view, op, batch.targets, batch.kinds, batch.answers, batch.bodies
            )

        if not peer.duplex.post(make, now):
            self._forget(peer)

    def parcels_done(self, source: int, target: int, upto: int, now: float) -> None:
        """Tell another group that its parcels have had their effect here for good."""

        def make(number: int, acked: int) -> ParcelsDone:
            return ParcelsDone(self.grant, number, acked, target, upto)

        for peer in [peer for peer in self._by_group.get(source, ()) if peer.told]:
            if not peer.duplex.post(make, now):
                self._forget(peer)

    def may_tell(self, serial: int) -> None:
        """What follows for this stream of a group has committed: it may hear our cursor."""
        for peer in self._by_identity.values():
            if peer.serial == serial:
                peer.told = True

    def tick(self, now: float) -> list[int]:
        """Acknowledge, probe, greet; the boots of gateways that are silent for too long."""
        greet = now - self._greeted >= GREET_S
        if greet:
            self._greeted = now
        gone = []
        for peer in list(self._by_identity.values()):
            if now - peer.duplex.heard > SILENT_S:
                if self._by_boot.get(peer.boot) is peer:  # else it has a newer stream
                    gone.append(peer.boot)
                self._forget(peer)
            else:
                peer.duplex.tick(now, greet=greet)
        return gone

    def close(self, peer: Peer) -> None:
        """Serve this stream no longer; its owner opens another and says everything again."""
        self._forget(peer)

    def __len__(self) -> int:
        return len(self._by_identity)

    @property
    def boots(self) -> frozenset[int]:
        """The gateways that have a stream."""
        return frozenset(self._by_boot)

    def _forget(self, peer: Peer) -> None:
        if self._by_identity.get(peer.identity) is peer:
            del self._by_identity[peer.identity]
        if self._by_boot.get(peer.boot) is peer:
            del self._by_boot[peer.boot]
        source = source_of(peer.name)
        if source is not None:
            self._by_group[source].remove(peer)


def is_named(identity: bytes) -> bool:
    """Whether a message is from a connection that is still its sender's.

    When a peer connects anew under its name, the ROUTER gives the former connection a name of its own,
    which begins with NUL. What was under way there comes later than what the new connection brought, and
    must not be taken for something newer.
    """
    return not identity.startswith(b"\0")


def source_of(sender: str) -> int | None:
    """The group that a stream's sender is; None for a gateway."""
    number = sender.removeprefix("group:")
    return int(number) if number != sender and number.isdigit() else None
