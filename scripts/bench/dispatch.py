"""What one call of a plugin's method costs, from the packed request to the Outcome.

    python scripts/bench/dispatch.py

Microseconds per call, in the best of many short rounds, on a player with five kept fields: a method that does
nothing, one that takes two arguments and reads, one that changes a transient field and updates a
room, one that changes a kept field, one that appends to a bag of ten, and one that is refused.
`unpack` includes reading the request from its packed form, as the worker gets it.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable

from connserver import Context, Object, Plugin, Refused, transient
from connserver.ids import named_id
from connserver.model import Message, pack, unpack
from partition.assembly import assemble
from partition.dispatch import Dispatcher
from partition.effects import Caller
from partition.objects import Store

plugin = Plugin("bench", version="1")


@plugin.kind("player")
class Player(Object):
    zone: str = "z0"
    gold: int = 0
    level: int = 1
    bag: list[str] = ["thing"] * 10
    offers: dict[str, int] = {}  # noqa: RUF012
    x: float = transient(0.0)


@plugin.method("bench.nothing")
def nothing(ctx: Context, me: Player) -> None:
    pass


@plugin.method("bench.read")
def read(ctx: Context, me: Player, zone: str, least: int = 0) -> dict[str, int]:
    return {"gold": me.gold}


@plugin.method("bench.move")
def move(ctx: Context, me: Player, x: float) -> None:
    me.x = me.x + x
    ctx.room(me.zone).update("pos", {"x": x}, at=(x, 0))


@plugin.method("bench.earn")
def earn(ctx: Context, me: Player, gold: int) -> None:
    me.gold += gold


@plugin.method("bench.swap")
def swap(ctx: Context, me: Player, thing: str) -> None:
    me.bag.pop()
    me.bag.append(f"{thing}{me.gold}")
    me.gold += 1


@plugin.method("bench.refuse")
def refuse(ctx: Context, me: Player) -> None:
    me.gold += 1
    raise Refused("bench.no")


CALLS_PER_ROUND = 100

CALLS: list[tuple[str, Message]] = [
    ("bench.nothing", {}),
    ("bench.read", {"zone": "z1", "least": 4}),
    ("bench.move", {"x": 0.25}),
    ("bench.earn", {"gold": 1}),
    ("bench.swap", {"thing": "sword"}),
    ("bench.refuse", {}),
]


def least(rounds: int, call: Callable[[], object]) -> float:
    """Microseconds per call in the best of many short rounds: other work on the machine falls out."""
    figures = []
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(CALLS_PER_ROUND):
            call()
        figures.append((time.perf_counter() - began) / CALLS_PER_ROUND * 1e6)
    gc.enable()
    return min(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    dispatcher = Dispatcher(
        Store(),
        assemble([plugin]),
        random=random.Random(1),
        on_incident=lambda number, text: sys.exit(text),
    )
    me = named_id("user", "ann")
    dispatcher.open_user(me, "ann")
    caller = Caller(user=me, session=1, name="ann", roles=frozenset())
    print(f"{'µs per call':16}{'call':>8}{'unpack':>8}")
    for method, fields in CALLS:
        packed = pack(fields)

        def plain(method: str = method, fields: Message = fields) -> object:
            return dispatcher.call(method, fields, me=me, caller=caller, now=1.0)

        def unpacked(method: str = method, packed: bytes = packed) -> object:
            return dispatcher.call(method, unpack(packed), me=me, caller=caller, now=1.0)

        print(f"{method:16}{least(rounds, plain):8.2f}{least(rounds, unpacked):8.2f}")


if __name__ == "__main__":
    main()
