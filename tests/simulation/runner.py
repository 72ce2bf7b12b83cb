"""One seed from start to verdict, and what a batch of seeds must have reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.simulation.checkers import Violation
from tests.simulation.clients import Client
from tests.simulation.nemeses import Nemesis
from tests.simulation.operators import Operator
from tests.simulation.workers import KeptReplies, SessionLogic
from tests.simulation.world import World

BATCH_SEEDS = 300
"""From this size on a batch must have reached everything in MINIMA."""
FAULTS_S = 4.0
"""Virtual seconds of faults."""
HEALED_S = 20.0
"""Virtual seconds within which everybody must be done after healing."""
QUIET_S = 1.5
"""Then silence, a few times at most, in which replicas become equal."""

MINIMA = {
    "tails_replaced": 1, "base_jumps": 1, "killed_in_install": 1, "killed_entering_view_change": 1,
    "killed_in_truncation": 1, "killed_between_write_and_send": 1, "killed_in_append": 1,
    "killed_in_recovery": 1, "recoveries": 1, "views_begun": 1, "views_followed": 1, "torn_writes": 1,
    "old_incarnation_dropped": 1, "higher_votes_joined": 1, "handoffs": 1, "truncations": 1, "pauses": 1,
    "isolations": 1, "one_way_cuts": 1, "archive_fenced": 1, "known_requests": 1, "damaged_disks": 1,
    "worker_executed_ahead": 1, "worker_refused_stale_grant": 1, "worker_rebased": 1, "worker_killed": 1,
    "killed_all": 1, "early_barriers": 1, "killed_after_early_barrier": 1, "killed_gossip": 1,
    "killed_disk_loss": 1, "quiet_bundles": 1, "eras_from_log": 1, "eras_from_archive": 1,
    "eras_that_lost": 1, "eras_ended": 1, "killed_power_loss": 1, "disorderly_boots": 1, "worlds_alone": 1,
    "worlds_power": 1, "worlds_operated": 1,
}  # fmt: skip
"""What a batch must have reached at least once; a zero means that the checks checked nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on one seed. `error` is empty if all checks held."""

    seed: int
    error: str
    trace_hash: str
    coverage: Counter[str]
    acked: int
    lines: list[str]


def run(seed: int, logic: Callable[[], SessionLogic] = KeptReplies, trace: bool = False) -> Outcome:
    """Run one seed; never raises for what the cluster does."""
    world = World(seed, 2, logic, trace)
    error = ""
    try:
        _live(world)
    except Violation as violation:
        error = f"violation: {violation}"
    except AssertionError as failed:
        error = f"invariant: {failed!r}{where(failed)}"
    except Exception as broken:
        error = f"crash: {broken!r}{where(broken)}"
    world.note(error or "held")
    for kind in ("alone", "power", "operated"):
        world.coverage[f"worlds_{kind}"] += getattr(world, kind)
    world.coverage["virtual_ms"] += int(world.now * 1000)
    world.coverage["committed_ops"] += sum(len(truth) for truth in world.checkers.truth.values())
    world.collect()
    acked = len(world.checkers.finished)
    return Outcome(seed, error, world.trace_hash, world.coverage, acked, world.lines or [])


def where(error: BaseException) -> str:
    """The line that raised it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""


def _live(world: World) -> None:
    for node in world.nodes.values():
        world.after(world.random.uniform(0, 0.05), lambda node=node: world.boot(node))  # type: ignore[misc]
    clients: list[Client] = []
    requests = world.random.choice((15, 40))

    def arrive() -> None:
        for group in world.placements:
            for number in range(2):
                clients.append(Client(world, f"s{group}{number}", group, requests))

    world.after(0.3, arrive)
    if world.operated:
        Operator(world)
    nemesis: list[Nemesis] = []
    world.after(world.random.uniform(0.2, 0.8), lambda: nemesis.append(Nemesis(world)))
    world.run_until(FAULTS_S)
    for each in nemesis:
        each.stopped = True
    world.heal()
    world.archive.down = False
    world.run_until(FAULTS_S + HEALED_S, lambda: all(client.done for client in clients))
    world.heal()
    world.checkers.check_finished(clients)
    _settle(world)
    world.checkers.check_history()


def _settle(world: World) -> None:
    """Silence, until all replicas are equal: an operator may still be at work, or a node asleep."""
    for _ in range(int(HEALED_S / QUIET_S)):
        world.run_until(world.now + QUIET_S)
        with suppress(Violation):
            world.checkers.check_converged()
            return
    world.checkers.check_converged()
