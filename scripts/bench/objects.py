"""How should a kind's objects be kept in memory? Measures what a callback pays for each way.

    python scripts/bench/objects.py

Each way plays four callbacks on a player with six fields and a bag of `--bag` things: one that only
reads, one that writes two plain fields, one that appends to the bag, and one that is refused after
writing. Reported are microseconds per callback, from touching the object to the packed image, and
bytes per live object. Object mechanisms are written out here in their smallest form, so that the
choice can be measured again without touching `connserver.plugin`.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import msgpack

pack = msgpack.Packer().pack
unpack = msgpack.unpackb
KEPT = ("zone", "gold", "level", "bag", "offers")


class Snapshot:
    """Plain attributes; a copy of the instance dict at touch, compared at the end.

    Fields that hold lists or maps are read through a descriptor that notes the reading; only then is
    the packed image compared. What was stored is the way back.
    """

    __slots__ = ("__dict__", "opened")

    class Container:
        def __init__(self, name: str) -> None:
            self.name = name

        def __get__(self, owner: Any, cls: Any) -> Any:
            owner.opened = True
            return owner.__dict__[self.name]

        def __set__(self, owner: Any, value: Any) -> None:
            owner.opened = True
            owner.__dict__[self.name] = value

    bag = Container("bag")
    offers = Container("offers")
    gold: int
    x: float

    def __init__(self, fields: dict[str, Any]) -> None:
        self.opened = False
        self.__dict__.update(fields)
        self.__dict__["x"] = 0.0

    def touch(self) -> Any:
        return dict(self.__dict__)

    def finish(self, before: Any, stored: bytes) -> bytes | None:
        now = self.__dict__
        if not self.opened and now == before:
            return None
        self.opened = False
        data: bytes = pack({name: now[name] for name in KEPT})
        return data if data != stored else None

    def roll_back(self, before: Any, stored: bytes) -> None:
        self.__dict__ = before
        if self.opened:
            self.__dict__.update(unpack(stored))
            self.opened = False


class Slots:
    """Slots, a tuple of them at touch, and the packed image compared at the end of every callback."""

    __slots__ = ("bag", "gold", "level", "offers", "x", "zone")
    gold: int
    x: float
    bag: list[str]
    _all = attrgetter(*KEPT, "x")

    def __init__(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self, name, value)
        self.x = 0.0

    def touch(self) -> Any:
        return Slots._all(self)

    def finish(self, before: Any, stored: bytes) -> bytes | None:
        data: bytes = pack({name: getattr(self, name) for name in KEPT})
        return data if data != stored else None

    def roll_back(self, before: Any, stored: bytes) -> None:
        for name, value in unpack(stored).items():
            setattr(self, name, value)
        self.x = before[-1]


class Watched:
    """`__setattr__` notes every write; lists and maps are wrapped and tell their owner."""

    __slots__ = ("__dict__", "before")
    before: Any
    gold: int
    x: float
    bag: list[str]

    class List(list):  # type: ignore[type-arg]
        __slots__ = ("owner",)
        owner: Any

        def append(self, value: Any) -> None:
            self.owner.note()
            list.append(self, value)

        def pop(self, *index: Any) -> Any:
            self.owner.note()
            return list.pop(self, *index)

    def __init__(self, fields: dict[str, Any]) -> None:
        object.__setattr__(self, "before", None)
        self.__dict__.update(fields)
        self.__dict__["x"] = 0.0
        bag = self.__dict__["bag"] = Watched.List(fields["bag"])
        bag.owner = self

    def note(self) -> None:
        if self.before is None:
            object.__setattr__(self, "before", dict(self.__dict__))

    def __setattr__(self, name: str, value: Any) -> None:
        if self.before is None:
            object.__setattr__(self, "before", dict(self.__dict__))
        self.__dict__[name] = value

    def touch(self) -> Any:
        return None

    def finish(self, before: Any, stored: bytes) -> bytes | None:
        if self.before is None:
            return None
        object.__setattr__(self, "before", None)
        now = self.__dict__
        data: bytes = pack({name: now[name] for name in KEPT})
        return data if data != stored else None

    def roll_back(self, before: Any, stored: bytes) -> None:
        if self.before is not None:
            x = self.before["x"]
            self.__init__(unpack(stored))  # type: ignore[misc]
            self.__dict__["x"] = x


def ways() -> Iterator[tuple[str, type]]:
    yield "snapshot", Snapshot
    yield "slots, always packed", Slots
    yield "watched writes", Watched
    try:
        import msgspec
    except ImportError:
        return
    encode = msgspec.msgpack.Encoder().encode

    class Struct(msgspec.Struct):  # type: ignore[misc,unused-ignore]
        zone: str
        gold: int
        level: int
        bag: list[str]
        offers: dict[str, int]

        def touch(self) -> Any:
            return None

        def finish(self, before: Any, stored: bytes) -> bytes | None:
            data = encode(self)
            return data if data != stored else None

        def roll_back(self, before: Any, stored: bytes) -> None:
            for name, value in unpack(stored).items():
                setattr(self, name, value)

    def make(fields: dict[str, Any]) -> Any:
        return Struct(**fields)

    yield "msgspec, always packed", make  # type: ignore[misc]


@contextmanager
def measured(results: list[float], times: int) -> Iterator[None]:
    gc.collect()
    began = time.perf_counter()
    yield
    results.append((time.perf_counter() - began) / times * 1e6)


def run(make: Callable[[dict[str, Any]], Any], bag: int, times: int) -> list[float]:
    fields = {"zone": "z0", "gold": 100, "level": 3, "bag": ["thing"] * bag, "offers": {"a": 1, "b": 2}}
    player = make(fields)
    stored = pack(fields)
    player.finish(player.touch(), stored)
    results: list[float] = []
    with measured(results, times):
        for _ in range(times):
            before = player.touch()
            _ = player.gold, player.zone, player.level
            player.finish(before, stored)
    with measured(results, times):
        for number in range(times):
            before = player.touch()
            player.gold = number
            player.level = 4
            player.finish(before, stored)
    with measured(results, times):
        for _ in range(times):
            before = player.touch()
            player.bag.append("new")
            player.finish(before, stored)
            player.bag.pop()
    player.finish(player.touch(), stored)
    with measured(results, times):
        for number in range(times):
            before = player.touch()
            player.gold = number
            player.roll_back(before, stored)
    return results


def bytes_each(make: Callable[[dict[str, Any]], Any]) -> float:
    count = 5_000
    gc.collect()
    tracemalloc.start()
    shared: dict[str, Any] = {"zone": "z0", "gold": 100, "level": 3, "bag": [], "offers": {}}
    kept = [make(shared) for _ in range(count)]
    for one in kept:
        one.finish(one.touch(), b"")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bag", type=int, default=10, help="things in the bag")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    print(f"{'µs per callback':24}{'read':>8}{'write 2':>9}{'append':>8}{'refused':>9}{'bytes':>8}")
    for name, make in ways():
        figures = [
            min(column)
            for column in zip(*[run(make, options.bag, 200) for _ in range(options.rounds)], strict=True)
        ]
        row = "".join(f"{figure:{width}.2f}" for figure, width in zip(figures, (8, 9, 8, 9), strict=True))
        print(f"{name:24}{row}{bytes_each(make):8.0f}")


if __name__ == "__main__":
    main()
