"""What a callback asks for becomes effects: copied, checked at the caller, in its order."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import Context, Object, Plugin, Ref, Reply, Result
from connserver.ids import format_oid, named_id
from partition.effects import (
    Background,
    Call,
    RoomJoin,
    RoomSend,
    RoomUpdate,
    SetTimer,
    Tell,
)
from tests.unit.partition.stages import ANN, ELSEWHERE, HERE, Stage

plugin = Plugin("stage", version="1")
BOB = named_id("user", "bob")
acts: list[Any] = []


@plugin.kind("player")
class Player(Object):
    bag: list[str] = []  # noqa: RUF012


@plugin.kind("zone")
class Zone(Object):
    size: int = 0


@plugin.method("stage.do")
def do(ctx: Context, me: Player) -> Any:
    return acts[-1](ctx, me)


@plugin.internal
def take(ctx: Context, me: Player, thing: str, price: int = 0) -> None:
    pass


@plugin.internal
def took(ctx: Context, me: Player, result: Result, thing: str) -> None:
    pass


@plugin.internal
def meet(ctx: Context, me: Player, friend: Ref[Player], others: list[Ref[Player]] | None = None) -> None:
    pass


@plugin.internal(create=True)
def grow(ctx: Context, me: Zone) -> None:
    pass


@plugin.background
def fetch(url: str) -> str:
    return url


@plugin.every(hz=1)
def tick(ctx: Context) -> None:
    acts[-1](ctx, None)


@pytest.fixture
def stage() -> Stage:
    return Stage(plugin)


def play(stage: Stage, act: Any) -> Any:
    acts.append(act)
    outcome = stage.call("stage.do")
    assert outcome.error is None, (outcome.error, stage.incidents)
    return outcome


def failure(stage: Stage, act: Any) -> str:
    """The last line of the incident that this act gives."""
    acts.append(act)
    outcome = stage.call("stage.do")
    assert outcome.error is not None and outcome.error.error == "plugin_error", outcome
    return stage.incidents[-1].strip().splitlines()[-1]


def test_effects_are_in_the_order_of_asking(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> None:
        ctx.room("z").send(text="a", who=me)
        ctx.room("z").update("pos", {"x": 1.0}, at=(1, 2))
        ctx.room("z").update("pos", None)
        ctx.room("z").join(me)
        ctx.room("z").leave(Ref(BOB))
        ctx.tell(format_oid(BOB), "hello", text="b")
        ctx.call(Ref(BOB), take, thing="sword", then=took)
        ctx.timer("respawn").set("stage.take", after_s=5, thing="x")
        ctx.timer("respawn", on=me).set(take, at=77.0, thing="x", price=1)
        ctx.timer("respawn").cancel()
        ctx.background(fetch, then=took, url="u", thing="t")

    assert play(stage, act).effects == [
        RoomSend(room="z", fields={"text": "a", "who": format_oid(ANN)}),
        RoomUpdate(room="z", key="pos", value={"x": 1.0}, at=(1.0, 2.0)),
        RoomUpdate(room="z", key="pos", value=None, at=None),
        RoomJoin(room="z", user=ANN, join=True),
        RoomJoin(room="z", user=BOB, join=False),
        Tell(user=BOB, message={"msg": "hello", "text": "b"}),
        Call(
            target=BOB,
            origin=ANN,
            method="stage.take",
            arguments={"thing": "sword"},
            then="stage.took",
            deferred=False,
        ),
        SetTimer(oid=ANN, name="respawn", method="stage.take", due=6.0, arguments={"thing": "x"}),
        SetTimer(
            oid=ANN, name="respawn", method="stage.take", due=77.0, arguments={"thing": "x", "price": 1}
        ),
        SetTimer(oid=ANN, name="respawn", method="", due=0.0, arguments={}, cancel=True),
        Background(oid=ANN, function="stage.fetch", arguments={"url": "u", "thing": "t"}, then="stage.took"),
    ]


def test_what_is_sent_does_not_change_afterwards(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> Any:
        me.bag.append("a")
        ctx.room("z").send(bag=me.bag)
        me.bag.append("b")
        return {"bag": me.bag}

    outcome = play(stage, act)
    play(stage, lambda ctx, me: me.bag.append("c"))
    assert outcome.effects[0].fields == {"bag": ["a"]} and outcome.result == {"bag": ["a", "b"]}


def test_a_returned_reply_defers_the_call_that_it_stands_for(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> Reply:
        first = ctx.call(me, take, thing="a")
        ctx.call(me, take, thing="b")
        return first

    outcome = play(stage, act)
    assert outcome.deferred and [effect.deferred for effect in outcome.effects] == [True, False]
    kept: list[Reply] = []
    play(stage, lambda ctx, me: kept.append(ctx.call(me, take, thing="a")))
    assert "another call" in failure(stage, lambda ctx, me: kept[0])


def test_references_travel_as_text_and_objects_too(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> None:
        ctx.call(me, meet, friend=me, others=[me.ref, Ref(BOB)])
        ctx.call(me.oid, meet, friend=me.oid)
        ctx.call(ctx.objects.user("bob"), meet, friend="user:bob")

    first, second, third = play(stage, act).effects
    assert first.arguments == {"friend": format_oid(ANN), "others": [format_oid(ANN), format_oid(BOB)]}
    assert second.arguments == {"friend": format_oid(ANN)}
    assert third.target == BOB and third.arguments == {"friend": "user:bob"}


def test_a_call_on_a_named_object_takes_its_name_along(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> None:
        ctx.call(ctx.objects.named(Zone, "z0"), grow)
        ctx.call(Ref(str(ctx.objects.named(Zone, "z0"))), grow)

    first, second = play(stage, act).effects
    assert first.target == second.target == named_id("zone", "z0")
    assert first.arguments == {"cs.name": "z0"} and second.arguments == {}
    assert play(stage, lambda ctx, me: ctx.objects.named(Player, "bob")).result == {"result": format_oid(BOB)}


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda ctx, me: ctx.call(me, take), "stage.take needs the argument 'thing'"),
        (lambda ctx, me: ctx.call(me, take, thing=5), "argument 'thing': text is wanted"),
        (lambda ctx, me: ctx.call(me, take, thing="a", colour=1), "no argument 'colour' is declared"),
        (lambda ctx, me: ctx.call(me, take, price=1, then=took), "needs the argument 'thing'"),
        (lambda ctx, me: ctx.call(me, take, thing={1}), "argument 'thing'"),
        (lambda ctx, me: ctx.call(me, do), "do is no internal method"),
        (lambda ctx, me: ctx.call(me, "stage.do"), "no internal method"),
        (lambda ctx, me: ctx.call(me, took, thing="a"), "can only be a `then`"),
        (lambda ctx, me: ctx.call(me, take, thing="a", then=take), "no argument `result`"),
        (lambda ctx, me: ctx.call(None, take, thing="a"), "None is no object"),
        (lambda ctx, me: ctx.call("bob", take, thing="a"), "no object id"),
        (lambda ctx, me: ctx.background(take, thing="a"), "no background function"),
        (lambda ctx, me: ctx.timer("t").set(take, thing="a"), "after_s=… or at=…"),
        (lambda ctx, me: ctx.timer("t").set(take, after_s=1), "needs the argument 'thing'"),
        (lambda ctx, me: ctx.timer("t").set(take, after_s=1, thing="a", colour=1), "'colour'"),
        (lambda ctx, me: ctx.timer("two words"), "name of a timer"),
        (lambda ctx, me: ctx.timer("t", on=me.oid + 1), "there is no object"),
        (lambda ctx, me: ctx.room(""), "is no room"),
        (lambda ctx, me: ctx.room("a\0"), "XML 1.0"),
        (lambda ctx, me: ctx.room("z").send(seq=1), "'seq' is reserved"),
        (lambda ctx, me: ctx.room("z").send(room="y"), "'room' is taken"),
        (lambda ctx, me: ctx.room("z").send(text="a\0"), "XML 1.0"),
        (lambda ctx, me: ctx.room("z").send(deep=_deep(40)), "levels"),
        (lambda ctx, me: ctx.room("z").send(many=[0] * 70_000), "65536 values"),
        (lambda ctx, me: ctx.room("z").update("pos", float("inf")), "finite"),
        (lambda ctx, me: ctx.tell(me, "hello", status=1), "'status' is reserved"),
        (lambda ctx, me: ctx.tell(me, "two words"), "name of an event"),
        (lambda ctx, me: [ctx.room("z").join(me) for _ in range(5000)], "4096"),
        (lambda ctx, me: ctx.objects.create(Zone, colour=1), "no field 'colour'"),
        (lambda ctx, me: ctx.objects.create(Object), "no class declared"),
        (lambda ctx, me: Zone(), "ctx.objects.create(Zone"),
    ],
)
def test_mistakes_show_at_the_caller(stage: Stage, act: Any, words: str) -> None:
    assert words in failure(stage, act)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_context_ends_with_its_call(stage: Stage) -> None:
    kept: list[Context] = []
    play(stage, lambda ctx, me: kept.append(ctx))
    assert "has ended" in failure(stage, lambda ctx, me: kept[0].tell(me, "late"))
    assert "has ended" in failure(stage, lambda ctx, me: kept[0].objects)


def test_ticks_have_no_me(stage: Stage) -> None:
    def run(act: Any) -> Any:
        acts.append(act)
        return stage.run.every("stage.tick", HERE, 0.5, 9.0)

    seen: list[Any] = []
    run(lambda ctx, me: seen.append((ctx.partition, ctx.dt, ctx.now, ctx.user, ctx.user_name, ctx.session)))
    assert seen == [(HERE, 0.5, 9.0, None, "", 0)]
    assert run(lambda ctx, me: ctx.call(Ref(ELSEWHERE), take, thing="a")).effects[0].origin == 0
    run(lambda ctx, me: ctx.timer("t"))
    assert "say on which object" in stage.incidents[-1]
    run(lambda ctx, me: ctx.call(Ref(ANN), take, thing="a", then=took))
    assert "no `me`" in stage.incidents[-1]


def test_log_lines_name_the_plugin_and_stay_when_the_call_fails(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> None:
        ctx.log.info("bought", thing="a")
        ctx.log.error("no")
        raise RuntimeError

    failure(stage, act)
    assert stage.logged == [("info", "stage", "bought", {"thing": "a"}), ("error", "stage", "no", {})]


def test_chance_is_the_same_when_a_test_is_run_again() -> None:
    drawn: list[float] = []
    for _ in range(2):
        stage = Stage(plugin)
        play(stage, lambda ctx, me: drawn.append(ctx.random.random()))
    assert drawn[0] == drawn[1]
