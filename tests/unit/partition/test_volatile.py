"""Volatile values and views: told once, to whom they concern, and taken away from whom they do not."""

from __future__ import annotations

import random

import pytest

from connserver.limits import ROOM_OWN_VALUES, ROOM_STATE_BYTES, ROOM_VALUES_PER_MEMBER
from connserver.model import unpack
from partition.volatile import ROOM_ITSELF, Told, Volatile


class Screen:
    """What a member's client knows: it does nothing but what the messages say."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], object] = {}

    def read(self, body: bytes) -> None:
        message = unpack(body)
        assert message["msg"] == "room.state" and message["room"] == "field"
        if message.get("all"):
            self.values.clear()
        changes = message["changes"]
        assert isinstance(changes, list)
        for change in changes:
            assert isinstance(change, dict)
            key = str(change["from"]), str(change["key"])
            if change["value"] is None:
                self.values.pop(key, None)
            else:
                self.values[key] = change["value"]


def told(published: list[Told], session: int, room: Volatile) -> list[bytes]:
    """What comes to one member, in its order."""
    found: list[bytes] = []
    for sessions, messages in published:
        mine = not room.has_view(session) if sessions is None else session in sessions
        found += messages if mine else []
    return found


def changes(bodies: list[bytes]) -> list[object]:
    return [change for body in bodies for change in unpack(body)["changes"]]  # type: ignore[union-attr]


def test_a_value_comes_into_view_changes_and_goes_out_of_it() -> None:
    room = Volatile("field")
    room.look(2, (0.0, 0.0, 10.0), fresh=True)
    room.update(1, "ann", "pos", {"x": 50}, (50.0, 0.0))
    assert told(room.publish(1.0), 2, room) == []
    room.update(1, "ann", "pos", {"x": 5}, (5.0, 0.0))
    assert changes(told(room.publish(1.1), 2, room)) == [{"from": "ann", "key": "pos", "value": {"x": 5}}]
    room.update(1, "ann", "pos", {"x": 6}, (6.0, 0.0))
    assert changes(told(room.publish(1.2), 2, room)) == [{"from": "ann", "key": "pos", "value": {"x": 6}}]
    room.update(1, "ann", "pos", {"x": 11}, (11.0, 0.0))
    assert changes(told(room.publish(1.3), 2, room)) == [{"from": "ann", "key": "pos", "value": None}]
    room.update(1, "ann", "pos", {"x": 12}, (12.0, 0.0))
    assert told(room.publish(1.4), 2, room) == []
    room.check_invariants()


def test_moving_the_view_gives_what_is_there_and_takes_what_is_not() -> None:
    room = Volatile("field")
    room.look(3, (0.0, 0.0, 10.0), fresh=True)
    room.update(1, "ann", "pos", 1, (0.0, 0.0))
    room.update(2, "bob", "pos", 2, (100.0, 0.0))
    room.update(2, "bob", "mood", "good", None)
    assert [change["from"] for change in changes(told(room.publish(1.0), 3, room))] == ["bob", "ann"]  # type: ignore[index]
    room.look(3, (100.0, 0.0, 10.0))
    assert changes(told(room.publish(1.1), 3, room)) == [
        {"from": "ann", "key": "pos", "value": None},
        {"from": "bob", "key": "pos", "value": 2},
    ]
    room.look(3, None)
    assert changes(told(room.publish(1.2), 3, room)) == [{"from": "ann", "key": "pos", "value": 1}]
    assert not room.changed


def test_members_who_are_told_the_same_share_one_message() -> None:
    room = Volatile("field")
    for session in range(10, 60):
        room.look(session, (float(session % 2) * 1000, 0.0, 10.0), fresh=True)
    room.publish(0.9)
    room.update(1, "ann", "pos", 1, (1.0, 1.0))
    room.update(2, "bob", "pos", 2, (1001.0, 1.0))
    shared = [(sessions, messages) for sessions, messages in room.publish(1.0) if sessions is not None]
    assert sorted(len(sessions or []) for sessions, _ in shared) == [25, 25]
    assert all(len(messages) == 1 for _, messages in shared)


def test_who_leaves_takes_its_values_along_and_what_is_kept_is_bounded() -> None:
    room = Volatile("field")
    room.update(1, "ann", "pos", 1, None)
    room.publish(1.0)
    room.leave(1)
    assert changes(told(room.publish(1.1), 9, room)) == [{"from": "ann", "key": "pos", "value": None}]
    for number in range(ROOM_VALUES_PER_MEMBER + 5):
        room.update(1, "ann", f"key{number}", number, None)
    for number in range(ROOM_OWN_VALUES + 5):
        room.update(ROOM_ITSELF, "", f"key{number}", number, (float(number), 0.0))
    room.check_invariants()
    screen = Screen()
    for body in room.snapshot(9, 2.0):
        assert len(body) < ROOM_STATE_BYTES + 200
        screen.read(body)
    mine = [key for sender, key in screen.values if sender == "ann"]
    assert mine == [f"key{number}" for number in range(5, ROOM_VALUES_PER_MEMBER + 5)]
    assert len(screen.values) == ROOM_VALUES_PER_MEMBER + ROOM_OWN_VALUES


def test_a_room_that_lost_its_values_says_once_that_what_comes_is_all() -> None:
    room = Volatile("field", anew=True)
    room.look(5, (0.0, 0.0, 10.0), fresh=True)
    room.update(1, "ann", "pos", 1, (500.0, 0.0))
    published = room.publish(1.0)
    for session in (4, 5):
        (body,) = told(published, session, room)
        assert unpack(body)["all"] is True
    assert changes(told(published, 5, room)) == []
    room.update(1, "ann", "pos", 2, (1.0, 0.0))
    assert all("all" not in unpack(body) for _, bodies in room.publish(1.1) for body in bodies)


@pytest.mark.parametrize("seed", range(20))
def test_every_screen_shows_what_its_view_holds_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    room = Volatile("field")
    # what there is, as (owner, key) → (value, place), and who looks where
    values: dict[tuple[int, str], tuple[int, tuple[float, float] | None]] = {}
    views: dict[int, tuple[float, float, float] | None] = dict.fromkeys(range(1, 9))
    screens = {session: Screen() for session in views}

    def somewhere() -> tuple[float, float]:
        return chance.uniform(-30, 30), chance.uniform(-30, 30)

    def act() -> None:
        session = chance.choice(list(views))
        match chance.randrange(12):
            case 0:
                room.leave(session)
                for key in [key for key in values if key[0] == session]:
                    del values[key]
                # it comes back at once, with a client that knows nothing
                screens[session] = Screen()
                views[session] = (*somewhere(), chance.uniform(0, 20)) if chance.random() < 0.5 else None
                room.look(session, views[session], fresh=True)
                for body in room.snapshot(session, 0.0):
                    screens[session].read(body)
            case 1 | 2:
                views[session] = None if chance.random() < 0.3 else (*somewhere(), chance.choice([0, 4, 25]))
                room.look(session, views[session])
            case 3:
                key = f"key{chance.randrange(3)}"
                values.pop((session, key), None)
                room.update(session, f"user{session}", key, None, None)
            case _:
                key = f"key{chance.randrange(3)}"
                at = somewhere() if chance.random() < 0.8 else None
                values[session, key] = (chance.randrange(1000), at)
                room.update(session, f"user{session}", key, values[session, key][0], at)

    for tick in range(150):
        for _ in range(chance.randrange(6)):
            act()
            room.check_invariants()
        published = room.publish(float(tick))
        for session, view in views.items():
            for body in told(published, session, room):
                screens[session].read(body)
            assert screens[session].values == {
                (f"user{owner}", key): value
                for (owner, key), (value, at) in values.items()
                if view is None
                or at is None
                or (at[0] - view[0]) ** 2 + (at[1] - view[1]) ** 2 <= view[2] ** 2
            }, (tick, session)
        assert not room.changed
