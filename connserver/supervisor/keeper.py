"""The storage process of a host: keeps the embedded PostgreSQL running, or watches the one given.

A process of its own, because the server's death signal follows the thread that started it, and
because nothing that storage does may hold up the supervisor. It is ready when the tables are there;
then workers may load. Ends with an error when the embedded server ends: restarting is the
supervisor's trade. A PostgreSQL of the operator's is never given up, only reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Final

from connserver import telemetry
from connserver.errors import StorageError
from connserver.process import Lifeline, ProcessOptions, run_spawned
from connserver.storage.embedded import EmbeddedPostgres, Stage
from connserver.storage.lock import StateLock

POLL_S: Final = 0.01
"""Between two looks at a server that starts."""
LOCK_WAIT_S: Final = 5.0
"""A keeper that was killed leaves its lock with its last breath; waiting longer means another cluster."""
STOP_S: Final = 9.0
"""For the server to stop, within the supervisor's ten seconds."""
CHECK_S: Final = 5.0
"""Between two looks at a PostgreSQL that is not ours, and the longest wait to try again."""

log = telemetry.get_logger(__name__)


class Stopped(Exception):
    """The keeper was told to stop while it waited for something."""


class Keeper:
    """One life of the storage process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ProcessOptions) -> None:
        self._loop = loop
        self._options = options
        self._stopped = asyncio.Event()
        self._lifeline = Lifeline(loop, options, self._on_stop)

    async def run(self) -> int:
        """Until told to stop (0), or until the embedded server fails (1)."""
        try:
            if self._options.config.storage.dsn:
                await self._watch(self._options.config.storage.dsn)
            else:
                await self._keep()
        except Stopped:
            return 0
        except StorageError as error:
            log.error("storage.failed", reason=str(error))
            return 1
        finally:
            self._lifeline.close()
        return 0

    def _on_stop(self, reason: str) -> None:
        log.info("process.stopping", reason=reason)
        self._stopped.set()

    # --- the embedded server --------------------------------------------------------------------

    async def _keep(self) -> None:
        state = self._options.places.storage_dir
        lock = await self._lock(StateLock(state))
        server = EmbeddedPostgres(state, lock=lock)
        try:
            server.launch(self._lifeline.waiting)
            if server.poll() is Stage.INITDB:
                _in_background(_preload_migrations)
            while server.poll() in (Stage.INITDB, Stage.STARTING):
                await self._pause(POLL_S)
            dsn = server.wait_ready()
            await self._ensure_schema(dsn)
            log.info("storage.ready", pid=server.pid)
            self._lifeline.ready(dsn)
            await self._until_exit(server)
        finally:
            server.stop(STOP_S)
            lock.release()

    async def _lock(self, lock: StateLock) -> StateLock:
        until = self._loop.time() + LOCK_WAIT_S
        while True:
            try:
                return lock.acquire()
            except StorageError:
                if self._loop.time() >= until:
                    raise
                await self._pause(POLL_S)

    async def _until_exit(self, server: EmbeddedPostgres) -> None:
        changed = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGCHLD, changed.set)
        try:
            while server.poll() is Stage.READY:
                changed.clear()
                await self._or_stopped(changed.wait())
        finally:
            self._loop.remove_signal_handler(signal.SIGCHLD)
        raise StorageError(f"PostgreSQL ended with status {server.exit_status}; its log is in {server.state}")

    # --- one that is not ours -------------------------------------------------------------------

    async def _watch(self, dsn: str) -> None:
        from connserver.storage.connection import Bounds, connect, whereabouts

        def look() -> None:
            with connect(dsn, "supervisor", Bounds()) as connection:
                connection.execute("SELECT 1")

        ensured = False
        patience = 0.25
        while True:
            try:
                if ensured:
                    await self._in_thread(look)
                else:
                    await self._ensure_schema(dsn)
                    log.info("storage.ready", where=whereabouts(dsn))
                    ensured = True
                patience = 0.25
                self._lifeline.ready(whereabouts(dsn))
                await self._pause(CHECK_S)
            except StorageError as error:
                log.warning("storage.unreachable", reason=str(error))
                self._lifeline.waiting(str(error))
                await self._pause(patience)
                patience = min(patience * 2, CHECK_S)

    # --- waiting --------------------------------------------------------------------------------

    async def _ensure_schema(self, dsn: str) -> None:
        from connserver.storage.schema import ensure_schema

        cluster = self._options.config.cluster

        def progress(text: str) -> None:
            self._loop.call_soon_threadsafe(self._lifeline.waiting, text)

        await self._in_thread(lambda: ensure_schema(dsn, cluster.name, cluster.partition_groups, progress))

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """Run what blocks in a thread of its own; told to stop, leave the thread to itself."""
        done: Future[object] = Future()
        done.set_running_or_notify_cancel()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        _in_background(run)
        await self._or_stopped(asyncio.wrap_future(done))

    async def _or_stopped(self, awaitable: Awaitable[object]) -> None:
        work = asyncio.ensure_future(awaitable)
        stop = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._stopped.is_set():
            work.cancel()
            raise Stopped
        await work

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
            raise Stopped


def _in_background(work: Callable[[], object]) -> None:
    # A daemon: the process may end while PostgreSQL keeps this waiting.
    threading.Thread(target=work, daemon=True).start()


def _preload_migrations() -> None:
    from connserver.storage.schema import preload_migrations

    preload_migrations()


def main(options: ProcessOptions) -> int:
    """The storage process's life."""
    with asyncio.Runner() as runner:
        return runner.run(Keeper(runner.get_loop(), options).run())


if __name__ == "__main__":
    run_spawned(main)
