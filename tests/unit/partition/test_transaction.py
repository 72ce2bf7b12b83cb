"""Transactions: whole or not at all, every write noticed, nothing beyond the partition."""

from __future__ import annotations

import heapq
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connserver import Context, Object, Plugin, Ref, Refused, WrongPartition, transient
from connserver.ids import format_oid
from tests.unit.partition.stages import ANN, ELSEWHERE, HERE, Stage

plugin = Plugin("stage", version="1")
acts: dict[str, Any] = {}


@plugin.kind("player", unique=["nick"])
class Player(Object):
    gold: int = 0
    nick: str | None = None
    bag: list[str] = []  # noqa: RUF012
    deep: dict[str, list[int]] = {}  # noqa: RUF012
    anything: object = None
    friend: Ref[Object] | None = None
    x: float = transient(0.0)
    path: list[int] = transient([])


@plugin.kind("thing", index=["npc", "owner"], unique=["code"])
class Thing(Object):
    name: str
    npc: bool = False
    owner: Ref[Object] | None = None
    code: int | None = None
    tags: list[str] = []  # noqa: RUF012


@plugin.method("stage.do")
def do(ctx: Context, me: Player, act: str) -> Any:
    return acts[act](ctx, me)


newer = Plugin("stage", version="2")


@newer.kind("player", schema=2)
class Player2(Object):
    gold: int = 0
    purse: list[int] = []  # noqa: RUF012


@newer.migrate(Player2, to=2)
def purses(fields: dict[str, Any]) -> dict[str, Any]:
    return {"gold": fields["gold"], "purse": [fields["gold"]]}


@newer.method("stage.sum")
def total(ctx: Context, me: Player2) -> int:
    return sum(me.purse)


@newer.method("stage.add")
def put_in(ctx: Context, me: Player2, coin: int) -> None:
    me.purse.append(coin)


@pytest.fixture
def stage() -> Stage:
    return Stage(plugin)


def play(stage: Stage, act: Any) -> Any:
    """Run `act(ctx, me)` as a method of the plugin."""
    acts["now"] = act
    return stage.call("stage.do", {"act": "now"})


def play_ok(stage: Stage, act: Any) -> Any:
    outcome = play(stage, act)
    assert outcome.error is None, (outcome.error, stage.incidents)
    return outcome


# --- writes are noticed ---


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (lambda me: setattr(me, "gold", 3), "gold", 3),
        (lambda me: me.bag.append("x"), "bag", ["x"]),
        (lambda me: heapq.heappush(me.bag, "x"), "bag", ["x"]),
        (lambda me: me.deep.setdefault("a", []).append(1), "deep", {"a": [1]}),
        (lambda me: me.deep.update(a=[1]) or me.deep["a"].extend([2]), "deep", {"a": [1, 2]}),
        (lambda me: setattr(me, "anything", {"a": [1, {"b": None}]}), "anything", {"a": [1, {"b": None}]}),
        (lambda me: setattr(me, "friend", me.ref), "friend", format_oid(ANN)),
        (lambda me: me.__dict__.update(gold=4), "gold", 4),
    ],
)
def test_a_write_is_kept_however_it_was_made(stage: Stage, change: Any, field: str, value: Any) -> None:
    outcome = play_ok(stage, lambda ctx, me: change(me) and None)
    assert [image.oid for image in outcome.images] == [ANN]
    assert stage.fields()[field] == stage.stored()[field] == value
    assert not outcome.transient_only


def test_reading_changes_nothing_even_of_containers(stage: Stage) -> None:
    outcome = play_ok(stage, lambda ctx, me: {"sum": len(me.bag) + me.gold + len(me.path)})
    assert outcome.images == [] and not outcome.transient_only


def test_a_later_change_inside_a_list_is_noticed_too(stage: Stage) -> None:
    play_ok(stage, lambda ctx, me: setattr(me, "deep", {"a": [1]}))
    outcome = play_ok(stage, lambda ctx, me: me.deep["a"].append(2))
    assert outcome.images and stage.stored()["deep"] == {"a": [1, 2]}


