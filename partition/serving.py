"""A worker while it is primary: the group machine between its streams, its log and its archive.

One loop turn: items come in through `receive`, the machine runs them, `_hand_on` gives what they
changed to the log, and when that says it is safe, `_release` sends what they caused. Guards: nothing
leaves but through the queue of `partition.commit`; what other groups hear of (parcels, cursors) and
what the archive and other workers get has committed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from connserver import telemetry
from connserver.codec import encode
from connserver.driver import Flush
from connserver.messages import (
    AdminReply,
    Entry,
    Image,
    OpenStream,
    Parcels,
    Refused,
)
from partition.commit import CommitQueue, Released
from partition.group import Group
from partition.intake import Intake
from partition.peers import HELD_S, WORK, Peer, Peers, source_of
from partition.retained import Receipts, Retained
from partition.turn import Turn

TICK_S = 0.02
"""How late a tick may be while something wants ticks."""

IDLE_TICK_S = 0.25

RECEIPTS_S = 1.0
"""So often an entry is made only to say what gateways have, so that it is not kept for ever."""

ARCHIVED_S = 0.2
"""Between two messages about what the log may forget."""

log = telemetry.get_logger(__name__)

Deliver = Callable[[dict[int, list[tuple[int, bytes]]]], None]
"""Brings committed parcels, (number, body) by target group, to other groups."""

State = Callable[[int, list[Image]], None]
"""Takes the complete committed state and its op."""


class Loop(Protocol):
    """The part of an event loop that is used here."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[[], object]) -> Any: ...
    def call_later(self, delay: float, callback: Callable[[], object]) -> Any: ...


class Log(Protocol):
    """The group's log, under this worker's grant."""

    def submit(self, first_op: int, payloads: list[bytes]) -> None: ...
    def ask_barrier(self, token: int) -> None: ...
    def drained(self) -> None: ...
    def archived(self, op: int) -> None: ...
    def reply(self, reply: AdminReply) -> None: ...


class Archive(Protocol):
    """The archiver's side that takes committed images."""

    @property
    def archived_op(self) -> int: ...
    def add(self, op: int, images: list[Image]) -> None: ...


