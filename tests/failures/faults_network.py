"""Faults of the network between nodes. Clients reach every node all the time, also one that is alone.

Guards one rule: a cut is made and mended in the kernel's routes, and `bitten` asks the kernel whether it
was there. Cuts in one direction vanish what that node sends, acknowledgements of TCP among it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from tests.failures.faults import Fault
from tests.failures.nodes import World

Way = tuple[str, str]


class Cut(Fault):
    """Some ways between nodes, for `hold_s`."""

    needs_cuts = True
    hold_s = 3.0

    def __init__(self, hold_s: float | None = None) -> None:
        super().__init__()
        self.hold_s = self.hold_s if hold_s is None else hold_s
        self._ways: list[Way] = []
        self._was_cut = False

    def ways(self, world: World) -> Iterable[Way]:
        """(from, to) each."""
        raise NotImplementedError

    def prepare(self, world: World) -> None:
        self._ways = list(self.ways(world))

    def strike(self, world: World) -> None:
        for source, target in self._ways:
            world.network.cut(source, target)
        self._was_cut = all(world.network.is_cut(*way) for way in self._ways)

    def heal(self, world: World) -> None:
        for source, target in self._ways:
            world.network.mend(source, target)

    def bitten(self, world: World) -> str:
        if not self._ways or not self._was_cut:
            return "nothing was cut"
        return "" if not any(world.network.is_cut(*way) for way in self._ways) else "it is cut still"


def _both(one: str, other: str) -> list[Way]:
    return [(one, other), (other, one)]


def _others(world: World, node: str) -> list[str]:
    return [name for name in world.network.nodes if name != node]


class Isolate(Cut):
    """The leading node hears and reaches no other; its clients still reach it."""

    name = "isolate"

    def ways(self, world: World) -> Iterable[Way]:
        node = self.primary(world)
        return [way for other in _others(world, node) for way in _both(node, other)]


class IsolateBackup(Cut):
    """The same of a node that backs the group up."""

    name = "isolate-backup"

    def ways(self, world: World) -> Iterable[Way]:
        node = self.backup(world)
        return [way for other in _others(world, node) for way in _both(node, other)]


class Mute(Cut):
    """What the leading node sends reaches nobody; it hears all."""

    name = "mute"

    def ways(self, world: World) -> Iterable[Way]:
        node = self.primary(world)
        return [(node, other) for other in _others(world, node)]


class Deaf(Cut):
    """What the others send does not reach the leading node; they hear it."""

    name = "deaf"

    def ways(self, world: World) -> Iterable[Way]:
        node = self.primary(world)
        return [(other, node) for other in _others(world, node)]


class LinkDown(Cut):
    """The leading node and one backup do not reach each other; the third node reaches both."""

    name = "link-down"

    def ways(self, world: World) -> Iterable[Way]:
        node = self.primary(world)
        return _both(node, _others(world, node)[0])


class OneWay(Cut):
    """One backup's words do not reach the leading node; all else does."""

    name = "one-way"

    def ways(self, world: World) -> Iterable[Way]:
        node = self.primary(world)
        return [(_others(world, node)[0], node)]


class Apart(Cut):
    """No node reaches any other: nothing can be done, and nothing may be."""

    name = "all-apart"
    hold_s = 2.0

    def ways(self, world: World) -> Iterable[Way]:
        self.groups = frozenset(range(world.groups))
        nodes = world.network.nodes
        return [(one, other) for one in nodes for other in nodes if one != other]


class Flapping(Isolate):
    """The leading node's network comes and goes, each for about the time until it is given up."""

    name = "flapping"
    hold_s = 0.1

    def __init__(self, times: int = 8, each_s: float = 0.18) -> None:
        super().__init__()
        self._times = times
        self._each_s = each_s

    def strike(self, world: World) -> None:
        ways = self._ways
        for turn in range(self._times):
            for way in ways:
                world.network.cut(*way)
            self._was_cut = all(world.network.is_cut(*way) for way in ways)
            time.sleep(self._each_s)  # the fault itself
            if turn + 1 < self._times:
                for way in ways:
                    world.network.mend(*way)
                time.sleep(self._each_s)
