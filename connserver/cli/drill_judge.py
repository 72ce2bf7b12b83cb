"""The drill's verdict: what was acknowledged against what the members of the rooms were given.

Guards one rule: the verdict comes from what was seen alone, and each part of it can fail. *Lost* is an
acknowledged operation that no member of its room was given, an event that a member was neither given
nor told of, or one whose place in the room was given to another later. *Duplicated* is an operation
that has two places in a room, or an event that a member was given twice. Pure; times in monotonic
seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class Membership:
    """What one session was given of its room from one joining on: events after `after`."""

    room: str
    session: str
    after: int
    given: list[tuple[int, str]] = field(default_factory=list)
    """(place, operation) in the order of arrival."""
    told: set[int] = field(default_factory=set)
    ended: bool = False
    """It was begun anew later, so nothing more was owed to it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`pause_ms`: the longest time without an acknowledgement around the strike: p50, p99, max."""

    acked: int
    lost: int
    duplicated: int
    doubted: int
    refused: int
    pause_ms: tuple[int, int, int]
    examples: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing was lost or doubled, and something was done at all."""
        return self.acked > 0 and not self.lost and not self.duplicated


class Judge:
    """The journal of all sessions. `rooms`: session → its room."""

    def __init__(self, rooms: dict[str, str]) -> None:
        self._rooms = rooms
        self._acks: dict[str, dict[str, int]] = {room: {} for room in rooms.values()}
        self._places: dict[str, dict[str, set[int]]] = {room: {} for room in rooms.values()}
        self._current: dict[str, Membership] = {}
        self._memberships: list[Membership] = []
        self._times: dict[str, list[float]] = {}
        self._doubted = self._refused = 0

    # --- what is written down (see drill_session.Journal) ----------------------------------------------

    def acked(self, session: str, op: str, seq: int, at: float) -> None:
        """An operation was acknowledged."""
        self._acks[self._rooms[session]][op] = seq
        self._times.setdefault(session, []).append(at)

    def doubted(self, op: str) -> None:
        """An operation's outcome will not be known."""
        self._doubted += 1

    def refused(self, op: str, error: str) -> None:
        """An operation was answered with an error."""
        self._refused += 1

    def joined(self, session: str, seq: int) -> None:
        """A membership begins."""
        if session in self._current:
            self._current[session].ended = True
        room = self._rooms[session]
        self._current[session] = Membership(room, session, seq)
        self._memberships.append(self._current[session])

    def saw(self, session: str, seq: int, op: str) -> None:
        """An event was given to a member."""
        self._places[self._rooms[session]].setdefault(op, set()).add(seq)
        if session in self._current:
            self._current[session].given.append((seq, op))

    def skipped(self, session: str, first: int, last: int) -> None:
        """A member was told that these events are not kept any more."""
        if session in self._current:
            self._current[session].told.update(range(first, last + 1))

    # --- what follows ----------------------------------------------------------------------------------

    def newest(self, room: str) -> int:
        """The greatest place that is acknowledged in a room: all members are to come so far."""
        return max(self._acks[room].values(), default=0)

    @property
    def acknowledged(self) -> int:
        """Operations acknowledged so far."""
        return sum(map(len, self._acks.values()))

    def acked_since(self, at: float, sessions: Iterable[str]) -> bool:
        """Whether each of these has had an acknowledgement after `at`."""
        return all(self._times.get(name, [at])[-1] > at for name in sessions)

    def verdict(self, struck_at: float, ended_at: float, sessions: Sequence[str]) -> Verdict:
        """Of all that was written down; `sessions` are those whose pauses count."""
        lost, doubled = self._lost(), self._doubled()
        pauses = sorted(self._pause(name, struck_at, ended_at) for name in sessions)
        return Verdict(
            acked=self.acknowledged,
            lost=len(lost),
            duplicated=len(doubled),
            doubted=self._doubted,
            refused=self._refused,
            pause_ms=(percentile(pauses, 50), percentile(pauses, 99), percentile(pauses, 100)),
            examples=(*sorted(lost)[:3], *sorted(doubled)[:3]),
        )

    def _lost(self) -> set[str]:
        found = set()
        covered: dict[str, set[int]] = {room: set() for room in self._acks}
        for room, acks in self._acks.items():
            for op, seq in acks.items():
                if seq not in self._places[room].get(op, ()):
                    found.add(f"operation {op}, acknowledged as event {seq} of {room}, was given to nobody")
                    covered[room].add(seq)
        for member in self._memberships:
            given = {seq for seq, _ in member.given}
            last = max(given, default=0) if member.ended else self.newest(member.room)
            owed = set(range(member.after + 1, last + 1)) - given - member.told
            for seq in owed - covered[member.room]:
                found.add(f"event {seq} of {member.room} was not given to a member")
        return found | self._overwritten()

    def _overwritten(self) -> set[str]:
        """Events of which there were two with one place: the history of the room was begun anew."""
        found = set()
        for room, places in self._places.items():
            times = Counter(seq for seqs in places.values() for seq in seqs)
            found |= {
                f"event {seq} of {room} is {count} operations" for seq, count in times.items() if count > 1
            }
        return found

    def _doubled(self) -> set[str]:
        found = set()
        for room, places in self._places.items():
            for op, seqs in places.items():
                if len(seqs) > 1:
                    found.add(f"operation {op} is events {sorted(seqs)} of {room}")
        for member in self._memberships:
            for (seq, op), times in Counter(member.given).items():
                if times > 1:
                    found.add(f"event {seq} ({op}) was given to {member.session} {times} times")
        return found

    def _pause(self, session: str, struck_at: float, ended_at: float) -> int:
        """The longest time without an acknowledgement that ended after the strike, in ms."""
        times = [*self._times.get(session, [struck_at]), ended_at]
        gaps = [after - before for before, after in pairwise(times) if after > struck_at]
        return round(1000 * max(gaps, default=0.0))


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The nearest rank; 0 of nothing."""
    if not ordered:
        return 0
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
