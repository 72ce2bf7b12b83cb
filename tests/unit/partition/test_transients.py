"""Transient fields: they cost no commit, and a new primary begins with what they were a while ago."""

from __future__ import annotations

import pytest

from connserver import Context, Object, Plugin, Ref, transient
from partition.testing import TestWorld
from partition.transients import TRANSIENT

plugin = Plugin("drift", version="1.0.0")


@plugin.kind("boat")
class Boat(Object):
    name: str = ""
    x: float = transient(0.0)
    wake: list[float] = transient([])
    target: Ref[Object] | None = transient(None)


@plugin.method("boat.move")
def move(ctx: Context, me: Boat, x: float) -> None:
    me.x = x
    me.wake.append(x)
    me.target = me.ref


@plugin.method("boat.fill")
def fill(ctx: Context, me: Boat, count: int) -> None:
    me.wake = [0.5] * count


@plugin.method("boat.paint")
def paint(ctx: Context, me: Boat, name: str) -> None:
    me.name = name


@pytest.fixture
def world() -> TestWorld:
    return TestWorld([plugin], partitions=1)


def crash(world: TestWorld) -> None:
    """Whoever commits next dies; the client's request then runs at the worker that follows."""
    stranger = world.login("stranger")
    world.crash_after(1)
    assert stranger.call("boat.paint", name=f"at {len(world.steps)}")["status"] == 0


def snapshots(world: TestWorld) -> int:
    return len(list(world._cluster.groups[0].store.images(TRANSIENT)))


def test_a_new_primary_begins_with_what_they_were_some_seconds_ago(world: TestWorld) -> None:
    ann = world.login("ann")
    ann.call("boat.move", x=7.5)
    world.advance(6)
    steps = len(world.steps)
    ann.call("boat.move", x=9.5)
    assert len(world.steps) == steps, "a move alone is no commit"
    crash(world)
    fields = world.fields(ann)
    assert (fields["x"], fields["wake"]) == (7.5, [7.5])
    assert isinstance(fields["target"], Ref) and fields["target"] == ann.oid
    world.check()


def test_a_hundred_moves_are_one_snapshot_and_none_follows_where_nothing_changes(world: TestWorld) -> None:
    boats = [world.login(f"user{number}") for number in range(10)]
    world.advance(6)
    steps = len(world.steps)
    for step in range(100):
        for boat in boats:
            boat.call("boat.move", x=step)
        world.advance(0.05)
    assert 1 <= len(world.steps) - steps <= 2, "one entry for all in five seconds"
    world.advance(6)
    steps = len(world.steps)
    world.advance(20)
    assert len(world.steps) == steps


def test_what_is_as_in_a_new_object_or_too_large_is_not_kept(world: TestWorld) -> None:
    ann = world.login("ann")
    ann.call("boat.paint", name="gull")
    world.advance(6)
    assert snapshots(world) == 0
    ann.call("boat.fill", count=20_000)
    world.advance(6)
    assert snapshots(world) == 0
    crash(world)
    assert world.fields(ann)["wake"] == []


def test_a_snapshot_goes_with_its_object_and_survives_a_second_failover(world: TestWorld) -> None:
    guest = world.login("guest-1", roles=["guest"])
    ann = world.login("ann")
    for client in (guest, ann):
        client.call("boat.move", x=3)
    world.advance(6)
    guest.call("logout")
    world.advance(6)
    crash(world)
    crash(world)
    assert world.fields(ann)["x"] == 3
    ann.call("boat.move", x=4)
    world.advance(6)
    crash(world)
    assert world.fields(ann)["x"] == 4
    assert snapshots(world) == 1
    world.check()
