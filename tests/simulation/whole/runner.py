"""One seed of the whole world from start to verdict."""

from __future__ import annotations

from contextlib import suppress

from tests.simulation.checkers import Violation
from tests.simulation.runner import Outcome, where
from tests.simulation.whole.bots import Bot
from tests.simulation.whole.environment import surroundings
from tests.simulation.whole.nemesis import WholeNemesis
from tests.simulation.whole.probes import counting
from tests.simulation.whole.world import WholeWorld

FAULTS_S = 4.0
HEALED_S = 25.0
QUIET_S = 1.5
USERS = 2
"""Of each group."""

MINIMA = {
    "worlds_whole": 1, "worlds_expiring": 1, "resumes": 1, "resumes_with_replay": 1, "rooms_resumed": 1,
    "duplicates_answered": 1, "duplicates_in_progress": 1, "outputs_replayed": 1, "parcels_resent": 1,
    "cursors_refused": 1, "parked": 1, "timers_fired": 1, "timers_after_failover": 1, "expiries": 1,
    "bots_expired": 1, "gateway_deaths_with_requests": 1, "gateway_killed_alone": 1, "gateways_stopped": 1,
    "workers_stopped": 1, "worker_killed": 1, "worker_began_anew": 1, "connections_broken": 1,
    "connections_stalled": 1, "clients_gone": 1, "archived": 1, "archive_fenced": 1, "handoffs": 1,
}  # fmt: skip
"""What a batch must have reached at least once; a zero means that the checks checked nothing."""


def run(seed: int, trace: bool = False) -> Outcome:
    """Run one seed; never raises for what the cluster does."""
    world = WholeWorld(seed, trace)
    error = ""
    bots: list[Bot] = []
    with surroundings(world), counting(world):
        try:
            _live(world, bots)
        except Violation as violation:
            error = f"violation: {violation}"
        except AssertionError as failed:
            error = f"invariant: {failed!r}{where(failed)}"
        except Exception as broken:
            error = f"crash: {broken!r}{where(broken)}"
        world.end()
    world.note(error or "held")
    world.coverage["worlds_whole"] += 1
    world.coverage["worlds_expiring"] += world.settings.expires
    world.coverage["whole_virtual_ms"] += int(world.now * 1000)
    world.coverage["committed_ops"] += sum(len(truth) for truth in world.checkers.truth.values())
    world.collect()
    acked = sum(1 for bot in bots for asked in bot.asked if asked.reply)
    return Outcome(seed, error, world.trace_hash, world.coverage, acked, world.lines or [])


def _live(world: WholeWorld, bots: list[Bot]) -> None:
    for node in world.nodes.values():
        world.after(world.random.uniform(0, 0.05), lambda node=node: world.boot(node))  # type: ignore[misc]
    plan = world.random.choice((30, 60))
    world.after(0.3, lambda: arrive(world, bots, plan))
    nemesis: list[WholeNemesis] = []
    world.after(world.random.uniform(0.5, 1.2), lambda: nemesis.append(WholeNemesis(world, bots)))
    world.run_until(FAULTS_S)
    for each in nemesis:
        each.stopped = True
    world.heal()
    world.run_until(FAULTS_S + HEALED_S, lambda: bool(bots) and all(bot.done for bot in bots))
    world.heal()
    for bot in bots:
        if not bot.done:
            world.judge.violation(f"{bot.user} still waits for {[a.message for a in bot.open.values()]}")
    _settle(world, bots)
    world.judge.check_whole(bots)


def arrive(world: WholeWorld, bots: list[Bot], plan: int) -> None:
    """The clients come."""
    settings = world.settings
    users = [user for group in world.placements for user in settings.names("user", group, USERS)]
    rooms = [name for group in world.placements for name in settings.names("room", group, 1)]
    for user in users:
        bots.append(Bot(world, user, [other for other in users if other != user], rooms, plan))
    for group in world.placements:
        bots.append(Bot(world, settings.names("user", group, 1)[0], [], [], plan, watches=True))


def _settle(world: WholeWorld, bots: list[Bot]) -> None:
    """Silence, until nothing is on its way any more and all replicas are equal."""
    for _ in range(int(HEALED_S / QUIET_S)):
        world.run_until(world.now + QUIET_S)
        if world.judge.still_pending() or not all(bot.done for bot in bots):
            continue
        with suppress(Violation):
            world.judge.check_converged()
            return
    world.judge.check_converged()
