"""A game's next version and the one before it, in a world without processes."""

from typing import Any

import pytest

from connserver import Context, Object, Plugin, transient
from connserver.errors import PluginLoadError
from partition.testing import Client, TestWorld


def first(*, down: bool = False) -> Plugin:
    plugin = Plugin("purse", version="1.0.0")

    @plugin.kind("player")
    class Player(Object):
        coins: int = 0
        mood: str = transient("calm")

    @plugin.method("purse.put")
    def put(ctx: Context, me: Player, coins: int) -> dict[str, int]:
        me.coins += coins
        me.mood = "glad"
        return {"coins": me.coins}

    if down:

        @plugin.migrate(Player, to=1, down=True)
        def gold_was_coins(fields: dict[str, Any]) -> dict[str, Any]:
            return {"coins": fields["gold"] * 10 + fields["silver"]}

    return plugin


def second(*, up: bool = True) -> Plugin:
    plugin = Plugin("purse", version="2.0.0")

    @plugin.kind("player", schema=2, index=["gold"])
    class Player(Object):
        gold: int = 0
        silver: int = 0
        mood: str = transient("calm")

    @plugin.method("purse.put")
    def put(ctx: Context, me: Player, coins: int) -> dict[str, int]:
        gold, me.silver = divmod(me.gold * 10 + me.silver + coins, 10)
        me.gold = gold
        return {"gold": me.gold, "silver": me.silver}

    @plugin.method("purse.rich")
    def rich(ctx: Context, me: Player, gold: int) -> dict[str, int]:
        return {"count": len(ctx.objects.where(Player, gold=gold))}

    if up:

        @plugin.migrate(Player, to=2)
        def coins_become_gold(fields: dict[str, Any]) -> dict[str, Any]:
            gold, silver = divmod(fields["coins"], 10)
            return {"gold": gold, "silver": silver}

    return plugin


@pytest.fixture
def world() -> TestWorld:
    return TestWorld([first()])


def coins(client: Client, put: int) -> int:
    """What a player has after putting some in, by whichever version runs."""
    reply = client.call("purse.put", coins=put)
    assert reply["status"] == 0, reply
    if "coins" in reply:
        return int(str(reply["coins"]))
    return int(str(reply["gold"])) * 10 + int(str(reply["silver"]))


def test_forward_and_back_again(world: TestWorld) -> None:
    ann = world.login("ann")
    bob = world.login("bob", apart_from=ann)
    assert coins(ann, 12) == 12 and coins(bob, 30) == 30
    world.use([second()])
    assert world.schemas("player") == {1}, "objects migrate when they are written, not before"
    assert ann.call("purse.rich", gold=1)["count"] == 1, "an index sees them in the new schema"
    assert coins(ann, 5) == 17
    assert world.schemas("player") == {1, 2}
    assert world.fields(bob) == {"gold": 3, "silver": 0, "mood": "glad"}, "transient fields go along"
    world.use([first(down=True)])
    assert coins(ann, 1) == 18 and coins(bob, 1) == 31
    assert world.schemas("player") == {1}
    world.check()


def test_nothing_is_lost_when_workers_die_on_the_way(world: TestWorld) -> None:
    ann = world.login("ann")
    coins(ann, 12)

    def there_and_back() -> None:
        world.use([second()])
        assert coins(ann, 5) == 17
        world.use([first(down=True)])
        assert coins(ann, 1) == 18

    for step in world.steps_of(there_and_back):
        assert ann.call("purse.put", coins=0) == {"msg": "purse.put", "id": 4, "status": 0, "coins": 18}
        assert world.fields(ann)["coins"] == 18, step
    world.check()


def test_without_a_way_it_is_refused_beforehand_and_the_former_version_serves(world: TestWorld) -> None:
    ann = world.login("ann")
    coins(ann, 12)
    with pytest.raises(PluginLoadError, match=r"schema 2, objects are stored in schema 1: .*to=2\) is mis"):
        world.use([second(up=False)])
    assert coins(ann, 1) == 13
    world.use([second()])
    assert coins(ann, 1) == 14
    with pytest.raises(PluginLoadError, match=r"stored in schema 2: .*to=1, down=True\) is missing"):
        world.use([first()])
    assert coins(ann, 1) == 15
    world.check()


def test_one_group_that_cannot_read_is_enough_to_refuse(world: TestWorld) -> None:
    ann = world.login("ann")
    bob = world.login("bob", apart_from=ann)
    world.overwrite(max(ann, bob, key=lambda client: client.group), "player", 7, {"coins": 1})
    with pytest.raises(PluginLoadError, match="stored in schema 7"):
        world.use([second()])
    for client in (ann, bob):
        if client.group == 0:
            assert client.call("purse.put", coins=1)["coins"] == 1


def test_a_migration_that_raises_is_named_with_its_object(world: TestWorld) -> None:
    ann = world.login("ann")
    world.use([second()])
    world.overwrite(ann, "player", 1, {"cs.name": "ann"})
    reply = ann.call("purse.put", coins=1)
    assert reply["error"] == "plugin_error"
    traceback = world.incidents[str(reply["incident"])]
    assert f"purse: migrate('player', to=2) failed on {ann.oid}: KeyError: 'coins'" in traceback
    assert "coins_become_gold" in traceback
