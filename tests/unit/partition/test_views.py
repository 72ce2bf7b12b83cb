"""`ctx.view`: what a session sees of its rooms, wherever the session, the senders and the rooms live."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import Context, Object, Plugin
from connserver.messages import RequestKind
from partition.assembly import assemble
from tests.unit.partition.shards import Shards
from tests.unit.partition.test_group import user_in

plugin = Plugin("sight", version="1.0.0")


@plugin.method("sight.move")
def move(ctx: Context, me: Object, x: float, y: float = 0.0) -> None:
    ctx.room("field").update("pos", [x, y], at=(x, y))


@plugin.method("sight.look")
def look(ctx: Context, me: Object, x: float, radius: float) -> None:
    ctx.view((x, 0), radius)


@plugin.method("sight.all")
def look_at_all(ctx: Context, me: Object) -> None:
    ctx.view(None)


@plugin.method("sight.badly")
def badly(ctx: Context, me: Object, what: str) -> None:
    match what:
        case "place":
            ctx.view((float("nan"), 0), 5)
        case "radius":
            ctx.view((0, 0), -1)
        case "at":
            ctx.room("field").update("pos", 1, at=(float("inf"), 0))
        case "large":
            ctx.room("field").update("pos", "x" * 9000)


NAMES = (user_in(0, beginning="seer"), user_in(1, beginning="mover"), user_in(0, beginning="walker"))


@pytest.fixture
def shards() -> Shards:
    found = Shards(assemble([plugin]))
    for connection, name in enumerate(NAMES, start=1):
        found.login(connection, name)
        found.call(connection, "room.join", room="field", id=1)
        found.events(connection)
    return found


def seen(shards: Shards, connection: int) -> dict[str, Any]:
    """The changes that came within a tick, by sender."""
    shards.advance(0.1)
    states = [event for event in shards.events(connection) if event["msg"] == "room.state"]
    return {change["from"]: change["value"] for state in states for change in state["changes"]}


def test_a_view_filters_what_comes_from_any_group_and_costs_no_commit(shards: Shards) -> None:
    _, mover, walker = NAMES
    before = [len(group.store) for group in shards.members]
    shards.call(1, "sight.look", x=0, radius=10)
    shards.call(2, "sight.move", x=50)
    shards.call(3, "sight.move", x=5)
    assert seen(shards, 1) == {walker: [5.0, 0.0]}
    assert seen(shards, 2) == {mover: [50.0, 0.0], walker: [5.0, 0.0]}
    shards.call(2, "sight.move", x=6)
    assert seen(shards, 1) == {mover: [6.0, 0.0]}
    shards.call(2, "sight.move", x=60)
    assert seen(shards, 1) == {mover: None}
    shards.call(1, "sight.look", x=60, radius=10)
    assert seen(shards, 1) == {mover: [60.0, 0.0], walker: None}
    shards.call(1, "sight.all")
    assert seen(shards, 1) == {walker: [5.0, 0.0]}
    assert [len(group.store) for group in shards.members] == before


def test_a_view_counts_for_rooms_that_are_joined_later(shards: Shards) -> None:
    shards.call(2, "sight.move", x=500)
    shards.call(1, "room.leave", room="field", id=2)
    shards.call(1, "sight.look", x=0, radius=10)
    shards.events(1)
    shards.call(1, "room.join", room="field", id=3)
    assert seen(shards, 1) == {}
    shards.call(2, "sight.move", x=1)
    assert seen(shards, 1) == {NAMES[1]: [1.0, 0.0]}


@pytest.mark.parametrize("lost", [0, 1])
def test_a_view_survives_the_death_of_either_worker(shards: Shards, lost: int) -> None:
    shards.call(1, "sight.look", x=0, radius=10)
    shards.advance(6)
    for connection in (1, 2, 3):
        shards.events(connection)
    shards.reload(lost)
    shards.call(2, "sight.move", x=50)
    shards.call(3, "sight.move", x=5)
    assert seen(shards, 1) == {NAMES[2]: [5.0, 0.0]}
    shards.call(1, "room.leave", room="field", id=2)
    shards.events(1)
    shards.call(1, "room.join", room="field", id=3)
    assert seen(shards, 1) == {NAMES[2]: [5.0, 0.0]}


def test_a_move_with_each_tick_writes_a_view_once_in_five_seconds(shards: Shards) -> None:
    shards.advance(6)
    commits = 0
    for step in range(100):
        shards.call(1, "sight.look", x=step, radius=10)
        shards.now += 0.1
        for group in shards.members:
            group.tick(shards.now)
            commits += bool(group.end_turn().entry)
    # the session's and the room's group, twice in ten seconds
    assert 1 <= commits <= 6


def test_a_view_or_place_that_is_none_is_the_plugins_mistake(shards: Shards) -> None:
    for what in ("place", "radius", "at", "large"):
        assert shards.call(1, "sight.badly", what=what)["error"] == "plugin_error"
    assert len(shards.incidents) == 4 and "is no radius" in shards.incidents[1]


def test_a_client_that_comes_back_gets_all_it_sees_now(shards: Shards) -> None:
    token = shards.login(4, NAMES[0])["resume"]
    shards.call(4, "room.join", room="field", id=1)
    shards.call(4, "sight.look", x=0, radius=10)
    shards.call(2, "sight.move", x=5)
    shards.call(3, "sight.move", x=55)
    shards.advance(0.1)
    shards.home[5] = shards.home[4]
    resume = {"resume": token, "rooms": [], "message": {"msg": "session.resume"}}
    shards.send(5, RequestKind.RESUME, resume)
    states = [event for event in shards.events(5) if event.get("msg") == "room.state"]
    assert [(state["all"], [c["from"] for c in state["changes"]]) for state in states] == [(True, [NAMES[1]])]
