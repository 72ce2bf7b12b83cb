"""Directed traces of the simulated world: for bugs of the models around the core that seeds rarely show."""

from __future__ import annotations

from connserver.ids import GroupId
from gossip.replica_set import ReplicaSet
from tests.simulation.machines import Node
from tests.simulation.stage import GROUP as STAGE_GROUP
from tests.simulation.stage import Stage
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


def reads_wait_for_what_they_saw() -> None:
    """A barrier passes as soon as a backup has heard of it; what was read may not be on its disk yet."""
    world = calm_world()
    (first,) = serving(world)
    world.faults.slow = 1.0
    told: list[Reply] = []
    for number in range(1, 60, 2):
        world.after(number * 0.02, lambda number=number: ask(number))  # type: ignore[misc]

    def hear(reply: Reply) -> None:
        told.append(reply)
        committed = max(world.checkers.truth[GROUP], default=0)
        assert reply.op <= committed, f"told of op {reply.op}, {committed} is committed"

    def ask(number: int) -> None:
        first.workers[GROUP].request(Request("s", number, "add", "k"), hear)
        first.workers[GROUP].request(Request("s", number + 1, "read", "k"), hear)

    world.run_until(4.0)
    assert len(told) == 60


def an_archive_of_a_later_era_takes_nothing_of_an_older() -> None:
    """Rule of `recover`: the archive's era is raised first."""
    world = calm_world()
    assert world.archive.fence(world.archive.rows[GROUP], 1, 1, 1)
    world.archive.raise_era(GROUP, 2)
    assert not world.archive.commit(GROUP, 1, 1, 1, {}), "a row of a given up history"
    assert world.archive.rows[GROUP].archived_op == 0


def a_log_says_what_of_the_archive_it_holds() -> None:
    """`recover` keeps a log only if it has all that was archived."""
    stage = Stage()
    stage.form()
    stage.attach("n1")
    stage.run(50)
    stage.submit("n1", "a", "b")
    stage.run(50)
    assert stage.sets["n1"].holds_archived(STAGE_GROUP, 0, 2)
    assert not stage.sets["n1"].holds_archived(STAGE_GROUP, 0, 3), "the archive has an op that is not here"


TRACES = [
    reads_end_with_their_grant,
    reads_wait_for_what_they_saw,
    an_archive_of_a_later_era_takes_nothing_of_an_older,
    a_log_says_what_of_the_archive_it_holds,
]
