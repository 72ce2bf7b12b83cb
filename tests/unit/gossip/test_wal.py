"""The bytes of the WAL: what a reader makes of records, cuts and damage, and what replay makes of records."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connserver.ids import GroupId
from gossip.protocol import NEVER_INSTALLED, Entry, entry_crc
from gossip.records import (
    Append,
    Base,
    Blank,
    Boot,
    Damaged,
    Formed,
    Install,
    Lost,
    NodeIncarnation,
    Opened,
    PeerIncarnation,
    Phase,
    Promise,
    Record,
    Staged,
    replay,
    staged_crc,
)
from gossip.wal import (
    SEGMENT_HEADER_BYTES,
    Tracker,
    encode_record,
    read_segment,
    restore,
    segment_header,
    survivors,
)

G, H = GroupId(0), GroupId(1)
PLACEMENT = ("n1", "n2", "n3")


def entry(op: int, view: int = 0, text: str = "") -> Entry:
    """An entry with some payload."""
    payload = (text or f"payload {op}").encode()
    return Entry(op, view, entry_crc(op, payload), payload)


def formed(group: GroupId) -> list[Record]:
    """An open group."""
    return [Formed(group, 1, 0, PLACEMENT, False, "n1"), Opened(group)]


def segment(records: list[Record], number: int = 1, sequence: int = 1) -> bytes:
    """A segment with these records."""
    return segment_header(number) + b"".join(
        encode_record(record, at) for at, record in enumerate(records, sequence)
    )


FULL: list[Record] = [
    Boot("boot", False, "demo", "n1"),
    NodeIncarnation(7),
    PeerIncarnation("n2", 4),
    *formed(G),
    *formed(H),
    Append(G, entry(1)),
    Append(H, entry(1)),
    Append(G, entry(2)),
    Promise(G, 3),
    Staged(G, entry(2, 1, "other")),
    Staged(G, entry(3, 1)),
    Install(G, 3, 1, 0, 3, False, staged_crc([entry(2, 1, "other"), entry(3, 1)])),
    Append(G, entry(4, 3)),
    Base(G, 1, 0),
]


def test_everything_is_read_back() -> None:
    """The state that the records add up to."""
    restored = restore([(1, segment(FULL))])
    node = restored.node
    assert (node.incarnation, node.peer_incarnations, node.damaged) == (7, {"n2": 4}, False)
    group = node.groups[G]
    assert (group.view, group.log_view, group.base, group.head) == (3, 3, 1, 4)
    assert group.dense_entries() == [entry(2, 1, "other"), entry(3, 1), entry(4, 3)]
    assert group.phase is Phase.OPEN
    assert node.groups[H].head == 1
    assert restored.next_sequence == len(FULL) + 1
    assert not restored.damage


@pytest.mark.parametrize(
    "record",
    [
        *FULL,
        Lost(G, 2, PLACEMENT),
        Blank(G, 2, PLACEMENT),
        Damaged("why"),
        Formed(G, 2, 5, ("n1",), True, "n1", 7),
    ],
)
def test_each_record_survives(record: Record) -> None:
    """Types and values."""
    reading = read_segment(segment([record]), 1, None, last=True)
    assert reading.records == [record]
    assert type(reading.records[0]) is type(record)


def test_every_cut_of_the_last_segment_is_torn_and_loses_only_what_is_cut() -> None:
    """Rule 10: cut by the end of file, at any byte."""
    data = segment(FULL)
    whole = 0
    for cut in range(SEGMENT_HEADER_BYTES, len(data)):
        reading = read_segment(data[:cut], 1, None, last=True)
        assert reading.broken_at < 0
        assert not reading.damaged_groups
        assert len(reading.records) >= whole
        whole = len(reading.records)
        assert reading.records == FULL[:whole]
        assert reading.torn == (reading.good_bytes < cut)


def test_a_cut_before_the_end_is_damage() -> None:
    """Only the last segment can be torn."""
    first, second = segment(FULL), segment([Append(G, entry(5, 3))], 2, len(FULL) + 1)
    restored = restore([(1, first[:-3]), (2, second)])
    assert restored.damage
    assert restored.node.damaged
    assert restored.node.incarnation == 0
    assert all(group.phase is Phase.LOST for group in restored.node.groups.values())


@settings(max_examples=300)
@given(st.integers(SEGMENT_HEADER_BYTES, len(segment(FULL)) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_never_absence(at: int, bit: int) -> None:
    """Any damage leaves each group as it was or LOST; never with fewer entries and trusted."""
    data = bytearray(segment(FULL))
    data[at] ^= 1 << bit
    restored = restore([(1, bytes(data))])
    assert restored.damage
    for group in (G, H):
        found = restored.node.groups.get(group)
        if found is None:
            assert restored.node.damaged  # a group that is not known then counts as lost
        elif found.phase is not Phase.LOST:
            whole = replay(FULL).groups[group]
            assert (found.head, found.view, found.entries) == (whole.head, whole.view, whole.entries)


def test_a_damaged_body_costs_only_its_group() -> None:
    """Its header says whose it was."""
    data = segment(FULL)
    at = data.index(b"payload 1")
    restored = restore([(1, data[:at] + b"X" + data[at + 1 :])])
    assert restored.node.groups[G].phase is Phase.LOST
    assert restored.node.groups[H].phase is Phase.OPEN
    assert restored.node.incarnation == 7


def test_records_out_of_their_place_are_damage() -> None:
    """A block that belongs elsewhere has a valid checksum and the wrong sequence."""
    records = [encode_record(record, at) for at, record in enumerate(FULL, 1)]
    restored = restore([(1, segment_header(1) + b"".join(records[:3] + records[4:]))])
    assert restored.node.damaged


@pytest.mark.parametrize("segments", [[1, 3], [2, 4]])
def test_a_missing_segment_is_damage(segments: list[int]) -> None:
    """Numbers have no gaps."""
    restored = restore([(number, segment([], number)) for number in segments])
    assert "is missing" in restored.damage[0]
    assert restored.node.damaged


def test_an_unfinished_install_leaves_the_old_log() -> None:
    """Rule 3: staged entries alone mean nothing, now or under a later install."""
    start = [*formed(G), Append(G, entry(1)), Append(G, entry(2))]
    group = replay([*start, Staged(G, entry(2, 1))]).groups[G]
    assert (group.log_view, group.dense_entries()) == (0, [entry(1), entry(2)])
    later = [entry(2, 4)]
    install = Install(G, 4, 1, 0, 2, False, staged_crc(later))
    group = replay([*start, Staged(G, entry(2, 1)), *(Staged(G, e) for e in later), install]).groups[G]
    assert (group.log_view, group.dense_entries()) == (4, [entry(1), entry(2, 4)])


def test_an_install_without_its_entries_is_damage() -> None:
    """The checksum covers what was staged."""
    install = Install(G, 4, 1, 0, 2, False, staged_crc([entry(2, 4)]))
    assert replay([*formed(G), Append(G, entry(1)), install]).groups[G].phase is Phase.LOST
    wrong = Staged(G, entry(2, 3))
    assert replay([*formed(G), Append(G, entry(1)), wrong, install]).groups[G].phase is Phase.LOST


def test_a_jump_replaces_the_whole_log() -> None:
    """Base and suffix together."""
    jump = Install(G, 5, 20, 4, 21, True, staged_crc([entry(21, 5)]))
    group = replay([*formed(G), Append(G, entry(1)), Staged(G, entry(21, 5)), jump]).groups[G]
    assert (group.base, group.base_view, group.head, group.entries) == (20, 4, 21, {21: entry(21, 5)})


def test_lost_and_blank_forget() -> None:
    """What was there is void."""
    for record, phase in ((Lost(G, 2, PLACEMENT), Phase.LOST), (Blank(G, 2, PLACEMENT), Phase.BLANK)):
        group = replay([*formed(G), Append(G, entry(1)), Promise(G, 9), record]).groups[G]
        assert (group.era, group.view, group.log_view, group.head, group.phase) == (
            2, 0, NEVER_INSTALLED, 0, phase,
        )  # fmt: skip


def test_an_era_begins_with_the_log_that_is_there_or_behind_the_archive() -> None:
    """And a bootstrap record that says so is one record: torn, the era before is all there."""
    kept = replay([*FULL, Formed(G, 2, 5, PLACEMENT, True, "n1")]).groups[G]
    assert (kept.era, kept.view, kept.log_view, kept.phase) == (2, 5, 3, Phase.FORMING)
    assert [e.op for e in kept.dense_entries() or []] == [2, 3, 4]
    empty = replay([*FULL, Formed(G, 2, 5, PLACEMENT, True, "n1", 9)]).groups[G]
    assert (empty.era, empty.view, empty.log_view, empty.phase) == (2, 5, 0, Phase.FORMING)
    assert (empty.base, empty.base_view, empty.head, empty.entries) == (9, 0, 9, {})
    lost = replay([*FULL, Lost(G, 1, PLACEMENT), Formed(G, 2, 5, PLACEMENT, True, "n1", 9), Opened(G)])
    assert (lost.groups[G].phase, lost.groups[G].head, lost.groups[G].log_view) == (Phase.OPEN, 9, 0)


@pytest.mark.parametrize(
    "ends",
    [Blank(G, 2, PLACEMENT), Lost(G, 1, PLACEMENT), Formed(G, 2, 5, PLACEMENT, True, "n1", 1)],
    ids=lambda record: type(record).__name__,
)
def test_segments_of_a_void_log_go(ends: Record) -> None:
    """Its ops are above the base of the one that follows, and nobody needs them."""
    tracker = Tracker(replay([]), {})
    records = {1: [*tracker.begin(1), *formed(G), *(Append(G, entry(op)) for op in (1, 2, 3))]}
    for record in records[1]:
        tracker.note(record)
    records[2] = tracker.begin(2)
    assert tracker.removable() == []
    tracker.note(ends)
    assert tracker.removable() == [1]
    restored = restore([(2, segment([*records[2], ends], 2, 9))])
    assert restored.node.groups[G] == replay([*records[1], ends]).groups[G]


def test_old_segments_go_when_no_group_needs_them() -> None:
    """And the first that is left says all that is needed."""
    tracker = Tracker(replay([]), {})
    written: dict[int, bytes] = {}
    sequence = 1

    def write(number: int, records: list[Record]) -> None:
        nonlocal sequence
        for record in records:
            tracker.note(record)
            written[number] += encode_record(record, sequence)
            sequence += 1

    for number in (1, 2, 3):
        written[number] = segment_header(number)
        write(number, tracker.begin(number))
        if number == 1:
            write(1, [NodeIncarnation(3), *formed(G), *formed(H)])
        ops = range(number * 2 - 1, number * 2 + 1)
        write(number, [Append(G, entry(op)) for op in ops])
        assert tracker.removable() == []
    write(3, [Base(G, 2, 0)])
    assert tracker.removable() == [1]
    write(3, [Base(G, 5, 0)])
    assert tracker.removable() == [1, 2]
    for left in ([1, 2, 3], [2, 3], [3]):
        restored = restore([(number, written[number]) for number in left])
        assert not restored.damage
        group = restored.node.groups[G]
        assert (group.base, group.head, group.dense_entries()) == (5, 6, [entry(6)])
        assert restored.node.incarnation == 3
        assert restored.node.groups[H].phase is Phase.OPEN


def test_a_missing_first_segment_that_was_needed_is_damage() -> None:
    """Entries that should be there and are not."""
    tracker = Tracker(replay([*formed(G), Append(G, entry(1))]), {})
    restored = restore([(2, segment(tracker.begin(2), 2, 9))])
    assert restored.node.groups[G].phase is Phase.LOST


def test_survivors_say_all_that_survived() -> None:
    """A new log after a damaged one: the healthy group with its entries, the other lost."""
    data = segment(FULL)
    at = data.index(b"payload 2") if b"payload 2" in data else 0
    node = restore([(1, data[:at] + b"X" + data[at + 1 :])]).node
    again = restore([(1, segment(survivors(node)))]).node
    assert again.groups[G].phase is Phase.LOST
    assert again.groups[H].dense_entries() == [entry(1)]
    assert (again.incarnation, again.peer_incarnations) == (7, {"n2": 4})


def test_a_damaged_node_stays_damaged() -> None:
    """Groups whose every record is gone must not look new at the next start either."""
    node = restore([(1, b"garbage" * 10)]).node
    assert node.damaged
    assert restore([(1, segment(survivors(node)))]).node.damaged