class Serving:
    """From the grant until it is lost. `applied`: the committed op whose state the group holds."""

    def __init__(
        self,
        loop: Any,
        *,
        group: Group,
        peers: Peers,
        view: int,
        applied: int,
        archive: Archive,
        intake: Intake,
        log: Log,
        retained: Retained,
        receipts: Receipts,
        deliver: Deliver,
    ) -> None:
        self.group = group
        self.queue = CommitQueue(applied, applied)
        self.draining = False
        self._loop: Loop = loop
        self._peers = peers
        self._view = view
        self._archive = archive
        self._intake = intake
        self._log = log
        self._retained = retained
        self._receipts = receipts
        self._deliver = deliver
        self._postponed: list[Callable[[], None]] = []
        self._states: list[tuple[int, list[Image], State]] = []
        self._safe_parcels: dict[int, int] = {}
        for target, number, _ in group.outbox.waiting():
            self._safe_parcels[target] = number
        self._numbered_anew: dict[int, int] = {}
        self._drained = self._stopped = False
        self._archived = 0
        self._archived_at = self._noted_at = loop.time()
        self._look_at = loop.time() + HELD_S
        self._absent: dict[int, float] = {}
        self._flush = Flush(loop, self._hand_on)
        self._resting = False
        self._ticker = loop.call_soon(self._tick)

    # --- what comes in ---

    def receive(self, identity: bytes, message: Any) -> None:
        """One message from a gateway or another worker.

        While it drains the worker is deaf for what it would execute: streams ask for it again.
        """
        if self.draining and isinstance(message, (OpenStream, *WORK)):
            return
        now = self._loop.time()
        if isinstance(message, OpenStream):
            peer = self._peers.open(identity, message, now)
            if peer is not None:
                self._opened(peer, message, now)
            return
        work = self._peers.receive(identity, message, now)
        if work is None:
            return
        peer, items = work
        if isinstance(items, Parcels):
            self._parcels(peer, items)
        elif self.queue.overloaded:
            refusals = self._intake.refused(peer.boot, items, self._end_turn)
            # they rest on nothing that was executed here, so they need not wait for it
            self._peers.outputs(refusals, self._view, self.queue.commit, now)
        else:
            self._intake.requests(peer.boot, items, self._end_turn)
        self._flush.mark()

    def _parcels(self, peer: Peer, items: Parcels) -> None:
        if self.queue.overloaded:
            self._peers.close(peer)
            return
        first = next((number for number in items.numbers if number), 0)
        if first and not peer.begun:
            peer.begun = True
            forgotten = self.group.outbox.begins(items.source, first)
            if forgotten:
                log.warning("parcels.forgotten", source=items.source, count=forgotten)
        self._intake.parcels(items, self._end_turn)

    def _opened(self, peer: Peer, message: OpenStream, now: float) -> None:
        source = source_of(message.sender)
        if source is not None:
            self._end_turn()
            cursor = self.group.outbox.cursor(source)
            self.queue.submit(Turn(done=[(source, cursor)], opened=[peer.serial]))
        else:
            self._welcome(peer.boot, message.received, now)
        self._flush.mark()

    def _welcome(self, boot: int, received: int, now: float) -> None:
        """A gateway begins with what it lacks, or, if that is not known any more, its clients begin anew."""
        if received > self.queue.commit or self._retained.lacks(boot, received):
            log.warning("outputs.lost", boot=f"{boot:016x}", received=received, commit=self.queue.commit)
            self.group.gateway_lacks(boot, self._intake.clock())
        for op, batch in self._retained.after(boot, received):
            self._peers.outputs(batch, self._view, op, now)
        self._receipts.back(boot, min(received, self.queue.commit))

    def when_active(self, action: Callable[[], None]) -> None:
        """Use the machine from outside a stream: now, or when draining was called off."""
        if self._stopped:
            return
        if self.draining:
            self._postponed.append(action)
            return
        action()
        self._flush.mark()

    def parcels_done(self, target: int, upto: int) -> None:
        """Another group has committed our parcels."""
        self.when_active(lambda: self.group.parcels_done(target, upto))

    def parcels_met(self, target: int, cursor: int) -> None:
        """A stream to another group begins, which has had our parcels up to its cursor."""
        self.when_active(lambda: self._met(target, cursor))

    def _met(self, target: int, cursor: int) -> None:
        self._end_turn()
        if self.group.outbox.met(target, cursor):
            # under their old numbers they must not leave any more, under the new ones not yet
            self._numbered_anew[target] = self.queue.head + 1
            self._safe_parcels[target] = cursor

    def own_parcels(self, items: list[tuple[int, bytes]]) -> None:
        """Parcels of this group to itself, now committed."""
        own = self.group.group
        numbers, bodies = [number for number, _ in items], [body for _, body in items]
        parcels = Parcels(0, 0, 0, own, numbers, bodies)
        self.when_active(lambda: self._intake.parcels(parcels, self._end_turn))

    def administer(self, number: int, operate: Callable[[], tuple[Any, str]]) -> None:
        """An administrator's command: (result, error) leave when what it did and saw is safe."""
        if self.draining:
            why = f"group {self.group.group} is being handed over; nothing was changed: try again"
            self._log.reply(AdminReply(number, None, why))
            return
        self._end_turn()
        result, error = operate()
        turn = self._finish_turn()
        turn.replies.append(AdminReply(number, result, error))
        self._enqueue(turn)
        self._flush.mark()

    # --- by the clock ---

    def _tick(self) -> None:
        if self._stopped:
            return
        self._intake.step()
        now = self._loop.time()
        if not (self.draining or self.queue.overloaded):
            self._intake.tick()
        for boot in {*self._peers.tick(now), *self._never_came(now)}:
            log.info("peer.silent", boot=f"{boot:016x}")
            self._gone(boot)
        self._say_archived(now)
        self._flush.mark()
        self._resting = not self.group.wants_ticks()
        wait = IDLE_TICK_S if self._resting else min(TICK_S, self.group.shortest_period_s)
        self._ticker = self._loop.call_later(wait, self._tick)

    def _gone(self, boot: int) -> None:
        self._absent.pop(boot, None)
        self._receipts.gone(boot)
        self.when_active(lambda: self.group.gateway_gone(boot, self._intake.clock()))

    def _never_came(self, now: float) -> set[int]:
        """Gateways for which outputs are kept, or (looked for once) sessions, and that have no stream
        although they had their time."""
        absent = self._retained.boots - self._peers.boots
        self._absent = {boot: self._absent.get(boot, now) for boot in absent}
        gone = {boot for boot, since in self._absent.items() if now - since >= HELD_S}
        if now >= self._look_at:
            self._look_at = inf
            gone |= self.group.sessions.gateways - self._peers.boots
        return gone

    def _say_archived(self, now: float) -> None:
        if now - self._archived_at < ARCHIVED_S:
            return
        op = min(self._archive.archived_op, self.queue.commit)
        oldest = self._retained.oldest
        if oldest:
            op = min(op, oldest - 1)
        if op > self._archived:
            self._archived, self._archived_at = op, now
            self._log.archived(op)

    # --- committing and sending ---

    def _finish_turn(self) -> Turn:
        """End the machine's turn; what gateways have goes along with an entry, seldom in one of its own."""
        turn = self.group.end_turn()
        now = self._loop.time()
        due = self._receipts.any and now - self._noted_at >= RECEIPTS_S and not self.draining
        if turn.entry is not None or due:
            self._noted_at = now if due else self._noted_at
            pairs = self._receipts.take()
            if pairs:
                entry = turn.entry or Entry([])
                turn.entry = Entry(entry.images, entry.outputs, pairs)
        return turn

    def _end_turn(self) -> None:
        turn = self._finish_turn()
        if not turn.empty:
            self._enqueue(turn)

    def _enqueue(self, turn: Turn) -> None:
        self.queue.submit(turn, encode(turn.entry) if turn.entry is not None else b"")

    def _hand_on(self) -> None:
        """The end of a loop turn: to the log what changed, and whatever need not wait leaves."""
        if self._stopped:
            return
        self._end_turn()
        if self._resting and self.group.wants_ticks():
            # something has come that must not wait for a tick as rare as those of an idle group
            self._resting = False
            self._ticker.cancel()
            self._ticker = self._loop.call_later(TICK_S, self._tick)
        now = self._loop.time()
        while (portion := self.queue.to_submit(now)) is not None:
            self._log.submit(*portion)
        token = self.queue.to_ask(now)
        if token:
            self._log.ask_barrier(token)
        self._release_all(self.queue.ready())
        if self.draining and self.queue.at_rest and not self._drained:
            self._drained = True
            self._log.drained()

    def committed(self, op: int) -> None:
        """Everything up to `op` is safe: archive it and send what it caused."""
        self._release_all(self.queue.committed(op, self._loop.time()))
        self._hand_on()

    def barrier_passed(self, token: int) -> None:
        """What was read before this was current: it may be told."""
        self._release_all(self.queue.barrier_passed(token))
        self._hand_on()

    def refused(self, refusal: Refused) -> None:
        """The log did not take something, and it is not for another grant."""
        if refusal.first_op:
            log.warning("log.refused", reason=refusal.reason, first=refusal.first_op, head=refusal.head)
        self.queue.refused(refusal, self._loop.time())
        self._hand_on()

    def _release_all(self, released: Released) -> None:
        if not released:
            return
        now = self._loop.time()
        parcels: dict[int, list[tuple[int, bytes]]] = {}
        for op, turn in released:
            self._release(turn, op, parcels, now)
            self._give_states(op)
        if parcels:
            self._deliver(parcels)

    def _release(self, turn: Turn, op: int, parcels: dict[int, list[tuple[int, bytes]]], now: float) -> None:
        if turn.entry is not None:
            self._archive.add(op, turn.entry.images)
            for boot in self._retained.add(op, turn.entry.outputs):
                log.warning("outputs.overflowed", boot=f"{boot:016x}")
            self._retained.received(turn.entry.received)
        for batch in turn.outputs:
            self._peers.outputs(batch, self._view, op, now)
        for target, number, body in turn.parcels:
            if number and op < self._numbered_anew.get(target, 0):
                continue
            self._safe_parcels[target] = max(number, self._safe_parcels.get(target, 0))
            parcels.setdefault(target, []).append((number, body))
        for serial in turn.opened:
            self._peers.may_tell(serial)
        for source, upto in turn.done:
            if source == self.group.group:
                self.parcels_done(source, upto)
            self._peers.parcels_done(source, self.group.group, upto, now)
        for reply in turn.replies:
            self._log.reply(reply)

    def committed_parcels(self, target: int) -> list[tuple[int, bytes]]:
        """What another group has not confirmed and may know of."""
        safe = self._safe_parcels.get(target, 0)
        waiting = self.group.outbox.waiting()
        return [(number, body) for group, number, body in waiting if group == target and number <= safe]

    # --- the state as a whole ---

    def with_state(self, take: State) -> None:
        """Give the complete state of the group, as it is now, as soon as that has committed."""
        self._end_turn()
        self._states.append((self.queue.head, list(self.group.snapshot()), take))
        self._flush.mark()
        if self.queue.at_rest:
            self._give_states(self.queue.commit)

    def _give_states(self, released: int) -> None:
        """Right after the op of a state was archived and before the next one is."""
        while self._states and self._states[0][0] <= released:
            op, images, take = self._states.pop(0)
            take(op, images)

    # --- the end of the grant ---

    def drain(self) -> None:
        """Take no more in; say when everything that was executed is safe."""
        if not self.draining:
            self.group.keep_now()
            self.draining, self._drained = True, False
            self._flush.mark()

    def go_on(self) -> None:
        """The handover was called off."""
        if self.draining:
            self.draining = False
            postponed, self._postponed = self._postponed, []
            for action in postponed:
                action()
            self._flush.mark()

    def ends_ahead(self) -> bool:
        """Whether something was executed that is not safe. Ends the turn, which never leaves."""
        return self.group.end_turn().entry is not None or not self.queue.at_rest

    def stop(self) -> None:
        """The grant is gone: nothing is executed and nothing leaves any more."""
        self._stopped = True
        self._ticker.cancel()
        self._states.clear()
