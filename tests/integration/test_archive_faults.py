"""PostgreSQL killed, stopped, paused under a stream of operations: nothing waits, nothing is lost."""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connserver.errors import StorageError
from connserver.messages import Image
from connserver.storage import connection
from connserver.storage.connection import Bounds
from connserver.storage.embedded import EmbeddedPostgres, Stage
from connserver.storage.lock import StateLock
from connserver.storage.schema import ensure_schema
from partition import archive_sql
from partition.archive import Archiver, Down, Flushed, Outcome, open_snapshot

pytestmark = pytest.mark.integration
WAIT_S = 30.0
_numbers = itertools.count(1)
OBJECTS = 500


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of these tests' own, to be hurt."""
    state = Path(tempfile.mkdtemp(prefix="connserver-faults-"))
    with StateLock(state) as lock:
        server = EmbeddedPostgres(state, lock=lock)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    shutil.rmtree(state)


@pytest.fixture
def dsn(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new database; bounds are shortened so that a pause is noticed soon."""
    monkeypatch.setattr(archive_sql, "WRITE_BOUNDS", Bounds(statement_ms=700))
    monkeypatch.setattr(connection, "GRACE_S", 0.3)
    monkeypatch.setitem(connection.PATH_OPTIONS, "connect_timeout", 2)
    assert server.poll() is Stage.READY, "the test before left it in order"
    name = f"faults_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
    dsn = make_conninfo(server.dsn, dbname=name)
    ensure_schema(dsn, "demo", 1)
    return dsn


class Stream:
    """A worker's loop in short: one operation after the other, and how long the longest `add` took."""

    def __init__(self, dsn: str) -> None:
        self.said: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.archiver = Archiver(
            dsn, 0, era=1, view=0, archived_op=0, on_outcome=self.said.put, archive_interval_ms=10
        )
        self.dsn = dsn
        self.state: dict[int, Image] = {}
        self.op = 0
        self.longest_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.archiver.start()
        self.archiver.promote(1)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.001):
            self.op += 1
            oid = self.op % OBJECTS
            data = None if self.op % 7 == 0 else b"%d" % self.op
            images = [Image(oid, "thing", 1, data), Image(OBJECTS, "thing", 1, b"%d" % self.op)]
            for image in images:
                self.state[image.oid] = image
            started = time.perf_counter()
            self.archiver.add(self.op, images)
            self.longest_s = max(self.longest_s, time.perf_counter() - started)

    def until(self, kind: type[Outcome], op: int = 0) -> Outcome:
        while True:
            outcome = self.said.get(timeout=WAIT_S)
            if isinstance(outcome, kind) and (not isinstance(outcome, Flushed) or outcome.op >= op):
                return outcome

    def until_caught_up(self) -> None:
        self.until(Flushed, self.op)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Everything that was added is there, and nothing else."""
        self.end()
        assert self.archiver.stop(WAIT_S).archived_op == self.op
        with open_snapshot(self.dsn, 0) as snapshot:
            stored = {image.oid: image for batch in snapshot.batches() for image in batch}
        assert snapshot.archived_op == self.op
        assert stored == {oid: image for oid, image in self.state.items() if image.data is not None}
        # The shortest wait for a PostgreSQL that does not answer is a second: no `add` was part of one.
        assert self.longest_s < 0.9


@pytest.fixture
def stream(dsn: str) -> Iterator[Stream]:
    stream = Stream(dsn)
    yield stream
    stream.end()
    stream.archiver.stop(0)


def test_killed_and_started_again(server: EmbeddedPostgres, stream: Stream) -> None:
    for _ in range(3):
        stream.until(Flushed, stream.op + 20)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        stream.until(Down)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        assert server.poll() is Stage.EXITED
        status = stream.archiver.status()
        assert status.state == "down"
        assert status.lag_ops > 0
        assert "password" not in status.error
        server.launch()
        server.wait_ready()
        stream.until_caught_up()
        assert stream.archiver.status().error == ""
    stream.check()


def test_stopped_in_order_and_started_again(server: EmbeddedPostgres, stream: Stream) -> None:
    for _ in range(2):
        stream.until(Flushed, stream.op + 20)
        server.stop()
        stream.until(Down)
        with pytest.raises(StorageError, match="cannot be reached"), open_snapshot(stream.dsn, 0):
            pass
        server.start()
        stream.until_caught_up()
    stream.check()


def test_paused_and_woken(server: EmbeddedPostgres, stream: Stream) -> None:
    stream.until(Flushed, 20)
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        process.suspend()
    try:
        outcome = stream.until(Down)
        assert isinstance(outcome, Down)
        assert "no answer within" in outcome.error
        before = stream.op
        while stream.op < before + 50:  # the worker goes on
            stream._ended.wait(0.01)
    finally:
        for process in processes:
            process.resume()
    stream.until_caught_up()
    stream.check()


def test_a_single_session_killed_and_a_single_session_paused(
    server: EmbeddedPostgres, stream: Stream
) -> None:
    stream.until(Flushed, 20)
    session = stream.archiver._connection
    assert session is not None
    backend = psutil.Process(session.info.backend_pid)
    backend.suspend()
    stream.until(Down)
    backend.kill()  # the whole server recovers from that
    stream.until_caught_up()
    assert server.alive
    stream.check()


def test_stopping_while_it_is_paused_ends_in_time(server: EmbeddedPostgres, stream: Stream) -> None:
    stream.until(Flushed, 20)
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        process.suspend()
    stream.end()
    started = time.monotonic()
    stream.archiver.add(stream.op + 1, [])
    status = stream.archiver.stop(0.3)
    assert time.monotonic() - started < 2.0
    assert status.lag_ops > 0
    for process in processes:
        process.resume()


def test_what_a_late_commit_brings_is_consistent(server: EmbeddedPostgres, stream: Stream) -> None:
    """A paused server executes on waking what it was sent before we gave up: the fence orders it."""
    for _ in range(3):
        stream.until(Flushed, stream.op + 10)
        session = stream.archiver._connection
        assert session is not None
        backend = psutil.Process(session.info.backend_pid)
        backend.suspend()
        stream.until(Down)
        backend.resume()
        stream.until_caught_up()
    stream.check()
