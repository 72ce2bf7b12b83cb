"""TestWorld: what a plugin's author may rely on, and that it would notice."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import ClientError, Context, Object, Plugin, Ref, Refused, Reply, Result, transient
from connserver.ids import named_id
from partition.testing import Client, TestWorld

plugin = Plugin("game", version="1")
kept: list[Any] = []


@plugin.kind("player")
class Player(Object):
    score: int = 0
    fired: list[float] = []  # noqa: RUF012
    near: int = transient(0)


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


@plugin.method("game.careless")
def careless(ctx: Context, me: Player, to: Ref[Player], points: int) -> None:
    me.score -= points
    ctx.background(nothing, then=careless_goes_on, to=to, points=points)


@plugin.background
def nothing(to: str, points: int) -> None: ...


@plugin.internal
def careless_goes_on(ctx: Context, me: Player, result: Result, to: Ref[Player], points: int) -> None:
    ctx.call(to, gain, points=points)


@plugin.method("game.step")
def step_nearer(ctx: Context, me: Player) -> dict[str, int]:
    me.near += 1
    return {"near": me.near}


@plugin.method("game.shout")
def shout(ctx: Context, me: Player) -> None:
    ctx.room("hall").send(text="hey")


@plugin.method("game.enter")
def enter(ctx: Context, me: Player) -> None:
    ctx.room("hall").join(me)
    ctx.room("hall").send(text="here I am")


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


def scores(world: TestWorld) -> int:
    return sum(player["score"] for player in world.all(Player).values())


def pair(world: TestWorld) -> tuple[Client, Client]:
    ann = world.login("ann")
    return ann, world.login("bob", apart_from=ann)


@pytest.mark.parametrize("gateway", [False, True])
def test_steps_of_does_the_same_again_with_a_death_after_each_commit(world: TestWorld, gateway: bool) -> None:
    ann, bob = pair(world)
    assert bob.user == "bob-3" and ann.group != bob.group, "bob lives where ann does"
    world.put(ann, score=9)
    names = []
    for step in world.steps_of(lambda: ann.call("game.pass", to=bob, points=4), gateway=gateway):
        assert (world.fields(ann)["score"], world.fields(bob)["score"]) == (5, 4), step
        assert [event["points"] for event in bob.events()] == [4], step
        assert world.crashed is not None and world.crashed.causes == step.causes
        names.append((step.number, step.name, step.group))
    assert names == [
        (1, "game.pass", ann.group),
        (2, "game.gain", bob.group),
        (3, "game.passed", ann.group),
        (4, "confirmed", bob.group),
    ]
    world.check()


def test_steps_of_finds_a_plugin_that_loses_points(world: TestWorld) -> None:
    ann, bob = pair(world)
    lost = []
    for step in world.steps_of(lambda: ann.call("game.careless", to=bob, points=4)):
        if scores(world):
            lost.append(step.causes)
    assert lost == [("game.careless",)], "background work dies with its worker"


def test_each_try_begins_with_everything_as_it_was(world: TestWorld) -> None:
    ann, bob = pair(world)
    ann.call("game.step")
    bob.call("room.join", room="hall")
    ann.call("game.shout")

    def action() -> None:
        assert ann.call("game.step") == {"msg": "game.step", "id": 3, "status": 0, "near": 2}
        ann.call("game.later")
        world.advance(2.5)
        world.login("carl")

    users = [list(world.all(Player)) for _ in world.steps_of(action)]
    assert len(users) == 3 and users == [users[0]] * len(users) and len(users[0]) == 3
    assert [event["text"] for event in bob.events()] == ["hey"]


def test_an_action_that_fails_says_after_which_step(world: TestWorld) -> None:
    ann, bob = pair(world)
    runs: list[int] = []

    def action() -> None:
        runs.append(1)
        ann.call("game.pass", to=bob, points=1)
        assert len(runs) < 3

    with pytest.raises(AssertionError) as failed:
        for _ in world.steps_of(action):
            pass
    assert failed.value.__notes__ == [f"after a crash at step 2, game.gain, of group {bob.group}"]


def test_an_action_that_is_not_the_same_again_is_noticed(world: TestWorld) -> None:
    ann = world.login("ann")
    often = iter([2, 1, 0, 0])

    def action() -> None:
        for _ in range(next(often)):
            ann.call("game.add", points=1)

    with pytest.raises(RuntimeError, match=r"step 2, game\.add"):
        for _ in world.steps_of(action):
            pass


@pytest.mark.parametrize("gateway", [False, True])
@pytest.mark.parametrize("cause", ["game.shout", "room.send"])
def test_members_of_a_room_hear_everything_once_and_in_order(
    world: TestWorld, cause: str, gateway: bool
) -> None:
    ann = world.login("ann")
    while world.login(ann.user).group == world._cluster.group_of(named_id("room", "hall")):
        ann = world.login(f"{ann.user}n")
    listeners = [ann, world.login("bob", apart_from=ann)]
    for client in listeners:
        client.call("room.join", room="hall")
    ann.call("game.shout")
    world.crash_after(cause, gateway=gateway)
    ann.call("game.shout")
    ann.call("game.shout")
    assert world.crashed is not None and cause in world.crashed.causes
    for client in listeners:
        heard = [event["seq"] for event in client.events() if event["msg"] == "room.message"]
        assert heard == [1, 2, 3]
    world.check()


def test_who_joins_a_room_and_sends_to_it_hears_that(world: TestWorld) -> None:
    ann, bob = pair(world)
    for client in (ann, bob):
        client.call("game.enter")
        assert [event["from"] for event in client.events()][-1] == client.user
    world.check()


@pytest.mark.parametrize("gateway", [False, True])
def test_a_login_gets_through_every_death(world: TestWorld, gateway: bool) -> None:
    for step in world.steps_of(lambda: world.login("eve").call("game.add", points=2), gateway=gateway):
        assert [player["score"] for player in world.all(Player).values()] == [2], step
    world.check()


def test_who_comes_back_gets_what_was_missed(world: TestWorld) -> None:
    ann, bob = pair(world)
    bob.call("room.join", room="hall")
    world.drop(bob)
    ann.call("game.pass", to=bob, points=3)
    ann.call("game.shout")
    assert bob.events() == []
    with pytest.raises(TimeoutError, match="connection is lost"):
        bob.call("game.shout")
    world.resume(bob)
    assert [event["msg"] for event in bob.events()] == ["game.gained", "room.message", "room.message"]
    world.drop(bob)
    world.advance(121)
    with pytest.raises(ClientError, match="session is over"):
        world.resume(bob)
    with pytest.raises(TimeoutError, match="closed: session_expired"):
        bob.call("game.add", points=1)


def test_a_world_of_one_group_has_no_place_apart() -> None:
    world = TestWorld([plugin], partitions=1)
    with pytest.raises(ValueError, match="partitions=2"):
        world.login("bob", apart_from=world.login("ann"))
    with pytest.raises(ValueError, match="at least one"):
        TestWorld([plugin], partitions=0)
    with pytest.raises(ValueError, match="count from 1"):
        world.crash_after(0)


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
