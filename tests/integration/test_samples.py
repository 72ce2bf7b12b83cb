"""The sample plugins through real sockets: nothing of a world is ever lost or doubled on its way."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from connserver.encodings import Encoding
from connserver.ids import format_oid, named_id
from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.voices import Message, Voice, login, names_in_groups, operator, values

pytestmark = pytest.mark.integration

GROUPS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node is enough to cross groups."""
    with new_cluster(nodes=1, groups=GROUPS) as made:
        made.up()
        wait_for("a call to be carried out", made.serves)
        yield made
        assert made.down() == 0


@pytest.fixture
def address(cluster: Cluster) -> tuple[str, int]:
    return cluster.gateways[0]


def oid(user: str) -> str:
    return format_oid(named_id("user", user))


def equip(cluster: Cluster, user: str, **fields: Any) -> None:
    """Give a player gold and things, as an operator does."""
    with operator(cluster) as admin:
        admin.ask("object.put", oid=oid(user), kind="player", fields=fields)


def owned(voice: Voice) -> tuple[int, list[str]]:
    mine = voice.good("world.inventory")
    return mine["gold"], sorted([*mine["bag"], *mine["offers"]])


# --- world ------------------------------------------------------------------------------------------


def test_moving_is_seen_by_the_zone_and_running_is_refused(address: tuple[str, int]) -> None:
    first, second = names_in_groups("user", "walker", GROUPS)
    with login(address, first) as walker, login(address, second) as watcher:
        walker.good("world.go", zone="plain")
        watcher.good("world.go", zone="plain")
        wait_for("both in the zone", lambda: _members(watcher, "plain") == sorted([first, second]))
        walker.good("world.move", x=1.5)
        state = watcher.event("room.state")
        assert state["room"] == "plain"
        assert {"from": first, "key": "pos", "value": {"x": 1.5}} in state["changes"]
        refused = walker.call("world.move", x=9)
        assert (refused["error"], refused["code"]) == ("refused", "world.too_fast")


def _members(voice: Voice, room: str) -> list[str]:
    answer = voice.call("room.who", room=room)
    return sorted(answer.get("members", []))


def test_look_drop_take_and_give(cluster: Cluster, address: tuple[str, int]) -> None:
    first, second = names_in_groups("user", "hand", GROUPS)
    with login(address, first) as giver, login(address, second) as taker:
        equip(cluster, first, bag=["lamp", "rope"], zone="cave")
        equip(cluster, second, zone="cave")
        giver.good("world.drop", thing="rope")
        seen = taker.good("world.look")
        assert (seen["zone"], seen["things"]) == ("cave", ["rope"])
        taker.good("world.take", thing="rope")
        assert taker.good("world.look")["things"] == []
        assert giver.call("world.take", thing="rope")["code"] == "world.not_here"
        giver.good("world.give", to=oid(second), thing="lamp")
        received = taker.event("world.received")
        assert (received["thing"], received["giver"], received["n"]) == ("lamp", first, 1)
        assert owned(giver) == (0, [])
        assert owned(taker) == (0, ["lamp", "rope"])
        assert giver.call("world.give", to=oid(second), thing="lamp")["code"] == "world.not_yours"


def test_buying_across_groups_moves_gold_and_thing_or_nothing(
    cluster: Cluster, address: tuple[str, int]
) -> None:
    seller_name, buyer_name = names_in_groups("user", "trader", GROUPS)
    with login(address, seller_name) as seller, login(address, buyer_name) as buyer:
        equip(cluster, seller_name, gold=1, bag=["sword"])
        equip(cluster, buyer_name, gold=50)
        seller.good("trade.offer", thing="sword", price=30)
        assert buyer.good("trade.offers", seller=oid(seller_name))["offers"] == [
            {"thing": "sword", "price": 30}
        ]
        gone = buyer.call("trade.buy", seller=oid(seller_name), thing="sword", price=29)
        assert (gone["error"], gone["code"]) == ("refused", "trade.gone")
        assert owned(buyer) == (50, [])
        buyer.good("trade.buy", seller=oid(seller_name), thing="sword", price=30, id=1)
        again = buyer.good("trade.buy", seller=oid(seller_name), thing="sword", price=30, id=1)
        assert again["status"] == 0
        assert owned(buyer) == (20, ["sword"])
        assert owned(seller) == (31, [])
        poor = buyer.call("trade.buy", seller=oid(seller_name), thing="x", price=21)
        assert poor["code"] == "trade.too_poor"


