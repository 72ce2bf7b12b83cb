"""Faults inside a node's processes: its clock is set, what it publishes is lost, it dies while it installs.

Guards one rule: they are put in by `tampering`, whose marks on the processes' pids, messages and disks
say whether they have bitten.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar

import zmq

from connserver import sockets
from connserver.config import Places
from gossip.records import DurableGroup
from tests.failures.faults import AGAIN_S, Fault, LoseDisk
from tests.failures.faults_network import Isolate
from tests.failures.line import Line
from tests.failures.nodes import GATEWAY_PORT, World, until
from tests.failures.tampering import COMPILER, Tampering

ASKED_S = 10.0
"""Every process asks for the time within this, if only to write a line of its log."""


def _tampering(world: World) -> Tampering:
    assert world.tampering is not None, "this world was not made for tampering"
    return world.tampering


class ClockJumps(Fault):
    """The wall clock of the leading node is set, forwards and backwards, by an hour and by a second."""

    name = "clock-jumps"
    needs_tampering = True
    jumps_s: ClassVar[tuple[float, ...]] = (3_600.0, -3_600.0, 1.0, -1.0)
    hold_s = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._node = ""
        self._untold: set[str] = set()
        self._gateway_is_off = True

    def prepare(self, world: World) -> None:
        self._node = self.primary(world)

    def strike(self, world: World) -> None:
        for by_s in self.jumps_s:
            _tampering(world).set_clock(self._node, by_s)
            self._gateway_is_off &= abs(_asked_time(world, self._node) - time.time() - by_s) < 0.5
            _disturb_gossip(world, self._node)  # it looks at the clock only to write a line of its log
            time.sleep(0.8)  # the fault itself
        until("everybody asked", lambda: not self._not_told(world), ASKED_S)
        self._untold = self._not_told(world)

    def _not_told(self, world: World) -> set[str]:
        """Of the processes that look at a clock: a worker that stands by has no use for one."""
        node = self._node
        wanted = {f"g-{node}", f"gw-{node}-0", *(f"w-{node}-{group}" for group in self.groups)}
        pids, misled = world.nodes[node].pids(), _tampering(world).misled(node)
        return {name for name in wanted if pids.get(name) not in misled}

    def heal(self, world: World) -> None:
        _tampering(world).set_clock(self._node, 0)

    def bitten(self, world: World) -> str:
        if not COMPILER:
            return "there is no C compiler to make the clock with"
        if self._untold:
            return f"never asked for the time: {sorted(self._untold)}"
        return "" if self._gateway_is_off else f"the gateway of {self._node} told the right time"


def _asked_time(world: World, node: str) -> float:
    """What a gateway says that the time is."""
    with Line((world.nodes[node].address, GATEWAY_PORT)) as line:
        return float(line.ask({"msg": "time"})["time"])


def _disturb_gossip(world: World, node: str) -> None:
    """Say something to a gossip process that it does not understand."""
    context = sockets.context()
    endpoint = Places(world.nodes[node].config()).gossip_endpoint(node)
    stranger = sockets.dealer(context, b"stranger", endpoint)
    stranger.poll(int(1000 * ASKED_S), zmq.POLLOUT)
    stranger.send(b"nonsense")
    stranger.close(linger=1000)
    context.term()


class PublishedLost(Fault):
    """As at a high-water mark: every second burst of what the nodes publish reaches nobody."""

    name = "published-lost"
    needs_tampering = True
    hold_s = 2.5
    least = 40
    """Messages of each node."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, int] = {}

    def prepare(self, world: World) -> None:
        self._before = {node: _tampering(world).dropped(node) for node in world.nodes}

    def strike(self, world: World) -> None:
        for node in world.nodes:
            _tampering(world).drop(node, on=True)

    def heal(self, world: World) -> None:
        for node in world.nodes:
            _tampering(world).drop(node, on=False)

    def bitten(self, world: World) -> str:
        lost = {node: _tampering(world).dropped(node) - before for node, before in self._before.items()}
        return "" if min(lost.values()) >= self.least else f"messages lost by node: {lost}"


def half_installed(world: World, node: str) -> str:
    """Why a death in an install left something else than the log before it; empty where it did not."""
    if not _tampering(world).died_in_install(node):
        return f"{node} did not die in an install"
    before, after = _tampering(world).logs_around(node)
    changed = [group for group, durable in before.items() if _facts(durable) != _facts(after[group])]
    return f"groups {changed} of {node} are not what they were before the install" if changed else ""


def _facts(durable: DurableGroup) -> tuple[object, ...]:
    return durable.phase, durable.log_view, durable.base, durable.head, sorted(durable.entries.items())


class DieInInstall(LoseDisk):
    """A backup's disk was replaced; while it writes down the log it got from the others it dies."""

    name = "die-in-install"
    needs_tampering = True

    def heal(self, world: World) -> None:
        _tampering(world).die_in_install(self._node, on=True)
        super().heal(world)
        until("a death in an install", lambda: _tampering(world).died_in_install(self._node), AGAIN_S)

    def bitten(self, world: World) -> str:
        return super().bitten(world) or half_installed(world, self._node)


class DieReplacingTail(Isolate):
    """The leading node was alone; while it writes the others' entries over its own it dies."""

    name = "die-replacing-tail"
    needs_tampering = True

    def __init__(self, hold_s: float | None = None) -> None:
        super().__init__(hold_s)
        self._node = ""

    def ways(self, world: World) -> Iterable[tuple[str, str]]:
        found = list(super().ways(world))
        self._node = found[0][0]
        return found

    def heal(self, world: World) -> None:
        _tampering(world).die_in_install(self._node, on=True)
        super().heal(world)
        until("a death in an install", lambda: _tampering(world).died_in_install(self._node), AGAIN_S)

    def bitten(self, world: World) -> str:
        return super().bitten(world) or half_installed(world, self._node)
