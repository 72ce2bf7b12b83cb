"""What the archiver of one partition group does next: which images it keeps, and when it writes them.

Guards these rules. Only what has committed is kept here, the last image of each object, until it is
known to be in PostgreSQL. One transaction brings the rows from one operation exactly to another, so
rows and `archived_op` always agree. An archiver that meets a newer view or era stops. What is kept is
bounded: past the bound it is given up, and the whole group is asked for again; so it is when PostgreSQL
went back. Unless something is thus *missing*, archived rows and kept images together are the committed
state.

Pure: `decide(now)` says what to do, the shell does it and reports how it went; times in seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import replace

from connserver.limits import ARCHIVE_DIRTY_BYTES, ARCHIVE_LAGGING_MS, ARCHIVE_RETRY_MS
from connserver.messages import Image
from partition.archive_images import KeptImages, check_image
from partition.archive_outcomes import (
    Action,
    ArchiveState,
    ArchiveStatus,
    Behind,
    Close,
    Deposed,
    Down,
    Finish,
    Flushed,
    GroupRow,
    Open,
    Outcome,
    Overflowed,
    WentBack,
    Write,
)


class Phase(enum.Enum):
    """What the shell has in its hands."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"
    WRITING = "writing"
    FINISHED = "finished"


class ArchiveMachine:
    """The archiver's decisions; see the file's docstring. Not thread-safe: its shell holds a lock."""

    def __init__(
        self,
        *,
        era: int,
        view: int,
        archived_op: int,
        interval_ms: int,
        dirty_limit: int = ARCHIVE_DIRTY_BYTES,
    ) -> None:
        self.era = era
        self.view = view
        self.head = archived_op
        self.archived = archived_op
        self.phase = Phase.CLOSED
        self.active = False
        self.reports: list[Outcome] = []
        """Outcomes that the worker has not been told yet; the shell takes them."""
        self._interval = interval_ms / 1000
        self._limit = dirty_limit
        self._deposed = False
        self._dirty = KeptImages()
        self._dirty_since: float | None = None
        self._in_flight = KeptImages()
        self._write: Write | None = None
        self._begun_at = 0.0
        self._whole: Write | None = None  # what readd_all gave, until it is written
        self._missing_through: int | None = None  # operations up to here are neither kept nor archived
        self._missing_report: Overflowed | WentBack | None = None
        self._asked = False
        self._error = ""
        self._retry_at = 0.0
        self._retry_ms = 0
        self._write_at = 0.0
        self._stop_at: float | None = None

    # --- from the worker ---

    def add(self, op: int, images: Sequence[Image], now: float) -> None:
        """Operation `op` has committed and left these images; every operation, in order."""
        if op != self.head + 1:
            raise ValueError(f"operation {op} was added after {self.head}; every one is added, in order")
        for image in images:
            check_image(image)
        self.head = op
        if op <= self.archived or self.phase is Phase.FINISHED:
            return
        if self._dirty_since is None:
            self._dirty_since = now
            self._write_at = max(self._write_at, now + self._interval)
        for image in images:
            self._dirty.put(op, image)
        if self._dirty.size + self._in_flight.size > self._limit:
            self._give_up(Overflowed(op))

    def readd_all(self, op: int, images: Sequence[Image], now: float) -> None:
        """The complete committed state as of `op`, the last operation added (or a later one)."""
        if op < self.head:
            raise ValueError(f"the state of operation {op} was added after operation {self.head}")
        for image in images:
            check_image(image)
        self.head = op
        self._dirty = KeptImages()
        self._dirty_since = now
        living = {image.oid: (op, image) for image in images if image.data is not None}
        self._whole = Write(op, self.view, 0, living, whole=True)
        self._missing_through = self._missing_report = None
        self._write_at = now

    def promote(self, view: int, now: float) -> None:
        """This worker leads the group in `view`: write from now on."""
        if view < self.view:
            raise ValueError(f"view {view} is older than {self.view}")
        self.view = view
        self.active = True
        self._deposed = self._asked = False
        self._retry_at, self._retry_ms = now, 0
        self._ask()

    def demote(self) -> None:
        """This worker leads no more: collect only."""
        self.active = self._deposed = False
        self._error = ""

    def archived_elsewhere(self, op: int) -> None:
        """The group's leader archived up to `op`: what is not newer need not be kept here."""
        if not self.active and self._write is None and op > self.archived:
            self._advance(op)

    def stop(self, deadline: float) -> None:
        """Write what is left until `deadline`, then finish."""
        self._stop_at = deadline

    # --- to the shell ---

    def decide(self, now: float) -> Action | None:
        """What to do now; None: nothing before `wakes_at`, or before something is added."""
        if self.phase in (Phase.OPENING, Phase.WRITING, Phase.FINISHED):
            return None
        if self._stop_at is not None and (now >= self._stop_at or not self.active or not self._has_work()):
            self.phase = Phase.FINISHED
            return Finish()
        if self.phase is Phase.CLOSED:
            if not self.active or now < self._retry_at:
                return None
            self.phase = Phase.OPENING
            return Open()
        if not self.active:
            self.phase = Phase.CLOSED
            return Close()
        if not self._has_work() or (now < self._write_at and self._stop_at is None):
            return None
        return self._begin_write(now)

    def wakes_at(self) -> float | None:
        """When `decide` has to be asked again though nothing happened; None: never."""
        times = [] if self._stop_at is None else [self._stop_at]
        if self.active and self.phase is Phase.CLOSED:
            times.append(self._retry_at)
        if self.active and self.phase is Phase.OPEN and self._has_work():
            times.append(self._write_at)
        return min(times, default=None)

    def opened(self, row: GroupRow | None, now: float) -> None:
        """Connected; `row` is what PostgreSQL says of the group."""
        assert self.phase is Phase.OPENING, self.phase
        self.phase = Phase.OPEN
        self._judge(row, now)

    def written(self) -> None:
        """The transaction committed."""
        write = self._end_write(keep=False)
        self._recovered()
        self._dirty_since = self._begun_at
        self._advance(write.op)
        self.reports.append(Flushed(write.op))
        self._ask()

    def refused(self, row: GroupRow | None, now: float) -> None:
        """The fence updated no row; `row` was read again after it."""
        self._end_write(keep=True)
        self._judge(row, now)

    def receded(self, previous_op: int) -> None:
        """PostgreSQL stood at `previous_op`, lower than it had stood before: nothing was written."""
        self._end_write(keep=True)
        self._recede(previous_op)

    def failed(self, error: str, now: float) -> None:
        """Connecting or writing failed; the connection is closed. A COMMIT's answer may have been lost."""
        if self.phase is Phase.WRITING:
            self._end_write(keep=True)
        self.phase = Phase.CLOSED
        if self.active and not self._error:
            self.reports.append(Down(error))
        self._error = error or "unknown error"
        first, longest = ARCHIVE_RETRY_MS
        self._retry_ms = min(longest, self._retry_ms * 2 or first)
        self._retry_at = now + self._retry_ms / 1000

    def status(self, now: float) -> ArchiveStatus:
        """The state of things in a few numbers."""
        kept = len(self._dirty.by_id) + len(self._in_flight.by_id)
        held = self._dirty.size + self._in_flight.size
        lag = max(0, self.head - self.archived)
        return ArchiveStatus(self._state(now), self.head, self.archived, lag, kept, held, self._error)

    def check_invariants(self) -> None:
        """What is true between any two calls."""
        self._dirty.check_invariants()
        assert all(self.archived < op <= self.head for op, _ in self._dirty.by_id.values())
        assert self._dirty.size + self._in_flight.size <= self._limit, "what is kept is bounded"
        assert (self._write is not None) == (self.phase is Phase.WRITING)
        assert self._missing_through is None or self._missing_through > self.archived
        assert (self._missing_through is None) == (self._missing_report is None)
        assert not (self._deposed and self.active)

    # --- inside ---

    def _state(self, now: float) -> ArchiveState:
        if self.phase is Phase.FINISHED:
            return "stopped"
        if self._deposed:
            return "deposed"
        if not self.active:
            return "standby"
        if self._error:
            return "down"
        late = self._dirty_since is not None and now - self._dirty_since > ARCHIVE_LAGGING_MS / 1000
        return "lagging" if late else "ok"

    def _has_work(self) -> bool:
        return self._whole is not None or (self._missing_through is None and self.head > self.archived)

    def _begin_write(self, now: float) -> Write:
        if self._whole is not None:
            write = replace(self._whole, view=self.view)  # it may have been promoted since
        else:
            self._in_flight, self._dirty = self._dirty, KeptImages()
            write = Write(self.head, self.view, self.archived, self._in_flight.by_id, whole=False)
        self._write = write
        self._begun_at = now
        self._write_at = now + self._interval
        self.phase = Phase.WRITING
        return write

    def _end_write(self, *, keep: bool) -> Write:
        """The write is over; `keep`: it did not happen, as far as we know."""
        write, self._write = self._write, None
        assert write is not None and self.phase is Phase.WRITING
        self.phase = Phase.OPEN
        older, self._in_flight = self._in_flight, KeptImages()
        if keep:
            self._dirty.put_under(older)
        return write

    def _judge(self, row: GroupRow | None, now: float) -> None:
        """Conclude from the row as it is: only a newer view or another era mean that we are deposed."""
        if row is None:
            self.failed("the group's row is missing from partition_groups", now)
            return
        self._recovered()
        if row.era != self.era or row.view > self.view:
            self.active = False
            self._deposed = True
            self.reports.append(Deposed(row.view, row.era))
        elif row.archived_op < self.archived:
            self._recede(row.archived_op)
        elif row.archived_op > self.archived:
            self._advance(row.archived_op)
            behind = row.archived_op > self.head
            self.reports.append(Behind(row.archived_op) if behind else Flushed(row.archived_op))
        self._ask()

    def _recovered(self) -> None:
        self._error = ""
        self._retry_ms = 0

    def _recede(self, archived_op: int) -> None:
        self.archived = archived_op
        if self._whole is None:  # else everything is about to be written anyway
            self._give_up(WentBack(archived_op))

    def _advance(self, archived_op: int) -> None:
        """Everything up to `archived_op` is in PostgreSQL."""
        self.archived = archived_op
        self._dirty.forget_through(archived_op)
        if self._whole is not None and self._whole.op <= archived_op:
            self._whole = None
        if self._missing_through is not None and self._missing_through <= archived_op:
            self._missing_through = self._missing_report = None
        if self.head <= archived_op:
            self._dirty_since = None

    def _give_up(self, why: Overflowed | WentBack) -> None:
        """What is kept is too much, or not enough: drop it, and ask for everything once we can write."""
        self._dirty = KeptImages()
        self._whole = None
        self._missing_through = self.head
        if self._missing_report is None or isinstance(why, WentBack):
            self._missing_report = why
            self._asked = False
        self._ask()

    def _ask(self) -> None:
        """Ask the worker for the whole group: only when PostgreSQL answers, and once."""
        ready = self.active and self.phase is Phase.OPEN
        if self._missing_report is not None and ready and not self._asked:
            self._asked = True
            self.reports.append(self._missing_report)
