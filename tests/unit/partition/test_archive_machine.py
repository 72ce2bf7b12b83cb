"""The archiver's decisions as stories: what happened, then what it does and says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connserver.limits import ARCHIVE_LAGGING_MS, ARCHIVE_RETRY_MS, ARCHIVE_ROW_BYTES
from connserver.messages import Image
from partition.archive_machine import ArchiveMachine, Phase
from partition.archive_outcomes import (
    Action,
    Behind,
    Close,
    Deposed,
    Down,
    Finish,
    Flushed,
    GroupRow,
    Open,
    Outcome,
    Overflowed,
    WentBack,
    Write,
)


def image(oid: int, data: bytes | None = b"x") -> Image:
    return Image(oid, "thing", 1, data)


class Story:
    """A machine and its clock; every step checks the invariants."""

    def __init__(self, *, archived_op: int = 0, limit: int = 1 << 20) -> None:
        self.now = 100.0
        self.machine = ArchiveMachine(
            era=1, view=3, archived_op=archived_op, interval_ms=200, dirty_limit=limit
        )

    def do(self, what: Callable[[ArchiveMachine], object]) -> list[Outcome]:
        what(self.machine)
        self.machine.check_invariants()
        said, self.machine.reports = self.machine.reports, []
        return said

    def add(self, op: int, *images: Image) -> list[Outcome]:
        return self.do(lambda machine: machine.add(op, images, self.now))

    def decide(self) -> Action | None:
        action = self.machine.decide(self.now)
        self.machine.check_invariants()
        return action

    def opened(self, row: GroupRow | None) -> list[Outcome]:
        return self.do(lambda machine: machine.opened(row, self.now))

    def lead(self, archived_op: int = 0, view: int = 3) -> list[Outcome]:
        """Promoted, and connected to an archive that stands at `archived_op`."""
        self.machine.promote(view, self.now)
        assert self.decide() == Open()
        return self.opened(GroupRow(1, view, archived_op))

    def write(self) -> Write:
        """The write that is due after the interval."""
        self.now += 0.2
        action = self.decide()
        assert isinstance(action, Write), action
        return action

    @property
    def state(self) -> str:
        return self.machine.status(self.now).state


def contents(write: Write) -> dict[int, bytes | None]:
    return {oid: kept.data for oid, (_, kept) in write.images.items()}


def test_a_backup_collects_and_makes_no_connection() -> None:
    story = Story()
    story.add(1, image(7))
    story.now += 10
    assert story.decide() is None
    assert story.machine.wakes_at() is None
    assert story.state == "standby"


def test_images_of_an_interval_leave_as_one_write() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7, b"one"), image(8))
    story.now += 0.1
    story.add(2, image(7, b"two"), image(8, None))
    story.add(3)
    assert story.decide() is None
    assert story.machine.wakes_at() == pytest.approx(100.2)
    story.now = 100.21
    write = story.decide()
    assert isinstance(write, Write)
    assert (write.op, write.view, write.expected_op, write.whole) == (3, 3, 0, False)
    assert contents(write) == {7: b"two", 8: None}
    assert story.do(lambda machine: machine.written()) == [Flushed(3)]
    assert story.machine.status(story.now).lag_ops == 0
    assert story.machine.wakes_at() is None


def test_what_is_added_during_a_write_goes_with_the_next() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7, b"one"))
    first = story.write()
    story.add(2, image(7, b"two"))
    assert story.decide() is None
    assert contents(first) == {7: b"one"}
    story.do(lambda machine: machine.written())
    assert story.machine.status(story.now).lag_ops == 1
    second = story.write()
    assert (second.op, second.expected_op, contents(second)) == (2, 1, {7: b"two"})


def test_operations_are_added_each_once_and_in_order() -> None:
    story = Story(archived_op=5)
    for op in (5, 7):
        with pytest.raises(ValueError, match="in order"):
            story.add(op)
    story.add(6)


def test_a_failed_write_is_kept_and_goes_with_what_came_later() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7, b"one"), image(8, b"one"))
    story.write()
    story.add(2, image(8, b"two"))
    assert story.do(lambda machine: machine.failed("gone", story.now)) == [Down("gone")]
    assert story.state == "down"
    assert story.machine.status(story.now).error == "gone"
    story.now += 0.1
    assert story.decide() == Open()
    assert story.opened(GroupRow(1, 3, 0)) == []
    assert story.state == "ok"
    assert contents(story.write()) == {7: b"one", 8: b"two"}


def test_attempts_grow_rarer_and_an_outage_is_said_once() -> None:
    story = Story()
    story.machine.promote(3, story.now)
    waits, said = [], []
    for _ in range(9):
        assert story.decide() == Open()
        said += story.do(lambda machine: machine.failed("gone", story.now))
        assert story.decide() is None
        wakes_at = story.machine.wakes_at()
        assert wakes_at is not None
        waits.append(round((wakes_at - story.now) * 1000))
        story.now = wakes_at + 0.001  # floats
    assert (waits[0], waits[1], waits[-1]) == (
        ARCHIVE_RETRY_MS[0],
        2 * ARCHIVE_RETRY_MS[0],
        ARCHIVE_RETRY_MS[1],
    )
    assert said == [Down("gone")]
    assert story.decide() == Open()
    story.opened(GroupRow(1, 3, 0))
    assert story.do(lambda machine: machine.add(1, [image(1)], story.now)) == []
    story.write()
    assert story.do(lambda machine: machine.failed("again", story.now)) == [Down("again")], "a new outage"


def test_a_lost_answer_to_commit_is_found_out() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7))
    story.write()
    story.add(2, image(8))
    story.do(lambda machine: machine.failed("connection lost", story.now))
    story.now += 1
    assert story.decide() == Open()
    assert story.opened(GroupRow(1, 3, 1)) == [Flushed(1)]
    assert contents(story.write()) == {8: b"x"}


def test_refused_by_a_newer_view_it_writes_no_more() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7))
    story.write()
    assert story.do(lambda machine: machine.refused(GroupRow(1, 4, 1), story.now)) == [Deposed(4, 1)]
    assert story.decide() == Close()
    assert story.state == "deposed"
    story.now += 10
    assert story.decide() is None
    story.machine.archived_elsewhere(1)
    assert story.machine.status(story.now).dirty_objects == 0


@pytest.mark.parametrize("row", [GroupRow(2, 1, 0), GroupRow(1, 4, 0)])
def test_era_and_view_are_looked_at_before_the_first_write(row: GroupRow) -> None:
    story = Story()
    story.machine.promote(3, story.now)
    story.decide()
    assert story.opened(row) == [Deposed(row.view, row.era)]
    assert story.decide() == Close()


def test_refused_without_a_newer_view_is_no_deposition() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7))
    story.add(2, image(8))
    story.write()
    assert story.do(lambda machine: machine.refused(GroupRow(1, 2, 0), story.now)) == []
    assert contents(story.write()) == {7: b"x", 8: b"x"}


def test_an_archive_that_is_ahead_is_waited_for() -> None:
    story = Story()
    story.add(1, image(7))
    assert story.lead(archived_op=3) == [Behind(3)]
    story.add(2, image(7))
    story.add(3, image(9))
    story.now += 1
    assert story.decide() is None
    assert story.machine.status(story.now).dirty_objects == 0
    story.add(4, image(7, b"four"))
    write = story.write()
    assert (write.expected_op, contents(write)) == (3, {7: b"four"})


def test_a_backup_forgets_what_its_leader_archived() -> None:
    story = Story()
    story.add(1, image(7))
    story.add(2, image(8))
    story.machine.archived_elsewhere(1)
    story.lead(archived_op=1)
    write = story.write()
    assert (write.expected_op, contents(write)) == (1, {8: b"x"})


def test_an_archive_that_went_back_is_written_anew() -> None:
    story = Story(archived_op=10)
    story.add(11, image(7))
    assert story.lead(archived_op=4) == [WentBack(4)]
    story.now += 1
    assert story.decide() is None, "nothing is written before everything is here"
    story.add(12, image(8))
    story.do(lambda machine: machine.readd_all(12, [image(7), image(8), image(9, None)], story.now))
    write = story.decide()
    assert isinstance(write, Write)
    assert (write.op, write.whole, contents(write)) == (12, True, {7: b"x", 8: b"x"})
    assert story.do(lambda machine: machine.written()) == [Flushed(12)]
    assert story.machine.archived == 12


def test_going_back_is_noticed_in_the_middle_of_the_work() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7))
    story.write()
    story.do(lambda machine: machine.written())
    story.add(2, image(8))
    story.write()
    assert story.do(lambda machine: machine.receded(0)) == [WentBack(0)]
    assert story.machine.status(story.now).lag_ops == 2


def test_a_whole_write_that_fails_is_tried_again_with_the_view_of_then() -> None:
    story = Story(archived_op=10)
    story.lead(archived_op=4)
    story.do(lambda machine: machine.readd_all(10, [image(7)], story.now))
    assert isinstance(story.decide(), Write)
    story.add(11, image(8))
    story.do(lambda machine: machine.failed("gone", story.now))
    assert story.lead(archived_op=4, view=6) == []
    write = story.write()
    assert (write.view, write.whole, contents(write)) == (6, True, {7: b"x"})
    story.do(lambda machine: machine.written())
    assert contents(story.write()) == {8: b"x"}


def test_what_is_kept_is_bounded_and_then_asked_for_when_postgresql_is_back() -> None:
    story = Story(limit=3 * (ARCHIVE_ROW_BYTES + 1))
    story.machine.promote(3, story.now)
    story.decide()
    story.do(lambda machine: machine.failed("gone", story.now))
    for op in range(1, 6):
        assert story.add(op, image(op)) == []
    assert story.machine.status(story.now).lag_ops == 5
    story.now += 1
    assert story.decide() == Open()
    assert story.opened(GroupRow(1, 3, 0)) == [Overflowed(4)]
    assert story.add(6, image(6)) == []
    assert story.decide() is None
    story.do(lambda machine: machine.readd_all(6, [image(op) for op in range(1, 7)], story.now))
    assert isinstance(story.decide(), Write)


def test_an_overflow_is_forgotten_when_its_leader_archived_as_far() -> None:
    story = Story(limit=2 * (ARCHIVE_ROW_BYTES + 1))
    for op in range(1, 5):
        story.add(op, image(op))
    story.machine.archived_elsewhere(3)
    assert story.lead(archived_op=3) == []
    assert contents(story.write()) == {4: b"x"}


def test_an_overflow_during_a_write_asks_after_it() -> None:
    story = Story(limit=2 * (ARCHIVE_ROW_BYTES + 1))
    story.lead()
    story.add(1, image(1))
    story.write()
    story.add(2, image(2))
    story.add(3, image(3))
    assert story.do(lambda machine: machine.written()) == [Flushed(1), Overflowed(3)]


def test_stopping_writes_what_is_left_and_then_finishes() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7))
    story.machine.stop(story.now + 5)
    assert isinstance(story.decide(), Write)
    story.do(lambda machine: machine.written())
    assert story.decide() == Finish()
    assert story.machine.phase is Phase.FINISHED
    assert story.decide() is None
    assert story.state == "stopped"


def test_stopping_ends_in_time_though_postgresql_is_down() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7))
    story.write()
    story.do(lambda machine: machine.failed("gone", story.now))
    story.machine.stop(story.now + 0.05)
    assert story.decide() is None
    assert story.machine.wakes_at() == pytest.approx(story.now + 0.05)
    story.now += 0.051
    assert story.decide() == Finish()


def test_a_backup_stops_at_once() -> None:
    story = Story()
    story.add(1, image(7))
    story.machine.stop(story.now + 5)
    assert story.decide() == Finish()


def test_a_missing_row_is_an_outage_that_says_so() -> None:
    story = Story()
    story.machine.promote(3, story.now)
    story.decide()
    (said,) = story.opened(None)
    assert isinstance(said, Down)
    assert "missing from partition_groups" in said.error


def test_lagging_is_an_age_not_a_number_of_operations() -> None:
    story = Story()
    story.lead()
    for op in range(1, 1000):
        story.add(op, image(7))
    story.write()
    assert story.state == "ok"
    story.now += ARCHIVE_LAGGING_MS / 1000
    assert story.state == "lagging"
    story.do(lambda machine: machine.written())
    assert story.state == "ok"


def test_a_demoted_leader_closes_and_keeps_collecting() -> None:
    story = Story()
    story.lead()
    story.add(1, image(7))
    story.machine.demote()
    assert story.decide() == Close()
    story.add(2, image(8))
    assert story.state == "standby"
    with pytest.raises(ValueError, match="older"):
        story.machine.promote(2, story.now)
    story.lead(view=6)
    assert contents(story.write()) == {7: b"x", 8: b"x"}


def test_a_leader_that_returns_before_it_closed_asks_again() -> None:
    story = Story(archived_op=10)
    assert story.lead(archived_op=4) == [WentBack(4)]
    story.machine.demote()
    assert story.do(lambda machine: machine.promote(6, story.now)) == [WentBack(4)]
