"""Who writes the log, and what goes to the thread: order, slow disks, full disks."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from gossip import wal_files
from gossip.protocol import Write
from gossip.records import Base
from gossip.wal_files import WalFiles
from gossip.wal_thread import QUICK_AGAIN_S, SLOW_WRITE_S, WalThread
from tests.unit.gossip.test_wal_files import START, G, append, reopened


def test_the_thread_writes_what_gathered_at_once(tmp_path: Path) -> None:
    """Group commit: one fdatasync for everything that waited for the one before."""
    files = reopened(tmp_path, power=True).files
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    reported: list[int] = []
    real = os.fdatasync
    count = 0

    def fdatasync(descriptor: int) -> None:
        nonlocal count
        count += 1
        begun.set()
        assert go_on.wait(10)
        real(descriptor)

    def notify(upto: int) -> None:
        reported.append(upto)
        if upto == 6:
            done.set()

    with patch.object(os, "fdatasync", fdatasync):
        thread = WalThread(files, notify, lambda full: None)
        thread.submit(Write(START, 1, False))
        assert begun.wait(10)
        for upto in range(2, 7):
            thread.submit(Write((append(upto - 1),), upto, False))
        go_on.set()
        assert done.wait(10)
        assert reported == [1, 6]
        assert count == 2
        thread.close(clean=True)
    again = reopened(tmp_path, power=True, boot="boot 2")
    assert sorted(again.node.groups[G].entries) == [1, 2, 3, 4, 5]
    again.files.close(clean=False)


def test_an_fsync_error_is_fatal(tmp_path: Path) -> None:
    """What the kernel dropped cannot be asked for again; nothing is reported as written."""
    files = reopened(tmp_path, power=True).files
    fatal: list[OSError] = []
    reported: list[int] = []
    with patch.object(os, "fdatasync", side_effect=OSError(errno.EIO, "input/output error")):
        thread = WalThread(files, reported.append, lambda full: None, fatal.append)
        thread.submit(Write(START, 1, False))
        thread._thread.join(10)
    assert [error.errno for error in fatal] == [errno.EIO]
    assert reported == []
    files.close(clean=False)


# --- in the loop or in the thread ---


class Clock:
    """Stands still but where a write takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Reports:
    """What the thread reported, and a way to wait for it."""

    def __init__(self) -> None:
        self.upto: list[int] = []
        self._news = threading.Semaphore(0)

    def __call__(self, upto: int) -> None:
        self.upto.append(upto)
        self._news.release()

    def wait(self) -> None:
        assert self._news.acquire(timeout=10)


def entry(upto: int, *, sync: bool = False) -> Write:
    """A turn with one entry, whose op is the number of the write."""
    return Write((append(upto),), upto, sync)


def started(files: WalFiles, clock: Clock) -> tuple[WalThread, Reports]:
    """With the records a log begins with, and a thread that has nothing to do."""
    reports = Reports()
    thread = WalThread(files, reports, lambda full: None, clock=clock)
    assert thread.write(Write(START, 0, False)), "a quick disk is written to at once"
    return thread, reports


def hand_over(thread: WalThread, reports: Reports, write: Write) -> None:
    """A write that must go to the thread, and its end."""
    assert not thread.write(write)
    reports.wait()
    finished = threading.Event()
    while thread._handed != thread._finished:  # it is reported a moment before the thread rests
        finished.wait(0.001)


def kept(folder: Path) -> list[int]:
    """The entries that the next start finds."""
    again = reopened(folder)
    again.files.close(clean=False)
    assert again.problems == ()
    return sorted(again.node.groups[G].entries)


def test_a_quick_disk_is_written_to_at_once(tmp_path: Path) -> None:
    files = reopened(tmp_path).files
    thread, reports = started(files, Clock())
    size = next(tmp_path.glob("*.wal")).stat().st_size
    assert thread.write(entry(1))
    assert next(tmp_path.glob("*.wal")).stat().st_size > size, "when it returns the kernel has it"
    thread.close(clean=False)
    assert reports.upto == [] and kept(tmp_path) == [1]


def test_what_may_take_long_goes_to_the_thread(tmp_path: Path) -> None:
    """A sync, and a segment's end."""
    files = reopened(tmp_path).files
    thread, reports = started(files, Clock())
    hand_over(thread, reports, entry(1, sync=True))
    assert thread.write(entry(2)), "the thread has nothing any more"
    with patch.object(wal_files, "SEGMENT_BYTES", 1):
        hand_over(thread, reports, entry(3))
    assert thread.write(entry(4))
    thread.close(clean=False)
    assert reports.upto == [1, 3] and kept(tmp_path) == [1, 2, 3, 4]


