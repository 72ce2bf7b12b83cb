"""What happens by time: one commit for a whole tick, missed ticks skipped, timers once whoever dies."""

from __future__ import annotations

import pytest

from connserver import Context, Object, Plugin
from connserver.ids import partition_of
from partition.testing import TestWorld

plugin = Plugin("clock", version="1.0.0")


@plugin.kind("hand")
class Hand(Object):
    turns: int = 0
    passed: float = 0.0
    rings: int = 0


@plugin.every(hz=2)
def turn(ctx: Context) -> None:
    for hand in ctx.objects.where(Hand):
        hand.turns += 1
        hand.passed += ctx.dt


@plugin.internal
def ring(ctx: Context, me: Hand) -> None:
    me.rings += 1


@plugin.internal
def wind(ctx: Context, me: Hand) -> None:
    ctx.timer("bell").set(ring, after_s=1)


@plugin.method("clock.wind")
def wind_all(ctx: Context, me: Object, hand: str) -> None:
    ctx.call(hand, wind)


@pytest.fixture
def world() -> TestWorld:
    return TestWorld([plugin], partitions=2)


def spread(world: TestWorld) -> list[str]:
    """Hands in eight partitions, four of each group."""
    return [world.create(Hand, near=partition) for partition in (1, 2, 3, 4, 40_001, 40_002, 40_003, 40_004)]


def test_a_tick_is_one_commit_for_all_partitions_of_a_group(world: TestWorld) -> None:
    hands = spread(world)
    assert len({partition_of(int(hand, 16)) for hand in hands}) == 8
    world.advance(0.6)
    before = len(world.steps)
    world.advance(1.0)
    turns = [world.fields(hand)["turns"] for hand in hands]
    world.advance(0.5)
    after = [world.fields(hand)["turns"] for hand in hands]
    assert [now - then for now, then in zip(after, turns, strict=True)] == [1] * 8
    commits = world.steps[before:]
    assert [step.group for step in commits].count(0) == [step.group for step in commits].count(1) == 3


def test_ticks_that_were_missed_are_skipped_and_dt_says_so(world: TestWorld) -> None:
    hand = world.create(Hand, near=1)
    world.advance(1.0)
    before = world.fields(hand)
    world._cluster.now += 30
    world.advance(0.5)
    after = world.fields(hand)
    assert after["turns"] - before["turns"] <= 2
    assert 30 <= after["passed"] - before["passed"] <= 31


def test_a_timer_rings_once_whoever_dies_after_whatever_commit(world: TestWorld) -> None:
    ann = world.login("ann")
    hand = world.create(Hand, near=1)

    def action() -> None:
        ann.call("clock.wind", hand=hand)
        world.advance(3)

    for step in world.steps_of(action):
        assert world.fields(hand)["rings"] == 1, step
    world.check()
