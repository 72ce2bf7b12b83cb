"""Rooms: every member hears the same events in one order, without a gap and without a double.

Guards the order that a room promises: dense `seq`, the same for all, a sender's events in the order of
its requests, and real-time order between senders. Pure.
"""

from __future__ import annotations

from itertools import pairwise

from tests.failures.judge_objects import Accuse
from tests.failures.reading import Asked, History

Order = dict[int, tuple[str, int]]
"""seq → (sender, its request)."""
KEPT = 256
"""Events that a room promises to keep for whoever comes back."""
GAP_SLACK_S = 1.0
"""A gap is told before the replay that shows how far the room had gone on."""


def check(clients: list[History], auditors: list[History], accuse: Accuse) -> None:
    """Hold every room's members and auditors against each other."""
    for room in sorted({history.part.room for history in clients if history.part.room}):
        members = [history for history in clients if history.part.room == room]
        audits = [history for history in auditors if history.part.room == room]
        last = _last(room, audits, accuse)
        first_heard = _first_heard(members)
        for member in members:
            _dense(room, member, last, first_heard, accuse)
        order = _order(room, [*members, *audits], accuse)
        _sent(room, members, order, last, accuse)


def _last(room: str, audits: list[History], accuse: Accuse) -> int | None:
    """The room's seq at the end; None where nobody could find out."""
    joins = [asked for history in audits for asked in history.of("room.join") if asked.acked]
    if not joins:
        accuse("weak", f"room {room} could not be joined at the end")
        return None
    return joins[-1].number("seq")


def _first_heard(members: list[History]) -> dict[int, float]:
    """When each event was first heard by anybody."""
    found: dict[int, float] = {}
    for member in members:
        for at, seq, _, _ in member.heard.events:
            found[seq] = min(at, found.get(seq, at))
    return found


def _dense(
    room: str, member: History, last: int | None, first_heard: dict[int, float], accuse: Accuse
) -> None:
    """From the first event after joining to the room's last, each once and in order.

    A gap may be told of where the room had gone on by more than it keeps.
    """
    honest = {
        (first, end)
        for at, first, end in member.heard.gaps
        if first_heard.get(end + KEPT, at + 9) <= at + GAP_SLACK_S
    }
    name = member.part.user
    joins = [asked for asked in member.of("room.join") if asked.acked]
    if not joins:
        accuse("weak", f"{name} never joined {room}")
        return
    expected = joins[0].number("seq") + 1
    for _, seq, _, _ in member.heard.events:
        if seq < expected:
            accuse("doubled", f"{name} heard event {seq} of {room} after {expected - 1}")
            continue
        if seq > expected and (expected, seq - 1) not in honest:
            accuse("lost", f"{name} did not hear events {expected} to {seq - 1} of {room}", seq - expected)
        expected = seq + 1
    if last is not None and expected <= last:
        missing = last - expected + 1
        accuse("lost", f"{name} heard {room} up to {expected - 1} of {last}", missing)
    if last is not None and expected > last + 1:
        accuse("lost", f"{room} ended at {last} after {name} heard {expected - 1}", expected - 1 - last)
    for at, first, end in member.heard.gaps:
        if (first, end) not in honest:
            accuse("lost", f"{name} was told at {at:.3f} of a gap in {room} from {first} to {end}")


def _order(room: str, histories: list[History], accuse: Accuse) -> Order:
    """The one order, and each request in it once."""
    order: Order = {}
    for history in histories:
        for _, seq, sender, request in history.heard.events:
            if order.setdefault(seq, (sender, request)) != (sender, request):
                accuse("disordered", f"event {seq} of {room} is not the same for all members")
    places: dict[tuple[str, int], int] = {}
    for seq in sorted(order):
        if order[seq] in places:
            accuse("doubled", f"{order[seq]} has places {places[order[seq]]} and {seq} in {room}")
        places[order[seq]] = seq
    return order


def _sent(room: str, members: list[History], order: Order, last: int | None, accuse: Accuse) -> None:
    """What was acknowledged is in its place; orders of sessions and of real time hold.

    An event that nobody heard is each member's own loss, or lies before all that a room keeps.
    """
    done: list[Asked] = []
    for member in members:
        sends = [asked for asked in member.of("room.send") if asked.acked]
        done += sends
        for asked in sends:
            seq, event = asked.number("seq"), (member.part.user, asked.id)
            if order.get(seq, event) != event or seq > (last or seq):
                accuse("lost", f"{member.part.user}'s event {asked.id} is not at its place {seq} in {room}")
        refused = {asked.id for asked in member.of("room.send") if asked.refused}
        own = [request for seq, (sender, request) in sorted(order.items()) if sender == member.part.user]
        if any(second <= first for first, second in pairwise(own)):
            accuse("disordered", f"events of {member.part.user} in {room} are not in the order of asking")
        if refused.intersection(own):
            accuse("doubled", f"{member.part.user}'s refused events are in {room}")
    _real_time(room, done, accuse)


def _real_time(room: str, done: list[Asked], accuse: Accuse) -> None:
    """Whoever was answered before another asked has the earlier place."""
    steps = [(asked.begun, 1, asked) for asked in done] + [(asked.ended, 0, asked) for asked in done]
    newest = 0
    for _, begins, asked in sorted(steps, key=lambda step: step[:2]):
        seq = asked.number("seq")
        if not begins:
            newest = max(newest, seq)
        elif seq <= newest:
            accuse("disordered", f"event {seq} of {room} was asked for after {newest} was acknowledged")
