"""Logs that must not be believed, or not be touched: what `WalFiles.open` makes of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import patch
from zlib import crc32

import pytest

from connserver.errors import ClusterError
from connserver.ids import GroupId
from gossip.protocol import Entry, Write, entry_crc
from gossip.records import Append, Boot, Formed, NodeIncarnation, Opened, Phase, Record
from gossip.wal import FORMAT, encode_record, restore, segment_header
from gossip.wal_files import MARKER, RESERVE, UNFINISHED, WalFiles
from gossip.wal_files import Opened as OpenedLog
from gossip.wal_thread import STATUS_FAILED, WalThread
from gossip.wal_words import PROBLEM_CHARS, damage_told

G = GroupId(0)
START: tuple[Record, ...] = (
    NodeIncarnation(1),
    Formed(G, 1, 0, ("n1", "n2", "n3"), False, "n1"),
    Opened(G),
)


def append(op: int) -> Append:
    """An entry."""
    payload = b"%d" % op * 20
    return Append(G, Entry(op, 0, entry_crc(op, payload), payload))


def opened(folder: Path, *, power: bool = False, boot: str = "boot 1", node: str = "n1") -> OpenedLog:
    """The log of a node of cluster demo."""
    return WalFiles.open(folder, Boot(boot, power, "demo", node))


def written(folder: Path, *, clean: bool = False, power: bool = False) -> Path:
    """A log with two entries; its only segment."""
    log = opened(folder, power=power)
    log.files.append((*START, append(1), append(2)), sync=False)
    log.files.close(clean)
    (path,) = folder.glob("*.wal")
    return path


def content(folder: Path) -> dict[str, bytes]:
    """All files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_log_of_another_node_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path, clean=True)
    os.truncate(path, path.stat().st_size - 3)  # what would be repaired in one's own
    before = content(tmp_path)
    with pytest.raises(ClusterError, match="node n1 of cluster demo, and this is node n2 of cluster demo"):
        opened(tmp_path, node="n2")
    assert content(tmp_path) == before
    opened(tmp_path).files.close(clean=False)


def test_a_log_of_another_format_is_refused_and_a_damaged_number_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    head = data[:7] + bytes((FORMAT + 1,)) + data[8:16]
    path.write_bytes(head + crc32(head).to_bytes(4, "little") + data[20:])
    before = content(tmp_path)
    with pytest.raises(ClusterError, match=f"a log of format {FORMAT + 1} and this version reads {FORMAT}"):
        opened(tmp_path)
    assert content(tmp_path) == before
    path.write_bytes(head + data[16:])
    log = opened(tmp_path)
    assert "damaged header at byte 0" in log.problems[0]
    log.files.close(clean=False)


def test_a_group_whose_only_record_is_damaged_is_lost_and_not_new() -> None:
    damaged = bytearray(encode_record(START[1], 2))
    damaged[-1] ^= 1
    restored = restore([(1, segment_header(1) + encode_record(START[0], 1) + damaged)])
    assert restored.node.groups[G].phase is Phase.LOST
    assert not restored.node.damaged


def test_a_segment_that_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    path = written(tmp_path)
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self == path:
            raise OSError(errno.EIO, "input/output error")
        return real(self)

    with patch.object(Path, "read_bytes", read_bytes):
        log = opened(tmp_path)
    assert "damaged header at byte 0" in log.problems[0] and str(tmp_path / "damaged-1") in log.problems[0]
    assert log.node.damaged
    log.files.close(clean=False)


@pytest.mark.parametrize("step", ["_roll", "_begin_again"])
def test_a_start_that_ends_while_it_sets_damage_aside_leaves_nothing_believed(
    tmp_path: Path, step: str
) -> None:
    """Without a word of it the groups would look new, or as they were before."""
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with patch.object(WalFiles, step, side_effect=OSError(errno.EIO, "gone")), pytest.raises(ClusterError):
        opened(tmp_path)
    log = opened(tmp_path)
    assert log.node.damaged and log.node.incarnation == 0
    assert "an earlier start ended" in log.problems[0]
    assert not (tmp_path / UNFINISHED).exists()
    log.files.close(clean=False)
    again = opened(tmp_path)
    assert again.node.damaged and not again.problems
    again.files.close(clean=False)


