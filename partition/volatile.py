"""The volatile values of one room: the latest of each sender and key, and which member sees which.

Guards three rules. A tick tells only what has changed for whom it is told, and packs it once for all
who are told the same. A member with a view gets a value that has a place only while that place is in
its view: coming in it is told, going out it is taken away. And what is kept is bounded per sender.

Nothing here is part of the log. A room whose worker has died begins without values; `anew` says so
once to everybody (`all: true`), so that nobody keeps what nobody knows any more. Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import msgpack

from connserver.limits import ROOM_OWN_VALUES, ROOM_STATE_BYTES, ROOM_VALUES_PER_MEMBER
from connserver.model import Value, pack
from partition.grid import Grid, Point, View, cell_size

ROOM_ITSELF = 0
"""The owner of values that no member's session has set: they stay until somebody takes them away."""

_header = msgpack.Packer().pack_array_header


@dataclass(slots=True)
class Current:
    """The latest value of an owner's key. `packed`: as a change in a message, made when first wanted."""

    number: int
    owner: int
    key: str
    sender: str
    value: Value
    at: Point | None
    packed: bytes = b""

    def told(self) -> bytes:
        """The value as a change."""
        if not self.packed:
            self.packed = pack({"from": self.sender, "key": self.key, "value": self.value})
        return self.packed


@dataclass(slots=True)
class Change:
    """What happened to a value since the last tick, at which it was told to all, to those near, or not
    at all."""

    current: Current
    was_for_all: bool
    was_placed: bool
    gone: bool = False

    def taken_away(self) -> bytes:
        """That there is no such value for you any more."""
        return _nothing(self.current)


@dataclass(slots=True)
class Viewer:
    """A member with a view, and the placed values that its client has."""

    view: View
    sees: set[int]
    turned: bool = True


@dataclass(slots=True)
class _Tick:
    """The changes of one tick, sorted by who is told. Bodies of changes throughout."""

    nearby: Grid
    common: list[bytes] = field(default_factory=list)
    unplaced: set[int] = field(default_factory=set)
    placed: set[int] = field(default_factory=set)
    lifted: list[Change] = field(default_factory=list)
    changes: dict[int, Change] = field(default_factory=dict)


Told = tuple[list[int] | None, list[bytes]]
"""(sessions of members, None: all without a view; messages for them)."""


