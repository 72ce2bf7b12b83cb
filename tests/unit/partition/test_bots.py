"""Bots: sessions without clients, that speak, listen and survive like others, exactly once."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import Context, Object, Plugin
from partition.assembly import assemble
from partition.testing import Client, TestWorld

plugin = Plugin("zoo", version="1.0.0")


@plugin.kind("cage")
class Cage(Object):
    beats: int = 0


@plugin.kind("keeper")
class Keeper(Object):
    heard: list[str] = []  # noqa: RUF012


@plugin.method("zoo.open")
def open_zoo(ctx: Context, me: Keeper, room: str, listens: bool = True) -> None:
    for name in ("parrot", "owl"):
        ctx.bot(name).join(room, hears=hear if listens else None)


@plugin.method("zoo.say")
def say(ctx: Context, me: Keeper, room: str, text: str) -> None:
    ctx.bot("parrot").send(room, text=text)
    ctx.bot("parrot").update(room, "mood", text)


@plugin.method("zoo.close")
def close(ctx: Context, me: Keeper, name: str, room: str = "") -> None:
    if room:
        ctx.bot(name).leave(room)
    else:
        ctx.bot(name).remove()


@plugin.method("zoo.cage")
def cage(ctx: Context, me: Keeper) -> None:
    ctx.objects.create(Cage, near=me)


@plugin.method("zoo.badly")
def badly(ctx: Context, me: Keeper) -> None:
    ctx.bot("parrot").join("den", hears=wrong)


@plugin.internal
def hear(ctx: Context, me: Keeper, room: str, sender: str, fields: dict[str, Any]) -> None:
    me.heard.append(f"{sender}: {fields['text']}")
    ctx.room(room).send(text=f"{fields['text']}!")


@plugin.internal
def wrong(ctx: Context, me: Keeper, colour: str) -> None: ...


@plugin.every(hz=2, kind=Cage)
def beat(ctx: Context) -> None:
    for one in ctx.objects.where(Cage):
        one.beats += 1
        ctx.bot("parrot").send("den", text=f"beat {one.beats}")


@pytest.fixture
def world() -> TestWorld:
    return TestWorld([plugin], partitions=3)


@pytest.fixture
def ann(world: TestWorld) -> Client:
    client = world.login("ann")
    client.call("room.join", room="den")
    client.call("zoo.open", room="den")
    return client


def said(client: Client) -> list[tuple[str, str]]:
    return [(e["from"], e["text"]) for e in client.events() if e["msg"] == "room.message"]


def kept(world: TestWorld) -> list[tuple[str, str]]:
    """What was said, from the room's history."""
    world.crash_after(10**9)
    late = world.login(f"late{len(world.steps)}")
    late.call("room.join", room="den", history=256)
    found = said(late)
    late.call("logout")
    return found


def test_a_bot_is_a_member_and_speaks_in_its_own_name(world: TestWorld, ann: Client) -> None:
    assert ann.call("room.who", room="den")["members"] == ["ann", "owl", "parrot"]
    ann.call("zoo.say", room="den", text="hello")
    assert said(ann) == [("parrot", "hello")]
    world.advance(0.1)
    changes = [change for e in ann.events() if e["msg"] == "room.state" for change in e["changes"]]
    assert changes == [{"from": "parrot", "key": "mood", "value": "hello"}]
    ann.call("zoo.say", room="elsewhere", text="lost")
    ann.call("zoo.close", name="owl", room="den")
    assert ann.call("room.who", room="den")["members"] == ["ann", "parrot"]
    ann.call("zoo.close", name="parrot")
    assert ann.call("room.who", room="den")["members"] == ["ann"]
    world.check()


def test_bots_hear_people_and_not_each_other(world: TestWorld, ann: Client) -> None:
    ann.call("room.send", room="den", text="hi")
    assert sorted(said(ann)) == [("ann", "hi"), ("owl", "hi!"), ("parrot", "hi!")]
    assert sorted(row["heard"] for row in world.all(Keeper).values() if row["heard"]) == [["ann: hi"]] * 2
    ann.call("zoo.open", room="den", listens=False)
    ann.call("room.send", room="den", text="still?")
    assert said(ann) == [("ann", "still?")]


def test_a_callback_that_cannot_hear_is_refused_where_it_is_given(world: TestWorld, ann: Client) -> None:
    assert ann.call("zoo.badly")["error"] == "plugin_error"
    assert "colour" in next(iter(world.incidents.values()))


@pytest.mark.parametrize("step", range(1, 14))
def test_whoever_dies_a_bot_stays_and_everything_is_said_once(
    world: TestWorld, ann: Client, step: int
) -> None:
    world.crash_after(step)
    ann.call("room.send", room="den", text="hi")
    ann.call("zoo.say", room="den", text="ho")
    assert sorted(kept(world)) == [("ann", "hi"), ("owl", "hi!"), ("parrot", "hi!"), ("parrot", "ho")]
    assert ann.call("room.who", room="den")["members"] == ["ann", "owl", "parrot"]
    world.advance(600)
    assert ann.call("room.who", room="den")["members"] == ["ann", "owl", "parrot"], "bots do not expire"
    world.check()


def test_a_tick_may_act_as_a_bot_and_does_once(world: TestWorld, ann: Client) -> None:
    ann.call("zoo.cage")
    world.crash_after(4)
    world.advance(5)
    beats = [text for _, text in kept(world)]
    assert beats == [f"beat {number}" for number in range(1, len(beats) + 1)] and 9 <= len(beats) <= 11


def test_the_name_of_a_bot_is_still_a_users(world: TestWorld, ann: Client) -> None:
    owls = [world.login("owl") for _ in range(3)]
    assert owls[0].call("room.join", room="den")["status"] == 0
    assert ann.call("room.who", room="den")["members"] == ["ann", "owl", "parrot"]
    owls[0].call("logout")
    assert ann.call("room.who", room="den")["members"] == ["ann", "owl", "parrot"]


def test_bots_of_a_plugin_that_is_detached_go(world: TestWorld, ann: Client) -> None:
    for group in world._cluster.groups:
        group.dispatcher.use(assemble([]))
    world.advance(6)
    assert ann.call("room.who", room="den")["members"] == ["ann"]
