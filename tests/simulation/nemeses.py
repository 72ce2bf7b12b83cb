"""What goes wrong, and when. Some strike by the clock, some when the cluster is in a delicate state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from connserver.ids import GroupId
from gossip.protocol import Status
from gossip.replica_set import ReplicaSet

if TYPE_CHECKING:
    from tests.simulation.machines import Node
    from tests.simulation.world import World


class Nemesis:
    """Draws faults from the world's randomness until it is told to stop."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stopped = False
        random = world.random
        faults = world.faults
        faults.loss = random.choice((0.0, 0.0, 0.02, 0.1))
        faults.duplication = random.choice((0.0, 0.05))
        faults.slow = random.choice((0.0, 0.0, 0.02, 0.3))
        for name in (
            "crash_on_promise", "crash_on_install", "crash_on_base",
            "crash_on_append", "crash_in_recovery", "crash_before_send", "strike_on_early_barrier",
        ):  # fmt: skip
            strong = {"crash_on_append": 0.01, "crash_before_send": 0.004}.get(name, 0.15)
            setattr(faults, name, random.choice((0.0, 0.0, strong)))
        everything = self.everything()
        chosen = random.sample(everything, random.randint(2, 7))
        if world.operated:
            chosen += [self._lose_disk, self._flip_bit, self._lose_power, self._lose_power_of_all]
        self.chosen: list[Callable[[], None]] = [*chosen, self._heal_network]
        self.period = random.choice((0.08, 0.2, 0.5))
        self._next()

    def everything(self) -> tuple[Callable[[], None], ...]:
        """All faults that it may choose from."""
        return (
            self._kill, self._kill_gossip, self._kill_worker, self._pause, self._pause_primary,
            self._cut_one_way, self._cut_link, self._isolate, self._isolate_primary, self._heal_network,
            self._lose_disk, self._flip_bit, self._handoff, self._kill_all, self._archive_down,
            self._flap, self._leave_behind, self._lose_power,
        )  # fmt: skip

    def _next(self) -> None:
        self.world.after(self.world.random.expovariate(1 / self.period), self._strike)

    def _strike(self) -> None:
        if not self.stopped:
            self.world.random.choice(self.chosen)()
            self._next()

    # --- picking ---

    def _any(self) -> Node:
        return self.world.random.choice(list(self.world.nodes.values()))

    def _serving(self) -> Node | None:
        group = self.world.random.choice(list(self.world.placements))
        for node in self.world.nodes.values():
            worker = node.workers.get(group)
            if worker is not None and worker.serving:
                return node
        return None

    # --- the faults ---

    def _kill(self) -> None:
        node = self._serving() if self.world.random.random() < 0.5 else self._any()
        if node:
            self.world.kill(node, "node")

    def _kill_gossip(self) -> None:
        self.world.kill(self._serving() or self._any(), "gossip", workers=False)

    def _kill_all(self) -> None:
        for node in self.world.nodes.values():
            self.world.kill(node, "all")

    def _kill_worker(self) -> None:
        node = self._serving() or self._any()
        if node.set is not None and node.workers:
            node.workers[self.world.random.choice(list(node.workers))].replace("killed")

    def _pause(self) -> None:
        self.world.pause(self._any(), self.world.random.choice((0.05, 0.3, 1.0)))

    def _pause_primary(self) -> None:
        node = self._serving()
        if node:
            self.world.pause(node, self.world.random.choice((0.2, 0.5, 1.5)))

    def _cut(self, source: Node, target: Node) -> None:
        if source is not target:
            self.world.note(f"cut {source.name}>{target.name}")
            self.world.cuts[(source.name, target.name)] = True

    def _cut_one_way(self) -> None:
        self._cut(self._any(), self._any())
        self.world.coverage["one_way_cuts"] += 1

    def _cut_link(self) -> None:
        a, b = self._any(), self._any()
        self._cut(a, b)
        self._cut(b, a)

    def _isolate(self) -> None:
        self._isolate_node(self._any())

    def _isolate_primary(self) -> None:
        self._isolate_node(self._serving() or self._any())

    def _isolate_node(self, node: Node) -> None:
        self.world.coverage["isolations"] += 1
        for other in self.world.nodes.values():
            self._cut(node, other)
            self._cut(other, node)

    def _heal_network(self) -> None:
        self.world.note("links healed")
        self.world.cuts.clear()

    def _flap(self) -> None:
        a, b = self._any(), self._any()

        def down() -> None:
            self._cut(a, b)
            self._cut(b, a)

        for beat in range(6):
            self.world.after(beat * 0.1, down)
            self.world.after(beat * 0.1 + 0.05, self.world.cuts.clear)

    def _leave_behind(self) -> None:
        """Cut a backup off while the log goes on and is truncated."""
        node = self._any()
        self._isolate_node(node)
        self.world.after(1.5, self._heal_network)

    def _one_disk_may_go(self) -> bool:
        """At most one disk at a time, and only while the other two are whole: what the design promises.

        With an operator any number, once the groups were formed.
        """
        nodes = self.world.nodes.values()
        if self.world.operated:
            return not any(node.blank for node in nodes) or self.world.random.random() < 0.5
        if any(node.lost_disk for node in nodes):
            return False
        return all(
            node.set is not None
            and all(r.status in (Status.NORMAL, Status.VIEW_CHANGE) for r in node.set.replicas.values())
            for node in nodes
        )

    def _lose_disk(self) -> None:
        if not self._one_disk_may_go():
            return
        node = self._any()
        if all(other.blank for other in self.world.nodes.values() if other is not node):
            self.world.damage_disk(node)  # if all were blank, that would be a first start
        else:
            self.world.lose_disk(node)

    def _flip_bit(self) -> None:
        if self._one_disk_may_go():
            self.world.damage_disk(self._any())

    def _lose_power(self) -> None:
        if self.world.power or self._one_disk_may_go():
            self.world.lose_power(self._any())

    def _lose_power_of_all(self) -> None:
        if self.world.power or self._one_disk_may_go():
            for node in self.world.nodes.values():
                self.world.lose_power(node)

    def _handoff(self) -> None:
        node = self._serving()
        if node is None or node.set is None:
            return
        for group, worker in node.workers.items():
            if worker.serving:
                self._resign(node, group)
                return

    def _resign(self, node: Node, group: GroupId) -> None:
        others = [name for name in self.world.nodes if name != node.name]
        target = self.world.random.choice([None, *others])
        self.world.coverage["handoffs_asked"] += 1

        def resign(replicas: ReplicaSet, now: float) -> None:
            replicas.resign(group, target, now)

        self.world.turn(node, node.life, resign)

    def _archive_down(self) -> None:
        self.world.archive.down = True
        self.world.after(self.world.random.uniform(0.1, 1.0), self._archive_up)

    def _archive_up(self) -> None:
        self.world.archive.down = False
