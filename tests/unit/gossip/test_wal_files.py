"""The WAL on a real disk: restarts, reboots, segments, a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from connserver.errors import ClusterError
from connserver.ids import GroupId
from gossip import wal_files
from gossip.protocol import Entry, entry_crc
from gossip.records import Append, Base, Boot, Formed, NodeIncarnation, Opened, Phase, Record
from gossip.wal_files import Opened as OpenedLog
from gossip.wal_files import WalFiles

G = GroupId(0)


def append(op: int, size: int = 20) -> Append:
    """An entry of some size."""
    payload = bytes([op % 256]) * size
    return Append(G, Entry(op, 0, entry_crc(op, payload), payload))


START: tuple[Record, ...] = (
    NodeIncarnation(1),
    Formed(G, 1, 0, ("n1", "n2", "n3"), False, "n1"),
    Opened(G),
)


def reopened(folder: Path, power: bool = False, boot: str = "boot 1") -> OpenedLog:
    """Open it and let the lock go at the end of the test by garbage collection of the test's folder."""
    return WalFiles.open(folder, Boot(boot, power, "demo", "n1"))


def test_what_is_written_is_there_after_a_kill(tmp_path: Path) -> None:
    """In `process` mode, within one boot of the machine."""
    opened = reopened(tmp_path)
    opened.files.append((*START, append(1)), sync=False)
    opened.files.close(clean=False)
    again = reopened(tmp_path)
    assert again.problems == ()
    assert again.node.groups[G].entries == {1: append(1).entry}
    again.files.append((append(2),), sync=False)
    again.files.close(clean=False)
    third = reopened(tmp_path)
    assert sorted(third.node.groups[G].entries) == [1, 2]
    third.files.close(clean=False)


def test_a_torn_record_is_cut_off_and_writing_goes_on(tmp_path: Path) -> None:
    """It was never reported as written."""
    opened = reopened(tmp_path)
    opened.files.append((*START, append(1), append(2)), sync=False)
    opened.files.close(clean=False)
    path = next(tmp_path.glob("*.wal"))
    os.truncate(path, path.stat().st_size - 5)
    again = reopened(tmp_path)
    assert again.problems == ()
    assert sorted(again.node.groups[G].entries) == [1]
    again.files.append((append(2),), sync=False)
    again.files.close(clean=False)
    third = reopened(tmp_path)
    assert third.problems == ()
    assert sorted(third.node.groups[G].entries) == [1, 2]
    third.files.close(clean=False)


@pytest.mark.parametrize(
    ("power", "clean", "boot", "kept"),
    [
        (False, False, "boot 1", True),
        (False, True, "boot 2", True),
        (False, False, "boot 2", False),
        (True, False, "boot 2", True),
    ],
)
def test_reboots(tmp_path: Path, power: bool, clean: bool, boot: str, kept: bool) -> None:
    """An orderly reboot is no event; a disorderly one costs what was not fsynced."""
    opened = reopened(tmp_path, power)
    opened.files.append((*START, append(1)), sync=False)
    opened.files.close(clean)
    assert (tmp_path / "clean").exists() == clean
    again = reopened(tmp_path, power, boot)
    assert not (tmp_path / "clean").exists()
    group = again.node.groups[G]
    assert (group.phase is Phase.OPEN) == kept
    assert (again.problems == ()) == kept
    assert (again.node.incarnation == 1) == kept
    again.files.close(clean=False)
    third = reopened(tmp_path, power, boot)
    assert (third.node.groups[G].phase is Phase.OPEN) == kept
    assert third.node.damaged != kept
    third.files.close(clean=False)


def test_damage_is_set_aside_and_not_read_again(tmp_path: Path) -> None:
    """The old files stay for `recover`."""
    opened = reopened(tmp_path)
    opened.files.append((*START, append(1), append(2)), sync=False)
    opened.files.close(clean=False)
    path = next(tmp_path.glob("*.wal"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    again = reopened(tmp_path)
    assert "damaged records of groups 0" in again.problems[0]
    assert (tmp_path / "damaged-1" / path.name).read_bytes() == data
    assert again.node.groups[G].phase is Phase.LOST
    again.files.close(clean=False)
    third = reopened(tmp_path)
    assert third.problems == ()
    assert third.node.groups[G].phase is Phase.LOST
    third.files.close(clean=False)


def test_segments_come_and_go(tmp_path: Path) -> None:
    """A new one when the last is large; the oldest go once they are truncated."""
    with patch.object(wal_files, "SEGMENT_BYTES", 4_096):
        opened = reopened(tmp_path)
        opened.files.append(START, sync=False)
        for op in range(1, 101):
            opened.files.append((append(op, 200),), sync=False)
        before = len(list(tmp_path.glob("*.wal")))
        assert before > 4
        opened.files.append((Base(G, 90, 0),), sync=False)
        opened.files.append((append(101, 200),), sync=False)
        assert len(list(tmp_path.glob("*.wal"))) < before - 3
        opened.files.close(clean=False)
        again = reopened(tmp_path)
        assert again.problems == ()
        assert sorted(again.node.groups[G].entries) == list(range(91, 102))
        assert again.node.incarnation == 1
        again.files.close(clean=False)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """The folder is locked."""
    opened = reopened(tmp_path)
    with pytest.raises(ClusterError, match="in use by another gossip process"):
        reopened(tmp_path)
    opened.files.close(clean=False)


def test_a_full_disk_still_takes_what_is_under_way(tmp_path: Path) -> None:
    """The reserve is given up for it; it is made again when there is room."""
    opened = reopened(tmp_path)
    files = opened.files
    files.append(START, sync=False)
    real, full = os.pwrite, True

    def pwrite(descriptor: int, data: bytes, at: int) -> int:
        if full and (tmp_path / "reserve").exists():
            real(descriptor, bytes(data)[:7], at)
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(descriptor, data, at)

    with patch.object(os, "pwrite", pwrite):
        files.append((append(1),), sync=False)
    assert files.full
    assert not (tmp_path / "reserve").exists()
    files.look_for_room()
    assert not files.full
    assert (tmp_path / "reserve").stat().st_size == wal_files.RESERVE_BYTES
    files.close(clean=False)
    again = reopened(tmp_path)
    assert again.problems == ()
    assert sorted(again.node.groups[G].entries) == [1]
    again.files.close(clean=False)


@pytest.mark.parametrize(("power", "sync", "wanted"), [(False, False, 0), (False, True, 1), (True, False, 1)])
def test_fdatasync_by_mode(tmp_path: Path, power: bool, sync: bool, wanted: int) -> None:
    """And in every mode where the core asks for it."""
    files = reopened(tmp_path, power).files
    with patch.object(os, "fdatasync", wraps=os.fdatasync) as fdatasync:
        files.append(START, sync)
    assert fdatasync.call_count == wanted
    files.close(clean=False)
