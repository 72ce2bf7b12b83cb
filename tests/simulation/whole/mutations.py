"""Bugs of sessions, outboxes, rooms, timers and streams put back, one at a time; see the table of the core.

Importing this enters them into `tests.simulation.mutations.MUTATIONS`.
"""

from __future__ import annotations

from typing import Any

from gateway.distribution import Distribution
from gateway.forwarding import Link
from gateway.line import Line
from partition.answers import Answers
from partition.calls import CONTINUATION, Calls
from partition.commit import CommitQueue
from partition.outbox import Outbox
from partition.peers import Peers
from partition.retained import Retained
from partition.rooms import Rooms
from partition.serving import Serving
from partition.sessions import EVENT, Sessions
from partition.timers import Timers
from tests.simulation.mutations import Patch, mutation

WHOLE = "whole"


class Unwritten:
    """A ledger that forgets what is written of some kind."""

    def __init__(self, ledger: Any, *kinds: str) -> None:
        self._ledger, self._kinds = ledger, kinds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def write(self, oid: Any, kind: str, fields: Any) -> None:
        """Only what is of another kind."""
        if kind not in self._kinds:
            self._ledger.write(oid, kind, fields)

    def delete(self, oid: Any, kind: str) -> None:
        """The same."""
        if kind not in self._kinds:
            self._ledger.delete(oid, kind)


def forgetting(owner: type, method: str, *kinds: str) -> list[Patch]:
    """While this method runs, its ledger forgets objects of these kinds."""
    original = getattr(owner, method)

    def patched(self: Any, *arguments: Any, **named: Any) -> Any:
        ledger, self._ledger = self._ledger, Unwritten(self._ledger, *kinds)
        try:
            return original(self, *arguments, **named)
        finally:
            self._ledger = ledger

    return [(owner, method, patched)]


# --- exactly once ---


@mutation("session_no_dedup", "a request that ran is run again", WHOLE)
def _() -> list[Patch]:
    return [
        (Sessions, "known", lambda self, session, key: False),
        (Sessions, "too_old", lambda self, session, key: False),
    ]


@mutation("reply_not_logged", "a reply is kept in memory only", WHOLE)
def _() -> list[Patch]:
    return forgetting(Sessions, "_write_reply", "cs.session.reply")


@mutation("reply_in_a_later_entry", "a reply is kept, but not in the entry of its effects", WHOLE)
def _() -> list[Patch]:
    original = Sessions._write_reply

    def write(self: Any, session: Any, key: Any, reply: Any) -> None:
        late = self.__dict__.pop("_mutant_late", None)
        if late is not None:
            original(self, *late)
        self.__dict__["_mutant_late"] = (session, key, reply)

    return [(Sessions, "_write_reply", write)]


@mutation("in_progress_not_logged", "a request that waits for another group is not noted", WHOLE)
def _() -> list[Patch]:
    return [(Answers, "pending", lambda self, question: None)]


# --- sessions ---


@mutation("stale_binding_accepted", "a connection that lost its session takes it back", WHOLE)
def _() -> list[Patch]:
    original = Sessions.rebind

    def rebind(self: Any, oid: int, secret: str, place: Any) -> Any:
        session = self._by_oid.get(oid)
        if session is not None and session.place not in (None, place):
            self._bind(session, place)
        return original(self, oid, secret, place)

    return [(Sessions, "rebind", rebind)]


@mutation("resume_replays_twice", "a resume that another worker gets again replays again", WHOLE)
def _() -> list[Patch]:
    return [(Sessions, "has_resumed", lambda self, oid, request: False)]


@mutation(
    "resumed_client_told_again", "what a client had before its resume is told again at a failover", WHOLE
)
def _() -> list[Patch]:
    original = Line.bind
    return [(Line, "bind", lambda self, token, n: original(self, token, 0))]


@mutation("event_not_kept", "a direct event is sent and not kept", WHOLE)
def _() -> list[Patch]:
    return forgetting(Sessions, "tell", EVENT)


@mutation("event_given_twice", "a gateway gives a direct event again", WHOLE)
def _() -> list[Patch]:
    return [(Distribution, "_is_new", lambda self, link, number, message: True)]


@mutation("sessions_never_expire", "a session whose client never comes back stays for ever", WHOLE)
def _() -> list[Patch]:
    return [(Sessions, "expired", lambda self, now: [])]


