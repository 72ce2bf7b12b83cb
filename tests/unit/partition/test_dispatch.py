"""Dispatch: who may call what, what becomes of answers and errors, ticks, users, operators."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import ClientError, Context, Object, Plugin, Refused, Result
from connserver.errors import PluginLoadError
from connserver.ids import format_oid, named_id, object_id, partition_of
from connserver.limits import ID_RANGE, METHOD_RATES_KEPT
from connserver.messages import Image
from partition.assembly import assemble
from partition.deadline import HandlerTimeout
from partition.objects import Store
from partition.rates import Rates
from tests.unit.partition.stages import ANN, HERE, Stage, caller

plugin = Plugin("stage", version="1.2")


@plugin.kind("player")
class Player(Object):
    gold: int = 0
    seen: list[str] = []  # noqa: RUF012


@plugin.kind("thing", index=["npc"])
class Thing(Object):
    npc: bool = False


@plugin.method("stage.echo")
def echo(ctx: Context, me: Player, text: str, volume: int = 5, **fields: Any) -> dict[str, Any]:
    return {"text": text, "volume": volume, **fields}


@plugin.method("stage.give")
def give(ctx: Context, me: Player, what: str) -> Any:
    return {"number": 5, "text": "x", "list": [me], "none": None, "map": {"a": (1, 2)}, "object": me}[what]


@plugin.method("stage.bad")
def bad(ctx: Context, me: Player, what: str) -> Any:
    return {"reserved": {"seq": 1}, "set": {"a": {1}}, "name": {"a b": 1}, "nan": float("nan")}[what]


@plugin.method("stage.fail")
def fail(ctx: Context, me: Player) -> None:
    me.gold += 1
    errors: dict[str, Any] = {
        "timeout": HandlerTimeout,
        "control": lambda: Refused("a\0b"),
        "client": _conflict,
    }
    raise errors[ctx.user_name]()


def _conflict() -> ClientError:
    return ClientError("conflict", "there already")


@plugin.method("stage.rare", rate_hz=2)
def rare(ctx: Context, me: Player) -> None:
    pass


@plugin.method("stage.secret", roles=["builder", "admin"])
def secret(ctx: Context, me: Player) -> dict[str, Any]:
    return {"roles": sorted(ctx.roles), "user": ctx.user, "name": ctx.user_name, "session": ctx.session}


@plugin.internal
def note(ctx: Context, me: Player, word: str) -> None:
    me.seen.append(word)


@plugin.internal
def after(ctx: Context, me: Player, result: Result, word: str = "") -> Result:
    me.seen.append(f"{result.ok} {word}")
    return result


@plugin.internal
def only_things(ctx: Context, me: Thing) -> None:
    pass


@plugin.internal(create=True)
def touch(ctx: Context, me: Thing) -> dict[str, str]:
    return {"named": me.named}


@plugin.every(hz=10)
def tick(ctx: Context) -> None:
    for thing in ctx.objects.where(Thing, npc=True):
        ctx.room("ticks").send(dt=ctx.dt, at=ctx.now, oid=thing)


@plugin.every(hz=1, kind=Thing, where={"npc": True})
def seldom(ctx: Context) -> None:
    pass


@plugin.on_join
def joined(ctx: Context, me: Player) -> None:
    me.seen.append("joined")
    ctx.tell(me, "welcome")


@plugin.on_join
def joined_badly(ctx: Context, me: Player) -> None:
    me.seen.append("never")
    raise RuntimeError("bug")


@pytest.fixture
def stage() -> Stage:
    return Stage(plugin)


def error_of(outcome: Any) -> tuple[str, str]:
    assert outcome.error is not None
    assert outcome.images == [] and outcome.effects == []
    return outcome.error.error, outcome.error.reason


# --- answers ---


def test_answers_become_fields(stage: Stage) -> None:
    assert stage.ok("stage.echo", text="hi", volume="7", mood="good").result == {
        "text": "hi",
        "volume": 7,
        "mood": "good",
    }
    answers = [stage.ok("stage.give", what=what).result for what in ("number", "text", "none", "map", "list")]
    assert answers == [
        {"result": 5},
        {"result": "x"},
        None,
        {"a": [1, 2]},
        {"result": [format_oid(ANN)]},
    ]
    assert stage.ok("stage.give", what="object").result == {"result": format_oid(ANN)}


@pytest.mark.parametrize("what", ["reserved", "set", "name", "nan"])
def test_answers_that_no_reply_can_carry_are_the_plugins_error(stage: Stage, what: str) -> None:
    error, reason = error_of(stage.call("stage.bad", {"what": what}))
    assert error == "plugin_error" and "ValueError" not in reason


# --- who may call what ---


def test_wrong_arguments_are_named(stage: Stage) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a", "volume": "loud"}, "volume"),
        ({"text": "a", "seq": 1}, "seq"),
        ({"text": "a", "me": 1}, "me"),
    ]
    for fields, name in cases:
        error, reason = error_of(stage.call("stage.echo", fields))
        assert error == "bad_argument" and reason.startswith(f"{name}: "), reason
    error, reason = error_of(stage.call("stage.rare", {"extra": 1}))
    assert error == "bad_argument" and reason.startswith("extra: ")


def test_clients_reach_only_what_is_meant_for_them(stage: Stage) -> None:
    for name in ("stage.nothing", "stage.note", "stage.tick", "note", "stage.joined"):
        assert error_of(stage.call(name))[0] == "unknown_method"
    assert error_of(stage.call("stage.secret"))[0] == "forbidden"
    told = stage.call("stage.secret", caller=caller("ann", "builder", "x")).result
    assert told == {"roles": ["builder", "x"], "user": format_oid(ANN), "name": "ann", "session": 7}


def test_methods_lists_what_the_session_may_call(stage: Stage) -> None:
    plain = stage.run.plugins.describe(frozenset())
    assert [method["name"] for method in plain] == [
        "stage.bad",
        "stage.echo",
        "stage.fail",
        "stage.give",
        "stage.rare",
    ]
    assert plain[1]["arguments"] == [
        {"name": "text", "type": "text", "required": True},
        {"name": "volume", "type": "integer", "required": False, "default": 5},
    ]
    assert plain[1]["other_fields"] is True and plain[4]["rate_hz"] == 2.0
    assert len(stage.run.plugins.describe(frozenset({"admin"}))) == 6


def test_a_method_has_its_own_rate_per_session(stage: Stage) -> None:
    def at(now: float, session: int = 1) -> Any:
        outcome = stage.call("stage.rare", now=now, caller=caller(session=session))
        return outcome.error and outcome.error.error

    assert [at(1.0), at(1.0), at(1.0, 2), at(1.4)] == [None, "rate_limited", None, "rate_limited"]
    outcome = stage.call("stage.rare", now=1.1, caller=caller(session=1))
    assert outcome.error is not None and outcome.error.retry_after_ms == 400
    assert at(1.5) is None
    assert [at(0.0), at(0.6)] == ["rate_limited", None], "a clock that went back shuts nobody out for long"


# --- errors ---


def test_a_failure_is_an_incident_and_tells_the_client_nothing_else(stage: Stage) -> None:
    def failing(name: str) -> ClientError:
        outcome = stage.call("stage.fail", caller=caller(name))
        assert outcome.error is not None and stage.fields()["gold"] == 0
        return outcome.error

    assert failing("client").error == "conflict"
    bug = failing("ann")
    assert bug.error == "plugin_error" and bug.incident and bug.incident in bug.reason
    assert "KeyError" in stage.incidents[-1] and "KeyError" not in str(bug.fields())
    assert "stage.fail of plugin stage 1.2" in stage.incidents[-1]
    assert failing("ann").incident != bug.incident
    assert failing("control").error == "plugin_error"
    late = failing("timeout")
    assert late.error == "timeout" and late.incident


def test_an_interrupted_process_is_not_an_incident(stage: Stage) -> None:
    interrupting = Plugin("keys", version="1")

    @interrupting.method("keys.press")
    def press(ctx: Context, me: Object) -> None:
        raise KeyboardInterrupt

    other = Stage(interrupting)
    with pytest.raises(KeyboardInterrupt):
        other.call("keys.press")
    assert other.run.running is None and other.incidents == []


def test_slow_callbacks_are_named_and_the_running_one_can_be_seen() -> None:
    now = [0.0]
    watched = Plugin("watch", version="3")
    seen: list[Any] = []

    @watched.method("watch.sleep")
    def sleep(ctx: Context, me: Object, s: float) -> None:
        seen.append(watching.run.running)
        now[0] += s

    watching = Stage(watched, clock=lambda: now[0])
    watching.ok("watch.sleep", s=0.019)
    assert watching.slow == []
    watching.ok("watch.sleep", s=0.5)
    assert watching.slow == [("watch.sleep", 500.0)] and watching.run.running is None
    running = seen[1]
    assert (running.method.name, running.method.version) == ("watch.sleep", "3")
    assert (running.me, running.session, running.partition, running.started) == (ANN, 7, HERE, 0.019)


# --- calls of plugins ---


def test_internal_calls_leave_out_what_belongs_to_the_other_end(stage: Stage) -> None:
    assert stage.internal("stage.note", word="a", other=1).error is None
    assert stage.internal("stage.after", result=Result({"x": 1}), word="b", other=1).result == {"x": 1}
    assert stage.fields()["seen"] == ["a", "True b"]
    assert error_of(stage.internal("stage.after", word="b"))[0] == "bad_argument"
    assert error_of(stage.internal("stage.echo", text="x"))[0] == "unknown_method"


def test_an_error_that_is_returned_counts_what_was_changed(stage: Stage) -> None:
    refused = Result.of(None, Refused("trade.gone", "sold"))
    outcome = stage.internal("stage.after", result=refused)
    assert outcome.error is not None and outcome.images
    assert (outcome.error.code, outcome.error.reason) == ("trade.gone", "sold")
    assert stage.stored()["seen"] == ["False "]


def test_a_missing_target_and_one_of_another_kind_are_not_found(stage: Stage) -> None:
    nowhere = object_id(HERE, 12345678)
    assert error_of(stage.internal("stage.note", nowhere, word="a"))[0] == "not_found"
    assert error_of(stage.internal("stage.only_things"))[0] == "not_found"


def test_a_named_object_is_made_by_the_first_call_on_it(stage: Stage) -> None:
    oid = named_id("thing", "lamp")

    def touched(oid: int = oid, **named: str) -> Any:
        arguments: dict[str, Any] = {f"cs.{key}": value for key, value in named.items()}
        return stage.run.internal("stage.touch", arguments, me=oid, caller=caller(), now=1.0)

    assert error_of(touched())[0] == "not_found"
    assert error_of(touched(name="bulb"))[0] == "not_found"
    first = touched(name="lamp")
    assert first.result == {"named": "lamp"} and [image.oid for image in first.images] == [oid]
    again = touched(name="lamp")
    assert again.images == [] and again.result == {"named": "lamp"}
    assert touched().result == {"named": "lamp"}
    other = object_id(partition_of(oid), (1 << 47) + 5)
    stage.store.put(Image(other, "thing", 1, b"\x82\xa3npc\xc2\xa7cs.name\xa4lamp"))
    assert touched(other, name="lamp").error is None
    assert error_of(touched(other, name="bulb"))[0] == "conflict"


# --- by the clock ---


def test_ticks_are_due_where_there_are_objects_and_missed_ones_are_skipped(stage: Stage) -> None:
    assert stage.run.due(1.0) == []
    for partition in (5, 3):
        stage.store.put(Image(object_id(partition, 1 << 21), "thing", 1, b"\x81\xa3npc\xc3"))
    stage.store.put(Image(object_id(9, 1 << 21), "thing", 1, b"\x80"))

    def due(now: float) -> dict[str, Any]:
        return {name: (partitions, pytest.approx(dt)) for name, partitions, dt in stage.run.due(now)}

    assert due(1.05) == {}
    assert due(1.1) == {"stage.tick": ([3, 5, 9], 0.1)}
    assert due(1.15) == {}
    assert due(1.21) == {"stage.tick": ([3, 5, 9], 0.11)}
    assert due(2.0) == {"stage.tick": ([3, 5, 9], 0.79), "stage.seldom": ([3, 5], 1.0)}
    assert due(2.05) == {}, "ticks that were missed are not made up for"
    assert due(2.1)["stage.tick"][1] == 0.1
    outcome: Any = stage.run.every("stage.tick", 3, 0.25, 2.5)
    assert [effect.fields for effect in outcome.effects] == [
        {"dt": 0.25, "at": 2.5, "oid": format_oid(object_id(3, 1 << 21))}
    ]
    assert due(0.5) != {}, "a clock that went back does not stop the world"


# --- users ---


def test_presence_hooks_stand_each_for_itself(stage: Stage) -> None:
    outcome = stage.run.presence("on_join", ANN, caller(), 1.0)
    assert outcome.error is None and len(outcome.effects) == 1
    assert stage.stored()["seen"] == ["joined"] and len(stage.incidents) == 1
    assert stage.run.presence("on_expire", ANN, caller(), 1.0).images == []


def test_user_objects_are_made_once_and_keep_their_name(stage: Stage) -> None:
    assert stage.run.user_name(ANN) == "ann" and stage.run.user_name(object_id(1, 1)) is None
    assert stage.run.open_user(ANN, "ann").images == []
    clash = stage.run.open_user(ANN, "bob")
    assert clash.error is not None and clash.error.error == "conflict"


def test_a_plain_user_object_becomes_one_of_the_plugins_kind() -> None:
    plain = Stage()
    assert plain.run.plugins.user_kind == "user"
    image = plain.store.image(ANN)
    assert image is not None and image.kind == "user"
    stage = Stage(plugin, store=plain.store)
    assert stage.run.user_name(ANN) == "ann" and stage.fields() == {"gold": 0, "seen": []}
    assert stage.ok("stage.echo", text="x").images == []
    (image,) = stage.internal("stage.note", word="a").images
    assert image.kind == "player" and stage.run.user_name(ANN) == "ann"


def test_without_its_plugin_an_object_is_opaque_and_untouched(stage: Stage) -> None:
    stage.internal("stage.note", word="a")
    before = stage.store.image(ANN)
    other = Plugin("other", version="1")

    @other.method("other.look")
    def look(ctx: Context, me: Object) -> str:
        return me.named

    @other.method("other.write")
    def write(ctx: Context, me: Object) -> None:
        me.gold = 5  # type: ignore[attr-defined]

    plain = Stage(other, store=stage.store)
    assert plain.ok("other.look").result == {"result": "ann"}
    assert error_of(plain.call("other.write"))[0] == "plugin_error"
    assert plain.store.image(ANN) == before


# --- operators ---


def test_an_operator_sees_and_changes_objects(stage: Stage) -> None:
    run = stage.run
    assert run.admin_get(ANN) == {
        "oid": format_oid(ANN),
        "kind": "player",
        "schema": 1,
        "fields": {"gold": 0, "seen": []},
        "name": "ann",
    }
    assert run.admin_put(ANN, "player", {"gold": 5}).images and stage.stored()["gold"] == 5
    made = run.admin_put(None, "thing", {"npc": True}, near=ANN)
    assert isinstance(made.result, dict)
    oid = int(str(made.result["oid"]), 16)
    assert partition_of(oid) == HERE and stage.fields(oid) == {"npc": True}
    fixed = run.admin_put(object_id(HERE, 77), "thing", {})
    assert fixed.error is None
    page = run.admin_list("thing", 0, 1)
    assert page["next"] == format_oid(object_id(HERE, 77)) and len(page["objects"]) == 1  # type: ignore[arg-type]
    rest = run.admin_list("", object_id(HERE, 77), 100)
    kinds = [row["kind"] for row in rest["objects"]]  # type: ignore[union-attr,index,call-overload]
    assert kinds == ["thing", "player"] and rest["next"] is None
    assert run.admin_delete(oid).images[0].data is None
    stage.store.check_invariants()


def test_an_operators_mistakes_are_named(stage: Stage) -> None:
    run = stage.run
    cases = [
        (run.admin_put(ANN, "player", {"gold": "x"}), "bad_argument", "field 'gold'"),
        (run.admin_put(ANN, "player", {"glod": 1}), "bad_argument", "no field 'glod'"),
        (run.admin_put(ANN, "thing", {}), "bad_argument", "another kind"),
        (run.admin_put(ANN, "dragon", {}), "bad_argument", "none of player, thing"),
        (run.admin_put(None, "thing", {}), "bad_argument", "near"),
        (run.admin_delete(object_id(1, 1 << 22)), "not_found", "no object"),
    ]
    for outcome, error, words in cases:
        assert outcome.error is not None and outcome.error.error == error, outcome
        assert words in outcome.error.reason
    assert stage.fields()["gold"] == 0
    with pytest.raises(ClientError, match="not_found"):
        run.admin_get(5)


def test_ids_are_reserved_in_ranges() -> None:
    store = Store()
    first, images = store.allocate(4)
    assert first == 1 << 20 and [image.oid for image in images] == [object_id(4, 0)]
    assert store.allocate(4) == (first + 1, [])
    assert store.allocate(4, 256, 256) == (first + 256, [])
    for image in images:
        store.put(image)
    assert store.allocate(4)[0] == first + ID_RANGE, (
        "what a former worker may have used is not given out again"
    )
    block, images = store.allocate(4, 10_000, 8)
    assert block % 8 == 0 and len(images) == 1
    assert store.allocate(4)[0] == block + 10_000
    store.check_invariants()


def test_rates_do_not_grow_without_bound() -> None:
    rates = Rates()
    for session in range(METHOD_RATES_KEPT + 10):
        assert rates.take(session, "m", 1.0, float(session)) is None
    assert len(rates) < 100, "those who have recovered are swept out"
    for session in range(METHOD_RATES_KEPT + 10):
        assert rates.take(session, "m", 1.0, 1e6) is None
    assert len(rates) <= METHOD_RATES_KEPT


def test_a_newer_version_takes_over_between_two_calls_or_not_at_all(stage: Stage) -> None:
    stage.internal("stage.note", word="a")
    newer = Plugin("stage", version="2")

    class Player2(Object):
        gold: int = 0

    newer.kind("player", schema=2)(Player2)
    newer.method("stage.version")(lambda ctx, me: ctx.objects.get(me).gold)
    with pytest.raises(PluginLoadError, match="nothing was changed"):
        stage.run.use(assemble([newer]))
    assert stage.ok("stage.echo", text="x").result == {"text": "x", "volume": 5}
    newer.migrate("player", to=2)(lambda fields: {"gold": len(fields["seen"])})
    stage.run.use(assemble([newer]))
    assert stage.ok("stage.version").result == {"result": 1}
    assert error_of(stage.call("stage.echo", {"text": "x"}))[0] == "unknown_method"
