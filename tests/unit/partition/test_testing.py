"""TestWorld: what a plugin's author may rely on, and that it would notice."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import ClientError, Context, Object, Plugin, Ref, Refused, Reply, Result
from connserver.ids import named_id
from partition.testing import TestWorld

plugin = Plugin("game", version="1")
kept: list[Any] = []


@plugin.kind("player")
class Player(Object):
    score: int = 0
    fired: list[float] = []  # noqa: RUF012


@plugin.kind("note", index=["text"])
class Note(Object):
    text: str = ""


@plugin.method("game.add")
def add(ctx: Context, me: Player, points: int) -> dict[str, int]:
    me.score += points
    return {"score": me.score}


@plugin.method("game.pass")
def pass_on(ctx: Context, me: Player, to: Ref[Player], points: int) -> Reply:
    me.score -= points
    return ctx.call(to, gain, points=points, then=passed)


@plugin.internal
def gain(ctx: Context, me: Player, points: int) -> None:
    if points > 5:
        raise Refused("game.too_much")
    me.score += points
    ctx.tell(me, "game.gained", points=points)


@plugin.internal
def passed(ctx: Context, me: Player, result: Result, points: int) -> Result:
    if not result.ok:
        me.score += points
    return result


@plugin.method("game.later")
def later(ctx: Context, me: Player) -> None:
    ctx.timer("bell").set(ring, after_s=2)


@plugin.internal
def ring(ctx: Context, me: Player) -> None:
    me.fired.append(ctx.now)


@plugin.method("game.fetch")
def fetch(ctx: Context, me: Player, number: int) -> None:
    ctx.background(double, then=doubled, number=number)


@plugin.background
def double(number: int) -> int:
    if number > 100:
        raise ValueError("too large")
    return number * 2


@plugin.internal
def doubled(ctx: Context, me: Player, result: Result) -> None:
    me.score = result.value if result.ok else -1  # type: ignore[assignment]


@plugin.method("game.fail")
def fail(ctx: Context, me: Player) -> None:
    kept.append(me)
    raise RuntimeError("a bug")


@pytest.fixture
def world() -> TestWorld:
    return TestWorld([plugin])


def test_calls_give_replies_as_clients_see_them(world: TestWorld) -> None:
    ann = world.login("ann")
    assert ann.call("game.add", points=2) == {"msg": "game.add", "id": 1, "status": 0, "score": 2}
    assert world.call(ann, "game.add", points="x")["error"] == "bad_argument"
    assert ann.call("hello")["protocol"] == 1
    assert world.fields(ann)["score"] == world.fields(named_id("user", "ann"))["score"] == 2


def test_events_are_those_since_last_asked(world: TestWorld) -> None:
    ann, dora = world.login("ann"), world.login("dora")
    ann.call("game.pass", to=dora, points=3)
    (event,) = world.events(dora)
    assert (event["msg"], event["points"]) == ("game.gained", 3) and world.events(dora) == []


def test_time_passes_only_by_advance(world: TestWorld) -> None:
    ann = world.login("ann")
    ann.call("game.later")
    world.advance(1.9)
    assert world.fields(ann)["fired"] == []
    world.advance(0.2)
    assert world.fields(ann)["fired"] == [pytest.approx(1e9 + 2, abs=0.06)]


def test_timers_and_objects_survive_a_crash(world: TestWorld) -> None:
    ann = world.login("ann")
    world.crash_after(1)
    assert ann.call("game.later")["status"] == 0
    world.advance(2.1)
    assert len(world.fields(ann)["fired"]) == 1


def test_background_work_comes_back(world: TestWorld) -> None:
    ann = world.login("ann")
    ann.call("game.fetch", number=4)
    assert world.fields(ann)["score"] == 8
    ann.call("game.fetch", number=400)
    assert world.fields(ann)["score"] == -1


@pytest.mark.parametrize("to", ["bob", "dora"])
@pytest.mark.parametrize("points", [3, 9])
@pytest.mark.parametrize("step", range(1, 7))
def test_each_request_runs_once_whenever_a_worker_dies(to: str, points: int, step: int) -> None:
    world = TestWorld([plugin])
    ann, other = world.login("ann"), world.login(to)
    world.crash_after(step)
    replies = [ann.call("game.pass", to=other, points=points) for _ in range(2)]
    assert [reply["status"] for reply in replies] == ([0, 0] if points == 3 else [1, 1])
    total = 2 * points if points == 3 else 0
    assert (world.fields(ann)["score"], world.fields(other)["score"]) == (-total, total)
    assert len(other.events()) == (2 if points == 3 else 0)
    world.check()


def test_a_failed_callback_is_an_incident(world: TestWorld) -> None:
    ann = world.login("ann")
    reply = ann.call("game.fail")
    assert "RuntimeError: a bug" in world.incidents[str(reply["incident"])]
    with pytest.raises(AssertionError, match="a bug"):
        world.check()


def test_an_object_used_after_its_call_is_noticed(world: TestWorld) -> None:
    ann = world.login("ann")
    ann.call("game.fail")
    kept[-1].score = 99
    with pytest.raises(AssertionError, match="keep a Ref"):
        ann.call("game.add", points="x")


def test_operators_writes_are_checked(world: TestWorld) -> None:
    ann = world.login("ann")
    oid = world.create(Note, near=ann, text="x")
    assert world.all(Note) == world.all("note") == {oid: {"text": "x"}}
    world.put(oid, text="y")
    assert world.fields(oid) == {"text": "y"}
    with pytest.raises(ClientError, match="text is wanted"):
        world.put(oid, text=5)
    with pytest.raises(KeyError):
        world.fields(5)


def test_a_run_is_the_same_when_it_is_run_again() -> None:
    def run() -> Any:
        world = TestWorld([plugin], seed=4)
        ann, dora = world.login("ann"), world.login("dora")
        world.crash_after(2)
        return [ann.call("game.pass", to=dora, points=1), dora.events(), world.steps]

    assert run() == run()