def test_in_power_mode_everything_goes_to_the_thread(tmp_path: Path) -> None:
    files = reopened(tmp_path, power=True).files
    reports = Reports()
    thread = WalThread(files, reports, lambda full: None)
    assert not thread.write(Write(START, 1, False))
    thread.close()
    assert reports.upto == [1]


@pytest.mark.parametrize("first_in_thread", [False, True])
def test_after_a_slow_write_the_loop_writes_no_more_until_the_disk_is_quick(
    tmp_path: Path, first_in_thread: bool
) -> None:
    """Whoever made the slow one."""
    files = reopened(tmp_path).files
    clock = Clock()
    thread, reports = started(files, clock)
    slow = slowly(clock, 2 * SLOW_WRITE_S)
    with patch.object(os, "pwrite", slow):
        if first_in_thread:
            with patch.object(wal_files, "SEGMENT_BYTES", 1):
                hand_over(thread, reports, entry(1))
        else:
            assert thread.write(entry(1))
        clock.now += 0.9 * QUICK_AGAIN_S
        hand_over(thread, reports, entry(2))  # slow again, so the time begins anew
    clock.now += 0.9 * QUICK_AGAIN_S
    hand_over(thread, reports, entry(3))
    clock.now += 0.2 * QUICK_AGAIN_S
    assert thread.write(entry(4))
    thread.close(clean=False)
    assert kept(tmp_path) == [1, 2, 3, 4]


def slowly(clock: Clock, seconds: float) -> Callable[[int, bytes, int], int]:
    """pwrite on a disk that takes its time."""
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, at: int) -> int:
        clock.now += seconds
        return real(descriptor, data, at)

    return pwrite


def test_while_the_thread_writes_the_loop_does_not(tmp_path: Path) -> None:
    """Or what comes later would be in the log before what came first."""
    files = reopened(tmp_path).files
    thread, reports = started(files, Clock())
    begun, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        begun.set()
        assert go_on.wait(10)
        real(descriptor)

    with patch.object(os, "fdatasync", fdatasync):
        assert not thread.write(entry(1, sync=True))
        assert begun.wait(10)
        assert not thread.write(entry(2))
        go_on.set()
        thread.close(clean=False)
    assert reports.upto == [1, 2] and kept(tmp_path) == [1, 2]


def test_a_disk_that_fills_up_under_the_loop_is_told_by_the_thread(tmp_path: Path) -> None:
    """And from then on the thread writes, as it alone looks for room."""
    files = reopened(tmp_path).files
    told: list[bool] = []
    is_told = threading.Event()
    reports = Reports()

    def full(now: bool) -> None:
        told.append(now)
        is_told.set()

    thread = WalThread(files, reports, full)
    assert thread.write(Write(START, 1, False))
    real, failures = os.pwrite, [OSError(errno.ENOSPC, "no space left on device")]

    def pwrite(descriptor: int, data: bytes, at: int) -> int:
        if failures:
            raise failures.pop()
        return real(descriptor, data, at)

    with patch.object(os, "pwrite", pwrite), patch.object(files, "look_for_room", lambda: None):
        assert thread.write(entry(1)), "the reserve has room for it"
        assert is_told.wait(10) and told == [True]
        assert not thread.write(entry(2))
        thread.close(clean=False)
    assert kept(tmp_path) == [1, 2]


def test_what_the_loop_cannot_write_ends_the_process(tmp_path: Path) -> None:
    files = reopened(tmp_path).files
    fatal: list[OSError] = []
    thread = WalThread(files, lambda upto: None, lambda full: None, fatal.append)
    with (
        patch.object(os, "pwrite", side_effect=OSError(errno.EIO, "input/output error")),
        pytest.raises(OSError),
    ):
        thread.write(Write(START, 1, False))
    assert [error.errno for error in fatal] == [errno.EIO]
    thread.close(clean=False)


def test_segments_that_are_not_needed_are_removed_by_the_thread(tmp_path: Path) -> None:
    files = reopened(tmp_path).files
    thread, reports = started(files, Clock())
    assert thread.write(entry(1))
    with patch.object(wal_files, "SEGMENT_BYTES", 1):
        hand_over(thread, reports, entry(2))
    assert len(list(tmp_path.glob("*.wal"))) == 2
    assert thread.write(Write((append(3), Base(G, 1, 0)), 3, False))
    reports.wait()
    thread.close(clean=False)
    assert len(list(tmp_path.glob("*.wal"))) == 1 and kept(tmp_path) == [2, 3]
