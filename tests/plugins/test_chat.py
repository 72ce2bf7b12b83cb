"""The chat sample: channels, direct messages with a mailbox, nicknames; beside a game and alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partition.testing import Client, TestWorld

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture(params=[["chat"], ["world", "chat"]], ids=["alone", "beside a game"])
def world(request: pytest.FixtureRequest) -> Iterator[TestWorld]:
    world = TestWorld([PLUGINS / name for name in request.param])
    yield world
    world.check()


def ok(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["status"] == 0, reply
    return {name: value for name, value in reply.items() if name not in ("msg", "id", "status")}


def code(reply: dict[str, Any]) -> Any:
    return reply.get("code") or reply.get("error")


def events(client: Client, kind: str = "") -> list[dict[str, Any]]:
    """What came from channels (their events of a kind) and directly."""
    return [event for event in client.events() if not kind or kind in (event["msg"], event.get("event"))]


def test_members_see_each_others_lines_in_one_order(world: TestWorld) -> None:
    ann, dora, eve = world.login("ann"), world.login("dora"), world.login("eve")
    assert ok(ann.call("chat.join", room="lobby")) == {"room": "lobby", "topic": "", "members": ["ann"]}
    assert ok(dora.call("chat.join", room="lobby"))["members"] == ["ann", "dora"]
    ok(ann.call("chat.say", room="lobby", text="hi"))
    ok(dora.call("chat.say", room="lobby", text="hello", volume="7"))
    lines = [(e["from"], e["text"], e["volume"], e["seq"]) for e in events(ann, "said")]
    assert [line[:3] for line in lines] == [("ann", "hi", 5), ("dora", "hello", 7)]
    assert lines == [(e["from"], e["text"], e["volume"], e["seq"]) for e in events(dora, "said")]
    assert events(eve) == []
    assert code(eve.call("chat.say", room="lobby", text="psst")) == "chat.not_a_member"
    assert code(eve.call("chat.who", room="lobby")) == "chat.not_a_member"


def test_bad_lines_are_refused(world: TestWorld) -> None:
    ann = world.login("ann")
    ok(ann.call("chat.join", room="lobby"))
    for fields, error in (
        ({"text": "  "}, "chat.bad_text"),
        ({"text": "x" * 2001}, "chat.bad_text"),
        ({"text": "x", "volume": 11}, "chat.bad_volume"),
        ({"text": "x", "volume": "loud"}, "bad_argument"),
        ({}, "bad_argument"),
        ({"text": "x", "colour": "red"}, "bad_argument"),
    ):
        assert code(ann.call("chat.say", room="lobby", **fields)) == error
        world.advance(1)
    assert code(ann.call("chat.join", room="")) == "chat.bad_room"


def test_joining_twice_is_joining_once_and_leaving_is_seen(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("bob")
    for client in (ann, ann, bob):
        ok(client.call("chat.join", room="lobby"))
        world.advance(1)
    assert len(events(ann, "joined")) == 1, "ann's own joining came before she was there"
    ok(bob.call("chat.leave", room="lobby"))
    assert [event["name"] for event in events(ann, "left")] == ["bob"]
    assert ok(ann.call("chat.who", room="lobby"))["members"] == ["ann"]
    assert code(bob.call("chat.leave", room="lobby")) == "chat.not_a_member"


def test_the_topic_is_kept(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("bob")
    ok(ann.call("chat.join", room="lobby"))
    ok(ann.call("chat.topic", room="lobby", topic="cats"))
    assert events(ann, "topic")[0]["topic"] == "cats"
    assert ok(bob.call("chat.join", room="lobby"))["topic"] == "cats"
    world.advance(2)
    assert code(bob.call("chat.topic", room="lobby", topic="x" * 201)) == "chat.too_long"


def test_direct_messages_wait_for_those_who_are_away(world: TestWorld) -> None:
    ann, dora = world.login("ann"), world.login("dora")
    ok(ann.call("chat.tell", to="user:dora", text="one"))
    (told,) = events(dora, "chat.told")
    assert (told["sender"], told["text"]) == ("ann", "one")
    world.drop(dora)
    world.advance(130)
    ok(ann.call("chat.tell", to=dora.oid, text="two"))
    assert [event["text"] for event in events(world.login("dora"), "chat.told")] == ["two"]
    assert events(world.login("dora"), "chat.told") == [], "delivered once"
    world.advance(1)
    assert code(ann.call("chat.tell", to="user:nobody", text="x")) == "not_found"


def test_a_mailbox_is_bounded(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("bob")
    world.drop(bob)
    world.advance(130)
    codes = []
    for _ in range(52):
        world.advance(1)
        codes.append(code(ann.call("chat.tell", to=bob.oid, text="x")))
    assert codes == [None] * 50 + ["chat.mailbox_full"] * 2


def test_those_who_are_ignored_are_not_heard_and_not_told(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("bob")
    ok(bob.call("chat.ignore", user="ann"))
    assert ok(ann.call("chat.tell", to=bob.oid, text="x")) == {"delivered": "accepted"}
    assert events(bob, "chat.told") == []
    ok(bob.call("chat.ignore", user="ann", on=False))
    world.advance(1)
    ok(ann.call("chat.tell", to=bob.oid, text="y"))
    assert len(events(bob, "chat.told")) == 1


@pytest.mark.parametrize("gateway", [False, True])
def test_a_nickname_belongs_to_one_whenever_a_worker_dies(world: TestWorld, gateway: bool) -> None:
    ann, dora = world.login("ann"), world.login("dora")
    for step in world.steps_of(lambda: ok(ann.call("chat.nick", nick="Star")), gateway=gateway):
        assert code(dora.call("chat.nick", nick="STAR")) == "chat.nick_taken", step
    world.advance(2)
    ok(ann.call("chat.nick", nick="Moon"))
    world.advance(2)
    ok(dora.call("chat.nick", nick="star"))
    assert sorted(nick["owner"] for nick in world.all("chat-nick").values()) == sorted([ann.oid, dora.oid])
    ok(dora.call("chat.join", room="lobby"))
    ok(dora.call("chat.say", room="lobby", text="hi"))
    assert events(dora, "said")[-1]["nick"] == "star"
    world.advance(2)
    assert code(ann.call("chat.nick", nick="no good")) == "chat.bad_nick"


def test_a_second_session_is_in_the_same_channels_and_the_last_one_leaves_them(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("bob")
    ok(ann.call("chat.join", room="lobby"))
    ok(bob.call("chat.join", room="lobby"))
    again = world.login("ann")
    ok(bob.call("chat.say", room="lobby", text="hi"))
    assert len(events(ann, "said")) == len(events(again, "said")) == 1
    ok(again.call("logout"))
    assert ok(bob.call("chat.who", room="lobby"))["members"] == ["ann", "bob"]
    ok(ann.call("logout"))
    assert ok(bob.call("chat.who", room="lobby"))["members"] == ["bob"]
