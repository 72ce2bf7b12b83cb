"""The classic sample: a module of the original's form, run unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partition.testing import Client, TestWorld

FOLDER = Path(__file__).parents[2] / "plugins" / "classic_sample"


@pytest.fixture
def world() -> Iterator[TestWorld]:
    world = TestWorld([FOLDER])
    yield world
    world.check()


def heard(client: Client) -> list[Any]:
    return [event["text"] for event in client.events() if event["msg"] == "room.message"]


def test_a_room_hears_and_the_sender_is_answered(world: TestWorld) -> None:
    ann = world.login("ann")
    bob = world.login("bob", apart_from=ann)
    assert bob.call("say", text="hello") == {"msg": "say", "id": 1, "status": 0, "room": "lobby", "length": 5}
    assert ann.call("say", text="hi bob")["length"] == 6
    assert heard(bob) == [f"<{bob.user}> hello", "<ann> hi bob"] and heard(ann) == ["<ann> hi bob"]


def test_a_user_is_told_wherever_they_are(world: TestWorld) -> None:
    ann = world.login("ann")
    bob = world.login("bob", apart_from=ann)
    for step in world.steps_of(lambda: ann.call("say", to=bob.user, text="psst")):
        (event,) = bob.events()
        assert event == {"msg": "whisper", "sender": "ann", "text": "psst", "n": 1}, step
    assert ann.call("say", to="nobody", text="psst")["text"] == "told nobody"


def test_a_text_that_is_a_message_is_sent_as_one(world: TestWorld) -> None:
    ann = world.login("ann")
    assert ann.call("say", text="help")["status"] == 0
    assert {"msg": "hint", "text": "say:to somebody, or room", "n": 1} in ann.events()


def test_what_the_client_left_out_is_the_clients_error(world: TestWorld) -> None:
    reply = world.login("ann").call("say", room="lobby")
    assert (reply["error"], reply["reason"]) == ("bad_argument", "text: say needs it")
