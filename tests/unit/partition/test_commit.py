"""What may leave, and when."""

import pytest

from connserver.messages import (
    GAP,
    OVERLOADED,
    AdminReply,
    Entry,
    OutputBatch,
    OutputKind,
    Refused,
)
from partition.commit import RETRY_S, STALL_S, SUBMIT_BYTES, UNCOMMITTED_BYTES, CommitQueue
from partition.turn import Turn


def writing() -> Turn:
    return Turn(Entry([]))


def saying(kind: OutputKind = OutputKind.REPLY) -> Turn:
    return Turn(outputs=[OutputBatch(7, [[1]], [int(kind)], [1], [b"\x80"])])


def submitted(*turns: Turn, at: int = 10) -> CommitQueue:
    queue = CommitQueue(at, at)
    for number, turn in enumerate(turns):
        queue.submit(turn, b"entry %d" % number if turn.entry else b"")
    return queue


def test_a_turn_leaves_when_its_entry_is_safe_and_never_before_an_earlier_one() -> None:
    first, second = writing(), writing()
    queue = submitted(first, second)
    assert queue.to_submit(0.0) == (11, [b"entry 0", b"entry 1"])
    assert queue.ready() == []
    assert queue.committed(11, 0.1) == [(11, first)]
    queue.check_invariants()
    assert queue.committed(12, 0.2) == [(12, second)]
    assert queue.waiting == 0 and queue.at_rest and queue.bytes == 0


def test_what_was_read_waits_for_a_barrier_asked_for_after_it() -> None:
    reading = saying()
    queue = submitted(reading)
    assert queue.ready() == [] and queue.committed(10, 0.0) == []
    assert queue.to_submit(0.0) is None
    assert queue.to_ask(0.0) == 1
    assert queue.barrier_passed(1) == [(10, reading)]


@pytest.mark.parametrize(
    "turn", [saying(OutputKind.EVENT), saying(OutputKind.CLOSE), Turn(replies=[AdminReply(1, None, "no")])]
)
def test_events_and_administrators_answers_are_told_like_reads(turn: Turn) -> None:
    queue = submitted(turn)
    assert queue.ready() == []
    assert queue.barrier_passed(queue.to_ask(0.0)) == [(10, turn)]


@pytest.mark.parametrize(
    "turn",
    [saying(OutputKind.VOLATILE), Turn(parcels=[(3, 0, b"")]), Turn(done=[(3, 8)])],
)
def test_what_may_be_lost_or_repeated_waits_for_the_entries_before_it_only(turn: Turn) -> None:
    entry = writing()
    queue = submitted(entry, turn)
    assert queue.to_ask(0.0) == 0
    assert queue.ready() == []
    assert queue.committed(11, 0.0) == [(11, entry), (11, turn)]


def test_a_barrier_that_was_asked_for_earlier_says_nothing_of_a_later_read() -> None:
    early, late = saying(), saying()
    queue = submitted(early)
    assert queue.to_ask(0.0) == 1
    queue.submit(late)
    assert queue.to_ask(0.0) == 0, "one barrier at a time"
    assert queue.barrier_passed(1) == [(10, early)]
    queue.check_invariants()
    assert queue.to_ask(0.0) == 2
    assert queue.barrier_passed(2) == [(10, late)]
    assert queue.to_ask(0.0) == 0


def test_all_that_was_read_meanwhile_shares_the_next_barrier() -> None:
    queue = submitted(saying())
    queue.to_ask(0.0)
    later = [saying(), saying(), saying()]
    for turn in later:
        queue.submit(turn)
    queue.barrier_passed(1)
    assert queue.to_ask(0.0) == 2
    assert [turn for _, turn in queue.barrier_passed(2)] == later


def test_a_later_entry_that_commits_is_as_good_as_a_barrier() -> None:
    reading, entry = saying(), writing()
    queue = submitted(reading, entry)
    assert queue.committed(11, 0.0) == [(10, reading), (11, entry)]
    assert queue.to_ask(0.0) == 0, "nobody waits for it any more"


