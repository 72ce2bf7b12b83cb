"""The trade of the `world` sample between two shards, with a death before each of its effects.

A calm world is run once to see which effects a trade has and in which order; then once for each, killing the
worker, or its whole node, right before it. Whoever dies when, no coin and no thing is lost or doubled, and
nothing is left pending.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from connserver.ids import format_oid, named_id
from connserver.messages import Image
from partition.kinds import NAME
from tests.simulation.whole.bots import Bot, Fields
from tests.simulation.whole.environment import surroundings
from tests.simulation.whole.failpoints import Failpoints
from tests.simulation.whole.processes import Process
from tests.simulation.whole.world import WholeNode, WholeWorld

SAMPLE = Path(__file__).resolve().parents[3] / "plugins" / "world"
SEED = 4
GOLD = 100
PRICE = 30
THINGS = ("sword", "shield")
DONE_S = 20.0
"""Virtual seconds within which the trade is over, whoever has died."""
AFTER_S = 0.25
"""So long after its answer a trade still confirms and forgets its parcels."""

NOT_OF_A_TRADE = {
    "serving.receive: _peers.outputs": "the log takes nothing for a long time, and clients are refused",
    "serving.own_parcels: _intake.parcels": "more than a thousand calls within one group in one turn",
}
"""Failpoints that a trade does not reach, and what does."""


class Trader(Bot):
    """A user who asks for certain things, one after the other."""

    def __init__(
        self, world: WholeWorld, user: str, script: list[Fields], rooms: tuple[str, ...] = ()
    ) -> None:
        self.script = list(script)
        super().__init__(world, user, [], list(rooms), len(script))

    def _wish(self) -> Fields:
        return self.script.pop(0)

    def ask(self, message: Fields) -> None:
        """One thing more."""
        self.script.append(message)
        self.left += 1
        self._work()


class Trade:
    """One run."""

    def __init__(self, failpoints: Failpoints) -> None:
        self.failpoints = failpoints
        self.world = WholeWorld(SEED, plugins=(SAMPLE,))
        self.world.settings.window_s = 120
        buyer, seller = (self.world.settings.names("user", group, 1)[0] for group in (0, 1))
        self.names = {"buyer": buyer, "seller": seller}
        for group, name, bag in ((0, buyer, []), (1, seller, list(THINGS))):
            fields = {"zone": "z0", "gold": GOLD, "bag": bag, "offers": {}, NAME: name}
            image = Image(named_id("user", name), "player", 2, msgpack.packb(fields))
            self.world.archive.rows[group].objects[image.oid] = image
            self.world.judge.folded[group].state[image.oid] = image
            self.world.judge.folded[group].archived[image.oid] = image

        self.took_s = 0.0
        """From the question to the answer, in virtual seconds."""

    def run(self) -> None:
        """From the first start to the end of the trade; Violation, AssertionError."""
        world = self.world
        with surroundings(world), self.failpoints.watching():
            for node in world.nodes.values():
                world.boot(node)
            world.run_until(0.4)
            offers = [{"msg": "trade.offer", "thing": thing, "price": PRICE} for thing in THINGS]
            seller = Trader(world, self.names["seller"], offers)
            buyer = Trader(world, self.names["buyer"], [{"msg": "world.inventory"}])
            self._until(lambda: seller.done and buyer.done)
            world.run_until(world.now + 0.1)
            oid = format_oid(named_id("user", self.names["seller"]))
            self.failpoints.armed = True
            for thing, price in ((THINGS[0], PRICE), (THINGS[1], PRICE + 1)):  # the second is refused
                buyer.ask({"msg": "trade.buy", "seller": oid, "thing": thing, "price": price})
            self._until(lambda: buyer.done)
            self.took_s = max(one.answered_at - one.at for one in buyer.asked[-2:])
            buyer.ask({"msg": "world.inventory"})
            self._until(lambda: seller.done and buyer.done)
            world.run_until(world.now + AFTER_S)
            self.failpoints.armed = False
            self._until(lambda: not world.judge.still_pending())
            world.until_equal(DONE_S)
            self._check(buyer)
            world.end()

    def _until(self, done: Callable[[], bool]) -> None:
        end = self.world.now + DONE_S
        while not done():
            assert self.world.now < end, f"not over: {self.world.judge.still_pending() or 'no answer'}"
            self.world.run_until(self.world.now + 0.05)

    def _check(self, buyer: Trader) -> None:
        said = [one.reply["status"] for one in buyer.asked[-3:] if one.reply is not None]
        assert said == [0, 1, 0], [one.reply for one in buyer.asked]
        players: dict[int, dict[str, Any]] = {
            oid: fields
            for folded in self.world.judge.folded.values()
            for oid, fields in folded.of_kind("player")
        }
        buys, sells = (players[named_id("user", self.names[who])] for who in ("buyer", "seller"))
        assert (buys["gold"], sells["gold"]) == (GOLD - PRICE, GOLD + PRICE), (buys, sells)
        things = [*buys["bag"], *sells["bag"], *buys["offers"], *sells["offers"]]
        assert sorted(things) == sorted(THINGS) and buys["bag"] == [THINGS[0]], (buys, sells)


Kill = Callable[["Trade", Process], None]


def kill_worker(trade: Trade, process: Process) -> None:
    """The worker whose effect is next."""
    node = process.node
    assert isinstance(node, WholeNode)
    seat = next(seat for seat in node.seats.values() if seat.process is process)
    seat.replace("killed")


def kill_node(trade: Trade, process: Process) -> None:
    """The whole machine it is on."""
    trade.world.kill(process.node, "node")


LEAVES = ("_log.submit", "duplex.post", "_duplex.post", "serving.committed", "backup.deliver")
"""Between two of these a process only changes its memory, so a death anywhere there is the same to others."""


def apart(hits: list[tuple[str, str]]) -> list[int]:
    """Numbers of the effects (from 1) whose deaths differ, and the first of each other failpoint."""
    seen: set[tuple[str, str]] = set()
    found = []
    for number, hit in enumerate(hits, start=1):
        if hit[1].rpartition(" ")[2] in LEAVES or hit not in seen:
            found.append(number)
        seen.add(hit)
    return found


def calm() -> Trade:
    """A trade in which nobody dies; its failpoints say what it did."""
    trade = Trade(Failpoints())
    trade.run()
    return trade


def deadly(number: int, kill: Kill) -> Failpoints:
    """A trade with a death before its effect of this number (from 1)."""
    found: list[Trade] = []
    failpoints = Failpoints(number, lambda process: kill(found[0], process))
    trade = Trade(failpoints)
    found.append(trade)
    trade.run()
    return failpoints
