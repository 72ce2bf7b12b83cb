"""The log in memory, and the point where two logs part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip.protocol import Entry, entry_crc
from gossip.replica_log import OUTLINE_RUNS, ReplicaLog, extended, meeting_point


def entry(op: int, view: int) -> Entry:
    """An entry whose payload says where it belongs."""
    payload = f"{op}/{view}".encode()
    return Entry(op, view, entry_crc(op, payload), payload)


def log_of(views: list[int], base: int = 0, base_view: int = 0) -> ReplicaLog:
    """A log with these views from base + 1 on."""
    log = ReplicaLog(base, base_view)
    for op, view in enumerate(views, base + 1):
        log.append(entry(op, view))
    log.check_invariants()
    return log


def test_views_and_entries_are_found() -> None:
    """view_at knows the base and every entry, and nothing else."""
    log = log_of([2, 2, 5], base=10, base_view=1)
    assert (log.head, log.head_view) == (13, 5)
    assert [log.view_at(op) for op in range(9, 15)] == [None, 1, 2, 2, 5, None]
    assert log.entry(13) == entry(13, 5)


def test_after_ends_at_most_bytes_but_never_before_the_first() -> None:
    """Chunks are bounded and always go on."""
    log = log_of([0] * 6)
    assert [e.op for e in log.after(1, 5, 7)] == [2, 3]
    assert [e.op for e in log.after(1, 5, 1)] == [2]
    assert log.after(6, 9, 100) == ()


def test_cutting_and_truncating_keep_runs() -> None:
    """Both ends of a log can move without losing track of views."""
    log = log_of([1, 1, 2, 2, 3])
    log.cut_after(3)
    log.check_invariants()
    assert (log.head, log.head_view) == (3, 2)
    log.truncate(2)
    log.check_invariants()
    assert (log.base, log.base_view, log.view_at(3)) == (2, 1, 2)
    log.truncate(3)
    log.check_invariants()
    assert (log.base, log.base_view, log.head, log.head_view) == (3, 2, 3, 2)
    log.append(entry(4, 2))
    log.check_invariants()


def test_an_extended_outline_is_that_of_the_longer_log() -> None:
    """A transfer under way asks as if it were installed."""
    log = log_of([1, 1, 4])
    added = [entry(3, 2), entry(4, 2), entry(5, 3)]
    assert extended(log.outline(1), 2, 1, added) == log_of([1, 1, 2, 2, 3]).outline(1)


def test_logs_that_share_nothing_do_not_meet() -> None:
    """Then the whole log is sent, from the base."""
    mine = log_of([3, 3], base=10, base_view=2)
    assert meeting_point(mine, log_of([1, 1]).outline(0)) is None
    assert meeting_point(mine, log_of([]).outline(0)) is None


def test_the_commit_anchors_an_outline_with_many_views() -> None:
    """More views than an outline names: the commit is still common ground."""
    shared = list(range(10))
    mine = log_of([*shared, 500])
    other = log_of(shared + [1_000 + n for n in range(OUTLINE_RUNS + 5)])
    assert meeting_point(mine, other.outline(7)) == 7


HISTORY = st.lists(st.integers(1, 3), min_size=0, max_size=12)


def test_a_log_that_went_on_in_a_view_meets_the_one_that_left_it() -> None:
    """The other left view 1 after op 2 and wrote op 3 in view 2; here view 1 goes on to op 5."""
    mine, other = log_of([1, 1, 1, 1, 1]), log_of([1, 1, 2, 3])
    assert meeting_point(mine, other.outline(0)) == 2
    assert meeting_point(other, mine.outline(0)) == 2
    assert meeting_point(log_of([1, 1, 2]), other.outline(0)) == 3


@given(HISTORY, HISTORY, HISTORY, st.integers(0, 3), st.integers(0, 12), st.integers(0, 12))
def test_the_meeting_point_is_the_last_common_entry(
    common: list[int], mine: list[int], theirs: list[int], more: int, my_base: int, their_base: int
) -> None:
    """Whatever the two logs are: the answer is the brute-force one."""

    def views(steps: list[int], start: int, stride: int) -> list[int]:
        out = []
        for step in steps:
            start += stride * (step == 3)
            out.append(start)
        return out

    shared = views(common, 0, 10)
    top = shared[-1] if shared else 0
    alone = [top] * more if shared else []  # a primary that wrote on, heard by nobody
    log = log_of(shared + alone + [v * 2 + top + 1 for v in views(mine, 0, 10)])
    other = log_of(shared + [v * 2 + top + 2 for v in views(theirs, 0, 10)])
    log.truncate(min(my_base, log.head))
    other.truncate(min(their_base, len(shared)))
    found = meeting_point(log, other.outline(other.base))
    wanted = [
        op
        for op in range(max(log.base, other.base), min(log.head, other.head) + 1)
        if log.view_at(op) == other.view_at(op) and op <= len(shared)
    ]
    assert found == (max(wanted) if wanted else None)


def test_a_chunk_may_be_exactly_as_large_as_allowed() -> None:
    """Three bytes an entry: two fit into six."""
    log = log_of([0] * 6)
    assert [e.op for e in log.after(1, 5, 6)] == [2, 3]


def test_views_below_the_base_are_forgotten() -> None:
    """An outline names what the log holds, not what it once held."""
    log = log_of([1, 1, 2, 2, 3])
    log.truncate(3)
    assert [view for _, view in log.outline(3).runs] == [2, 3]
    log.truncate(4)
    assert [view for _, view in log.outline(4).runs] == [3]
