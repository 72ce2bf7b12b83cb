"""The write-ahead log on a real disk: segments in a folder, the clean marker, the reserve.

Guards the shell's half of rule 10 and of the durability modes: after a disorderly reboot in `process`
mode nothing here is believed; an fsync error ends the process, because what the kernel dropped cannot
be asked for again; a full disk still takes view records; what cannot be read is damage, and a log of
another node or cluster is refused before anything is changed in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from connserver.errors import ClusterError
from gossip.records import Boot, DurableNode, Record
from gossip.wal import (
    FORMAT,
    SEGMENT_HEADER_BYTES,
    Restored,
    Tracker,
    encode_record,
    lose_everything,
    other_format,
    restore,
    segment_header,
    survivors,
)
from gossip.wal_words import NO_ROOM, advice, damage_told, failure

SEGMENT_BYTES = 64 << 20
"""A segment is closed above this size: small enough to be freed soon, large enough to be rare."""
RESERVE_BYTES = 4 << 20
"""Kept allocated so that a full disk still takes the records of view changes."""
MARKER = "clean"
RESERVE = "reserve"
UNFINISHED = "unfinished"
"""There while a damaged log is being replaced: a start that finds it believes nothing."""
_UNREADABLE = b"\0" * SEGMENT_HEADER_BYTES  # no segment begins like this, so it is damage and not torn


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
    def open(cls, folder: Path, boot: Boot) -> Opened:
        """Read what is there and make it ready to be appended to, in this start of the process.

        ClusterError, in one sentence, if it cannot be: in use, not ours, of another format, or the
        folder cannot be read or written.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = cls(folder, boot.power)
            try:
                return files._open(boot)
            except BaseException:
                files._let_go()
                raise
        except OSError as error:
            raise ClusterError(f"{folder} cannot be used: {failure(error)}. {advice(error)}") from None

    def _open(self, boot: Boot) -> Opened:
        paths = self._segments()
        segments = [(number, _bytes_of(path)) for number, path in paths]
        self._refuse_formats(segments)
        restored = restore(segments)
        node, damage = restored.node, list(restored.damage)
        self._refuse_others(node.boot, boot)
        marker = self.folder / MARKER
        clean = marker.exists()
        if (self.folder / UNFINISHED).exists():
            damage.append("an earlier start ended while it set a damaged log aside")
        elif node.boot and not node.boot.power and node.boot.boot_id != boot.boot_id and not clean:
            damage.append("the machine went down without a clean stop in durability mode `process`")
        if len(damage) > len(restored.damage):
            lose_everything(node)
        problems: tuple[str, ...] = ()
        if damage:
            aside = self._set_aside(paths)
            self._begin_again(node, restored.next_segment, restored.next_sequence)
            problems = (damage_told(damage, node, aside),)
        else:
            self._go_on(paths, restored, rewrite=boot.power and not clean)
        self._make_reserve()
        self.append((boot,), sync=clean)
        if clean:  # after the record of this boot, or a kill in between would look like a disorderly reboot
            marker.unlink()
            self._sync_folder()
        return Opened(self, node, problems)

    def _refuse_formats(self, segments: list[tuple[int, bytes]]) -> None:
        for number, data in segments:
            other = other_format(data)
            if other:
                raise ClusterError(
                    f"{self.folder / _name(number)} is a log of format {other} and this version reads "
                    f"{FORMAT}: start it with the version that wrote it, or, while its peers run, move "
                    "the folder away, and it recovers from them"
                )

    def _refuse_others(self, found: Boot | None, ours: Boot) -> None:
        if found is not None and (found.cluster, found.node) != (ours.cluster, ours.node):
            raise ClusterError(
                f"{self.folder} holds the log of node {found.node} of cluster {found.cluster}, and this is "
                f"node {ours.node} of cluster {ours.cluster}: start it with its own --state-dir, or, while "
                "its peers run, move the folder away, and it recovers from them"
            )

    def _go_on(self, paths: list[tuple[int, Path]], restored: Restored, *, rewrite: bool) -> None:
        """Append to the last segment, or begin one."""
        self._tracker = Tracker(restored.node, restored.highest)
        self._sequence = restored.next_sequence
        if paths and restored.last_good_bytes >= SEGMENT_HEADER_BYTES:
            self._continue(paths[-1][0], paths[-1][1], restored.last_good_bytes, rewrite=rewrite)
            return
        if paths:
            paths[-1][1].unlink()  # its header was cut: nothing was in it
        restored.highest.pop(restored.next_segment - 1, None)
        self._roll(paths[-1][0] if paths else 1)

    # --- writing ---

    def append(self, records: tuple[Record, ...], sync: bool) -> None:
        """Put records behind the last; on disk when this returns, as far as mode and `sync` ask for it."""
        if self.is_at_segment_end:
            self._roll(self._segment + 1)
        self._write(self._encode(records))
        if self.power or sync:
            os.fdatasync(self._descriptor)
        self._remove_segments()

    def append_only(self, records: tuple[Record, ...]) -> bool:
        """One write into the page cache and nothing else; whether segments wait for the next `append` to
        remove them. Only where that is enough: without `power`, and not at the end of a segment."""
        assert not self.power and not self.is_at_segment_end
        self._write(self._encode(records))
        return bool(self._tracker.removable())

    @property
    def is_at_segment_end(self) -> bool:
        """Whether the next write begins a segment, which takes its time."""
        return self._size >= SEGMENT_BYTES

    def _remove_segments(self) -> None:
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
            reserve = self.folder / RESERVE
            if error.errno not in NO_ROOM or not reserve.exists():
                raise
            self.full = True
            os.ftruncate(self._descriptor, self._size)
            reserve.unlink()
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
        try:
            if clean:
                os.fdatasync(self._descriptor)
                self._mark_clean()
        finally:
            self._let_go()

    def _mark_clean(self) -> None:
        try:
            with (self.folder / MARKER).open("wb") as marker:
                os.fsync(marker.fileno())
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            (self.folder / MARKER).unlink(missing_ok=True)  # no room: it counts as a stop without one
        self._sync_folder()

    def _let_go(self) -> None:
        for descriptor in (self._descriptor, self._folder_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._folder_descriptor = -1

    # --- segments ---

    def _segments(self) -> list[tuple[int, Path]]:
        paths = self.folder.glob("????????????.wal")
        return sorted((int(path.stem), path) for path in paths if path.stem.isdecimal())

    def _continue(self, number: int, path: Path, good_bytes: int, *, rewrite: bool) -> None:
        """`rewrite`: a life that ended with an fsync error left bytes that can be read and that no later
        fdatasync would write: written again, they are part of the next one."""
        self._segment, self._size = number, good_bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if rewrite:
            self._size = 0
            self._write_all(path.read_bytes()[:good_bytes])
            self._size = good_bytes
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

    def _set_aside(self, paths: list[tuple[int, Path]]) -> Path:
        """Keep a damaged log for the operator; never read it again."""
        with (self.folder / UNFINISHED).open("wb") as unfinished:
            os.fsync(unfinished.fileno())
        self._sync_folder()
        number = 1
        while (self.folder / f"damaged-{number}").exists():
            number += 1
        aside = self.folder / f"damaged-{number}"
        aside.mkdir(mode=0o700)
        for _, path in paths:
            path.rename(aside / path.name)
        self._sync_folder()
        return aside

    def _begin_again(self, node: DurableNode, segment: int, sequence: int) -> None:
        """What survived, written anew. A crash before the end of it is found by UNFINISHED."""
        self._tracker = Tracker(DurableNode(), {})
        self._sequence = sequence
        self._roll(segment)
        self._write(self._encode(survivors(node)))
        os.fdatasync(self._descriptor)
        (self.folder / UNFINISHED).unlink()
        self._sync_folder()

    # --- the disk ---

    def _make_reserve(self) -> None:
        try:
            with (self.folder / RESERVE).open("wb") as reserve:
                os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            (self.folder / RESERVE).unlink(missing_ok=True)  # a part of it may be there, and is needed
            self.full = True
            return
        self.full = False

    def _sync_folder(self) -> None:
        os.fsync(self._folder_descriptor)


def _name(segment: int) -> str:
    return f"{segment:012d}.wal"


def _bytes_of(path: Path) -> bytes:
    """A segment; one that the disk cannot give back is damaged."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return _UNREADABLE
