"""What a client has seen of its rooms."""

from __future__ import annotations

from connserver.client.events import Change, Loss, RoomChange, RoomGap, RoomMessage
from connserver.client.rooms import Rooms
from connserver.model import Message, Value


def message(seq: int) -> Message:
    return {"msg": "room.message", "room": "hall", "seq": seq, "from": "bob", "text": "x"}


def state(**values: Value) -> Message:
    changes: list[Value] = [
        {"from": sender, "key": "pos", "value": value} for sender, value in values.items()
    ]
    return {"msg": "room.state", "room": "hall", "t": 1.5, "changes": changes}


def joined(seq: int, history: int = 0) -> Rooms:
    rooms = Rooms()
    rooms.join_sent("hall")
    assert rooms.received(message(1)) == [] and rooms.received(state(bob=1)) == []
    assert rooms.joined("hall", seq, history) == []
    rooms.check_invariants()
    return rooms


def seqs(rooms: Rooms, *numbers: int) -> list[object]:
    found = [event for number in numbers for event in rooms.received(message(number))]
    rooms.check_invariants()
    return [event.seq if isinstance(event, RoomMessage) else event for event in found]


def test_each_event_once_and_gaps_are_named() -> None:
    assert seqs(joined(5), 4, 5, 6, 6, 7) == [6, 7]
    assert seqs(joined(5, history=2), 4, 5, 6) == [4, 5, 6]
    assert seqs(joined(1, history=9), 1, 2) == [1, 2]
    assert seqs(joined(5), 8) == [RoomGap("hall", 6, 7, Loss.SKIPPED), 8]
    assert seqs(joined(5, history=2), 5) == [RoomGap("hall", 4, 4, Loss.SKIPPED), 5]


def test_a_room_that_begins_anew_is_counted_anew() -> None:
    rooms = joined(50)
    rooms.joined("hall", 2, 256)
    assert seqs(rooms, 1, 2, 3) == [1, 2, 3]


def test_a_room_that_was_not_joined_here_is_counted_from_its_first_event() -> None:
    rooms = Rooms()
    rooms.received(state(bob=1))
    assert rooms.resume_list() == ([], [])
    assert seqs(rooms, 7, 8, 10) == [7, 8, RoomGap("hall", 9, 9, Loss.SKIPPED), 10]
    assert rooms.resume_list() == ([{"room": "hall", "seq": 10}], [])
    assert rooms.forget_session() == []
    assert rooms.get("hall") is None


def test_a_state_that_says_all_there_is_takes_the_rest_away() -> None:
    rooms = joined(1)
    rooms.received(state(bob=1, amy=2))
    (event,) = rooms.received({**state(amy=3), "all": True})
    assert isinstance(event, RoomChange)
    assert event.changes == (Change("bob", "pos", None), Change("amy", "pos", 3))
    track = rooms.get("hall")
    assert track is not None and track.values == {"pos": {"amy": 3}}
    (event,) = rooms.received({**state(), "all": True})
    assert isinstance(event, RoomChange) and event.changes == (Change("amy", "pos", None),)
    assert track.values == {}


def test_values_are_the_latest_and_a_new_join_replaces_them() -> None:
    rooms = joined(0)
    changed = rooms.received(state(bob=1, cid=2))
    assert changed == [RoomChange("hall", 1.5, (Change("bob", "pos", 1), Change("cid", "pos", 2)))]
    rooms.received(state(bob=3))
    track = rooms.get("hall")
    assert track is not None and track.values == {"pos": {"bob": 3, "cid": 2}}
    rooms.received(state(bob=None))
    assert track.values == {"pos": {"cid": 2}}
    assert rooms.joined("hall", 0, 0) == [RoomChange("hall", 0.0, (Change("cid", "pos", None),))]
    assert track.values == {}
    rooms.check_invariants()


def test_a_join_that_was_refused_and_a_room_that_was_left_are_forgotten() -> None:
    rooms = Rooms()
    rooms.join_sent("hall")
    rooms.join_refused("hall")
    assert rooms.get("hall") is None
    rooms = joined(5)
    rooms.join_sent("hall")
    rooms.join_refused("hall")
    assert rooms.get("hall") is not None, "it was in the room before"
    rooms.left("hall")
    assert rooms.get("hall") is None