def test_a_value_put_back_is_no_change(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> None:
        me.gold += 1
        me.bag.append("x")
        me.gold -= 1
        me.bag.pop()

    assert play_ok(stage, act).images == []


def test_a_boolean_among_numbers_is_noticed(stage: Stage) -> None:
    play_ok(stage, lambda ctx, me: setattr(me, "anything", [1]))
    assert play_ok(stage, lambda ctx, me: setattr(me, "anything", [True])).images
    assert stage.stored()["anything"][0] is True and stage.fields()["anything"][0] is True


def test_a_list_shared_by_two_objects_is_one_list_no_longer(stage: Stage) -> None:
    shared = ["x"]

    def act(ctx: Context, me: Player) -> Any:
        me.bag = shared
        return ctx.objects.create(Thing, name="box", tags=shared)

    oid = int(play_ok(stage, act).result["result"], 16)
    play_ok(stage, lambda ctx, me: me.bag.append("y"))
    shared.append("z")
    assert stage.fields()["bag"] == ["x", "y"] and stage.fields(oid)["tags"] == ["x"]


def test_transient_changes_cost_no_commit(stage: Stage) -> None:
    for change in (lambda me: setattr(me, "x", 2.0), lambda me: me.path.append(3)):
        outcome = play_ok(stage, lambda ctx, me, change=change: change(me))
        assert outcome.images == [] and outcome.transient_only
    assert stage.fields()["x"] == 2.0 and stage.fields()["path"] == [3]
    assert stage.stored()["x"] == 0.0 and stage.stored()["path"] == []


def test_defaults_are_not_shared(stage: Stage) -> None:
    def act(ctx: Context, me: Player) -> None:
        ctx.objects.create(Thing, name="a").tags.append("t")
        ctx.objects.create(Thing, name="b")

    play_ok(stage, act)
    tags = sorted(stage.fields(image.oid)["tags"] for image in stage.store.images("thing"))
    assert tags == [[], ["t"]]


# --- nothing of a call that raised happened ---


def spoil(ctx: Context, me: Player) -> None:
    """Change everything that can be changed."""
    me.gold += 1
    me.bag.append("lost")
    me.deep["a"] = [9]
    me.anything = {"b": 1}
    me.x = 9.0
    me.path.append(9)
    ctx.objects.create(Thing, name="made")
    for thing in ctx.objects.where(Thing, npc=True):
        thing.name = "spoilt"
        thing.tags.append("spoilt")
        ctx.objects.delete(thing)
    ctx.room("z").send(text="no")
    ctx.tell(me, "no")


def raising(error: BaseException) -> Any:
    def act(ctx: Context, me: Player) -> None:
        spoil(ctx, me)
        raise error

    return act


def bad_end(ctx: Context, me: Player) -> None:
    spoil(ctx, me)
    me.gold = "much"  # type: ignore[assignment]


def bad_answer(ctx: Context, me: Player) -> Any:
    spoil(ctx, me)
    return {"status": 1}


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (raising(Refused("no.way")), "refused"),
        (raising(RuntimeError("bug")), "plugin_error"),
        (raising(SystemExit(3)), "plugin_error"),
        (raising(WrongPartition("x")), "plugin_error"),
        (bad_end, "plugin_error"),
        (bad_answer, "plugin_error"),
    ],
)
def test_a_call_that_raises_leaves_nothing(stage: Stage, act: Any, error: str) -> None:
    def prepare(ctx: Context, me: Player) -> None:
        me.bag.append("kept")
        me.path.append(1)
        me.x = 1.0
        ctx.objects.create(Thing, name="npc", npc=True)

    play_ok(stage, prepare)
    before = {
        image.oid: (image, stage.fields(image.oid))
        for image in stage.store.images()
        if image.kind[:3] != "cs."
    }
    before = {
        oid: (image, {k: repr(v) for k, v in fields.items()}) for oid, (image, fields) in before.items()
    }
    images = list(stage.store.images())
    outcome = play(stage, act)
    assert outcome.error is not None and outcome.error.error == error
    assert outcome.images == [] and outcome.effects == [] and outcome.result is None
    assert list(stage.store.images()) == images
    for oid, (_, fields) in before.items():
        assert {k: repr(v) for k, v in stage.fields(oid).items()} == fields


def test_ids_of_a_refused_call_are_not_lost_and_none_is_used_twice(stage: Stage) -> None:
    def make(ctx: Context, me: Player) -> Any:
        return ctx.objects.create(Thing, name="a")

    def make_and_refuse(ctx: Context, me: Player) -> None:
        make(ctx, me)
        raise Refused("no")

    play(stage, make_and_refuse)
    first = play_ok(stage, make)
    assert {image.kind for image in first.images} == {"cs.ids", "thing"}
    play(stage, make_and_refuse)
    second = play_ok(stage, make)
    assert {image.kind for image in second.images} == {"thing"}
    assert first.result != second.result


