"""What 1,000 guards of plugins/bots_native cost: each thinks and finds its way ten times a second.

    python scripts/bench/native/bots.py [--bots 1000] [--visitors 20] [--ticks 100]

One partition, one process, the dispatcher and its transaction included; CPU time, so that a busy machine
counts less. Visitors walk about, so that some guards search a way by A* at every tick.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from connserver.ids import format_oid, named_id, partition_of
from connserver.model import Message
from connserver.native.build import build_plugin
from partition.assembly import assemble
from partition.dispatch import NOBODY, Dispatcher
from partition.loader import load_plugin
from partition.objects import Store

HZ = 10.0
ARENA = "yard"
FOLDER = Path(__file__).parents[3] / "plugins" / "bots_native"


class Yard:
    """An arena with guards, in a store of its own."""

    def __init__(self, bots: int) -> None:
        build_plugin(FOLDER, "libbots.so")
        self.oid = named_id("arena", ARENA)
        self.dice = random.Random(1)
        self.dispatcher = Dispatcher(
            Store(),
            assemble([load_plugin(FOLDER)]),
            random=random.Random(1),
            on_incident=lambda number, told: print(told, file=sys.stderr),
        )
        self.call("filled", {"count": bots, "seed": 7, "cs.name": ARENA})

    def call(self, method: str, arguments: Message) -> str:
        """Call an internal method of the arena; what it refused, if it did."""
        outcome = self.dispatcher.internal(
            f"bots.{method}", arguments, me=self.oid, caller=NOBODY, now=1.0, result=None
        )
        return outcome.error.code or outcome.error.reason if outcome.error else ""

    def walk(self, visitors: int) -> None:
        """Every visitor stands somewhere else now."""
        for number in range(visitors):
            visitor = format_oid(named_id("user", f"visitor{number}"))
            while refusal := self.call(
                "stand", {"visitor": visitor, "x": self.dice.randrange(64), "y": self.dice.randrange(64)}
            ):
                assert refusal == "bots.wall", refusal

    def tick(self) -> float:
        """One tick; its CPU seconds."""
        begun = time.process_time()
        outcome = self.dispatcher.every("bots.think", partition_of(self.oid), 1 / HZ, 1.0)
        took = time.process_time() - begun
        assert outcome.error is None, outcome.error
        return took


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bots", type=int, default=1000)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--ticks", type=int, default=100)
    given = parser.parse_args()
    yard = Yard(given.bots)
    took = []
    for _ in range(given.ticks):
        yard.walk(given.visitors)
        took.append(yard.tick())
    took.sort()
    middle, worst = took[len(took) // 2], took[-1]
    print(
        f"{given.bots} guards, {given.visitors} visitors, {given.ticks} ticks: per tick {middle * 1e3:.1f} ms"
    )
    print(f"(worst {worst * 1e3:.1f} ms) of CPU; at {HZ:.0f} Hz {middle * HZ * 100:.0f} % of one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
