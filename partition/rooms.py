"""Rooms whose home is in this group: members from any partition, one order, kept history.

Guards: a room's events have dense `seq`, are part of the entry in which they got it, and every
member sees them in that order; joining, replay and subscription are one op. A room, its members
and the slots of its history are objects; volatile values are not, and may be lost.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from connserver.ids import named_id, partition_of
from connserver.limits import ROOM_HISTORY, ROOM_WHO_PAGE
from connserver.messages import OutputKind
from connserver.model import Message, Value, pack
from partition.ledger import Ledger

ROOM = "cs.room"
MEMBER = "cs.member"
HISTORY = "cs.room.event"

IDLE_ROOM_S = 600.0
"""An empty room and its history are forgotten after this long."""

Place = tuple[int, int]


@dataclass(slots=True)
class Member:
    """One session in a room and where its events go."""

    oid: int
    session: int
    user: int
    name: str
    place: Place


@dataclass(slots=True)
class Room:
    """A room in memory; `block` is the id of the first of its history slots."""

    oid: int
    name: str
    block: int
    seq: int = 0
    empty_since: float = 0.0
    members: dict[int, Member] = field(default_factory=dict)
    history: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    volatile: dict[tuple[int, str], tuple[str, Value]] = field(default_factory=dict)
    changes: dict[tuple[int, str], tuple[str, Value]] = field(default_factory=dict)
    fan_out: dict[int, list[int]] | None = None

    def connections(self) -> dict[int, list[int]]:
        """The members' connections by gateway boot."""
        if self.fan_out is None:
            self.fan_out = {}
            for member in self.members.values():
                self.fan_out.setdefault(member.place[0], []).append(member.place[1])
        return self.fan_out


