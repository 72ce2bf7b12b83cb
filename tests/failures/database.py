"""The PostgreSQL of a cluster of separate nodes: one server of the test's own, to be stopped and killed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import psycopg

from connserver.storage.embedded import EmbeddedPostgres
from connserver.storage.lock import StateLock


class Database:
    """A server in a folder. All methods from the main thread only, as PostgreSQL's own death signal wants."""

    def __init__(self, folder: Path) -> None:
        self._lock = StateLock(folder).acquire()
        self._server = EmbeddedPostgres(folder, lock=self._lock)
        self.dsn = self._server.start()
        self._frozen: list[psutil.Process] = []

    def kill(self) -> None:
        """SIGKILL of the server; its own processes end with it."""
        assert self._server.pid is not None
        root = psutil.Process(self._server.pid)
        everyone = [*root.children(recursive=True), root]
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everyone, 10)

    def start(self) -> None:
        """Start it again after `kill`."""
        self._server.poll()
        self._server.start()

    def freeze(self) -> None:
        """It takes connections and says nothing."""
        assert self._server.pid is not None
        root = psutil.Process(self._server.pid)
        self._frozen = [root, *root.children(recursive=True)]
        for process in self._frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """It goes on."""
        for process in self._frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self._frozen = []

    def answers(self) -> bool:
        """Whether it takes a connection now."""
        try:
            with psycopg.connect(self.dsn, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def close(self) -> None:
        """Stop it in order."""
        self.thaw()
        self._server.stop()
        self._lock.release()
