"""All that a cluster keeps, object by object, and a small world of which every part is known.

Guards one rule: after everything was killed *everything* is there, not only what some client happens to
ask for. So images of all kinds are compared, the system's own among them, and beside that each client's
view: its session, its kept answers, its room's members and order, its timers and a call under way.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from tests.failures.line import Line
from tests.failures.nodes import World
from tests.failures.wire import Fields
from tests.failures.workloads import names
from tests.integration.cluster import wait_for

OWN_KINDS: Final = ("tally", "page")
EXACT: Final = (
    "cs.session.reply",
    "cs.session.event",
    "cs.room",
    "cs.room.event",
    "cs.timer",
    "cs.call",
    "cs.parcel",
)
PLACES: Final = {
    "cs.session": ("place", "expires", "resumed", "tokens"),
    "cs.member": ("gateway", "connection"),
}
"""Fields that say where a client is connected: nowhere, after all gateways have died."""
RISING: Final = ("cs.outbox", "cs.cursor", "cs.ids")
"""Counters: never less than before."""
PAGE: Final = 500
HEARD_S: Final = 10.0
RINGS_AFTER_S: Final = 3.0
RING_S: Final = 20.0
HANG_S: Final = 1.5
"""A worker that stands still for two seconds is replaced, and then the call would be done."""

Objects = dict[str, tuple[str, Fields]]


def inventory(world: World, *kinds: str) -> Objects:
    """Object id → (kind, fields) of all objects of these kinds, else of all kinds, of all groups."""
    found: Objects = {}
    with world.nodes["n1"].admin() as admin:
        for kind in kinds or (*OWN_KINDS, *EXACT, *PLACES, *RISING):
            for group in range(world.groups):
                after: str | None = None
                while after != "":
                    asked = {"kind": kind, "after": after or "", "limit": PAGE, "group": group}
                    page: Any = admin.ask("object.list", **asked)
                    found |= {row["oid"]: (kind, row["fields"]) for row in page["objects"]}
                    after = str(page["next"])
    return found


def differences(before: Objects, after: Objects) -> list[str]:
    """What is missing or another afterwards."""
    told = []
    for oid, (kind, fields) in before.items():
        now = after.get(oid, ("", {}))[1]
        if oid not in after:
            told.append(f"{kind} {oid} is gone")
        elif kind in RISING:
            fallen = [name for name, value in fields.items() if now[name] < value]
            told += [f"{kind} {oid}: {name} fell" for name in fallen]
        else:
            other = [
                name
                for name, value in fields.items()
                if now[name] != value and name not in PLACES.get(kind, ())
            ]
            told += [f"{kind} {oid}: {name} was {fields[name]!r} and is {now[name]!r}" for name in other]
    return told


class Resident:
    """A client with something of everything, and all that it was told."""

    def __init__(self, world: World, number: int, user: str, room: str) -> None:
        self.user, self.room = user, room
        self.told: dict[int, tuple[Fields, Fields]] = {}
        self.events: list[int] = []
        self._number = number
        self._line = Line(world.gateways[number % len(world.gateways)])
        self._token = str(self._line.ask({"msg": "login", "user": user})["resume"])

    def ask(self, msg: str, **fields: Any) -> Fields:
        """An answer that has to be one, kept with its question."""
        asked = {"msg": msg, **fields, "id": len(self.told) + 1}
        answer = self._line.ask(asked)
        assert answer["status"] == 0, (asked, answer)
        self.told[asked["id"]] = asked, answer
        return answer

    def settle(self) -> None:
        """Have a counter, a list, a word in the room, and a timer of tomorrow."""
        for item in range(1, 4):
            self.ask("count.add")
            self.ask("list.append", item=item)
            self.ask("room.send", room=self.room, k=item)
        self.ask("bell.set", item=1, after_s=86_400.0)

    def resume(self, world: World) -> Fields:
        """Through another gateway than before, all of which are new."""
        self._line.close()
        self._line = Line(world.gateways[(self._number + 1) % len(world.gateways)])
        rooms = [{"room": self.room, "seq": max(self.heard(), default=0)}] if self.room else []
        self._line.events.clear()
        return self._line.ask({"msg": "session.resume", "resume": self._token, "n": 0, "rooms": rooms})

    def heard(self) -> list[int]:
        """Room events in the order in which they came, over all connections."""
        rows = [row for row in self._line.events if row["msg"] == "room.message"]
        self.events += [int(row["seq"]) for row in rows]
        self._line.events.clear()
        return self.events

    def again(self, number: int) -> Fields:
        """The answer to a request that was sent before."""
        return self._line.ask(self.told[number][0])

    def begin_gift(self, to: str) -> int:
        """Ask for a gift and do not wait; the request's id."""
        number = len(self.told) + 1
        self.told[number] = {"msg": "gift.give", "to": to, "id": number}, {}
        self._line.say(self.told[number][0])
        return number

    def close(self) -> None:
        self._line.close()


