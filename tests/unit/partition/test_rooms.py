"""Rooms: one order, history, membership that follows a connection, volatile values, forgetting."""

import pytest

from connserver.ids import named_id
from connserver.limits import ROOM_HISTORY
from connserver.messages import OutputKind
from connserver.model import unpack
from partition.rooms import IDLE_ROOM_S, Rooms
from tests.unit.partition.worlds import Kept

ALICE, BOB = named_id("user", "alice"), named_id("user", "bob")


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def rooms(kept: Kept) -> Rooms:
    return Rooms(kept.ledger)


def joined(rooms: Rooms) -> None:
    rooms.join("lobby", 1, ALICE, "alice", (11, 1))
    rooms.join("lobby", 2, BOB, "bob", (11, 2))
    rooms.join("lobby", 3, BOB, "bob", (22, 9))


def test_an_event_goes_once_to_each_gateway_with_all_its_members(kept: Kept, rooms: Rooms) -> None:
    joined(rooms)
    assert rooms.send("lobby", "alice", {"text": "hi"}, 0.0) == 1
    outputs = {batch.gateway: batch for batch in kept.turn.finish().outputs}
    assert outputs[11].targets == [[1, 2]] and outputs[22].targets == [[9]]
    assert outputs[11].bodies == outputs[22].bodies
    event = {"msg": "room.message", "room": "lobby", "seq": 1, "from": "alice", "text": "hi"}
    assert unpack(outputs[11].bodies[0]) == event
    rooms.check_invariants()


def test_members_history_and_seq_survive_a_reload(kept: Kept, rooms: Rooms) -> None:
    joined(rooms)
    for number in range(ROOM_HISTORY + 20):
        rooms.send("lobby", "alice", {"number": number}, 0.0)
    again = Rooms(kept.reopen().ledger)
    again.load()
    assert again.seq("lobby") == ROOM_HISTORY + 20
    assert again.past("lobby", 1000) == rooms.past("lobby", 1000)
    assert again.who("lobby", "", 10) == (["alice", "bob"], False)
    assert again.send("lobby", "bob", {}, 0.0) == ROOM_HISTORY + 21
    again.check_invariants()


def test_who_missed_something_gets_it_or_learns_of_the_gap(rooms: Rooms) -> None:
    joined(rooms)
    for number in range(ROOM_HISTORY + 5):
        rooms.send("lobby", "alice", {"number": number}, 0.0)
    first, events = rooms.since("lobby", ROOM_HISTORY)
    assert (first, [unpack(body)["seq"] for body in events]) == (6, list(range(257, 262)))
    first, events = rooms.since("lobby", 0)
    assert first == 6 and len(events) == ROOM_HISTORY


def test_a_membership_moves_with_its_session(kept: Kept, rooms: Rooms) -> None:
    joined(rooms)
    rooms.join("lobby", 1, ALICE, "alice", (33, 4))
    kept.turn.finish()
    rooms.send("lobby", "bob", {}, 0.0)
    targets = {batch.gateway: batch.targets for batch in kept.turn.finish().outputs}
    assert targets == {11: [[2]], 22: [[9]], 33: [[4]]}
    rooms.check_invariants()


def test_pages_of_members(rooms: Rooms) -> None:
    for number in range(10):
        rooms.join("lobby", number, number, f"user{number}", (1, number))
    assert rooms.who("lobby", "", 4) == (["user0", "user1", "user2", "user3"], True)
    assert rooms.who("lobby", "user7", 4) == (["user8", "user9"], False)
    assert rooms.who("nowhere", "", 4) == ([], False)


def test_volatile_values_the_latest_wins_and_leaving_removes(kept: Kept, rooms: Rooms) -> None:
    joined(rooms)
    rooms.update("lobby", 1, "alice", "pos", {"x": 1})
    rooms.update("lobby", 1, "alice", "pos", {"x": 2})
    kept.turn.finish()
    rooms.publish_changes(5.0)
    turn = kept.turn.finish()
    assert turn.entry is None
    assert {kind for batch in turn.outputs for kind in batch.kinds} == {OutputKind.VOLATILE}
    assert unpack(turn.outputs[0].bodies[0])["changes"] == [
        {"from": "alice", "key": "pos", "value": {"x": 2}}
    ]
    rooms.publish_changes(5.1)
    assert kept.turn.finish().empty
    rooms.leave("lobby", 1, 6.0)
    kept.turn.finish()
    rooms.publish_changes(6.1)
    outputs = kept.turn.finish().outputs
    assert unpack(outputs[0].bodies[0])["changes"] == [{"from": "alice", "key": "pos", "value": None}]
    assert rooms.snapshot("lobby", 2, 7.0) == []
    (snapshot,) = rooms.snapshot("lobby", 2, 7.0, again=True)
    assert unpack(snapshot) == {"msg": "room.state", "room": "lobby", "t": 7.0, "all": True, "changes": []}


def test_an_empty_room_is_forgotten_with_everything_in_it(kept: Kept, rooms: Rooms) -> None:
    joined(rooms)
    rooms.send("lobby", "alice", {}, 0.0)
    for session in (1, 2, 3):
        assert rooms.leave("lobby", session, 100.0)
    assert not rooms.leave("lobby", 1, 100.0)
    rooms.forget_idle(100.0 + IDLE_ROOM_S - 1)
    assert len(rooms) == 1
    rooms.forget_idle(100.0 + IDLE_ROOM_S)
    assert len(rooms) == 0
    assert [image.kind for image in kept.store.images()] == ["cs.ids"]


def test_a_room_that_only_a_plugin_speaks_in_is_forgotten_too(rooms: Rooms) -> None:
    rooms.send("news", "", {"text": "x"}, 50.0)
    rooms.forget_idle(50.0 + IDLE_ROOM_S)
    assert len(rooms) == 0
