"""The world samples: moving, things, trade; and that nothing is ever lost or doubled.

There are two, in Python and in C++, of which everything here is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connserver import Plugin
from partition.testing import Client, TestWorld
from tests.native import loaded

pytestmark = pytest.mark.timeout(300)  # a compiler on a busy machine takes its time

USERS = ("ann", "bob", "dora", "eve")
"""Two of them live in each of the two partition groups."""


@pytest.fixture(scope="module", params=["world", "world_native"])
def plugin(request: pytest.FixtureRequest) -> Plugin:
    return loaded(request.param)


@pytest.fixture
def world(plugin: Plugin) -> Iterator[TestWorld]:
    world = TestWorld([plugin])
    yield world
    world.check()


def ok(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["status"] == 0, reply
    return {name: value for name, value in reply.items() if name not in ("msg", "id", "status")}


def code(reply: dict[str, Any]) -> Any:
    return reply.get("code") or reply.get("error")


def holdings(world: TestWorld) -> tuple[int, Counter[str]]:
    """All gold, and all things, wherever they are."""
    players = world.all("player").values()
    things: Counter[str] = Counter()
    for player in players:
        things.update(player["bag"])
        things.update(player["offers"].keys())
    for zone in world.all("zone").values():
        things.update(zone["ground"])
    return sum(player["gold"] for player in players), things


# --- moving and looking ---


def test_moving_is_seen_by_those_in_the_zone_and_costs_no_commit(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("dora")
    steps = world.steps
    ok(ann.call("world.move", x=1.5))
    assert world.steps == steps and world.fields(ann)["x"] == 1.5
    assert code(ann.call("world.move", x=9)) == "world.too_fast" and world.fields(ann)["x"] == 1.5
    world.advance(0.1)
    states = [event for event in bob.events() if event["msg"] == "room.state"]
    assert states and "pos" in str(states[-1]["changes"])


def test_moving_too_often_is_told_when_to_come_back(world: TestWorld) -> None:
    ann = world.login("ann")
    replies = [ann.call("world.move", x=0.1) for _ in range(6)]
    assert [reply["status"] for reply in replies] == [0] * 5 + [1]
    assert code(replies[5]) == "rate_limited" and replies[5]["retry_after_ms"] == 50
    world.advance(0.05)
    ok(ann.call("world.move", x=0.1))


def test_going_changes_the_zone_and_its_room(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("bob")
    assert ok(ann.call("world.go", zone="z1")) == {"zone": "z1"}
    assert code(ann.call("world.go", zone="No Zone")) == "world.bad_name"
    assert ok(ann.call("room.who", room="z1"))["members"] == ["ann"]
    assert ok(bob.call("room.who", room="z0"))["members"] == ["bob"]


def test_looking_shows_things_and_creatures(world: TestWorld) -> None:
    ann, builder = world.login("ann"), world.login("bob", roles=["builder"])
    assert code(ann.call("world.place", thing="lamp")) == "forbidden"
    ok(builder.call("world.place", thing="lamp"))
    wolf = ok(builder.call("world.spawn", name="wolf"))["oid"]
    world.advance(1.0)
    seen = ok(ann.call("world.look"))
    assert seen["things"] == ["lamp"] and seen["zone"] == "z0"
    assert [(npc["oid"], npc["name"]) for npc in seen["npcs"]] == [(wolf, "wolf")]
    assert seen["npcs"][0]["x"] != 0.0, "creatures live by themselves"


# --- things ---


def test_things_go_from_ground_to_bag_to_another_and_back(world: TestWorld) -> None:
    ann, dora = world.login("ann"), world.login("dora")
    world.put(ann, bag=["lamp", "rope"])
    ok(ann.call("world.drop", thing="lamp"))
    assert code(ann.call("world.drop", thing="lamp")) == "world.not_yours"
    ok(dora.call("world.take", thing="lamp"))
    assert code(ann.call("world.take", thing="lamp")) == "world.not_here"
    ok(ann.call("world.give", to=dora.oid, thing="rope"))
    assert dora.events()[-1]["msg"] == "world.received"
    assert world.fields(dora)["bag"] == ["lamp", "rope"] and world.fields(ann)["bag"] == []
    assert ok(dora.call("world.inventory")) == {"gold": 0, "bag": ["lamp", "rope"], "offers": {}}


def test_what_the_receiver_refuses_comes_back(world: TestWorld) -> None:
    ann, dora = world.login("ann"), world.login("dora")
    world.put(ann, bag=["lamp"])
    world.put(dora, bag=[f"t{number}" for number in range(64)])
    assert code(ann.call("world.give", to=dora.oid, thing="lamp")) == "world.bag_full"
    assert code(ann.call("world.give", to="user:nobody", thing="lamp")) == "not_found"
    assert code(dora.call("world.take", thing="lamp")) == "world.bag_full"
    assert world.fields(ann)["bag"] == ["lamp"]


# --- trade ---


def test_trade_across_partitions(world: TestWorld) -> None:
    ann, dora = world.login("ann"), world.login("dora")
    world.put(ann, gold=10)
    world.put(dora, bag=["sword", "lamp"])
    ok(dora.call("trade.offer", thing="sword", price=7))
    assert code(dora.call("trade.offer", thing="sword", price=7)) == "trade.bad_offer"
    assert ok(ann.call("trade.offers", seller=dora.oid)) == {"offers": [{"thing": "sword", "price": 7}]}
    assert code(ann.call("trade.buy", seller=dora.oid, thing="sword", price=8)) == "trade.gone"
    assert code(ann.call("trade.buy", seller=dora.oid, thing="sword", price=11)) == "trade.too_poor"
    assert world.fields(ann)["gold"] == 10
    ok(ann.call("trade.buy", seller=dora.oid, thing="sword", price=7))
    assert world.fields(ann)["gold"] == 3 and world.fields(ann)["bag"] == ["sword"]
    assert world.fields(dora)["gold"] == 7 and world.fields(dora)["bag"] == ["lamp"]
    ok(dora.call("trade.offer", thing="lamp", price=1))
    ok(dora.call("trade.withdraw", thing="lamp"))
    assert code(dora.call("trade.withdraw", thing="lamp")) == "trade.gone"
    assert code(ann.call("trade.buy", seller=dora.oid, thing="lamp", price=1)) == "trade.gone"


@pytest.mark.parametrize("seller", ["bob", "dora"])
@pytest.mark.parametrize("price", [5, 6])
@pytest.mark.parametrize("gateway", [False, True])
def test_a_trade_happens_once_whenever_a_worker_dies(
    world: TestWorld, seller: str, price: int, gateway: bool
) -> None:
    ann, other = world.login("ann"), world.login(seller)
    world.put(ann, gold=10)
    world.put(other, bag=["sword"])
    ok(other.call("trade.offer", thing="sword", price=5))
    bought = price == 5

    def trade() -> None:
        reply = ann.call("trade.buy", seller=other.oid, thing="sword", price=price)
        assert (reply["status"] == 0) == bought

    steps = []
    for step in world.steps_of(trade, gateway=gateway):
        assert world.fields(ann)["bag"] == (["sword"] if bought else []), step
        golds = (world.fields(ann)["gold"], world.fields(other)["gold"])
        assert golds == ((5, 5) if bought else (10, 0)), step
        steps.append(step.causes)
    # within one group it is one commit; across groups each callback has its own
    all_in_one = [("trade.buy", "world.hand_over", "world.settle")]
    apart = [("trade.buy",), ("world.hand_over",), ("world.settle",), ("confirmed",)]
    assert steps == (apart if other.group != ann.group else all_in_one)


# --- nothing is lost or doubled ---

THINGS = ("lamp", "rope", "sword")
ACTIONS = st.one_of(
    st.tuples(st.just("world.take"), st.fixed_dictionaries({"thing": st.sampled_from(THINGS)})),
    st.tuples(st.just("world.drop"), st.fixed_dictionaries({"thing": st.sampled_from(THINGS)})),
    st.tuples(st.just("world.go"), st.fixed_dictionaries({"zone": st.sampled_from(["z0", "z1"])})),
    st.tuples(
        st.just("world.give"),
        st.fixed_dictionaries({"to": st.sampled_from([*USERS, "nobody"]), "thing": st.sampled_from(THINGS)}),
    ),
    st.tuples(
        st.just("trade.offer"),
        st.fixed_dictionaries({"thing": st.sampled_from(THINGS), "price": st.integers(-1, 12)}),
    ),
    st.tuples(st.just("trade.withdraw"), st.fixed_dictionaries({"thing": st.sampled_from(THINGS)})),
    st.tuples(
        st.just("trade.buy"),
        st.fixed_dictionaries(
            {
                "seller": st.sampled_from(USERS),
                "thing": st.sampled_from(THINGS),
                "price": st.integers(-1, 12),
            }
        ),
    ),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(USERS), ACTIONS), max_size=25),
    st.lists(st.integers(1, 12), max_size=3),
)
def test_gold_and_things_are_conserved(
    plugin: Plugin,
    actions: list[tuple[str, tuple[str, dict[str, Any]]]],
    crashes: list[int],
) -> None:
    """Whatever players do, whatever is refused, and whenever workers die."""
    world = TestWorld([plugin])
    clients: dict[str, Client] = {user: world.login(user) for user in USERS}
    for client in clients.values():
        world.put(client, gold=10, bag=list(THINGS))
    expected = holdings(world)
    for position, (user, (method, fields)) in enumerate(actions):
        if crashes and position % 8 == 0:
            world.crash_after(crashes.pop())
        for name in ("to", "seller"):
            if name in fields:
                fields = {**fields, name: f"user:{fields[name]}"}
        reply = clients[user].call(method, **fields)
        assert reply["status"] == 0 or reply["error"] in ("refused", "not_found"), reply
        assert holdings(world) == expected
    assert all(player["gold"] >= 0 for player in world.all("player").values())
    world.check()


def test_bags_of_schema_one_are_read(world: TestWorld) -> None:
    ann = world.login("ann")
    old = {"zone": "z1", "gold": 3, "bag": "lamp,rope", "offers": {}, "cs.name": "ann"}
    world.overwrite(ann, "player", 1, old)
    assert ok(ann.call("world.inventory")) == {"gold": 3, "bag": ["lamp", "rope"], "offers": {}}