class Settlement:
    """A resident at home in each group, all in one room; and `late`, who have something open at the end."""

    def __init__(self, world: World, tag: str) -> None:
        self.world = world
        room = names("room", f"{tag}-talks", world.groups)[0]
        users = names("user", f"{tag}-lives", world.groups)
        self._late_users = names("user", f"{tag}-waits", world.groups)
        self.residents = [Resident(world, number, user, room) for number, user in enumerate(users)]
        self.late: list[Resident] = []
        self._gift = 0
        for resident in self.residents:
            resident.ask("room.join", room=room)
        for resident in self.residents:
            resident.settle()
        self._sent = 3 * len(self.residents)
        wait_for("the room's events", self._all_heard, HEARD_S)

    def _all_heard(self) -> bool:
        for resident in self.residents:
            resident.ask("count.get")
        return all(len(resident.heard()) >= self._sent for resident in self.residents)

    def leave_things_open(self) -> None:
        """A timer in each group, and a call from group 0 to group 1: its first half is committed, its
        second cannot be, for the worker that has to run it stands still."""
        self.late = [Resident(self.world, number, user, "") for number, user in enumerate(self._late_users)]
        for resident in self.late:
            resident.ask("bell.set", item=1, after_s=RINGS_AFTER_S)
        os.kill(self.world.pid(f"w-{self.world.primaries()[1]}-1"), signal.SIGSTOP)
        self._gift = self.late[0].begin_gift(self.late[1].user)
        wait_for("a call under way", self._calls_under_way, HANG_S)

    def _calls_under_way(self) -> int:
        """How many parcels group 0 keeps for group 1."""
        with self.world.nodes["n1"].admin() as admin:
            page: Any = admin.ask("object.list", kind="cs.parcel", after="", limit=PAGE, group=0)
        return sum(row["fields"]["target"] == 1 for row in page["objects"])

    def check(self) -> None:
        """Every client finds what it was told, once, and goes on from there."""
        for resident in (*self.residents, *self.late):
            resumed = resident.resume(self.world)
            assert resumed["status"] == 0, resumed
            for number, (asked, answer) in resident.told.items():
                if answer:
                    assert resident.again(number) == answer, asked
        self._check_gift()
        for resident in self.residents:
            assert resident.ask("count.add")["value"] == 4
            assert resident.ask("list.page", index=0)["items"] == "1 2 3"
        wait_for("bells", self._all_rang, RING_S)
        self._check_room()

    def _check_gift(self) -> None:
        giver, taker = self.late[:2]
        answers = [giver.again(self._gift) for _ in range(2)]
        assert answers[0]["status"] == 0 and answers[0]["value"] == 1 and answers[0] == answers[1], answers
        assert giver.ask("gift.show")["given"] == taker.ask("gift.show")["taken"] == 1

    def _all_rang(self) -> bool:
        rung = [int(resident.ask("bell.count")["value"]) for resident in self.late]
        assert max(rung) <= 1, f"timers rang {rung} times"
        return min(rung) == 1

    def _check_room(self) -> None:
        users = {resident.user for resident in self.residents}
        for resident in self.residents:
            members = resident.ask("room.who", room=resident.room)["members"]
            assert users == set(members), members
            self._sent += 1
            assert resident.ask("room.send", room=resident.room, k=9)["seq"] == self._sent
        wait_for("the room's events", self._all_heard, HEARD_S)
        for resident in self.residents:
            assert resident.heard() == [*range(1, self._sent + 1)], resident.user

    def close(self) -> None:
        for resident in (*self.residents, *self.late):
            resident.close()
