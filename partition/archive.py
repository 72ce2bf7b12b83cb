"""The archiver of a partition group: committed images go to PostgreSQL in the background.

Guards one rule: the worker's loop never waits for PostgreSQL. `archive_machine` decides; this shell
owns the thread, the connection and the clock. The worker's calls take a lock that is held for memory
operations only, never over one of the network.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import psycopg

from connserver.errors import StorageError
from connserver.limits import ARCHIVE_DIRTY_BYTES
from connserver.messages import Image
from connserver.storage.connection import BoundedConnection, connect, describe
from partition import archive_sql
from partition.archive_machine import ArchiveMachine
from partition.archive_outcomes import (
    Action,
    ArchiveStatus,
    Behind,
    Close,
    Deposed,
    Down,
    Finish,
    Flushed,
    Open,
    Outcome,
    Overflowed,
    WentBack,
    Write,
)
from partition.archive_sql import Snapshot, open_snapshot

__all__ = [
    "ArchiveStatus",
    "Archiver",
    "Behind",
    "Deposed",
    "Down",
    "Flushed",
    "Outcome",
    "Overflowed",
    "Snapshot",
    "WentBack",
    "open_snapshot",
]


class Archiver:
    """One group's archiver, in a thread of its own; it collects until promoted, then writes.

    `archived_op` is where the loaded snapshot stood; the first operation added is the next one.
    `on_outcome` is called in the archiver's thread.
    """

    def __init__(
        self,
        dsn: str,
        group: int,
        *,
        era: int,
        view: int,
        archived_op: int,
        on_outcome: Callable[[Outcome], None],
        archive_interval_ms: int = 200,
        dirty_bytes: int = ARCHIVE_DIRTY_BYTES,
    ) -> None:
        self._dsn = dsn
        self._group = group
        self._on_outcome = on_outcome
        self._machine = ArchiveMachine(
            era=era,
            view=view,
            archived_op=archived_op,
            interval_ms=archive_interval_ms,
            dirty_limit=dirty_bytes,
        )
        self._changed = threading.Condition()
        self._asleep = False  # without a time to wake at
        self._connection: BoundedConnection | None = None
        self._give_up_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"archive-{group}", daemon=True)

    def start(self) -> None:
        """Start the thread; it makes no connection before `promote`."""
        self._thread.start()

    def add(self, op: int, images: Sequence[Image]) -> None:
        """Operation `op` has *committed* and left these images; every one, in order, also on backups."""
        with self._changed:
            self._machine.add(op, images, time.monotonic())
            # of a backup the thread has nothing to do: waking it for each entry would cost more than the rest
            if self._asleep and (self._machine.reports or self._machine.wakes_at() is not None):
                self._changed.notify()

    def readd_all(self, op: int, images: Sequence[Image]) -> None:
        """The answer to WentBack and Overflowed: the complete committed state as of the last operation."""
        with self._changed:
            self._machine.readd_all(op, images, time.monotonic())
            self._changed.notify()

    def promote(self, view: int) -> None:
        """This worker leads the group in `view`: connect, and write from now on."""
        with self._changed:
            self._machine.promote(view, time.monotonic())
            self._changed.notify()

    def demote(self) -> None:
        """This worker leads no more: collect only. A write under way may still commit; it is fenced."""
        with self._changed:
            self._machine.demote()
            self._changed.notify()

    def archived_elsewhere(self, op: int) -> None:
        """The leader archived up to `op`: a backup need not keep what is not newer."""
        with self._changed:
            self._machine.archived_elsewhere(op)

    def status(self) -> ArchiveStatus:
        """How the archive stands."""
        with self._changed:
            return self._machine.status(time.monotonic())

    @property
    def archived_op(self) -> int:
        """The operation up to which PostgreSQL is known to have everything."""
        return self._machine.archived

    @property
    def lag_ops(self) -> int:
        """Committed operations that are not in PostgreSQL yet."""
        return max(0, self._machine.head - self._machine.archived)

    def stop(self, flush_timeout_s: float = 5.0) -> ArchiveStatus:
        """Write what is left, in order, for at most this long, and end the thread. Blocks."""
        deadline = time.monotonic() + flush_timeout_s
        with self._changed:
            self._machine.stop(deadline)
            self._give_up_at = deadline
            if self._connection is not None:
                self._connection.give_up_at = deadline
            self._changed.notify()
        if self._thread.is_alive():
            # An attempt to connect may take a little longer; the thread does not keep the process.
            self._thread.join(max(0.0, deadline - time.monotonic()) + 1.0)
        return self.status()

    # --- the thread ---

    def _run(self) -> None:
        try:
            while True:
                action = self._next_action()
                if isinstance(action, Finish):
                    return
                if action is not None:
                    self._perform(action)
                self._report()
        except Exception as error:
            # A bug. The worker serves on, but it must show that nothing is archived any more.
            with self._changed:
                self._machine.failed(f"the archiver ended: {describe(error)}", time.monotonic())
            self._report()
            raise
        finally:
            self._disconnect()

    def _report(self) -> None:
        with self._changed:
            reports, self._machine.reports = self._machine.reports, []
        for report in reports:
            with contextlib.suppress(RuntimeError):  # the worker's loop is closed already
                self._on_outcome(report)

    def _next_action(self) -> Action | None:
        """Wait for something to do; None: there is something to report."""
        with self._changed:
            while not self._machine.reports:
                now = time.monotonic()
                action = self._machine.decide(now)
                if action is not None:
                    return action
                wakes_at = self._machine.wakes_at()
                self._asleep = wakes_at is None
                self._changed.wait(None if wakes_at is None else max(0.0, wakes_at - now))
                self._asleep = False
            return None

    def _perform(self, action: Action) -> None:
        try:
            match action:
                case Open():
                    self._open()
                case Write():
                    self._write(action)
                case _:
                    assert isinstance(action, Close)
                    self._disconnect()
        except (psycopg.Error, StorageError, OSError) as error:
            self._disconnect()
            with self._changed:
                self._machine.failed(describe(error), time.monotonic())

    def _open(self) -> None:
        self._disconnect()
        connection = connect(self._dsn, f"archive of group {self._group}", archive_sql.WRITE_BOUNDS)
        with self._changed:
            connection.give_up_at = self._give_up_at
            self._connection = connection
        row = archive_sql.read_group(connection, self._group)
        with self._changed:
            self._machine.opened(row, time.monotonic())

    def _write(self, order: Write) -> None:
        assert self._connection is not None
        result = archive_sql.write(self._connection, self._group, self._machine.era, order)
        with self._changed:
            match result:
                case archive_sql.Written():
                    self._machine.written()
                case archive_sql.Refused(row):
                    self._machine.refused(row, time.monotonic())
                case archive_sql.Receded(previous_op):
                    self._machine.receded(previous_op)

    def _disconnect(self) -> None:
        with self._changed:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
