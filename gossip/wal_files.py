"""The write-ahead log on a real disk: segments in a folder, the clean marker, the reserve, a thread.

Guards the shell's half of rule 10 and of the durability modes: after a disorderly reboot in `process`
mode nothing here is believed; an fsync error ends the process, because what the kernel dropped cannot
be asked for again; a full disk still takes view records.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from connserver.errors import ClusterError
from gossip.protocol import Write
from gossip.records import Boot, DurableNode, Record
from gossip.wal import (
    SEGMENT_HEADER_BYTES,
    Tracker,
    encode_record,
    lose_everything,
    restore,
    segment_header,
    survivors,
)

SEGMENT_BYTES = 64 << 20
"""A segment is closed above this size: small enough to be freed soon, large enough to be rare."""
RESERVE_BYTES = 4 << 20
"""Kept allocated so that a full disk still takes the records of view changes."""
FULL_CHECK_S = 1.0
"""How often a full disk is looked at again."""
MARKER = "clean"
RESERVE = "reserve"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def kernel_boot_id() -> str:
    """Changes with every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Opened:
    """An open log and what it said. `problems`: sentences for the operator."""

    files: WalFiles
    node: DurableNode
    problems: tuple[str, ...]


class WalFiles:
    """The segments of one node. Not thread-safe: one thread writes."""

    def __init__(self, folder: Path, power: bool) -> None:
        self.folder = folder
        self.power = power
        self.full = False
        self._descriptor = -1
        self._segment = 0
        self._size = 0
        self._sequence = 1
        self._tracker = Tracker(DurableNode(), {})
        self._folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._folder_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._folder_descriptor)
            raise ClusterError(f"{folder} is in use by another gossip process: stop that one first") from None

    @classmethod
    def open(cls, folder: Path, power: bool, boot_id: str) -> Opened:
        """Read what is there and make it ready to be appended to.

        OSError if the folder cannot be used; ClusterError if another process has it open.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = cls(folder, power)
        paths = files._segments()
        restored = restore([(number, path.read_bytes()) for number, path in paths])
        node, problems = restored.node, list(restored.damage)
        marker = folder / MARKER
        boot = node.boot
        if boot and not boot.power and boot.boot_id != boot_id and not marker.exists():
            problems.append(
                "the machine went down without a clean stop in durability mode `process`: "
                "what was not on disk is recovered from the peers"
            )
            lose_everything(node)
        if marker.exists():
            marker.unlink()
            files._sync_folder()
        if problems:
            files._set_aside(paths)
            files._begin_again(node, restored.next_segment, restored.next_sequence)
        elif paths and restored.last_good_bytes >= SEGMENT_HEADER_BYTES:
            files._tracker = Tracker(node, restored.highest)
            files._sequence = restored.next_sequence
            files._continue(paths[-1][0], paths[-1][1], restored.last_good_bytes)
        else:
            if paths:
                paths[-1][1].unlink()  # its header was cut: nothing was in it
            restored.highest.pop(restored.next_segment - 1, None)
            files._tracker = Tracker(node, restored.highest)
            files._sequence = restored.next_sequence
            files._roll(paths[-1][0] if paths else 1)
        files._make_reserve()
        files.append((Boot(boot_id, power),), sync=False)
        return Opened(files, node, tuple(problems))

    # --- writing ---

    def append(self, records: tuple[Record, ...], sync: bool) -> None:
        """Put records behind the last; on disk when this returns, as far as mode and `sync` ask for it."""
        if self._size >= SEGMENT_BYTES:
            self._roll(self._segment + 1)
        self._write(self._encode(records))
        if self.power or sync:
            os.fdatasync(self._descriptor)
        for segment in self._tracker.removable():
            (self.folder / _name(segment)).unlink(missing_ok=True)
            self._tracker.forget(segment)

    def _encode(self, records: tuple[Record, ...] | list[Record]) -> bytes:
        parts = []
        for record in records:
            parts.append(encode_record(record, self._sequence))
            self._sequence += 1
            self._tracker.note(record)
        return b"".join(parts)

    def _write(self, data: bytes) -> None:
        try:
            self._write_all(data)
        except OSError as error:
            if error.errno not in _FULL or self.full:
                raise
            self.full = True
            os.ftruncate(self._descriptor, self._size)
            (self.folder / RESERVE).unlink(missing_ok=True)
            self._write_all(data)
        self._size += len(data)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        at = self._size
        while view:
            count = os.pwrite(self._descriptor, view, at)
            view, at = view[count:], at + count

    def look_for_room(self) -> None:
        """Whether a full disk has room again."""
        state = os.statvfs(self.folder)
        if self.full and state.f_bavail * state.f_frsize > 4 * RESERVE_BYTES:
            self._make_reserve()

    def close(self, clean: bool) -> None:
        """An orderly stop leaves everything on disk, and a marker that says so."""
        if clean:
            os.fdatasync(self._descriptor)
            with (self.folder / MARKER).open("wb") as marker:
                os.fsync(marker.fileno())
            self._sync_folder()
        os.close(self._descriptor)
        os.close(self._folder_descriptor)

    # --- segments ---

    def _segments(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem), path) for path in self.folder.glob("????????????.wal"))

    def _continue(self, number: int, path: Path, good_bytes: int) -> None:
        self._segment, self._size = number, good_bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if path.stat().st_size != good_bytes:
            os.ftruncate(self._descriptor, good_bytes)  # a torn record: it was never reported as written
            os.fsync(self._descriptor)

    def _roll(self, number: int) -> None:
        """Begin a segment. The one before is on disk first, so that only the last can be torn."""
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(self.folder / _name(number), flags, 0o600)
        self._segment, self._size = number, 0
        head = self._tracker.begin(number)
        self._write(segment_header(number) + self._encode(head))
        os.fdatasync(self._descriptor)
        self._sync_folder()

    def _set_aside(self, paths: list[tuple[int, Path]]) -> None:
        """Keep a damaged log for `recover`; never read it again."""
        number = 1
        while (self.folder / f"damaged-{number}").exists():
            number += 1
        aside = self.folder / f"damaged-{number}"
        aside.mkdir(mode=0o700)
        for _, path in paths:
            path.rename(aside / path.name)
        self._sync_folder()

    def _begin_again(self, node: DurableNode, segment: int, sequence: int) -> None:
        """What survived, written anew. A crash before the end of it leaves the groups blank, which is
        found out from the peers like any other lost disk."""
        self._tracker = Tracker(DurableNode(), {})
        self._sequence = sequence
        self._roll(segment)
        self._write(self._encode(survivors(node)))
        os.fdatasync(self._descriptor)

    # --- the disk ---

    def _make_reserve(self) -> None:
        try:
            with (self.folder / RESERVE).open("wb") as reserve:
                os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.full = True
            return
        self.full = False

    def _sync_folder(self) -> None:
        os.fsync(self._folder_descriptor)


def _name(segment: int) -> str:
    return f"{segment:012d}.wal"


class WalThread:
    """Writes in a thread of its own, all that has gathered at once, and reports.

    `notify(upto)` and `full(bool)` are called in that thread: pass something like
    `loop.call_soon_threadsafe`. `fatal(error)` must not return; by default it ends the process.
    """

    def __init__(
        self,
        files: WalFiles,
        notify: Callable[[int], None],
        full: Callable[[bool], None],
        fatal: Callable[[OSError], None] | None = None,
    ) -> None:
        self._files = files
        self._notify = notify
        self._full = full
        self._fatal = fatal or _end_process
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._clean = False
        self._thread = Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def submit(self, write: Write) -> None:
        """Hand over a turn's records; never blocks."""
        self._queue.put(write)

    def close(self, clean: bool = True) -> None:
        """Write what was handed over, then close the files."""
        self._clean = clean
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
            self._files.close(self._clean)
        except OSError as error:
            self._fatal(error)

    def _turn(self) -> bool:
        """One gathering of writes; False at the end."""
        full = self._files.full
        try:
            gathered = [self._queue.get(timeout=FULL_CHECK_S if full else None)]
        except Empty:
            gathered = []
            self._files.look_for_room()
        while not self._queue.empty():
            gathered.append(self._queue.get())
        writes = [write for write in gathered if write is not None]
        if writes:
            records = tuple(record for write in writes for record in write.records)
            self._files.append(records, any(write.sync for write in writes))
            self._notify(writes[-1].upto)
        if self._files.full != full:
            self._full(self._files.full)
        return len(writes) == len(gathered)


def _end_process(error: OSError) -> None:
    print(f"write-ahead log: {error}; the process ends, its peers go on without it", file=sys.stderr)
    os._exit(74)
