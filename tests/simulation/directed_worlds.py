"""Directed traces of the simulated world: for bugs of the models around the core that seeds rarely show."""

from __future__ import annotations

from connserver.ids import GroupId
from gossip.replica_set import ReplicaSet
from tests.simulation.machines import Node
from tests.simulation.workers import KeptReplies, Reply, Request
from tests.simulation.world import World

GROUP = GroupId(0)


def calm_world() -> World:
    """Three nodes with one group, and nothing that goes wrong by itself."""
    seed = next(seed for seed in range(100) if not World(seed, 1, KeptReplies).alone)
    world = World(seed, 1, KeptReplies)
    for node in world.nodes.values():
        world.boot(node)
    world.run_until(1.0)
    return world


def serving(world: World) -> list[Node]:
    """Nodes whose worker holds the grant, as far as their own gossip process knows."""
    return [node for node in world.nodes.values() if node.workers[GROUP].serving]


def reads_end_with_their_grant() -> None:
    """A deposed primary's read waits for a barrier; one under its next grant says nothing about it."""
    world = calm_world()
    (first,) = serving(world)
    for other in world.nodes.values():
        world.cuts[(first.name, other.name)] = world.cuts[(other.name, first.name)] = True
    stale: list[Reply] = []
    first.workers[GROUP].request(Request("s", 1, "read", "k"), stale.append)
    world.run_until(2.0)
    (second,) = (node for node in serving(world) if node is not first)
    written: list[Reply] = []
    second.workers[GROUP].request(Request("t", 1, "add", "k"), written.append)
    world.run_until(2.2)
    assert [reply.value for reply in written] == [1]
    world.cuts.clear()
    world.run_until(2.6)

    def resign(replicas: ReplicaSet, now: float) -> None:
        assert replicas.resign(GROUP, first.name, now) == ""

    world.turn(second, second.life, resign)
    world.run_until(3.2)
    assert serving(world) == [first]
    fresh: list[Reply] = []
    first.workers[GROUP].request(Request("u", 1, "read", "k"), fresh.append)
    world.run_until(3.5)
    assert [reply.value for reply in fresh] == [1]
    assert not stale, "a read of the time before the write left after it"


TRACES = [reads_end_with_their_grant]