# --- partitions ---


@pytest.mark.parametrize(
    "act",
    [
        lambda ctx, me: ctx.objects.get(ELSEWHERE),
        lambda ctx, me: ctx.objects.delete(format_oid(ELSEWHERE)),
        lambda ctx, me: ctx.objects.create(Thing, near=Ref(ELSEWHERE), name="x"),
        lambda ctx, me: ctx.timer("t", on=Ref(ELSEWHERE)).cancel(),
    ],
)
def test_an_object_elsewhere_cannot_be_touched(stage: Stage, act: Any) -> None:
    outcome = play(stage, act)
    assert outcome.error.error == "plugin_error"
    assert "WrongPartition" in stage.incidents[-1] and "ctx.call" in stage.incidents[-1]


def test_new_objects_are_made_here(stage: Stage) -> None:
    outcome = play_ok(stage, lambda ctx, me: ctx.objects.create(Thing, near=me, name="x"))
    assert int(outcome.result["result"], 16) >> 48 == HERE


# --- making, removing, finding ---


def test_the_call_sees_its_own_changes(stage: Stage) -> None:
    def first(ctx: Context, me: Player) -> None:
        a = ctx.objects.create(Thing, name="a", npc=True, owner=me)
        b = ctx.objects.create(Thing, name="b", npc=True)
        assert ctx.objects.where(Thing, npc=True) == [a, b]
        assert ctx.objects.where(Thing, owner=me) == [a]
        a.npc = False
        assert ctx.objects.where(Thing, npc=True) == [b]
        assert ctx.objects.where(Thing, npc=False, name="a") == [a]
        ctx.objects.delete(b)
        assert ctx.objects.where(Thing) == [a]
        assert ctx.objects.get(b) is None
        a.npc = True

    def second(ctx: Context, me: Player) -> None:
        (a,) = ctx.objects.where(Thing, npc=True, name="a")
        assert a.owner == me.ref and ctx.objects.get(a.ref) is a and ctx.objects.get(a.oid, Player) is None
        ctx.objects.delete(a)
        assert ctx.objects.where(Thing) == [] and ctx.objects.get(a.oid) is None

    play_ok(stage, first)
    outcome = play_ok(stage, second)
    assert [image.data for image in outcome.images] == [None]
    play_ok(stage, lambda ctx, me: ctx.objects.where(Thing) and None)
    assert list(stage.store.images("thing")) == []


def test_where_needs_fields_that_there_are(stage: Stage) -> None:
    assert play(stage, lambda ctx, me: ctx.objects.where(Thing, colour=1)).error.error == "plugin_error"
    assert "no field 'colour'" in stage.incidents[-1]


def test_a_unique_value_is_given_once_per_partition(stage: Stage) -> None:
    play_ok(stage, lambda ctx, me: ctx.objects.create(Thing, name="a", code=1) and None)
    clash = play(stage, lambda ctx, me: ctx.objects.create(Thing, name="b", code=1))
    assert clash.error.error == "conflict" and "code" in clash.error.reason

    def twice(ctx: Context, me: Player) -> None:
        ctx.objects.create(Thing, name="b", code=2)
        ctx.objects.create(Thing, name="c", code=2)

    def swap(ctx: Context, me: Player) -> None:
        (a,) = ctx.objects.where(Thing, code=1)
        a.code = 3
        ctx.objects.create(Thing, name="b", code=1)
        ctx.objects.create(Thing, name="c")
        ctx.objects.create(Thing, name="d")

    assert play(stage, twice).error.error == "conflict"
    play_ok(stage, swap)
    assert play(
        stage, lambda ctx, me: setattr(ctx.objects.where(Thing, code=1)[0], "code", 3)
    ).error.error == ("conflict")


def test_a_deleted_object_can_be_made_again_under_its_name(stage: Stage) -> None:
    def again(ctx: Context, me: Player) -> None:
        ctx.objects.delete(me)
        ctx.objects.create_named(Player, "ann", gold=5)

    play_ok(stage, again)
    assert stage.stored()["gold"] == 5 and stage.run.user_name(ANN) == "ann"
    assert play(stage, lambda ctx, me: ctx.objects.create_named(Player, "ann")).error.error == "conflict"


