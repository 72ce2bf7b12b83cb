"""The streams that others have opened to this worker: gateways, and workers with parcels.

Guards: a stream is only served under the grant it was opened for; items are executed in the order
in which they were numbered; a gateway that has fallen silent is reported, so that its sessions can
wait for their clients elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
"""So long after a grant began outputs wait for gateways that have not opened their streams yet: a room's
events must not be missing between the old worker's and the first request to the new one."""

HELD_BATCHES = 4_096
"""Most of them for one gateway; a room that speaks so much loses them, as with a gateway that is gone."""

_WORK = (Requests, Parcels)

Send = Callable[[bytes, bytes], object]


@dataclass(slots=True)
class Peer:
    """One open stream. `boot` is the gateway's (or the other worker's) life."""

    identity: bytes
    name: str
    boot: int
    duplex: Duplex
    begun: bool = False
    """Whether a first parcel has come over this stream."""


class Peers:
    """All open streams of this worker's present grant."""

    def __init__(self, grant: int, send: Send) -> None:
        self.grant = grant
        self._send = send
        self._by_identity: dict[bytes, Peer] = {}
        self._by_boot: dict[int, Peer] = {}
        self._by_group: dict[int, Peer] = {}
        self._greeted = 0.0
        self._held: dict[int, list[tuple[OutputBatch, int, int]]] = {}
        self._held_until: float | None = None

    def receive(self, identity: bytes, message: Any, now: float) -> tuple[Peer, Requests | Parcels] | None:
        """One message from a peer; what is to be executed now, if it brought anything."""
        if isinstance(message, OpenStream):
            self._open(identity, message, now)
            return None
        peer = self._by_identity.get(identity)
        if peer is None or getattr(message, "grant", None) != self.grant:
            self._send(identity, encode(WrongGrant(getattr(message, "grant", 0), self.grant)))
            return None
        if isinstance(message, _WORK):
            if peer.duplex.accept(message.number, message.acked, now):
                return peer, message
        elif isinstance(message, StreamAck | StreamProbe | StreamResend):
            peer.duplex.control(message, now)
        return None

    def outputs(self, batch: OutputBatch, view: int, op: int, now: float) -> None:
        """Send committed outputs to their gateway, as soon as it is there."""
        peer = self._by_boot.get(batch.gateway)
        if peer is not None:
            self._post(peer, batch, view, op, now)
            return
        if self._held_until is None:
            self._held_until = now + HELD_S
        held = self._held.setdefault(batch.gateway, [])
        if now < self._held_until and len(held) < HELD_BATCHES:
            held.append((batch, view, op))

    def _post(self, peer: Peer, batch: OutputBatch, view: int, op: int, now: float) -> None:
        def make(number: int, acked: int) -> Outputs:
            return Outputs(
                self.grant, number, acked, view, op, batch.targets, batch.kinds, batch.answers, batch.bodies
            )

        if not peer.duplex.post(make, now):
            self._forget(peer)

    def parcels_done(self, source: int, target: int, upto: int, now: float) -> None:
        """Tell another group that its parcels have had their effect here for good."""
        peer = self._by_group.get(source)
        if peer is not None:
            peer.duplex.post(lambda number, acked: ParcelsDone(self.grant, number, acked, target, upto), now)

    def tick(self, now: float) -> list[int]:
        """Acknowledge, probe, greet; the boots of gateways that are silent for too long."""
        greet = now - self._greeted >= GREET_S
        if greet:
            self._greeted = now
        if self._held_until is None:
            self._held_until = now + HELD_S
        elif now >= self._held_until:
            self._held.clear()
        gone = []
        for peer in list(self._by_identity.values()):
            if now - peer.duplex.heard > SILENT_S:
                if self._by_boot.get(peer.boot) is peer:  # else it has a newer stream
                    gone.append(peer.boot)
                self._forget(peer)
            else:
                peer.duplex.tick(now, greet=greet)
        return gone

    def __len__(self) -> int:
        return len(self._by_identity)

    @property
    def boots(self) -> frozenset[int]:
        """The gateways that have a stream."""
        return frozenset(self._by_boot)

    def _open(self, identity: bytes, message: OpenStream, now: float) -> None:
        if message.grant != self.grant:
            self._send(identity, encode(WrongGrant(message.grant, self.grant)))
            return
        duplex = Duplex(self.grant, lambda data: self._send(identity, data), now)
        peer = Peer(identity, message.sender, message.boot, duplex)
        self._by_identity[identity] = peer
        source = source_of(message.sender)
        if source is not None:
            self._by_group[source] = peer
        else:
            self._by_boot[message.boot] = peer
        self._send(identity, encode(StreamOpened(self.grant)))
        if self._by_boot.get(message.boot) is peer:
            for batch, view, op in self._held.pop(message.boot, ()):
                self._post(peer, batch, view, op, now)

    def _forget(self, peer: Peer) -> None:
        self._by_identity.pop(peer.identity, None)
        for index in (self._by_boot, self._by_group):
            for key in [key for key, known in index.items() if known is peer]:
                del index[key]


def source_of(sender: str) -> int | None:
    """The group that a stream's sender is; None for a gateway."""
    number = sender.removeprefix("group:")
    return int(number) if number != sender and number.isdigit() else None
