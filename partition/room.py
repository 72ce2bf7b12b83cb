"""One room in memory: its members, where their events go, and the history it keeps.

Guards: what is kept beside the members (connections by gateway, names in order, bots that listen) follows
them step by step, so that neither a join nor a question costs as much as the room has members.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from partition.grid import View
from partition.volatile import Volatile

NOWHERE = 0
"""The gateway of a member that no connection belongs to: a bot, or a session that waits."""

Place = tuple[int, int]


@dataclass(slots=True)
class Member:
    """One session in a room and where its events go. `hears`: the callback of a bot that gets them."""

    oid: int
    session: int
    user: int
    name: str
    place: Place
    view: View | None = None
    hears: str = ""


@dataclass(slots=True)
class Room:
    """A room in memory; `block` is the id of the first of its history slots."""

    oid: int
    name: str
    block: int
    seq: int = 0
    empty_since: float = 0.0
    loaded: bool = False
    members: dict[int, Member] = field(default_factory=dict)
    history: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    volatile: Volatile | None = None
    hearing: dict[int, Member] = field(default_factory=dict)
    _places: dict[int, dict[int, int]] = field(default_factory=dict)
    _targets: dict[int, list[int]] = field(default_factory=dict)
    _names: list[str] | None = None
    _sessions_of: Counter[str] = field(default_factory=Counter)

    def enter(self, member: Member) -> None:
        """A member, new or at another place."""
        former = self.members.get(member.session)
        if former is not None:
            self._forget(former)
        self.members[member.session] = member
        gateway, connection = member.place
        if gateway != NOWHERE:
            self._places.setdefault(gateway, {})[member.session] = connection
            self._targets.pop(gateway, None)
        if member.hears:
            self.hearing[member.session] = member
        if self._names is not None:
            self._count(member.name)

    def remove(self, session: int) -> Member | None:
        """A member no more; None if it was none."""
        member = self.members.pop(session, None)
        if member is not None:
            self._forget(member)
        return member

    def _forget(self, member: Member) -> None:
        gateway = member.place[0]
        if gateway != NOWHERE:
            places = self._places[gateway]
            del places[member.session]
            self._targets.pop(gateway, None)
            if not places:
                del self._places[gateway]
        self.hearing.pop(member.session, None)
        if self._names is not None:
            self._sessions_of[member.name] -= 1
            if not self._sessions_of[member.name]:
                del self._sessions_of[member.name]
                del self._names[bisect_right(self._names, member.name) - 1]

    def connections(self) -> dict[int, list[int]]:
        """The members' connections by gateway boot."""
        targets = self._targets
        if len(targets) != len(self._places):
            for gateway, places in self._places.items():
                if gateway not in targets:
                    targets[gateway] = list(places.values())
        return targets

    def connections_of(self, sessions: Iterable[int]) -> dict[int, list[int]]:
        """The same for some of the members."""
        found: dict[int, list[int]] = {}
        for session in sessions:
            member = self.members.get(session)
            if member is not None and member.place[0] != NOWHERE:
                found.setdefault(member.place[0], []).append(member.place[1])
        return found

    def at_gateway(self, gateway: int) -> Iterable[int]:
        """The sessions of the members that are connected to a gateway."""
        return self._places.get(gateway, ())

    def names(self) -> list[str]:
        """The user names of the members, each once, in order."""
        if self._names is None:
            self._sessions_of = Counter(member.name for member in self.members.values())
            self._names = sorted(self._sessions_of)
        return self._names

    def _count(self, name: str) -> None:
        assert self._names is not None
        self._sessions_of[name] += 1
        if self._sessions_of[name] == 1:
            insort(self._names, name)

    def check_invariants(self) -> None:
        """History is dense and ends at seq; all that is kept beside the members agrees with them."""
        assert list(self.history) == list(range(self.seq - len(self.history) + 1, self.seq + 1))
        places = {session: m.place for session, m in self.members.items() if m.place[0] != NOWHERE}
        listed = {
            session: (gateway, connection)
            for gateway, sessions in self._places.items()
            for session, connection in sessions.items()
        }
        assert places == listed and all(self._places.values())
        for gateway, targets in self._targets.items():
            assert targets == list(self._places[gateway].values())
        assert self.hearing == {session: m for session, m in self.members.items() if m.hears}
        if self._names is not None:
            assert self._names == sorted({member.name for member in self.members.values()})
        if self.volatile is not None:
            self.volatile.check_invariants()
