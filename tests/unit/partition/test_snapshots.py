"""A group's state from one worker to another."""

import pytest

from connserver.messages import GetSnapshot, Image, SnapshotPart
from partition import snapshots
from partition.snapshots import ASK_AGAIN_S, GIVE_UP_S, GIVEN_FOR_S, SnapshotGiver, SnapshotTaker

IMAGES = [Image(number, "thing", 1, bytes(400)) for number in range(10)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PART_BYTES", 1_500)


def first(giver: SnapshotGiver, question: GetSnapshot, images: list[Image] = IMAGES) -> SnapshotPart:
    assert giver.asked(b"w", question, 0.0) is True
    part = giver.state(b"w", question.asking, 40, 2, 30, images)
    assert part is not None
    return part


def test_the_state_goes_over_part_by_part() -> None:
    giver, taker = SnapshotGiver(3), SnapshotTaker(3, 99, 0.0)
    question = taker.tick(0.0)
    assert question == GetSnapshot(3, 99, 0)
    part: SnapshotPart | bool = first(giver, question)
    parts = 1
    while (question := taker.take(part, 0.1)) is not None:  # type: ignore[arg-type]
        part = giver.asked(b"w", question, 0.1)
        parts += 1
    assert taker.done and parts == 4
    assert (taker.op, taker.era, taker.archived, taker.images) == (40, 2, 30, IMAGES)
    assert taker.tick(9.0) is None and not taker.given_up(99.0)


def test_an_empty_group_is_a_state_too() -> None:
    giver, taker = SnapshotGiver(3), SnapshotTaker(3, 99, 0.0)
    assert taker.take(first(giver, taker.ask(0.0), []), 0.0) is None
    assert taker.done and taker.images == []


def test_a_part_that_was_lost_is_asked_for_again_and_one_that_comes_twice_is_dropped() -> None:
    giver, taker = SnapshotGiver(3), SnapshotTaker(3, 99, 0.0)
    part = first(giver, taker.ask(0.0))
    question = taker.take(part, 0.0)
    assert question is not None
    lost = giver.asked(b"w", question, 0.0)
    assert taker.take(part, 0.1) is None
    assert taker.tick(ASK_AGAIN_S / 2) is None
    again = taker.tick(ASK_AGAIN_S)
    assert again == question
    assert giver.asked(b"w", again, 0.6) == lost
    assert isinstance(lost, SnapshotPart) and taker.take(lost, 0.7) is not None


def test_before_the_state_has_committed_nothing_is_given() -> None:
    giver = SnapshotGiver(3)
    question = GetSnapshot(3, 99, 0)
    assert giver.asked(b"w", question, 0.0) is True
    assert giver.asked(b"w", question, 0.5) is False
    assert giver.state(b"w", 98, 40, 2, 30, IMAGES) is None
    assert giver.state(b"w", 99, 40, 2, 30, IMAGES) is not None
    assert giver.state(b"w", 99, 41, 2, 30, IMAGES) is None


def test_a_new_wish_of_the_same_worker_replaces_its_former() -> None:
    giver = SnapshotGiver(3)
    first(giver, GetSnapshot(3, 99, 0))
    assert giver.asked(b"w", GetSnapshot(3, 100, 1), 0.0) is False
    assert giver.asked(b"w", GetSnapshot(3, 100, 0), 0.0) is True


def test_only_so_many_are_given_at_once_and_the_silent_make_room() -> None:
    giver = SnapshotGiver(3)
    asked = [giver.asked(b"%d" % number, GetSnapshot(3, number, 0), 0.0) for number in range(5)]
    assert asked == [True, True, True, True, False]
    assert giver.asked(b"4", GetSnapshot(3, 4, 0), GIVEN_FOR_S + 1) is True


def test_a_silent_giver_is_given_up() -> None:
    taker = SnapshotTaker(3, 99, 0.0)
    assert not taker.given_up(GIVE_UP_S) and taker.given_up(GIVE_UP_S + 0.1)
