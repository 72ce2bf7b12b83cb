"""The failure matrix on real processes: each row once, under load, judged from the bytes.

One world of three nodes with folders and network namespaces of their own for all; each trial has users and
rooms of its own and leaves the cluster in full. `scripts/chaos` does the same for hours, in any combination.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip.replica_state import Timing
from tests.failures import crowd, faults, faults_network, faults_storage, network, trial
from tests.failures.faults import Fault
from tests.failures.inventory import OWN_KINDS, PLACES, RISING, Settlement, differences, inventory
from tests.failures.judge import Demand
from tests.failures.nodes import World, new_world
from tests.failures.reading import read
from tests.failures.tampering import read_log
from tests.failures.transcript import OPENED
from tests.failures.workloads import home
from tests.integration.cluster import wait_for

pytestmark = pytest.mark.integration

FULL_S = 60.0
TRUNCATED = Timing().tail_entries * 5 // 4 + 1_000
"""Entries of a log that has been cut: its tail, the step in which it is cut, and what is not archived yet."""
KEEP = os.environ.get("FAILURES_KEEP", "")
"""A folder for the transcripts of trials that did not hold."""
CROWD = 100
START_MS = 60_000
"""All three nodes start at once on one machine, and clients find them again."""
_numbers = itertools.count(1)
NO_STALL_MS = 5_000
"""A fault that needs no failover: what a busy machine may add to nothing."""
FAILOVER_MS = 20_000
"""A failover, with a new process where one died; measured in `scripts/chaos --pauses`."""
ON_ITS_WAY_S = 0.25
"""An answer that had committed before a strike may come so long after it."""


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    """The module's world, up."""
    with new_world() as world:
        yield world.up()


@pytest.fixture
def world(running: World) -> World:
    """The same, in full, and with no supervisor about to give a process up."""
    running.rest()
    wait_for("a cluster in full", running.in_full, FULL_S)
    return running


def named(fault: Fault) -> str:
    """A test's id."""
    return fault.name


def holds(
    world: World, fault: Fault, most_ms: float = FAILOVER_MS, *, group: int = 0, workload: str = "mixed"
) -> trial.Result:
    """Carry a trial out; it has to bite, to hold, and to end within its pause (plus what the fault lasts)."""
    if fault.needs_cuts and not network.possible():
        pytest.skip("needs network namespaces, which only root may make")
    fault.target_group = group
    tag = f"m{next(_numbers)}"
    result = trial.run(world, workload, fault, tag=tag, period_s=0.1, demand=Demand(least_acked=1_000))
    if not result.good and KEEP:
        trial.save(result, Path(KEEP))
    assert not result.bite, result.bite
    assert result.verdict.good, "\n".join([result.row(), *result.verdict.reasons])
    assert max(result.pauses_ms) < most_ms + 1000 * fault.hold_s, result.row()
    return result


# --- backups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [faults.KillBackupWorker(), faults.StopBackupNode(1.0), faults_network.IsolateBackup(1.0)],
    ids=named,
)
def test_a_backup_that_is_killed_paused_or_cut_off_stalls_nobody(world: World, fault: Fault) -> None:
    """Clients of its gateway and of groups that it leads may wait; those of the group it backs up do not."""
    assert isinstance(fault, faults.KillBackupWorker | faults.StopBackupNode | faults_network.IsolateBackup)
    fault.groups = frozenset({0})
    holds(world, fault, NO_STALL_MS)


# --- primaries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [faults.KillWorker(), faults.KillGossip(), faults.KillNode(), faults.KillParts()], ids=named
)
def test_a_primary_that_is_killed_loses_and_doubles_nothing(world: World, fault: Fault) -> None:
    result = holds(world, fault, group=1)
    assert result.failovers >= 1, result.row()


@pytest.mark.parametrize(
    "fault",
    [
        faults.StopWorker(1.0),
        faults.StopGossip(1.0),
        faults.StopNode(1.5),
        faults.ShortStops((0.05, 0.15, 0.3)),
    ],
    ids=named,
)
def test_a_primary_that_was_paused_rolls_back_what_it_did_alone(world: World, fault: Fault) -> None:
    holds(world, fault, group=2)


def test_workers_that_die_one_after_the_other_in_the_midst_of_a_busy_room(world: World) -> None:
    """Group 3 is the home of a room with members on all gateways; each hears each event once, in order."""
    result = holds(world, faults.RestartLoop(), START_MS, group=3)
    assert result.failovers >= 3, result.row()
    talkers = {part.number: part for part in result.transcript.parts if part.role == "talker"}
    assert 3 in {home("room", part.room, world.groups) for part in talkers.values()}
    begun: dict[str, set[bytes]] = {part.room: set() for part in talkers.values()}
    for record in result.transcript.records:
        if record.what == OPENED and record.connection == 1 and record.client in talkers:
            begun[talkers[record.client].room].add(record.data)
    assert [len(gateways) for gateways in begun.values()] == [3] * len(begun)