class Rooms:
    """All rooms at home in a group."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rooms: dict[str, Room] = {}
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._rooms)

    def names(self) -> list[str]:
        """The rooms at home here."""
        return sorted(self._rooms)

    def describe(self, name: str) -> Message:
        """A room for an operator."""
        room = self._rooms[name]
        return {"room": name, "members": len(room.members), "seq": room.seq, "kept": len(room.history)}

    def load(self) -> None:
        """Rebuild rooms, members and history from the objects of the group."""
        by_oid: dict[int, Room] = {}
        for oid, kept in self._ledger.of_kind(ROOM):
            room = Room(oid, kept["name"], kept["block"], 0, kept["empty_since"])
            self._rooms[room.name] = by_oid[oid] = room
        for oid, kept in self._ledger.of_kind(MEMBER):
            place = (kept["gateway"], kept["connection"])
            member = Member(oid, kept["session"], kept["user"], kept["name"], place)
            by_oid[kept["room"]].members[member.session] = member
        for _, kept in sorted(self._ledger.of_kind(HISTORY), key=lambda item: item[1]["seq"]):
            room = by_oid[kept["room"]]
            room.history[kept["seq"]] = kept["body"]
            room.seq = kept["seq"]

    # --- ordered ---

    def join(self, name: str, session: int, user: int, user_name: str, place: Place) -> Room:
        """Make a session a member, or move its membership to another connection."""
        room = self._rooms.get(name) or self._create(name)
        member = room.members.get(session)
        oid = member.oid if member else self._ledger.allocate(partition_of(room.oid))
        room.members[session] = Member(oid, session, user, user_name, place)
        room.fan_out = None
        self._ledger.write(
            oid,
            MEMBER,
            {
                "room": room.oid,
                "session": session,
                "user": user,
                "name": user_name,
                "gateway": place[0],
                "connection": place[1],
            },
        )
        if room.empty_since:
            room.empty_since = 0.0
            self._write(room)
        return room

    def leave(self, name: str, session: int, now: float) -> bool:
        """End a membership; False where there was none."""
        room = self._rooms.get(name)
        member = room.members.pop(session, None) if room else None
        if room is None or member is None:
            return False
        room.fan_out = None
        self._ledger.delete(member.oid, MEMBER)
        for key in [key for key in room.volatile if key[0] == session]:
            self.update(name, session, member.name, key[1], None)
        if not room.members:
            room.empty_since = now
            self._write(room)
        return True

    def send(self, name: str, sender: str, fields: Message, now: float) -> int:
        """Give an event its `seq`, keep it, and hand it to every member. Returns the seq."""
        room = self._rooms.get(name) or self._create(name, now)
        room.seq += 1
        body = pack({"msg": "room.message", "room": name, "seq": room.seq, "from": sender, **fields})
        room.history[room.seq] = body
        if len(room.history) > ROOM_HISTORY:
            room.history.popitem(last=False)
        self._ledger.write(
            room.block + room.seq % ROOM_HISTORY,
            HISTORY,
            {"room": room.oid, "seq": room.seq, "body": body},
        )
        for gateway, connections in room.connections().items():
            self._ledger.turn.output(gateway, connections, OutputKind.EVENT, body)
        return room.seq

    def past(self, name: str, count: int) -> list[bytes]:
        """The last `count` events kept, oldest first."""
        room = self._rooms.get(name)
        kept = list(room.history.values()) if room else []
        return kept[len(kept) - min(count, len(kept)) :]

    def since(self, name: str, seq: int) -> tuple[int, list[bytes]]:
        """What a member that last saw `seq` has missed: (first seq kept, events)."""
        room = self._rooms.get(name)
        if room is None:
            return 1, []
        events = [body for number, body in room.history.items() if number > seq]
        return room.seq - len(room.history) + 1, events

    def has(self, name: str, session: int) -> bool:
        """Whether this session is a member."""
        room = self._rooms.get(name)
        return room is not None and session in room.members

    def seq(self, name: str) -> int:
        """The newest seq of a room; 0 where nothing was ever sent."""
        room = self._rooms.get(name)
        return room.seq if room else 0

    def who(self, name: str, after: str, limit: int) -> tuple[list[str], bool]:
        """User names of the members after `after` in order, and whether there are more."""
        room = self._rooms.get(name)
        names = sorted({member.name for member in room.members.values()}) if room else []
        names = [user for user in names if user > after]
        page = min(limit, ROOM_WHO_PAGE)
        return names[:page], len(names) > page

    # --- volatile ---

    def update(self, name: str, session: int, sender: str, key: str, value: Value) -> None:
        """The latest value of a sender's key; None takes it away. Lost with the process."""
        room = self._rooms.get(name)
        if room is None:
            return
        if value is None:
            room.volatile.pop((session, key), None)
        else:
            room.volatile[session, key] = (sender, value)
        room.changes[session, key] = (sender, value)
        self._changed.add(name)

    def publish_changes(self, now: float) -> None:
        """One `room.state` to the members of each room in which something volatile changed."""
        for name in sorted(self._changed):
            room = self._rooms.get(name)
            if room is None:
                continue
            body = pack(_state(room.name, now, room.changes))
            room.changes = {}
            for gateway, connections in room.connections().items():
                self._ledger.turn.output(gateway, connections, OutputKind.VOLATILE, body)
        self._changed.clear()

    @property
    def changing(self) -> bool:
        """Whether volatile values wait to be published."""
        return bool(self._changed)

    def snapshot(self, name: str, now: float) -> bytes | None:
        """All volatile values of a room, for whoever has just joined."""
        room = self._rooms.get(name)
        return pack(_state(name, now, room.volatile)) if room and room.volatile else None

    # --- the rooms themselves ---

    def forget_idle(self, now: float) -> None:
        """Delete rooms that have been empty for IDLE_ROOM_S."""
        idle = [
            room
            for room in self._rooms.values()
            if not room.members and room.empty_since and now - room.empty_since >= IDLE_ROOM_S
        ]
        for room in idle:
            for seq in room.history:
                self._ledger.delete(room.block + seq % ROOM_HISTORY, HISTORY)
            self._ledger.delete(room.oid, ROOM)
            del self._rooms[room.name]

    def _create(self, name: str, empty_since: float = 0.0) -> Room:
        oid = named_id("room", name)
        block = self._ledger.allocate(partition_of(oid), ROOM_HISTORY, ROOM_HISTORY)
        room = Room(oid, name, block, 0, empty_since)
        self._rooms[name] = room
        self._write(room)
        return room

    def _write(self, room: Room) -> None:
        fields = {"name": room.name, "block": room.block, "empty_since": room.empty_since}
        self._ledger.write(room.oid, ROOM, fields)

    def check_invariants(self) -> None:
        """History is dense and ends at seq; the fan-out, where cached, covers every member."""
        for room in self._rooms.values():
            assert list(room.history) == list(range(room.seq - len(room.history) + 1, room.seq + 1))
            if room.fan_out is not None:
                assert sum(map(len, room.fan_out.values())) == len(room.members)


def _state(name: str, now: float, values: dict[tuple[int, str], tuple[str, Value]]) -> Message:
    changes: list[Value] = [
        {"from": sender, "key": key, "value": value} for (_, key), (sender, value) in values.items()
    ]
    return {"msg": "room.state", "room": name, "t": round(now, 3), "changes": changes}
