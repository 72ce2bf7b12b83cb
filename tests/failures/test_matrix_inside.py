"""Rows of the failure matrix that need a hand inside the processes: clocks, lost publications, installs.

The program is the shipped one with points put in that do nothing until a test says so; see `tampering`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.failures import faults_inside
from tests.failures.nodes import World, tampered_world
from tests.failures.tampering import COMPILER
from tests.failures.test_matrix import FULL_S, NO_STALL_MS, holds, named
from tests.integration.cluster import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    """The module's world, up."""
    with tampered_world() as world:
        yield world.up()


@pytest.fixture
def world(running: World) -> World:
    """The same, in full, and with no supervisor about to give a process up."""
    running.rest()
    wait_for("a cluster in full", running.in_full, FULL_S)
    return running


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler for the clock")
def test_a_clock_that_is_set_changes_nothing(world: World) -> None:
    """Timers ring once and in time, sessions stay, and nobody gives anybody up."""
    fault = faults_inside.ClockJumps()
    result = holds(world, fault, NO_STALL_MS - 1000 * fault.hold_s)
    assert result.failovers == 0, result.row()


def test_what_publishing_loses_is_asked_for_again(world: World) -> None:
    fault = faults_inside.PublishedLost()
    holds(world, fault, NO_STALL_MS - 1000 * fault.hold_s)


@pytest.mark.parametrize(
    "fault", [faults_inside.DieInInstall(), faults_inside.DieReplacingTail(1.5)], ids=named
)
def test_a_node_that_dies_while_it_writes_a_log_down_keeps_the_one_before(
    world: World, fault: faults_inside.Fault
) -> None:
    """What is on its disk is read as a restart reads it: all of the new log, or all of the old one."""
    fault.hold_s = min(fault.hold_s, 1.5)
    holds(world, fault, group=1)
