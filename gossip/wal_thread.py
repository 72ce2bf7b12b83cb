"""Who writes the log: the loop itself while the disk is quick, a thread of its own otherwise.

Guards the rule that a slow disk stops no heartbeats. A write into the page cache takes some ten
microseconds, less than handing it to a thread and hearing of it, which wakes two threads. So in
`process` mode it is made where it comes up; but whatever may take longer (a sync, a new segment, the
removal of an old one, a disk that is full) goes to the thread, and after one write that took longer all
of them do, until the disk has been quick for QUICK_AGAIN_S. The order is kept: the loop writes only
while the thread has nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

from gossip.protocol import Write
from gossip.wal_files import WalFiles
from gossip.wal_words import not_written

SLOW_WRITE_S = 0.005
"""A write that takes longer makes the disk slow: a quarter of the time between two heartbeats."""
QUICK_AGAIN_S = 1.0
"""So long after the last slow write the loop does not write: a disk that is slow for good holds it up
once a second at most, and only if nothing was written in that second."""
FULL_CHECK_S = 1.0
"""How often a full disk is looked at again."""
STATUS_FAILED = 74
"""With it a process ends whose log cannot be written (EX_IOERR)."""


class WalThread:
    """Writes at once where that is quick, else in the thread, all that has gathered, and reports.

    `notify(upto)` and `full(bool)` are called in the thread: pass something like
    `loop.call_soon_threadsafe`. `fatal(error)` must not return; by default it ends the process.
    """

    def __init__(
        self,
        files: WalFiles,
        notify: Callable[[int], None],
        full: Callable[[bool], None],
        fatal: Callable[[OSError], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._notify = notify
        self._full = full
        self._fatal = fatal or self._end_process
        self._clock = clock
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._handed = self._finished = 0
        self._quick_from = float("-inf")
        self._clean = False
        self._looked_at = float("-inf")
        self._told_full = False  # files.full as it was last told; the loop's writes change it, too
        self._thread = Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    # --- from the loop ---

    def write(self, write: Write) -> bool:
        """Write a turn's records now (True: nothing is reported) or hand them over (False)."""
        files = self._files
        if (
            files.power
            or write.sync
            or self._handed != self._finished
            or files.full
            or files.is_at_segment_end
            or self._clock() < self._quick_from
        ):
            self.submit(write)
            return False
        self._write_here(write)
        return True

    def _write_here(self, write: Write) -> None:
        began = self._clock()
        try:
            is_untidy = self._files.append_only(write.records)
        except OSError as error:
            self._fatal(error)
            raise
        self._took(began)
        if is_untidy or self._files.full:
            self.submit(Write((), write.upto, False))  # the thread removes segments, and looks for room

    def submit(self, write: Write) -> None:
        """Hand over a turn's records; never blocks."""
        self._handed += 1
        self._queue.put(write)

    def close(self, clean: bool = True) -> None:
        """Write what was handed over, then close the files."""
        self._clean = clean
        self._queue.put(None)
        self._thread.join()

    def _took(self, began: float) -> None:
        now = self._clock()
        if now - began > SLOW_WRITE_S:
            self._quick_from = now + QUICK_AGAIN_S

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._tell_full()
            while self._turn():
                pass
            self._files.close(self._clean)
        except OSError as error:
            self._fatal(error)

    def _turn(self) -> bool:
        """One gathering of writes; False at the end."""
        was_full = self._told_full
        try:
            gathered = [self._queue.get(timeout=FULL_CHECK_S if was_full else None)]
        except Empty:
            gathered = []
        while not self._queue.empty():
            gathered.append(self._queue.get())
        writes = [write for write in gathered if write is not None]
        if writes:
            records = tuple(record for write in writes for record in write.records)
            sync = any(write.sync for write in writes)
            began = self._clock()
            self._files.append(records, sync)
            if not sync:
                self._took(began)
            self._notify(writes[-1].upto)
        if was_full and self._clock() - self._looked_at >= FULL_CHECK_S:
            self._looked_at = self._clock()
            self._files.look_for_room()
        self._tell_full()
        self._finished += len(writes)  # last: from here on the loop may write
        return len(writes) == len(gathered)

    def _tell_full(self) -> None:
        if self._files.full != self._told_full:
            self._told_full = self._files.full
            self._full(self._told_full)

    def _end_process(self, error: OSError) -> None:
        print(not_written(self._files.folder, error), file=sys.stderr, flush=True)
        os._exit(STATUS_FAILED)