def test_the_commit_of_the_entry_it_rests_on_is_not_enough_for_a_read() -> None:
    entry, reading = writing(), saying()
    queue = submitted(entry, reading)
    assert queue.committed(11, 0.0) == [(11, entry)]
    queue.check_invariants()
    assert queue.barrier_passed(queue.to_ask(0.0)) == [(11, reading)]


def test_a_barrier_lets_nothing_pass_that_rests_on_an_uncommitted_entry() -> None:
    entry, reading, more = writing(), saying(), writing()
    queue = submitted(entry, reading, more)
    assert queue.barrier_passed(queue.to_ask(0.0)) == []
    assert queue.committed(11, 0.0) == [(11, entry), (11, reading)]


def test_a_write_behind_a_read_waits_for_neither_barrier_nor_order_is_broken() -> None:
    turns = [saying(), writing(), saying(OutputKind.VOLATILE), writing(), saying()]
    queue = submitted(*turns)
    left = queue.committed(12, 0.0)
    assert [turn for _, turn in left] == turns[:4]
    assert [op for op, _ in left] == [10, 11, 11, 12]


def test_portions_are_bounded_and_follow_each_other() -> None:
    queue = CommitQueue(0, 0)
    half = bytes(SUBMIT_BYTES // 2)
    for _ in range(5):
        queue.submit(writing(), half)
    assert [queue.to_submit(0.0) for _ in range(4)] == [
        (1, [half, half]),
        (3, [half, half]),
        (5, [half]),
        None,
    ]


def test_after_a_gap_everything_from_the_logs_head_is_said_again() -> None:
    queue = submitted(writing(), writing(), writing())
    queue.to_submit(0.0)
    queue.refused(Refused(5, 12, GAP, 11), 0.0)
    assert queue.to_submit(0.0) == (12, [b"entry 1", b"entry 2"])
    queue.check_invariants()


def test_what_was_lost_on_the_way_is_said_again_after_a_silence() -> None:
    queue = submitted(writing(), writing())
    queue.to_submit(5.0)
    assert queue.to_submit(5.0 + STALL_S / 2) is None
    assert queue.to_submit(5.0 + STALL_S) == (12, [b"entry 1"]), "the log asks for what else it lacks"
    assert queue.to_submit(5.1 + STALL_S) is None
    queue.committed(12, 6.5)
    assert queue.to_submit(60.0) is None


def test_a_barrier_is_asked_for_again_after_a_silence_or_a_refusal() -> None:
    queue = submitted(saying())
    assert [queue.to_ask(now) for now in (0.0, STALL_S / 2, STALL_S)] == [1, 0, 1]
    queue.refused(Refused(5, 0, OVERLOADED, 10), 2.0)
    assert queue.to_ask(2.0) == 0
    assert queue.to_ask(2.0 + RETRY_S) == 1


def test_a_log_that_takes_nothing_is_asked_again_with_one_entry_and_goes_on_when_it_commits() -> None:
    queue = submitted(writing(), writing(), writing())
    queue.to_submit(0.0)
    queue.refused(Refused(5, 11, OVERLOADED, 11), 0.0)
    assert queue.overloaded
    assert queue.to_submit(0.1) is None
    assert queue.to_submit(RETRY_S) == (12, [b"entry 1"])
    queue.refused(Refused(5, 12, OVERLOADED, 11), RETRY_S)
    assert queue.to_submit(2 * RETRY_S) == (12, [b"entry 1"])
    queue.committed(11, 0.6)
    assert queue.overloaded
    queue.committed(12, 0.6)
    assert not queue.overloaded
    assert queue.to_submit(0.6) == (13, [b"entry 2"])
    queue.check_invariants()


def test_too_much_that_is_not_safe_counts_as_overload() -> None:
    queue = CommitQueue(0, 0)
    queue.submit(writing(), bytes(UNCOMMITTED_BYTES))
    assert not queue.overloaded
    queue.submit(writing(), b"more")
    assert queue.overloaded
    queue.committed(1, 0.0)
    assert not queue.overloaded


def test_a_commit_of_what_was_never_executed_is_refused() -> None:
    queue = submitted(writing())
    with pytest.raises(ValueError, match="op 12"):
        queue.committed(12, 0.0)
