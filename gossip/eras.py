"""The archive follows the eras of the logs: which rows to raise and when, and the thread that does it.

Guards two rules. An era is raised in the archive after it has begun in the log, never before, and by
every node that serves in it until one has done so: `recover` needs no PostgreSQL to begin an era from
a log, and a gossip process that dies in between loses nothing. And the loop never waits for PostgreSQL:
who asks where the archive stands gets what is known, and asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from connserver import telemetry
from connserver.errors import StorageError
from connserver.messages import GroupPosition
from connserver.storage.eras import ArchivedGroup, archived_group, raise_era

FIRST_ERA = 1
"""Rows are made in it."""
NORMAL = "normal"
RETRY_S = (0.5, 5.0)
"""First and longest wait after PostgreSQL could not be reached; doubled in between."""
FRESH_S = 2.0
"""For so long what was read of the archive is told as it is."""

log = telemetry.get_logger(__name__)
noise = telemetry.RateLimited(log)


class EraKeeper:
    """Which groups' rows have to be brought to the era of their log. Pure; times in monotonic seconds."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}
        self._busy: dict[int, int] = {}
        self._failures: dict[int, int] = {}
        self._retry_at: dict[int, float] = {}

    def due(self, rows: Iterable[GroupPosition], now: float) -> list[tuple[int, int]]:
        """(group, era) of what is to be raised now; each is answered by `raised` or `failed`.

        Only a replica that is normal in its era counts: before that the era may not come to be.
        """
        found = []
        for row in rows:
            if row.status != NORMAL or row.era <= self._kept.get(row.group, FIRST_ERA):
                continue
            if row.group not in self._busy and now >= self._retry_at.get(row.group, now):
                self._busy[row.group] = row.era
                self._retry_at.pop(row.group, None)
                found.append((row.group, row.era))
        return found

    def raised(self, group: int) -> None:
        """The row is in the era that was asked for, or in a later one."""
        self._kept[group] = self._busy.pop(group)
        self._failures.pop(group, None)

    def failed(self, group: int, now: float) -> None:
        """PostgreSQL could not be reached."""
        del self._busy[group]
        count = self._failures[group] = self._failures.get(group, 0) + 1
        self._retry_at[group] = now + min(RETRY_S[0] * 2 ** min(count - 1, 10), RETRY_S[1])

    def next_due(self) -> float | None:
        """When to ask `due` again, if nothing happens before."""
        return min(self._retry_at.values(), default=None)

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        assert not self._busy.keys() & self._retry_at.keys(), "asked for and waiting to be"
        assert self._retry_at.keys() <= self._failures.keys()
        assert all(era > self._kept.get(group, FIRST_ERA) for group, era in self._busy.items())


@dataclass(slots=True)
class _Look:
    """What was read of a group's row; `error` in words."""

    at: float
    found: ArchivedGroup | None = None
    error: str = ""
    under_way: bool = False


class ArchiveEras:
    """The shell: one thread that talks to PostgreSQL, on behalf of the loop.

    `dsn` is asked for when it is needed, for an embedded server is not there yet when gossip starts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, dsn: Callable[[], str]) -> None:
        self._loop = loop
        self._dsn = dsn
        self._keeper = EraKeeper()
        self._rows: list[GroupPosition] = []
        self._looks: dict[int, _Look] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eras")
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def positioned(self, rows: list[GroupPosition]) -> None:
        """Where this node's replicas stand now."""
        self._rows = rows
        for group, era in self._keeper.due(rows, self._loop.time()):
            self._run(partial(self._raise, group, era), self._raised, group, era)

    def look(self, group: int) -> dict[str, Any]:
        """Where the archive stands, at once: {state: "known", era, view, op}, {state: "failed", error},
        or {state: "asked"}, after which to ask again in a moment."""
        now = self._loop.time()
        look = self._looks.setdefault(group, _Look(now - 2 * FRESH_S))
        if not look.under_way and now - look.at > FRESH_S:
            look.under_way = True
            look.found, look.error = None, ""
            self._run(lambda: archived_group(self._dsn(), group), self._looked, group, 0)
        if look.under_way:
            return {"state": "asked"}
        if look.found is None:
            return {"state": "failed", "error": look.error}
        return {"state": "known", **asdict(look.found)}

    def close(self) -> None:
        """Let go; what is under way ends within its bounds and is not told any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _raise(self, group: int, era: int) -> ArchivedGroup:
        return raise_era(self._dsn(), group, era)

    # --- the thread's answers ---------------------------------------------------------------------

    def _run(
        self,
        job: Callable[[], ArchivedGroup],
        then: Callable[[int, int, ArchivedGroup | None, str], None],
        group: int,
        era: int,
    ) -> None:
        def done(future: Future[ArchivedGroup]) -> None:
            if future.cancelled() or self._closed:
                return
            error = future.exception()
            if error is not None and not isinstance(error, StorageError):
                log.error("eras.broken", **telemetry.describe(error))
            found = None if error is not None else future.result()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._tell, then, group, era, found, str(error or ""))

        self._thread.submit(job).add_done_callback(done)

    def _tell(
        self,
        then: Callable[[int, int, ArchivedGroup | None, str], None],
        group: int,
        era: int,
        found: ArchivedGroup | None,
        error: str,
    ) -> None:
        if not self._closed:
            then(group, era, found, error)

    def _looked(self, group: int, era: int, found: ArchivedGroup | None, error: str) -> None:
        self._looks[group] = _Look(self._loop.time(), found, error)

    def _raised(self, group: int, era: int, found: ArchivedGroup | None, error: str) -> None:
        if found is not None:
            self._keeper.raised(group)
            log.info("archive.era_raised", group=group, era=found.era, archived=found.op)
            return
        noise.warning("archive.era_not_raised", group=group, era=era, reason=error)
        self._keeper.failed(group, self._loop.time())
        if self._timer is not None:
            self._timer.cancel()
        due = self._keeper.next_due()
        if due is not None:
            self._timer = self._loop.call_at(due, lambda: self.positioned(self._rows))
