"""A replica's state while it follows the log."""

from collections.abc import Sequence

import pytest

from connserver.codec import encode
from connserver.ids import object_id
from connserver.messages import GATEWAY_GONE, Attach, Deliver, Entry, Image, OutputBatch
from partition.backup import Backup
from partition.objects import Store
from partition.suspects import SUSPECT, Suspects

FIRST = 16_384


class Collected:
    """An archiver that notes what it is given."""

    def __init__(self) -> None:
        self.ops: list[int] = []
        self.images: list[Image] = []

    def add(self, op: int, images: Sequence[Image]) -> None:
        self.ops.append(op)
        self.images += images


def image(local: int, data: bytes | None) -> Image:
    return Image(object_id(FIRST, (1 << 20) + local), "thing", 1, data)


def said(op: int) -> list[OutputBatch]:
    return [OutputBatch(70, [[1]], [1], [0], [b"%d" % op])]


def entry(op: int, **more: list[list[int]]) -> bytes:
    return encode(Entry([image(op, b"\x80")], said(op), more.get("received", []), more.get("suspects", [])))


def entries(first: int, last: int, era: int = 1) -> Deliver:
    return Deliver(1, era, first, [entry(op) for op in range(first, last + 1)])


def started(applied: int) -> tuple[Backup, Collected]:
    archive = Collected()
    return Backup(Store(), FIRST, 1, applied, archive), archive


def bodies(backup: Backup, after: int = 0) -> list[bytes]:
    return [body for _, batch in backup.retained.after(70, after) for body in batch.bodies]


def test_entries_are_applied_in_order_archived_and_their_outputs_kept() -> None:
    backup, archive = started(10)
    assert backup.deliver(entries(11, 13))
    assert (backup.applied, backup.after, archive.ops) == (13, 13, [11, 12, 13])
    assert len(backup.store) == 3
    assert bodies(backup) == [b"11", b"12", b"13"]
    backup.check_invariants()


def test_of_entries_that_the_snapshot_holds_only_the_outputs_are_taken() -> None:
    backup, archive = started(10)
    assert backup.deliver(entries(8, 11))
    assert (backup.applied, archive.ops, len(backup.store)) == (11, [11], 1)
    assert bodies(backup) == [b"8", b"9", b"10", b"11"]


def test_what_comes_twice_is_taken_once() -> None:
    backup, archive = started(10)
    backup.deliver(entries(8, 12))
    assert backup.deliver(entries(9, 13))
    assert backup.deliver(entries(8, 9))
    assert archive.ops == [11, 12, 13]
    assert bodies(backup) == [b"%d" % op for op in range(8, 14)]


def test_a_gap_is_told_and_nothing_behind_it_is_taken() -> None:
    backup, archive = started(10)
    assert not backup.deliver(entries(12, 13))
    assert backup.deliver(entries(11, 11))
    assert not backup.deliver(entries(13, 14))
    assert (backup.applied, backup.after, archive.ops) == (11, 11, [11])
    assert backup.deliver(entries(12, 14)) and backup.applied == 14


def test_entries_of_another_era_are_none_of_ours() -> None:
    backup, archive = started(10)
    assert backup.deliver(entries(11, 12, era=2))
    assert (backup.applied, archive.ops) == (10, [])


def test_what_gateways_have_is_kept_no_longer() -> None:
    backup, _ = started(10)
    backup.deliver(entries(11, 13))
    backup.deliver(Deliver(1, 1, 14, [entry(14, received=[[70, 12]])]))
    assert bodies(backup) == [b"13", b"14"]
    backup.deliver(Deliver(1, 1, 15, [entry(15, received=[[70, GATEWAY_GONE]])]))
    assert bodies(backup) == [] and backup.retained.is_gone(70)


def test_deaths_are_counted_once_and_archived_like_everything_else() -> None:
    backup, archive = started(10)
    words = encode(Entry([], [], [], [[11, 1, 7]]))
    backup.deliver(Deliver(1, 1, 10, [words, words, words]))
    known = Suspects(backup.store).get(11, 1, 7)
    assert known is not None and known.deaths == 2, "op 10 is in the snapshot"
    assert [one.kind for one in archive.images] == [SUSPECT, SUSPECT]


def test_a_former_primary_follows_from_its_commit() -> None:
    backup, _ = started(10)
    backup.deliver(entries(11, 12))
    backup.resume(20)
    assert not backup.deliver(entries(22, 22))
    assert backup.deliver(entries(15, 21)) and backup.applied == 21
    assert bodies(backup) == [b"11", b"12", b"21"]


def test_what_is_no_entry_is_refused() -> None:
    backup, _ = started(0)
    with pytest.raises(ValueError, match="entry 1"):
        backup.deliver(Deliver(1, 1, 1, [b"garbage"]))
    with pytest.raises(ValueError, match="no Entry"):
        backup.deliver(Deliver(1, 1, 1, [encode(Attach(1, 2, "", 0, 0, 0, 0))]))
