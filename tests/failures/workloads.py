"""What clients do: each role's next request, and the cast of each workload.

Guards two rules. Nothing asked for is idempotent, so that doing it twice shows; and what a request is
about is its own id, so that a wrong answer shows. Every partition group is the home of some client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any, Final

from connserver.ids import group_of, named_id, partition_of
from tests.failures.transcript import Part
from tests.failures.wire import BOTH

Request = dict[str, Any]

READS: Final = 0.15
"""Share of a writer's requests that look at what it has written."""


def home(kind: str, name: str, groups: int) -> int:
    """The group that a user or room of this name is at home in."""
    return int(group_of(partition_of(named_id(kind, name)), groups))


def names(kind: str, prefix: str, groups: int) -> list[str]:
    """A name for each group that is at home there, in the order of groups."""
    found: dict[int, str] = {}
    for number in count():
        name = f"{prefix}{number}"
        found.setdefault(home(kind, name, groups), name)
        if len(found) == groups:
            return [found[group] for group in range(groups)]
    raise AssertionError


# --- roles: the request with this id ---------------------------------------------------------------


def _write(part: Part, number: int, random: Random) -> Request:
    return {"msg": "count.get" if random.random() < READS else "count.add"}


def _read(part: Part, number: int, random: Random) -> Request:
    return {"msg": "count.get"}


def _append(part: Part, number: int, random: Random) -> Request:
    return {"msg": "list.append", "item": number}


def _talk(part: Part, number: int, random: Random) -> Request:
    return {"msg": "room.send", "room": part.room, "k": number}


def _give(part: Part, number: int, random: Random) -> Request:
    return {"msg": "gift.give", "to": random.choice(part.others)}


def _ring(part: Part, number: int, random: Random) -> Request:
    return {"msg": "bell.set", "item": number}


def _trade(part: Part, number: int, random: Random) -> Request:
    """Offer or buy one of the things that go to and fro between two traders; often it is the other's turn."""
    thing = random.choice(things(part) + things_of(part.others[0]))
    price = 1 + int(thing.rpartition("-")[2]) % 5
    if random.random() < 0.5:
        return {"msg": "trade.offer", "thing": thing, "price": price}
    return {"msg": "trade.buy", "seller": f"user:{part.others[0]}", "thing": thing, "price": price}


GOLD: Final = 10_000
"""What a trader begins with."""


def things(part: Part) -> list[str]:
    """The things that a trader begins with."""
    return things_of(part.user)


def things_of(user: str) -> list[str]:
    """The same, by the user's name."""
    return [f"{user}-{number}" for number in range(3)]


ROLES: Final[dict[str, Callable[[Part, int, Random], Request]]] = {
    "writer": _write,
    "reader": _read,
    "appender": _append,
    "talker": _talk,
    "giver": _give,
    "ringer": _ring,
    "trader": _trade,
}
AUDITOR: Final = "auditor"
"""Asks only when all others have ended."""


def request(part: Part, number: int, random: Random) -> Request:
    """A client's request with this id."""
    return {**ROLES[part.role](part, number, random), "id": number}


# --- casts -----------------------------------------------------------------------------------------


def _counter(tag: str, groups: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Whoever reads is another session of the writer's user, at another gateway."""
    for user in names("user", f"{tag}-count", groups):
        yield user, "writer", "", ()
        yield user, "reader", "", ()


def _list(tag: str, groups: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    for user in names("user", f"{tag}-list", groups):
        yield user, "appender", "", ()


def _room(tag: str, groups: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    rooms = names("room", f"{tag}-room", groups)
    for room in (rooms[0], rooms[-1]):
        for user in names("user", f"{room}-talk", groups):
            yield user, "talker", room, ()


def _gift(tag: str, groups: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    users = names("user", f"{tag}-gift", groups)
    for user in users:
        yield user, "giver", "", tuple(users)


def _bell(tag: str, groups: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    for user in names("user", f"{tag}-bell", groups):
        yield user, "ringer", "", ()


def _mixed(tag: str, groups: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    for cast in (_counter, _list, _room, _gift, _bell):
        yield from cast(tag, groups)


WORKLOADS: Final = {
    "counter": _counter,
    "list": _list,
    "room": _room,
    "gift": _gift,
    "bell": _bell,
    "mixed": _mixed,
}


def cast(workload: str, tag: str, groups: int, encodings: tuple[str, ...] = BOTH) -> list[Part]:
    """The clients of a workload; `tag` makes their users and rooms new ones. Encodings take turns."""
    return [
        Part(
            number,
            user,
            role,
            encodings[number // 2 % len(encodings)],
            home("user", user, groups),
            room,
            others,
        )
        for number, (user, role, room, others) in enumerate(WORKLOADS[workload](tag, groups))
    ]