def test_a_node_that_dies_while_a_new_primary_is_agreed_on(world: World) -> None:
    holds(world, faults.KillInViewChange())


# --- the network ---------------------------------------------------------------------------------------


def test_what_an_isolated_primary_does_counts_for_nothing(world: World) -> None:
    """Its clients still reach it, and read and write; what it says must hold all the same."""
    result = holds(world, faults_network.Isolate(1.5), workload="counter")
    assert result.failovers >= 1, result.row()


@pytest.mark.parametrize(
    "fault",
    [
        faults_network.Mute(1.5),
        faults_network.Deaf(1.5),
        faults_network.OneWay(1.5),
        faults_network.LinkDown(1.5),
        faults_network.Flapping(4),
    ],
    ids=named,
)
def test_a_network_that_is_half_broken_locks_nobody_out(world: World, fault: Fault) -> None:
    holds(world, fault, group=1)


def test_without_a_majority_nothing_is_done(world: World) -> None:
    holds(world, faults_network.Apart(1.0))


# --- disks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [faults.LoseDisk(), faults.LosePrimaryDisk()], ids=named)
def test_a_node_whose_disk_was_replaced_comes_back(world: World, fault: Fault) -> None:
    fault.hold_s = 0.5
    holds(world, fault)


def test_a_disk_lost_while_another_node_is_down_makes_groups_unavailable_and_not_wrong(world: World) -> None:
    fault = faults.LoseDiskAndNode()
    result = holds(world, fault, START_MS)
    begin, end = fault.alone
    begin += ON_ITS_WAY_S
    answered = [at for one in read(result.transcript) for at in one.ack_times() if begin < at < end]
    assert end - begin > fault.hold_s and not answered, "something was answered without a majority"


@pytest.mark.timeout(120)
def test_everything_is_there_after_all_was_killed_at_once(world: World) -> None:
    """Under load: objects, sessions, kept replies, rooms, calls under way and timers."""
    holds(world, faults.KillAll(), START_MS)


@pytest.mark.timeout(240)
def test_everything_is_there_after_the_logs_were_cut_and_all_was_killed(world: World) -> None:
    """Every object of every kind is compared, and each client's view of what it was told."""
    assert trial.fill(world, TRUNCATED, "fill"), world.commits()
    with contextlib.closing(Settlement(world, "everything")) as settlement:
        before = inventory(world)
        assert {kind for kind, _ in before.values()} >= {*OWN_KINDS, *PLACES, *RISING, "cs.timer", "cs.room"}
        everyone = [mark for node in world.nodes.values() for mark in node.everyone()]
        settlement.leave_things_open()
        world.kill_all(everyone)
        for name, node in world.nodes.items():
            bases = {group: durable.base for group, durable in read_log(node.folder / "log").items()}
            assert len(bases) == world.groups and min(bases.values()) > 0, f"not all cut on {name}: {bases}"
        world.up()
        changed = differences(before, inventory(world))
        assert not changed, "\n".join(changed[:20])
        settlement.check()


# --- PostgreSQL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [faults_storage.PostgresDown(), faults_storage.PostgresSilent()], ids=named)
def test_calls_go_on_without_postgres(world: World, fault: Fault) -> None:
    fault.hold_s = 1.5
    result = holds(world, fault, NO_STALL_MS - 1000 * fault.hold_s)
    assert result.failovers == 0, result.row()


def test_a_worker_can_be_replaced_without_postgres(world: World) -> None:
    holds(world, faults_storage.PostgresDownKillWorker(), group=2)


# --- gateways ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [faults.KillGateway(), faults.StopGateway(3.0)], ids=named)
def test_clients_of_a_dead_gateway_go_on_through_another(world: World, fault: Fault) -> None:
    result = holds(world, fault)
    assert result.failovers == 0, result.row()


def test_a_gateway_that_dies_with_a_crowd_on_it_costs_nobody_anything(world: World) -> None:
    """Full windows of what must not be done twice, and rooms; `scripts/chaos --crowd 500` has more."""
    result = crowd.run(world, CROWD, tag="crowd")
    assert not result.bite, result.bite
    assert result.verdict.good, "\n".join([result.row(), *result.verdict.reasons])