@mutation("sessions_expire_early", "a session ends as soon as its client is away", WHOLE)
def _() -> list[Patch]:
    return [(Sessions, "expired", lambda self, now: list(self._away.values()))]


# --- between groups ---


@mutation("cursor_not_logged", "the cursor of another group's parcels is kept in memory only", WHOLE)
def _() -> list[Patch]:
    return forgetting(Outbox, "accept", "cs.cursor")


@mutation("cursor_ignored", "a parcel that comes again has its effect again", WHOLE)
def _() -> list[Patch]:
    original = Outbox.accept

    def accept(self: Any, source: int, number: int) -> bool:
        original(self, source, number)
        return True

    return [(Outbox, "accept", accept)]


@mutation("outbox_deleted_when_sent", "a parcel is forgotten before the other side has committed it", WHOLE)
def _() -> list[Patch]:
    original = Serving._release

    def release(self: Any, turn: Any, *arguments: Any) -> None:
        original(self, turn, *arguments)
        for target, number, _ in turn.parcels:
            if number:
                self.parcels_done(target, number)

    return [(Serving, "_release", release)]


@mutation(
    "confirmed_before_commit", "a parcel is confirmed when it has run, not when that has committed", WHOLE
)
def _() -> list[Patch]:
    original = Serving._parcels

    def parcels(self: Any, peer: Any, items: Any) -> None:
        original(self, peer, items)
        cursor = self.group.outbox.cursor(items.source)
        self._peers.parcels_done(items.source, self.group.group, cursor, self._loop.time())

    return [(Serving, "_parcels", parcels)]


@mutation("parcel_not_logged", "a parcel is in memory only until it is confirmed", WHOLE)
def _() -> list[Patch]:
    return forgetting(Outbox, "_write", "cs.parcel")


@mutation("continuation_dropped", "a continuation that fails is dropped", WHOLE)
def _() -> list[Patch]:
    def park(self: Any, oid: Any, waiting: Any, fields: Any, error: Any) -> None:
        self.ledger.delete(oid, CONTINUATION)

    return [(Calls, "_park", park)]


# --- timers and rooms ---


@mutation("timer_not_deleted", "a timer that fired is still there after a failover", WHOLE)
def _() -> list[Patch]:
    return forgetting(Timers, "_remove", "cs.timer")


@mutation("timer_not_logged", "a timer is in memory only", WHOLE)
def _() -> list[Patch]:
    return forgetting(Timers, "apply", "cs.timer")


@mutation("room_seq_not_logged", "a room's events are numbered in memory only", WHOLE)
def _() -> list[Patch]:
    return forgetting(Rooms, "send", "cs.room.event")


@mutation("member_not_logged", "who is in a room is known in memory only", WHOLE)
def _() -> list[Patch]:
    return forgetting(Rooms, "join", "cs.member")


# --- what leaves, and when ---


@mutation("outputs_not_retained", "outputs are forgotten when they have been sent", WHOLE)
def _() -> list[Patch]:
    return [(Retained, "add", lambda self, op, batches: [])]


@mutation("outputs_received_when_sent", "what was sent to a gateway counts as received", WHOLE)
def _() -> list[Patch]:
    original = Peers.outputs

    def outputs(self: Any, batch: Any, view: int, op: int, now: float) -> None:
        original(self, batch, view, op, now)
        self._received(batch.gateway, op)

    return [(Peers, "outputs", outputs)]


@mutation("outputs_from_the_beginning", "a gateway does not say which outputs it has", WHOLE)
def _() -> list[Patch]:
    original = Link._open

    def open_(self: Any, now: float) -> None:
        received, self._received = self._received, 0
        original(self, now)
        self._received = received

    return [(Link, "_open", open_)]


@mutation("leaves_before_commit", "a turn leaves when it was executed", WHOLE)
def _() -> list[Patch]:
    def ready(self: Any) -> Any:
        released = [(held.op, held.turn) for held in self._held]
        self._held.clear()
        return released

    return [(CommitQueue, "ready", ready)]


@mutation("reads_leave_at_once", "what was read leaves without a barrier", WHOLE)
def _() -> list[Patch]:
    original = CommitQueue.ready

    def ready(self: Any) -> Any:
        passed, self._passed = self._passed, 1 << 60
        released = original(self)
        self._passed = passed
        return released

    return [(CommitQueue, "ready", ready)]