class Volatile:
    """All volatile values of a room."""

    def __init__(self, room: str, *, anew: bool = False) -> None:
        self._room = room
        self._anew = self._used = anew
        self._numbers = count(1)
        self._values: dict[int, Current] = {}
        self._of: dict[int, dict[str, int]] = {}
        self._changes: dict[int, Change] = {}
        self._gone: dict[tuple[int, str], int] = {}
        self._grid = Grid()
        self._head: tuple[float, bool, bytes] = (-1.0, False, b"")
        self._viewers: dict[int, Viewer] = {}
        self._turned = False
        self._widened: dict[int, set[int]] = {}
        self._sizes: Counter[float] = Counter()

    @property
    def changed(self) -> bool:
        """Whether a tick would tell anybody anything."""
        return bool(self._changes or self._turned or self._widened)

    @property
    def viewers(self) -> int:
        """How many members have a view."""
        return len(self._viewers)

    def has_view(self, session: int) -> bool:
        """Whether this member has a view."""
        return session in self._viewers

    # --- values ---

    def update(self, owner: int, sender: str, key: str, value: Value, at: Point | None) -> None:
        """The latest value of an owner's key; None takes it away."""
        keys = self._of.get(owner)
        number = keys.get(key) if keys is not None else None
        if value is None:
            if number is not None:
                self._remove(self._values[number])
            return
        if number is None:
            number = self._enter(owner, key)
            former = None
        else:
            former = self._values[number]
        self._used = True
        current = self._values[number] = Current(number, owner, key, sender, value, at)
        change = self._changes.get(number)
        if change is None:
            placed = former is not None and former.at is not None
            self._changes[number] = Change(current, former is not None and not placed, placed)
        else:
            # a snapshot may have shown it meanwhile to anybody
            change.was_for_all |= former is not None and former.at is None
            change.current, change.gone = current, False
        if at is not None:
            self._grid.put(number, at)
        elif former is not None:
            self._grid.drop(number)

    def _enter(self, owner: int, key: str) -> int:
        keys = self._of.setdefault(owner, {})
        most = ROOM_VALUES_PER_MEMBER if owner != ROOM_ITSELF else ROOM_OWN_VALUES
        if len(keys) >= most:
            self._remove(self._values[next(iter(keys.values()))])
            keys = self._of.setdefault(owner, {})
        # one that was taken away in this tick and is back has one change, not two in an order of their own
        number = self._gone.pop((owner, key), 0) or next(self._numbers)
        keys[key] = number
        return number

    def _remove(self, current: Current) -> None:
        number = current.number
        del self._values[number]
        keys = self._of[current.owner]
        del keys[current.key]
        if not keys:
            del self._of[current.owner]
        self._grid.drop(number)
        change = self._changes.get(number)
        if change is None:
            change = self._changes[number] = Change(current, current.at is None, current.at is not None)
        change.was_for_all |= current.at is None
        change.current, change.gone = current, True
        self._gone[current.owner, current.key] = number

    # --- members ---

    def leave(self, session: int) -> None:
        """A member is gone, and its values with it."""
        self.look(session, None)
        self._widened.pop(session, None)
        for number in list(self._of.get(session, {}).values()):
            self._remove(self._values[number])

    def look(self, session: int, view: View | None, *, fresh: bool = False) -> None:
        """From now on a member sees only what is placed within its view; None: everything.

        `fresh`: its client has none of the room's values, whatever it was told before.
        """
        viewer = self._viewers.pop(session, None)
        if viewer is not None:
            self._sizes[cell_size(viewer.view[2])] -= 1
        if view is None:
            if viewer is not None and not fresh:
                self._widened[session] = viewer.sees
            return
        self._sizes[cell_size(view[2])] += 1
        if viewer is None:
            known = self._widened.pop(session, None)
            viewer = Viewer(view, self._told_to_all() if known is None else known)
        if fresh:
            viewer.sees = set()
        viewer.view, viewer.turned, self._turned = view, True, True
        self._viewers[session] = viewer

    def _told_to_all(self) -> set[int]:
        """The placed values that a client has which was told everything until now."""
        placed = {number for number, one in self._values.items() if one.at is not None}
        return placed | {number for number, change in self._changes.items() if change.was_placed}

    # --- telling ---

    def snapshot(self, session: int, now: float, *, again: bool = False) -> list[bytes]:
        """All that this member sees, as messages of which the first says that this is all.

        None where it sees nothing; but one that is here `again` may have seen what is gone by now.
        """
        viewer = self._viewers.get(session)
        seen = self._grid.within(viewer.view) if viewer is not None else None
        if viewer is not None and seen is not None:
            viewer.sees = set(seen)
        told = [
            one.told()
            for number, one in self._values.items()
            if seen is None or one.at is None or number in seen
        ]
        if not told and not (again and self._used):
            return []
        return self._messages(told, now, everything=True)

    def publish(self, now: float) -> list[Told]:
        """What has changed since the last tick, by who is told the same."""
        self._fit()
        tick = self._sorted()
        everyone = [
            change.taken_away() if change.gone else change.current.told() for change in self._changes.values()
        ]
        everything, self._anew = self._anew, False
        told: list[Told] = [
            ([session], self._messages(self._unseen(sees), now, everything=False))
            for session, sees in self._widened.items()
        ]
        if everyone or everything:
            told.append((None, self._messages(everyone, now, everything=everything)))
        alike: dict[bytes, tuple[list[int], list[bytes]]] = {}
        for session, viewer in self._viewers.items():
            own = self._own(viewer, tick)
            if own or tick.common or everything:
                alike.setdefault(b"".join(own), ([], own))[0].append(session)
        for sessions, own in alike.values():
            told.append((sessions, self._messages([*tick.common, *own], now, everything=everything)))
        self._changes, self._gone, self._widened, self._turned = {}, {}, {}, False
        return told

    def _unseen(self, sees: set[int]) -> list[bytes]:
        """For a member that sees everything again: the placed values that its client has not got."""
        return [
            one.told()
            for number, one in self._values.items()
            if one.at is not None and number not in sees and number not in self._changes
        ]

    def _fit(self) -> None:
        """Cells of the size that most views want; only a clear majority moves all points."""
        if self._sizes:
            size, wanted = max(self._sizes.items(), key=lambda item: item[1])
            if wanted > 2 * self._sizes.get(self._grid.size, 0):
                self._grid.resize(size)
                self._sizes = +self._sizes

    def _sorted(self) -> _Tick:
        tick = _Tick(Grid(self._grid.size), changes=self._changes)
        for number, change in self._changes.items():
            at = None if change.gone else change.current.at
            if at is not None:
                tick.placed.add(number)
                tick.nearby.put(number, at)
                if change.was_for_all:
                    tick.lifted.append(change)
            elif change.gone and change.was_placed and not change.was_for_all:
                tick.placed.add(number)
            else:
                told = change.taken_away() if change.gone else change.current.told()
                tick.common.append(told)
                tick.unplaced.add(number)
        return tick

    def _own(self, viewer: Viewer, tick: _Tick) -> list[bytes]:
        """What changes for one viewer besides what changes for all."""
        sees = viewer.sees
        if viewer.turned:
            viewer.turned = False
            inside = self._grid.within(viewer.view)
            news = (inside - sees) | (inside & tick.placed)
            lost = sees - inside - tick.unplaced
            viewer.sees = inside
        elif tick.changes:
            news = tick.nearby.within(viewer.view)
            lost = (sees & tick.placed) - news
            sees -= lost
            sees -= tick.unplaced
            sees |= news
        else:
            return []
        told = [self._away(number, tick) for number in sorted(lost)] if lost else []
        if tick.lifted:
            unseen = [change for change in tick.lifted if change.current.number not in viewer.sees]
            told += [change.taken_away() for change in unseen]
        values = self._values
        told += [(one := values[number]).packed or one.told() for number in sorted(news)]
        return told

    def _away(self, number: int, tick: _Tick) -> bytes:
        change = tick.changes.get(number)
        return _nothing(change.current if change is not None else self._values[number])

    def _messages(self, changes: list[bytes], now: float, *, everything: bool) -> list[bytes]:
        """Messages of a bounded size that carry these changes."""
        messages: list[bytes] = []
        if changes and sum(map(len, changes)) <= ROOM_STATE_BYTES:
            return [self._message(changes, now, everything)]
        start = 0
        while start < len(changes) or (everything and not messages):
            size, end = 0, start
            while end < len(changes) and (end == start or size + len(changes[end]) <= ROOM_STATE_BYTES):
                size += len(changes[end])
                end += 1
            messages.append(self._message(changes[start:end], now, everything and not messages))
            start = end
        return messages

    def _message(self, changes: list[bytes], now: float, everything: bool) -> bytes:
        if self._head[:2] != (now, everything):
            self._head = now, everything, self._make_head(now, everything)
        return b"".join([self._head[2], _header(len(changes)), *changes])

    def _make_head(self, now: float, everything: bool) -> bytes:
        """A message up to its changes; all of a tick begin alike."""
        head: dict[str, Value] = {"msg": "room.state", "room": self._room, "t": round(now, 3)}
        if everything:
            head["all"] = True
        fields = pack(head)
        # the last field is an array whose items are packed already
        count_byte = bytes([fields[0] + 1])
        return count_byte + fields[1:] + _CHANGES

    def check_invariants(self) -> None:
        """Values, owners and grid agree; viewers only see what is there or will be told it is not."""
        assert {n for keys in self._of.values() for n in keys.values()} == set(self._values)
        for number, one in self._values.items():
            assert self._of[one.owner][one.key] == number == one.number
        assert len(self._grid) == sum(1 for one in self._values.values() if one.at is not None)
        self._grid.check_invariants()
        assert sum(self._sizes.values()) == len(self._viewers) and min(self._sizes.values(), default=0) >= 0
        for viewer in self._viewers.values():
            assert viewer.sees <= self._values.keys() | self._changes.keys()


_CHANGES = bytes(msgpack.packb("changes"))


def _nothing(current: Current) -> bytes:
    return pack({"from": current.sender, "key": current.key, "value": None})
