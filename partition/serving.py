"""A worker while it is primary: the group machine between its streams, its log and its archive.

One loop turn: items come in through `receive`, the machine runs them, `_end_turn` hands what they
changed to the log and, when that is committed, sends what they caused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf
from typing import Any

from connserver import telemetry
from connserver.driver import Flush
from connserver.errors import ClientError
from connserver.messages import Image, OpenStream, OutputKind, Parcels, RequestKind, Requests
from connserver.model import unpack
from partition.archive import Archiver
from partition.commit import CommitQueue
from partition.deadline import Deadline
from partition.group import Group
from partition.ledger import Fields
from partition.peers import HELD_S, Peer, Peers, source_of
from partition.questions import reply
from partition.suspects import Suspects
from partition.turn import Turn

TICK_S = 0.02
"""How late a tick may be while something wants ticks."""

IDLE_TICK_S = 0.25

log = telemetry.get_logger(__name__)

Deliver = Callable[[dict[int, list[tuple[int, bytes]]]], None]
"""Brings committed parcels, (number, body) by target group, to other groups."""


class Serving:
    """From the grant until it is lost."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        group: Group,
        peers: Peers,
        view: int,
        archived_op: int,
        archiver: Archiver,
        suspects: Suspects,
        deadline: Deadline,
        deliver: Deliver,
    ) -> None:
        self.group = group
        self.peers = peers
        self.view = view
        self.archiver = archiver
        self.queue = CommitQueue(archived_op, archived_op)
        self._loop = loop
        self._suspects = suspects
        self._deadline = deadline
        self._deliver = deliver
        self._look_at = loop.time() + HELD_S
        self._flush = Flush(loop, self._end_turn)
        self._ticker = loop.call_soon(self._tick)

    def receive(self, identity: bytes, message: Any) -> None:
        """One message from a gateway or another worker."""
        work = self.peers.receive(identity, message, self._loop.time())
        if work is None:
            if isinstance(message, OpenStream):
                self._opened(message)
            return
        peer, items = work
        if isinstance(items, Requests):
            self._requests(peer, items)
        else:
            self._parcels(peer, items)
        self._flush.mark()

    def changed(self) -> None:
        """The machine was used from outside a stream (administration, background results)."""
        self._flush.mark()

    def parcels_done(self, target: int, upto: int) -> None:
        """Another group has committed our parcels."""
        self.group.parcels_done(target, upto)
        self._flush.mark()

    def parcels_met(self, target: int, cursor: int) -> None:
        """A stream to another group begins, which has had our parcels up to its cursor."""
        self.group.outbox.met(target, cursor)
        self._flush.mark()

    def stop(self) -> None:
        """No more ticks; what is finished leaves."""
        self._ticker.cancel()
        self._end_turn()

    # --- executing ---

    def _requests(self, peer: Peer, items: Requests) -> None:
        now, boot = time.time(), peer.boot
        suspicious = self._suspects.any
        rows = zip(items.connections, items.kinds, items.sequences, items.bodies, strict=False)
        with self._deadline:
            for connection, kind, sequence, body in rows:
                if suspicious and self._quarantined(boot, connection, kind, sequence, body):
                    continue
                self._suspects.enter(boot, connection, sequence)
                self.group.request(boot, connection, kind, sequence, body, now)
        self._suspects.leave()

    def _opened(self, message: OpenStream) -> None:
        source = source_of(message.sender)
        if source is not None:
            self._end_turn()
            cursor = self.group.outbox.cursor(source)
            self.peers.parcels_done(source, self.group.group, cursor, self._loop.time())

    def _parcels(self, peer: Peer, items: Parcels) -> None:
        now = time.time()
        first = next((number for number in items.numbers if number), 0)
        if first and not peer.begun:
            peer.begun = True
            forgotten = self.group.outbox.begins(items.source, first)
            if forgotten:
                log.warning("parcels.forgotten", source=items.source, count=forgotten)
        with self._deadline:
            for number, body in zip(items.numbers, items.bodies, strict=False):
                quarantined = self._poison(items.source, number) if self._suspects.any else None
                self._suspects.enter(0, items.source + 1, number)
                self.group.parcel(items.source, number, body, now, quarantined)
        self._suspects.leave()

    def _quarantined(self, boot: int, connection: int, kind: int, sequence: int, body: bytes) -> bool:
        suspect = self._suspects.get(boot, connection, sequence)
        if suspect is None or not suspect.quarantined or kind != RequestKind.CALL:
            return False
        message = unpack(body)
        msg = str(message["msg"])
        log.error("request.quarantined", method=msg, connection=connection, deaths=suspect.deaths)
        error = ClientError("quarantined", f"{msg} was running when its worker died, {suspect.deaths} times")
        fields = reply(msg, message.get("id"), {**error.fields()})
        self.group.output(boot, connection, OutputKind.REPLY, fields, sequence)
        return True

    def _poison(self, source: int, number: int) -> Fields | None:
        suspect = self._suspects.get(0, source + 1, number)
        if suspect is None or not suspect.quarantined:
            return None
        log.error("parcel.quarantined", source=source, number=number, deaths=suspect.deaths)
        reason = f"this call was running when its worker died, {suspect.deaths} times"
        return dict(ClientError("quarantined", reason).fields())

    def _tick(self) -> None:
        self._suspects.enter(0, 0, 0)
        with self._deadline:
            self.group.tick(time.time())
        self._suspects.leave()
        for boot in [*self.peers.tick(self._loop.time()), *self._never_came()]:
            log.info("peer.silent", boot=f"{boot:016x}")
            self.group.gateway_gone(boot, time.time())
        self._flush.mark()
        wait = TICK_S if self.group.wants_ticks() else IDLE_TICK_S
        self._ticker = self._loop.call_later(wait, self._tick)

    def _never_came(self) -> frozenset[int]:
        """Once, when they have had their time: gateways that loaded sessions name and that are not here."""
        if self._loop.time() < self._look_at:
            return frozenset()
        self._look_at = inf
        return self.group.sessions.gateways - self.peers.boots

    # --- committing and sending ---

    def _end_turn(self) -> None:
        turn = self.group.end_turn()
        if turn.empty:
            return
        op = self.queue.submit(turn)
        # A replicated log would answer later; with the archive alone an entry counts as committed at
        # once, and what is lost with the machine is the archive interval.
        self.committed(self.queue.head if op else self.queue.commit)

    def committed(self, op: int) -> None:
        """Everything up to `op` is safe: archive it and send what it caused."""
        now = self._loop.time()
        parcels: dict[int, list[tuple[int, bytes]]] = {}
        for position, turn in self.queue.committed(op):
            if turn.entry is not None:
                self.archiver.add(position, turn.entry.images)
            self._release(turn, position, parcels, now)
        if parcels:
            self._deliver(parcels)

    def _release(self, turn: Turn, op: int, parcels: dict[int, list[tuple[int, bytes]]], now: float) -> None:
        for batch in turn.outputs:
            self.peers.outputs(batch, self.view, op, now)
        for target, number, body in turn.parcels:
            parcels.setdefault(target, []).append((number, body))
        for source, upto in turn.done:
            if source == self.group.group:
                self.parcels_done(source, upto)
            else:
                self.peers.parcels_done(source, self.group.group, upto, now)

    def own_parcels(self, items: list[tuple[int, bytes]]) -> None:
        """Parcels of this group to itself, now committed."""
        own = self.group.group
        for number, body in items:
            self.group.parcel(own, number, body, time.time())
        self._flush.mark()

    def committed_parcels(self, target: int) -> list[tuple[int, bytes]]:
        """What another group has not confirmed; everything here is committed when a turn has ended."""
        self._end_turn()
        return [(number, body) for group, number, body in self.group.outbox.waiting() if group == target]

    def everything(self) -> tuple[int, list[Image]]:
        """The committed state of the whole group and its position, for a complete archive."""
        return self.queue.commit, list(self.group.snapshot())
