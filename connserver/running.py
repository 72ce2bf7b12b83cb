"""What a worker is running at this moment, in a page of memory that outlives it.

Guards two rules of the node's gossip process: a worker's death is blamed on the request that it was
running, and a worker that makes no progress while it may execute is found without a message from it.
The page is a small file in the node's folder; the worker writes, gossip reads. Torn reads do no harm:
the source is read when its writer is dead, and progress is only compared.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_NOTE = struct.Struct("<QQQQ")  # running, boot, connection, sequence
_PROGRESS = struct.Struct("<Q")
_PROGRESS_AT = _NOTE.size
_SIZE = 4096

Source = tuple[int, int, int]
"""(gateway boot, connection, sequence); (0, group + 1, number) for a parcel; zeros for a tick."""


class RunningNote:
    """The worker's side: whose call runs now. Making one forgets what an earlier worker noted."""

    def __init__(self, path: Path) -> None:
        self._memory = _map(path, os.O_RDWR | os.O_CREAT)
        self._pack = _NOTE.pack_into
        self._steps = 0
        self.leave()

    def enter(self, boot: int, connection: int, sequence: int) -> None:
        """A call of this source begins."""
        self._pack(self._memory, 0, 1, boot, connection, sequence)

    def leave(self) -> None:
        """Nothing runs any more."""
        self._pack(self._memory, 0, 0, 0, 0, 0)

    def descriptors_closed(self) -> bool:
        """Whether whoever ran has closed files and sockets that are not theirs."""
        try:
            self._memory.size()  # asks the kernel, by the page's own descriptor
        except OSError:
            return True
        return False

    def step(self) -> None:
        """The worker's loop has come round once more."""
        self._steps += 1
        _PROGRESS.pack_into(self._memory, _PROGRESS_AT, self._steps)

    def close(self) -> None:
        """Orderly end: nothing was running."""
        self.leave()
        self._memory.close()


class NoteReader:
    """The gossip process's side of the same page."""

    def __init__(self, path: Path) -> None:
        self._memory = _map(path, os.O_RDWR | os.O_CREAT)

    @property
    def source(self) -> Source | None:
        """What runs, or ran when the worker died; None: nothing."""
        running, boot, connection, sequence = _NOTE.unpack_from(self._memory, 0)
        return (boot, connection, sequence) if running else None

    @property
    def progress(self) -> int:
        """Differs from one look to the next while the worker's loop turns."""
        return int(_PROGRESS.unpack_from(self._memory, _PROGRESS_AT)[0])

    def close(self) -> None:
        """Let go of the page."""
        self._memory.close()


def note_path(node_dir: Path, group: int) -> Path:
    """Where the note of a node's worker of a group lies."""
    return node_dir / f"w-{group}.running"


def _map(path: Path, flags: int) -> mmap.mmap:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, _SIZE)
        return mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