def test_many_trades_at_once_keep_the_sums(cluster: Cluster, address: tuple[str, int]) -> None:
    """Seeded players of both groups sell, buy, give and drop, several requests in flight each."""
    names = [*names_in_groups("user", "crowd", GROUPS), *names_in_groups("user", "mob", GROUPS)]
    things = [f"thing{number}" for number in range(12)]
    dice = Random(5)
    voices = [login(address, name) for name in names]
    try:
        for number, name in enumerate(names):
            equip(cluster, name, gold=100, bag=things[number::4], zone="market")
        for _ in range(25):
            for voice in voices:
                _act(voice, dice, names, things)
            for voice in voices:
                replies = [voice.reply() for _ in range(2)]
                assert all(reply.get("error", "refused") == "refused" for reply in replies), replies
        wealth = [owned(voice) for voice in voices]
        ground = voices[0].good("world.look")["things"]
        assert sum(gold for gold, _ in wealth) == 400
        assert Counter(thing for _, bag in wealth for thing in bag) + Counter(ground) == Counter(things)
    finally:
        for voice in voices:
            voice.close()


def _act(voice: Voice, dice: Random, names: list[str], things: list[str]) -> None:
    thing = dice.choice(things)
    other = oid(dice.choice(names))
    actions: list[tuple[str, Message]] = [
        ("trade.offer", {"thing": thing, "price": dice.randrange(3)}),
        ("trade.buy", {"seller": other, "thing": thing, "price": dice.randrange(3)}),
        ("world.give", {"to": other, "thing": thing}),
        ("world.drop", {"thing": thing}),
        ("world.take", {"thing": thing}),
    ]
    for msg, fields in dice.sample(actions, 2):
        voice.send(msg, **fields)


# --- chat -------------------------------------------------------------------------------------------


def test_a_channel_with_members_of_two_groups(address: tuple[str, int]) -> None:
    first, second = names_in_groups("user", "talker", GROUPS)
    with login(address, first) as ann, login(address, second) as bob:
        joined = ann.good("chat.join", room="den")
        assert joined["members"] == [first]
        assert bob.good("chat.join", room="den")["members"] == sorted([first, second])
        wait_for("both in the room", lambda: _members(ann, "den") == sorted([first, second]))
        ann.good("chat.say", room="den", text="hi")
        said = _said(bob)
        assert (said["from"], said["nick"], said["text"], said["volume"]) == (first, first, "hi", 5)
        assert _said(ann)["seq"] == said["seq"]
        bob.good("chat.topic", room="den", topic="tea")
        assert ann.good("chat.who", room="den")["topic"] == "tea"
        bob.good("chat.leave", room="den")
        assert ann.good("chat.who", room="den")["members"] == [first]
        assert bob.call("chat.say", room="den", text="x")["code"] == "chat.not_a_member"


def _said(voice: Voice) -> Message:
    until = time.monotonic() + 10
    while (event := voice.event("room.message", until - time.monotonic()))["event"] != "said":
        pass
    return event


def test_a_direct_message_waits_for_its_reader_and_nicks_are_unique(address: tuple[str, int]) -> None:
    first, second = names_in_groups("user", "pen", GROUPS)
    with login(address, first) as ann:
        with login(address, second) as bob:
            bob.good("chat.nick", nick="Bobby")
            bob.good("logout")
        assert ann.call("chat.nick", nick="bobby")["code"] == "chat.nick_taken"
        ann.good("chat.tell", to=oid(second), text="call me")
        with login(address, second) as bob:
            told = bob.event("chat.told")
            assert (told["sender"], told["nick"], told["text"]) == (first, first, "call me")
            bob.good("chat.ignore", user="penny")
            with login(address, "penny") as penny:
                penny.good("chat.tell", to=oid(second), text="me too")
            assert bob.good("ping")["msg"] == "ping"
            assert not bob.events


# --- a module of the original's form ----------------------------------------------------------------


def test_a_classic_module_talks_to_clients_of_two_groups_and_encodings(address: tuple[str, int]) -> None:
    first, second = names_in_groups("user", "flash", GROUPS)
    with login(address, first, Encoding.XML) as ann, login(address, second, Encoding.CLASSIC) as bob:
        assert values(bob.good("say", text="hello", room="hall"))["length"] == "5"
        ann.good("say", text="hi", room="hall")
        assert ann.event("room.message")["text"] == f"<{first}> hi"
        assert [bob.event("room.message")["text"] for _ in range(2)] == [f"<{second}> hello", f"<{first}> hi"]
        assert ann.good("say", to=second, text="psst")["text"] == f"told {second}"
        assert bob.event("whisper")["sender"] == first
