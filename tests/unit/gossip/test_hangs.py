"""Hanging workers: given up for their own silence only."""

from __future__ import annotations

import pytest

from gossip.hangs import HANG_S, LATE_S, LOOK_S, Hangs


class Story:
    """One worker with a grant, of group 1, that is looked at every LOOK_S from time 100 on."""

    def __init__(self) -> None:
        self.now = 100.0
        self.machine = Hangs(self.now)
        self.progress = {1: (500, 7)}

    def look(self, after: float = LOOK_S) -> list[tuple[int, int]]:
        self.now += after
        return self.machine.look(self.progress, self.now)

    def first_found(self, within: float) -> float | None:
        """Seconds until a look finds it, None if none does."""
        began = self.now
        while self.now - began < within:
            if self.look():
                return self.now - began
        return None


@pytest.fixture
def story() -> Story:
    """It has been seen once."""
    story = Story()
    assert story.look() == []
    return story


def test_a_hang_is_found_after_its_time_and_not_before(story: Story) -> None:
    assert story.first_found(10.0) == HANG_S


def test_progress_starts_the_wait_anew(story: Story) -> None:
    for number in range(40):
        story.progress[1] = (500, number)
        assert story.look() == []
    story.progress[1] = (500, 39)
    assert story.first_found(10.0) == HANG_S


def test_progress_is_any_other_number_also_a_lower_one(story: Story) -> None:
    assert story.first_found(HANG_S - LOOK_S) is None
    story.progress[1] = (500, 3)
    assert story.look() == []
    assert story.first_found(10.0) == HANG_S


def test_a_new_process_starts_anew_though_its_number_is_the_same(story: Story) -> None:
    assert story.first_found(HANG_S - LOOK_S) is None
    story.progress[1] = (501, 7)
    assert story.look() == []
    assert story.first_found(10.0) == HANG_S


def test_a_look_that_is_late_blames_nobody(story: Story) -> None:
    assert story.look(60.0) == []
    assert story.first_found(10.0) == HANG_S


def test_a_look_that_is_a_little_late_still_counts(story: Story) -> None:
    assert story.look(LATE_S) == []
    assert story.first_found(10.0) == HANG_S - LATE_S


def test_it_is_named_once_and_again_only_after_as_long(story: Story) -> None:
    assert story.first_found(10.0) == HANG_S
    assert story.look() == []
    assert story.first_found(10.0) == HANG_S - LOOK_S


def test_who_has_no_grant_is_not_watched_and_starts_anew_with_the_next(story: Story) -> None:
    assert story.first_found(HANG_S - LOOK_S) is None
    story.progress.clear()
    assert story.look() == []
    story.progress[1] = (500, 7)
    assert story.look() == []
    assert story.first_found(10.0) == HANG_S


def test_only_the_one_that_hangs_is_named(story: Story) -> None:
    for number in range(20):
        story.progress[2] = (600, number)
        found = story.look()
        assert found in ([], [(1, 500)])
        if found:
            return
    raise AssertionError("never found")
