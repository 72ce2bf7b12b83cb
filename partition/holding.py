"""The state that a worker process holds: how it is loaded, kept up to date, archived, and loaded again.

Guards: there is one state at a time, and one archiver that knows all of it; outcomes of an archiver
that was given up are not taken for those of the present one.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from connserver import sockets, telemetry
from connserver.config import ClusterConfig
from connserver.errors import PluginLoadError
from connserver.ids import group_range
from connserver.messages import Image, RouteEntry
from partition import archive_outcomes as outcomes
from partition.archive import Archiver
from partition.backup import Backup
from partition.loading import Loaded, Loading
from partition.objects import Store

WithState = Callable[[Callable[[int, list[Image]], None]], None]
"""Gives the complete committed state and its op, when it may."""

log = telemetry.get_logger(__name__)


class Holding:
    """`backup` and `archiver` are None while nothing is loaded; `trouble`: what is wrong, for `status`.

    `routed()` gives the route to the group's primary; `adopt(store)` loads the plugins that the state
    names, or raises PluginLoadError; `loaded()` and `refused(why)` tell how loading ended; `waiting(why)`:
    it goes on for as long as it takes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        config: ClusterConfig,
        dsn: str,
        group: int,
        endpoint: str,
        *,
        routed: Callable[[], RouteEntry | None],
        adopt: Callable[[Store], None],
        loaded: Callable[[], None],
        refused: Callable[[str], None],
        waiting: Callable[[str], None],
    ) -> None:
        self.backup: Backup | None = None
        self.archiver: Archiver | None = None
        self.trouble = ""
        self.with_state: WithState | None = None
        """Set while a primary executes on this state."""
        self._loop = loop
        self._config = config
        self._dsn = dsn
        self._group = group
        self._adopt = adopt
        self._loaded = loaded
        self._refused = refused
        self._tell_waiting = waiting
        self._needed = (0, 0)
        self._view = 0
        self._task: asyncio.Task[None] | None = None
        self._loading = Loading(
            loop, context, dsn, group, endpoint, routed, lambda: self._needed, self._waiting
        )

    def load(self, era: int, op: int) -> None:
        """Get a state of this era, not older than `op`; what is held, if anything, is too old."""
        self._needed = max(self._needed, (era, op))
        if self.archiver is not None:
            log.warning("worker.state_too_old", era=era, op=op)
            self.archiver.demote()
            self.archiver.stop(0.0)
        self.archiver = self.backup = None
        if self._task is None:
            self._task = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        loaded = await self._loading.load()
        try:
            await asyncio.to_thread(self._adopt, loaded.store)
        except PluginLoadError as error:
            self._task = None
            log.error("plugin.refused", error=str(error))
            self._refused(str(error))
            return
        self._task = None
        gc.freeze()
        self.trouble = ""
        self._view = loaded.view
        self.archiver = self._new_archiver(loaded)
        first_partition = group_range(self._group, self._config.cluster.partition_groups)[0]
        self.backup = Backup(loaded.store, first_partition, loaded.era, loaded.op, self.archiver)
        log.info("worker.loaded", objects=len(loaded.store), op=loaded.op, archived=loaded.archived)
        self._loaded()

    def _new_archiver(self, loaded: Loaded) -> Archiver:
        def outcome_in_thread(outcome: outcomes.Outcome) -> None:
            self._loop.call_soon_threadsafe(self._archived, archiver, outcome)

        archiver = Archiver(
            self._dsn,
            self._group,
            era=loaded.era,
            view=loaded.view,
            archived_op=loaded.archived,
            on_outcome=outcome_in_thread,
            archive_interval_ms=self._config.storage.archive_interval_ms,
        )
        archiver.start()
        if loaded.op != loaded.archived:
            # nobody here knows which of these the archive lacks
            archiver.readd_all(loaded.op, list(loaded.store.images()))
        return archiver

    def _waiting(self, why: str) -> None:
        if why != self.trouble:
            log.warning("worker.waiting", reason=why)
        self.trouble = why
        self._tell_waiting(why)

    def promoted(self, view: int, with_state: WithState) -> None:
        """A primary executes on the state: archive what it commits."""
        assert self.archiver is not None
        self.trouble = ""
        self.with_state = with_state
        self.archiver.promote(max(view, self._view))

    def demoted(self, commit: int) -> None:
        """The state is that after `commit` and follows the log again."""
        assert self.archiver is not None and self.backup is not None
        self.with_state = None
        self.archiver.demote()
        self.backup.resume(commit)

    def _archived(self, archiver: Archiver, outcome: outcomes.Outcome) -> None:
        if archiver is not self.archiver:
            return
        match outcome:
            case outcomes.Flushed():
                self.trouble = ""
            case outcomes.Down():
                log.warning("archive.down", error=outcome.error)
            case outcomes.Deposed():
                log.error("archive.deposed", view=outcome.view, era=outcome.era)
            case outcomes.WentBack() | outcomes.Overflowed():
                log.warning("archive.everything_again", outcome=type(outcome).__name__)
                if self.with_state is not None:
                    self.with_state(archiver.readd_all)
            case outcomes.Behind():
                log.error("archive.ahead_of_us", archived=outcome.archived_op)

    async def stop(self, within_s: float, *, quickly: bool) -> None:
        """Archive the rest as primary, unless it has to be quick: others have everything too."""
        if self._task is not None:
            self._task.cancel()
        if self.archiver is None:
            return
        was_primary, self.with_state = self.with_state is not None, None
        if quickly:
            self.archiver.demote()
        status = await asyncio.to_thread(self.archiver.stop, within_s)
        if was_primary and not quickly and status.lag_ops:
            log.error("archive.incomplete", lag_ops=status.lag_ops, error=status.error)
