"""Rooms whose home is in this group: members from any partition, one order, kept history.

Guards: a room's events have dense `seq`, are part of the entry in which they got it, and every
member sees them in that order; joining, replay and subscription are one op. A room, its members
and the slots of its history are objects; volatile values are not, and may be lost. What a member's
view is, is written from time to time only (`keep_views`).
"""

from __future__ import annotations

from bisect import bisect_right

from connserver.ids import named_id, partition_of
from connserver.limits import ROOM_HISTORY, ROOM_WHO_PAGE
from connserver.messages import OutputKind
from connserver.model import Message, Value, pack
from partition.grid import Point, View
from partition.ledger import Ledger
from partition.room import Member, Place, Room
from partition.volatile import ROOM_ITSELF, Volatile

ROOM = "cs.room"
MEMBER = "cs.member"
HISTORY = "cs.room.event"

IDLE_ROOM_S = 600.0
"""An empty room and its history are forgotten after this long, if nothing else is configured."""


class Rooms:
    """All rooms at home in a group."""

    def __init__(self, ledger: Ledger, idle_s: float = IDLE_ROOM_S) -> None:
        self._ledger = ledger
        self._idle_s = idle_s
        self._rooms: dict[str, Room] = {}
        self._changed: set[str] = set()
        self._empty: dict[str, float] = {}
        self._turned: dict[tuple[str, int], None] = {}

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
            room = Room(oid, kept["name"], kept["block"], 0, kept["empty_since"], loaded=True)
            self._rooms[room.name] = by_oid[oid] = room
        for oid, kept in self._ledger.of_kind(MEMBER):
            view = kept.get("view")
            member = Member(
                oid,
                kept["session"],
                kept["user"],
                kept["name"],
                (kept["gateway"], kept["connection"]),
                (view[0], view[1], view[2]) if view else None,
                kept.get("hears", ""),
            )
            room = by_oid[kept["room"]]
            room.enter(member)
            if member.view is not None:
                self._volatile(room).look(member.session, member.view, fresh=True)
        for _, kept in sorted(self._ledger.of_kind(HISTORY), key=lambda item: item[1]["seq"]):
            room = by_oid[kept["room"]]
            room.history[kept["seq"]] = kept["body"]
            room.seq = kept["seq"]
        empty = [room for room in self._rooms.values() if room.empty_since]
        self._empty = {room.name: room.empty_since for room in sorted(empty, key=lambda one: one.empty_since)}

    # --- ordered ---

    def join(
        self,
        name: str,
        session: int,
        user: int,
        user_name: str,
        place: Place,
        view: View | None = None,
        hears: str | None = None,
    ) -> Room:
        """Make a session a member, or move its membership to another connection."""
        room = self._rooms.get(name) or self._create(name)
        known = room.members.get(session)
        oid = known.oid if known else self._ledger.allocate(partition_of(room.oid))
        if known is not None and view is None:
            view = known.view
        if hears is None:
            hears = known.hears if known else ""
        member = Member(oid, session, user, user_name, place, view, hears)
        room.enter(member)
        self._write_member(room, member)
        if view is not None:
            self._volatile(room).look(session, view, fresh=True)
        if room.empty_since:
            room.empty_since = 0.0
            self._empty.pop(name, None)
            self._write(room)
        return room

    def leave(self, name: str, session: int, now: float) -> bool:
        """End a membership; False where there was none."""
        room = self._rooms.get(name)
        member = room.remove(session) if room else None
        if room is None or member is None:
            return False
        self._ledger.delete(member.oid, MEMBER)
        self._turned.pop((name, session), None)
        if room.volatile is not None:
            room.volatile.leave(session)
            self._changed.add(name)
        if not room.members:
            room.empty_since = self._empty[name] = now
            self._write(room)
        return True

    def send(self, name: str, sender: str, fields: Message, now: float) -> int:
        """Give an event its `seq`, keep it, and hand it to every member. Returns the seq."""
        room = self._rooms.get(name) or self._create(name, now)
        if not room.members:
            # it is spoken in, so it is not idle; an early end after a failover harms nobody who is not there
            self._empty.pop(name, None)
            room.empty_since = self._empty[name] = now
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

    def hearing(self, name: str) -> list[Member]:
        """The bots that are told what is said in a room."""
        room = self._rooms.get(name)
        return list(room.hearing.values()) if room and room.hearing else []

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
        names = room.names() if room else []
        first = bisect_right(names, after)
        last = first + min(limit, ROOM_WHO_PAGE)
        return names[first:last], len(names) > last

    def at_gateway(self, gateway: int) -> set[int]:
        """The sessions, of whatever group, that are members of rooms here through this gateway."""
        return {session for room in self._rooms.values() for session in room.at_gateway(gateway)}

    # --- volatile ---

    def update(
        self, name: str, session: int, sender: str, key: str, value: Value, at: Point | None = None
    ) -> None:
        """The latest value of a sender's key; None takes it away. Lost with the process.

        What a member sets goes when it leaves; what others set belongs to the room.
        """
        room = self._rooms.get(name)
        if room is None:
            return
        owner = session if session in room.members else ROOM_ITSELF
        self._volatile(room).update(owner, sender, key, value, at)
        self._changed.add(name)

    def look(self, name: str, session: int, view: View | None) -> None:
        """What a member sees of placed values from now on; None: all of them."""
        room = self._rooms.get(name)
        member = room.members.get(session) if room else None
        if room is None or member is None or member.view == view:
            return
        member.view = view
        self._turned[name, session] = None
        volatile = self._volatile(room)
        volatile.look(session, view)
        self._changed.add(name)

    def publish_changes(self, now: float) -> None:
        """What is new of volatile values, to the members of each room: once per set of equal changes."""
        for name in sorted(self._changed):
            room = self._rooms.get(name)
            if room is None or room.volatile is None:
                continue
            volatile = room.volatile
            for sessions, messages in volatile.publish(now):
                if sessions is not None:
                    targets = room.connections_of(sessions)
                elif volatile.viewers:
                    plain = [session for session in room.members if not volatile.has_view(session)]
                    targets = room.connections_of(plain)
                else:
                    targets = room.connections()
                for gateway, connections in targets.items():
                    for body in messages:
                        self._ledger.turn.output(gateway, connections, OutputKind.VOLATILE, body)
        self._changed.clear()

    @property
    def changing(self) -> bool:
        """Whether volatile values wait to be published."""
        return bool(self._changed)

    def snapshot(self, name: str, session: int, now: float, *, again: bool = False) -> list[bytes]:
        """All volatile values that a member sees, for whoever has just joined or is here again."""
        room = self._rooms.get(name)
        if room is None or room.volatile is None:
            return []
        return room.volatile.snapshot(session, now, again=again)

    def keep_views(self, most: int) -> int:
        """Write down views that changed, at most so many; how many more might have been written."""
        while self._turned and most > 0:
            most -= 1
            name, session = next(iter(self._turned))
            del self._turned[name, session]
            room = self._rooms[name]
            self._write_member(room, room.members[session])
        return most

    def _volatile(self, room: Room) -> Volatile:
        if room.volatile is None:
            room.volatile = Volatile(room.name, anew=room.loaded)
        return room.volatile

    # --- the rooms themselves ---

    def forget_idle(self, now: float) -> None:
        """Delete rooms that have been empty for as long as configured."""
        while self._empty:
            name, since = next(iter(self._empty.items()))
            if now - since < self._idle_s:
                break
            del self._empty[name]
            room = self._rooms.pop(name)
            for seq in room.history:
                self._ledger.delete(room.block + seq % ROOM_HISTORY, HISTORY)
            self._ledger.delete(room.oid, ROOM)

    def _create(self, name: str, empty_since: float = 0.0) -> Room:
        oid = named_id("room", name)
        block = self._ledger.allocate(partition_of(oid), ROOM_HISTORY, ROOM_HISTORY)
        room = Room(oid, name, block, 0, empty_since)
        self._rooms[name] = room
        if empty_since:
            self._empty[name] = empty_since
        self._write(room)
        return room

    def _write(self, room: Room) -> None:
        fields = {"name": room.name, "block": room.block, "empty_since": room.empty_since}
        self._ledger.write(room.oid, ROOM, fields)

    def _write_member(self, room: Room, member: Member) -> None:
        self._ledger.write(
            member.oid,
            MEMBER,
            {
                "room": room.oid,
                "session": member.session,
                "user": member.user,
                "name": member.name,
                "gateway": member.place[0],
                "connection": member.place[1],
                "view": member.view,
                "hears": member.hears,
            },
        )

    def check_invariants(self) -> None:
        """Each room is sound; the empty ones are known."""
        for room in self._rooms.values():
            room.check_invariants()
        empty = {name for name, room in self._rooms.items() if not room.members}
        assert set(self._empty) == empty
        for name, session in self._turned:
            assert session in self._rooms[name].members
