"""What was under way to a method when its plugin went, or came in another version."""

from itertools import count
from typing import Any

import pytest

from connserver import Context, Object, Plugin, Refused, Reply, Result
from connserver.ids import group_of, named_id, partition_of
from connserver.messages import RequestKind
from partition.assembly import assemble
from tests.unit.partition.shards import Shards


def game(version: str = "1.0", *, then: bool = True, more: bool = False, bell: bool = True) -> Plugin:
    """Calls whose `then` may be missing, or take an argument more; a timer whose method may be missing."""
    plugin = Plugin("game", version=version)

    @plugin.kind("player")
    class Player(Object):
        gold: int = 10
        rung: int = 0

    @plugin.method("game.give")
    def give(ctx: Context, me: Player, to: str, gold: int) -> Reply:
        me.gold -= gold
        if then:
            return ctx.call(ctx.objects.user(to), "bank.take", gold=gold, then="game.settle")
        return ctx.call(ctx.objects.user(to), "bank.take", gold=gold)

    if then and more:

        @plugin.internal(create=False)
        def settle(ctx: Context, me: Player, result: Result, gold: int, reason: str) -> Result:
            return result

    elif then:

        @plugin.internal(create=False)
        def settle(ctx: Context, me: Player, result: Result, gold: int) -> Result:
            if not result.ok:
                me.gold += gold
            return result

    if bell:

        @plugin.internal
        def ring(ctx: Context, me: Player) -> None:
            me.rung += 1

        @plugin.method("game.alarm")
        def alarm(ctx: Context, me: Player) -> None:
            ctx.timer("bell").set(ring, after_s=5)

    @plugin.method("game.gold")
    def gold_of(ctx: Context, me: Player) -> dict[str, int]:
        return {"gold": me.gold, "rung": me.rung}

    return plugin


def bank() -> Plugin:
    plugin = Plugin("bank", version="1.0")

    @plugin.internal
    def take(ctx: Context, me: Object, gold: int) -> None:
        if gold > 5:
            raise Refused("bank.too_much")

    return plugin


def name_of(group: int) -> str:
    return next(
        name
        for name in (f"user{number}" for number in count())
        if group_of(partition_of(named_id("user", name)), 2) == group
    )


ANN, BOB = name_of(0), name_of(1)


def players(*plugins: Plugin) -> Shards:
    shards = Shards(assemble(plugins or (game(), bank())))
    shards.login(1, ANN)
    shards.login(2, BOB)
    return shards


def use(shards: Shards, *plugins: Plugin) -> None:
    """Every group switches, between two calls."""
    shards.plugins = assemble(plugins)
    for group in shards.members:
        group.use(shards.plugins)


def parked(shards: Shards) -> list[Any]:
    return [row for group in shards.members for row in group.calls.describe_parked()]


def ask(shards: Shards) -> None:
    """Ann's call is under way: its result does not come back yet."""
    shards.lost_groups = {0}
    assert shards.send(1, RequestKind.CALL, {"msg": "game.give", "to": BOB, "gold": 3}) == []


def come_back(shards: Shards) -> dict[str, Any]:
    """The result arrives; what Ann is told."""
    shards.lost_groups = set()
    shards.reload(1)
    reply = [message for kind, _, message in shards.received[1] if message.get("msg") == "game.give"]
    return reply[-1]


def test_a_callee_that_is_gone_is_an_ordinary_result() -> None:
    shards = players()
    shards.members[1].use(assemble([game()]))  # one group after the other: there it is gone already
    answer = shards.call(1, "game.give", to=BOB, gold=3)
    assert answer["error"] == "unknown_method" and "bank.take" in str(answer["reason"])
    assert shards.call(1, "game.gold")["gold"] == 10, "its `then` ran"
    assert parked(shards) == []


def test_a_refusal_that_a_then_hands_on_is_no_failure_of_the_then() -> None:
    shards = players()
    assert shards.call(1, "game.give", to=BOB, gold=7)["error"] == "refused"
    assert shards.call(1, "game.gold")["gold"] == 10 and parked(shards) == []


@pytest.mark.parametrize("later", [{"then": False}, {"more": True}])
def test_a_then_that_is_gone_or_takes_other_arguments_is_parked_and_can_be_retried(
    later: dict[str, bool],
) -> None:
    shards = players()
    ask(shards)
    use(shards, game("2.0", **later), bank())
    answer = come_back(shards)
    assert answer["error"] in ("unknown_method", "bad_argument")
    (row,) = parked(shards)
    assert row["then"] == "game.settle" and row["reason"]
    assert shards.call(1, "game.gold")["gold"] == 7
    use(shards, game("2.1"), bank())
    shards.members[0].retry_call(int(row["call"], 16))
    shards.settle()
    assert parked(shards) == [] and shards.call(1, "game.gold")["gold"] == 7


def test_a_then_that_runs_in_its_new_version() -> None:
    shards = players()
    ask(shards)
    use(shards, game("2.0"), bank())
    assert come_back(shards)["status"] == 0 and parked(shards) == []


def test_a_timer_whose_method_is_gone_waits_for_it_also_through_a_restart() -> None:
    shards = players()
    assert shards.call(1, "game.alarm")["status"] == 0
    use(shards, game("2.0", bell=False), bank())
    shards.advance(10)
    assert [timer.method for timer in shards.members[0].timers.held] == ["game.ring"]
    assert shards.call(1, "game.gold")["rung"] == 0
    shards.reload(0)
    shards.advance(1)
    assert len(shards.members[0].timers.held) == 1
    use(shards, game("2.1"), bank())
    shards.advance(1)
    assert shards.call(1, "game.gold")["rung"] == 1 and shards.members[0].timers.held == []
    shards.advance(10)
    assert shards.call(1, "game.gold")["rung"] == 1


def test_what_the_clock_must_not_run_is_left_out_and_the_rest_goes_on() -> None:
    shards = players()
    assert shards.call(1, "game.alarm")["status"] == 0
    watch = Forbidding()
    shards.members[0].watch = watch
    shards.advance(6)
    assert shards.call(1, "game.gold")["rung"] == 0 and {key for key, _ in watch.asked} != {0}
    assert {method for _, method in watch.asked} == {"game.ring"}
    watch.forbids = False
    use(shards, game("1.1"), bank())
    shards.advance(1)
    assert shards.call(1, "game.gold")["rung"] == 1
    assert len({key for key, _ in watch.asked}) == 2, "another version is another try"
    assert watch.began[-1] == 0 and set(watch.began) - {0}


class Forbidding:
    """A watch that allows nothing at first."""

    def __init__(self) -> None:
        self.forbids = True
        self.asked: list[tuple[int, str]] = []
        self.began: list[int] = []

    def allows(self, key: int, method: str, plugin: str, version: str) -> bool:
        self.asked.append((key, method))
        return not self.forbids

    def begins(self, key: int) -> None:
        self.began.append(key)