def test_a_kill_right_after_an_orderly_reboot_does_not_make_it_a_disorderly_one(tmp_path: Path) -> None:
    written(tmp_path, clean=True)
    for call in ("pwrite", "fdatasync"):
        with patch.object(os, call, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            opened(tmp_path, boot="boot 2")
    log = opened(tmp_path, boot="boot 2")
    assert log.problems == () and log.node.groups[G].head == 2
    assert not (tmp_path / MARKER).exists()
    log.files.close(clean=False)


def test_a_disk_that_is_full_at_the_start_is_told_and_keeps_the_rest_for_view_records(tmp_path: Path) -> None:
    written(tmp_path)

    def fallocate(descriptor: int, offset: int, length: int) -> None:
        os.ftruncate(descriptor, length // 2)
        raise OSError(errno.ENOSPC, "no space left on device")

    with patch.object(os, "posix_fallocate", fallocate):
        log = opened(tmp_path)
    assert not (tmp_path / RESERVE).exists()
    told: list[bool] = []
    thread = WalThread(log.files, lambda upto: None, told.append)
    thread.submit(Write((append(3),), 1, False))
    thread.close(clean=False)
    assert told[0] is True


def test_a_full_disk_is_looked_at_while_view_records_come(tmp_path: Path) -> None:
    with patch.object(os, "posix_fallocate", side_effect=OSError(errno.ENOSPC, "no space")):
        log = opened(tmp_path)
    told: list[bool] = []
    written_up_to: list[int] = []
    with patch.object(log.files, "look_for_room", wraps=log.files._make_reserve) as look:
        thread = WalThread(log.files, written_up_to.append, told.append)
        thread.submit(Write(START, 1, False))
        thread.close(clean=False)
    assert look.call_count == 1 and told == [True, False] and written_up_to == [1]


def test_no_room_for_the_marker_is_a_stop_without_one(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with patch.object(os, "fsync", side_effect=[OSError(errno.ENOSPC, "no space"), None]):
        log.files.close(clean=True)
    assert not (tmp_path / MARKER).exists()
    opened(tmp_path).files.close(clean=False)


class Drive:
    """The disk behind the page cache: a failed fdatasync forgets what it should have written."""

    def __init__(self) -> None:
        self.disk = bytearray()
        self.fails = False
        self._dirty: list[tuple[int, bytes]] = []
        self._pwrite, self._fdatasync = os.pwrite, os.fdatasync

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        self._dirty.append((at, bytes(data)))
        return self._pwrite(descriptor, data, at)

    def fdatasync(self, descriptor: int) -> None:
        dirty, self._dirty = self._dirty, []
        if self.fails:
            raise OSError(errno.EIO, "input/output error")
        for at, data in dirty:
            self.disk[len(self.disk) :] = bytes(max(0, at + len(data) - len(self.disk)))
            self.disk[at : at + len(data)] = data


def test_what_an_fsync_error_left_readable_is_on_disk_after_the_next_start(tmp_path: Path) -> None:
    drive = Drive()
    with patch.object(os, "pwrite", drive.pwrite), patch.object(os, "fdatasync", drive.fdatasync):
        log = opened(tmp_path, power=True)
        log.files.append((*START, append(1)), sync=False)
        drive.fails = True
        with pytest.raises(OSError):
            log.files.append((append(2),), sync=False)
        log.files.close(clean=False)
        drive.fails = False
        again = opened(tmp_path, power=True)
        assert again.node.groups[G].head == 2, "it is believed"
        again.files.close(clean=False)
    (path,) = tmp_path.glob("*.wal")
    path.write_bytes(drive.disk)  # power failure
    after = opened(tmp_path, power=True, boot="boot 2")
    assert after.problems == () and after.node.groups[G].head == 2
    after.files.close(clean=False)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_a_folder_that_cannot_be_written_is_one_sentence_with_advice(tmp_path: Path, number: int) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "x"))
    with patch.object(os, "pwrite", side_effect=error), pytest.raises(ClusterError) as raised:
        opened(tmp_path)
    words = str(raised.value)
    assert words.startswith(f"{tmp_path} cannot be used: {os.strerror(number)}") and "start" in words
    opened(tmp_path).files.close(clean=False)  # the lock was given free


def test_an_alert_has_room_for_whatever_is_damaged(tmp_path: Path) -> None:
    node = restore([]).node
    text = damage_told([f"segment {number} is missing" for number in range(1_000)], node, tmp_path)
    assert len(text) < 2 * PROBLEM_CHARS and text.startswith("segment 0 is missing; ")
    assert STATUS_FAILED == 74
