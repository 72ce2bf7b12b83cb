"""What may leave, and when."""

from connserver.messages import Entry
from partition.commit import CommitQueue
from partition.turn import Turn


def test_a_turn_leaves_when_its_entry_is_safe_and_never_before_an_earlier_one() -> None:
    queue = CommitQueue(10, 10)
    writing, reading, again = Turn(Entry([])), Turn(), Turn(Entry([]))
    assert [queue.submit(turn) for turn in (writing, reading, again)] == [11, 0, 12]
    assert queue.committed(10) == []
    assert queue.committed(11) == [(11, writing), (11, reading)]
    queue.check_invariants()
    assert queue.committed(12) == [(12, again)]
    assert queue.waiting == 0


def test_a_read_waits_for_nothing_when_nothing_is_open() -> None:
    queue = CommitQueue(3, 3)
    turn = Turn()
    queue.submit(turn)
    assert queue.committed(queue.commit) == [(3, turn)]