# --- fields are what they are said to be ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda me: setattr(me, "gold", 1.5), "field 'gold': an integer is wanted"),
        (lambda me: setattr(me, "gold", True), "field 'gold': an integer is wanted"),
        (lambda me: setattr(me, "gold", 1 << 60), "2^53"),
        (lambda me: setattr(me, "x", float("nan")), "finite"),
        (lambda me: me.bag.append(3), "field 'bag': in item 0, text is wanted"),
        (lambda me: me.bag.append("a\0b"), "XML 1.0"),
        (lambda me: me.deep.update({"two words": [1]}), "no name for a member of a map"),
        (lambda me: setattr(me, "friend", "bob"), "Ref or None is wanted"),
        (lambda me: setattr(me, "anything", {1, 2}), "field 'anything'"),
        (lambda me: setattr(me, "anything", me), "field 'anything'"),
        (lambda me: setattr(me, "glod", 1), "no field 'glod'"),
        (lambda me: delattr(me, "gold"), "'gold' was deleted"),
        (lambda me: me.bag.extend("x" * 1000 for _ in range(2000)), "at most 1048576"),
    ],
)
def test_what_does_not_fit_is_refused_with_kind_and_field(stage: Stage, change: Any, words: str) -> None:
    assert play(stage, lambda ctx, me: change(me) and None).error.error == "plugin_error"
    assert words in stage.incidents[-1] and "player" in stage.incidents[-1]
    assert stage.fields() == stage.stored()


def test_new_objects_are_checked_too(stage: Stage) -> None:
    assert (
        play(stage, lambda ctx, me: ctx.objects.create(Thing, name=5) and None).error.error == "plugin_error"
    )
    assert "kind thing, field 'name': text is wanted" in stage.incidents[-1]
    assert play(stage, lambda ctx, me: ctx.objects.create(Thing) and None).error.error == "plugin_error"
    assert "needs the field 'name'" in stage.incidents[-1]


def test_reading_an_object_of_an_older_schema_writes_nothing() -> None:
    older = Stage(plugin)
    play_ok(older, lambda ctx, me: setattr(me, "gold", 3))
    stage = Stage(newer, store=older.store)
    outcome = stage.ok("stage.sum")
    assert outcome.result == {"result": 3} and outcome.images == []
    (image,) = stage.ok("stage.add", coin=4).images
    assert image.schema == 2 and stage.stored() == {"gold": 3, "purse": [3, 4]}


# --- any sequence of changes ---

STEP = st.one_of(
    st.tuples(st.just("gold"), st.integers(-3, 3)),
    st.tuples(st.just("bag"), st.text("abc", max_size=2)),
    st.tuples(st.just("pop"), st.none()),
    st.tuples(st.just("deep"), st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2))),
    st.tuples(st.just("path"), st.integers(0, 3)),
    st.tuples(st.just("make"), st.booleans()),
    st.tuples(st.just("flip"), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.integers(0, 3)),
)


def apply(step: Any, ctx: Context, me: Player) -> None:
    what, value = step
    if what == "gold":
        me.gold += value
    elif what == "bag":
        me.bag.append(value)
    elif what == "pop" and me.bag:
        me.bag.pop(0)
    elif what == "deep":
        me.deep.setdefault(value[0], []).append(value[1])
    elif what == "path":
        me.path.append(value)
    elif what == "make":
        ctx.objects.create(Thing, name="t", npc=value)
    elif what in ("flip", "delete"):
        things = ctx.objects.where(Thing, npc=True)
        if value < len(things):
            if what == "flip":
                things[value].npc = False
            else:
                ctx.objects.delete(things[value])


def picture(stage: Stage) -> Any:
    things = [repr(stage.fields(image.oid)) for image in stage.store.images("thing")]
    return repr(stage.fields()), things


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(STEP, max_size=5), st.booleans()), max_size=8))
def test_calls_happen_whole_or_not_at_all(calls: list[Any]) -> None:
    """One stage meets calls of which some raise at their end; the other only those that do not."""
    stage, only_good = Stage(plugin), Stage(plugin)
    for steps, good in calls:

        def act(ctx: Context, me: Player, steps: Any = steps, good: bool = good) -> None:
            for step in steps:
                apply(step, ctx, me)
            if not good:
                raise Refused("no")

        play(stage, act)
        if good:
            play_ok(only_good, act)
    assert picture(stage) == picture(only_good)
    assert list(stage.store.images()) == list(only_good.store.images())
