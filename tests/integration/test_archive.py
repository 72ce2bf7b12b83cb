"""The archiver on a real PostgreSQL: what it writes, what it refuses, what a load gives back."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from connserver.errors import StorageError
from connserver.ids import group_of, object_id, partition_of
from connserver.messages import Image
from connserver.storage.connection import Bounds, connect
from connserver.storage.schema import ensure_schema
from partition import archive_sql
from partition.archive import (
    Archiver,
    Behind,
    Deposed,
    Down,
    Flushed,
    Outcome,
    Overflowed,
    WentBack,
    open_snapshot,
)

pytestmark = pytest.mark.integration
Kind = TypeVar("Kind", bound=Outcome)
WAIT_S = 20.0


class Bench:
    """Archivers of one database and what they said."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.archivers: list[Archiver] = []

    def archiver(
        self, group: int = 0, *, view: int = 0, archived_op: int = 0, era: int = 1, dirty_bytes: int = 1 << 28
    ) -> tuple[Archiver, queue.SimpleQueue[Outcome]]:
        said: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        archiver = Archiver(
            self.dsn,
            group,
            era=era,
            view=view,
            archived_op=archived_op,
            on_outcome=said.put,
            archive_interval_ms=20,
            dirty_bytes=dirty_bytes,
        )
        archiver.start()
        self.archivers.append(archiver)
        return archiver, said

    def stored(self, group: int = 0) -> tuple[int, int, dict[int, Image]]:
        """archived_op, view and objects of a group."""
        with open_snapshot(self.dsn, group) as snapshot:
            images = [image for batch in snapshot.batches() for image in batch]
        assert len({image.oid for image in images}) == len(images)
        return snapshot.archived_op, snapshot.view, {image.oid: image for image in images}


@pytest.fixture
def bench(postgres: str) -> Iterator[Bench]:
    ensure_schema(postgres, "demo", 1)
    bench = Bench(postgres)
    yield bench
    for archiver in bench.archivers:
        archiver.stop(0)


def until(
    said: queue.SimpleQueue[Outcome], kind: type[Kind], wanted: Callable[[Kind], bool] | None = None
) -> Kind:
    """Read outcomes until one of this kind (for which `wanted` holds) comes."""
    while True:
        outcome = said.get(timeout=WAIT_S)
        if isinstance(outcome, kind) and (wanted is None or wanted(outcome)):
            return outcome


def image(oid: int, data: bytes | None = b"x") -> Image:
    return Image(oid, "thing", 1, data)


def test_images_and_tombstones_arrive_as_they_are(bench: Bench) -> None:
    archiver, said = bench.archiver()
    archiver.promote(1)
    archiver.add(1, [image(1, b"one"), image(2, b"\x00\xff"), Image(3, "", 2**31 - 1, b"")])
    archiver.add(2, [image(1, b"two"), image(2, None), image(99, None)])
    archiver.add(3, [])
    until(said, Flushed, lambda flushed: flushed.op == 3)
    expected = {1: image(1, b"two"), 3: Image(3, "", 2**31 - 1, b"")}
    assert bench.stored() == (3, 1, expected)
    assert archiver.status().state == "ok"
    assert (archiver.lag_ops, archiver.archived_op) == (0, 3)
    archiver.add(4, [image(3, None), Image(1, "änderung", 2, b"three")])
    assert archiver.stop().archived_op == 4
    assert bench.stored() == (4, 1, {1: Image(1, "änderung", 2, b"three")})


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_every_corner_of_the_ids_is_written_and_loaded_by_its_group(postgres: str, groups: int) -> None:
    ensure_schema(postgres, "demo", groups)
    bench = Bench(postgres)
    corners = itertools.product((0, 1, 32767, 32768, 65535), (0, 1, 2**47, 2**48 - 1))
    ids = [object_id(*corner) for corner in corners]
    for group in range(groups):
        own = {
            oid: image(oid, oid.to_bytes(8, "big"))
            for oid in ids
            if group_of(partition_of(oid), groups) == group
        }
        archiver, _ = bench.archiver(group)
        archiver.promote(1)
        archiver.add(1, list(own.values()))
        assert archiver.stop().archived_op == 1
        assert bench.stored(group) == (1, 1, own)
        archiver, said = bench.archiver(group, archived_op=2)  # it went back: all is written anew
        archiver.promote(1)
        until(said, WentBack)
        archiver.readd_all(2, [image(oid, b"new") for oid in own])
        until(said, Flushed)
        archiver.stop()
        assert bench.stored(group) == (2, 1, {oid: image(oid, b"new") for oid in own})
    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT count(*) FROM objects WHERE data = 'new'").fetchone() == (len(ids),)


def test_rows_of_many_statements_commit_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_sql, "ARCHIVE_STATEMENT_ROWS", 10)
    archiver, _ = bench.archiver()
    archiver.promote(1)
    images = [image(oid, oid.to_bytes(4, "big") * 300) for oid in range(1005)]
    archiver.add(1, images)
    archiver.stop()
    assert bench.stored() == (1, 1, {each.oid: each for each in images})


def test_an_older_view_is_refused_and_told_so(bench: Bench) -> None:
    old, old_said = bench.archiver()
    old.promote(1)
    old.add(1, [image(1, b"one")])
    until(old_said, Flushed)
    new, new_said = bench.archiver(archived_op=1)
    new.promote(2)
    new.add(2, [image(1, b"new")])
    until(new_said, Flushed)
    old.add(2, [image(1, b"old")])
    assert until(old_said, Deposed) == Deposed(2, 1)
    assert old.status().state == "deposed"
    assert bench.stored() == (2, 2, {1: image(1, b"new")})


def test_another_era_is_refused_before_anything_is_written(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as connection:
        connection.execute("UPDATE partition_groups SET era = 2")
    archiver, said = bench.archiver()
    archiver.promote(7)
    archiver.add(1, [image(1)])
    assert until(said, Deposed) == Deposed(0, 2)
    archiver.stop()
    assert bench.stored() == (0, 0, {})


def test_an_archive_that_is_ahead_is_not_turned_back(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as connection:
        connection.execute("UPDATE partition_groups SET archived_op = 2, view = 1")
    archiver, said = bench.archiver()
    archiver.add(1, [image(1, b"one")])
    archiver.promote(3)
    assert until(said, Behind) == Behind(2)
    archiver.add(2, [image(1, b"two")])
    archiver.add(3, [image(2, b"three")])
    until(said, Flushed, lambda flushed: flushed.op == 3)
    assert bench.stored() == (3, 3, {2: image(2, b"three")})


PAUSED_ARCHIVER = """
import os, signal, sys
from connserver.messages import Image
from partition import archive_sql
from partition.archive import Archiver
from connserver.storage.connection import Bounds
archive_sql.WRITE_BOUNDS = Bounds(idle_in_transaction_ms=700, lock_ms=300)
shipped = archive_sql._write_rows
def pause_behind_the_fence(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
    shipped(*arguments)
archive_sql._write_rows = pause_behind_the_fence
archiver = Archiver(sys.argv[1], 0, era=1, view=0, archived_op=0, archive_interval_ms=1,
                    on_outcome=lambda outcome: print(outcome, flush=True))
archiver.start()
archiver.promote(1)
archiver.add(1, [Image(1, "thing", 1, b"old")])
sys.stdin.read()
"""


def test_one_paused_between_fence_and_commit_neither_blocks_nor_overwrites(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_sql, "WRITE_BOUNDS", Bounds(lock_ms=300))
    paused = subprocess.Popen(
        [sys.executable, "-P", "-c", PAUSED_ARCHIVER, bench.dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert paused.stdout is not None
        _, status = os.waitpid(paused.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        successor, said = bench.archiver()
        successor.promote(2)
        successor.add(1, [image(1, b"new")])
        first = said.get(timeout=WAIT_S)
        assert isinstance(first, Down), "it meets the row's lock first"
        assert "lock timeout" in first.error
        until(said, Flushed)
        paused.send_signal(signal.SIGCONT)
        assert paused.stdout.readline().startswith("Down(")
        assert paused.stdout.readline() == "Deposed(view=2, era=1)\n"
        assert bench.stored() == (1, 2, {1: image(1, b"new")})
    finally:
        paused.kill()
        paused.communicate()


class CommitEater:
    """A way to PostgreSQL that swallows the answers to COMMIT, and breaks, as often as told."""

    def __init__(self, dsn: str, meals: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="cs-eater-")
        self.target = f"{conninfo_to_dict(dsn)['host']}/.s.PGSQL.5432"
        self.dsn = make_conninfo(dsn, host=self.folder.name)
        self.meals = meals
        self.eaten = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.folder.name}/.s.PGSQL.5432")
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            target.close()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                if b"COMMIT" in data and self.eaten < self.meals:
                    self.eaten += 1
                    client.shutdown(socket.SHUT_RDWR)  # the answer will find nobody
                    server.sendall(data)
                    server.shutdown(socket.SHUT_WR)
                    return
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self.listener.close()
        self.folder.cleanup()


def test_a_lost_answer_to_commit_is_no_deposition_and_doubles_nothing(bench: Bench) -> None:
    eater = CommitEater(bench.dsn, meals=3)
    direct, bench.dsn = bench.dsn, eater.dsn
    archiver, said = bench.archiver()
    bench.dsn = direct
    try:
        archiver.promote(1)
        seen: list[Outcome] = []
        for op in range(1, 6):
            archiver.add(op, [image(op, b"%d" % op), image(100, b"%d" % op)])
            while not seen or seen[-1] != Flushed(op):
                seen.append(said.get(timeout=WAIT_S))
        assert eater.eaten == 3
        assert sum(isinstance(outcome, Down) for outcome in seen) == 3
        assert [outcome for outcome in seen if not isinstance(outcome, Down)] == [
            Flushed(op) for op in range(1, 6)
        ]
        archived_op, _, objects = bench.stored()
        assert archived_op == 5
        assert objects == {op: image(op, b"%d" % op) for op in range(1, 6)} | {100: image(100, b"5")}
    finally:
        archiver.stop()
        eater.close()


def test_a_restored_backup_is_noticed_and_written_over(bench: Bench) -> None:
    archiver, said = bench.archiver()
    archiver.promote(1)
    archiver.add(1, [image(1, b"one"), image(2, b"one")])
    archiver.add(2, [image(2, None), image(3, b"two")])
    until(said, Flushed, lambda flushed: flushed.op == 2)
    with psycopg.connect(bench.dsn) as connection:  # as it was after operation 1
        connection.execute("UPDATE partition_groups SET archived_op = 1")
        connection.execute("DELETE FROM objects WHERE oid = 3")
        connection.execute("INSERT INTO objects VALUES (2, 'thing', 1, 'one')")
    archiver.add(3, [image(4, b"three")])
    assert until(said, WentBack) == WentBack(1)
    assert bench.stored()[0] == 1, "nothing is written with a gap before it"
    state = {1: image(1, b"one"), 3: image(3, b"two"), 4: image(4, b"three")}
    archiver.readd_all(3, list(state.values()))
    assert until(said, Flushed) == Flushed(3)
    assert bench.stored() == (3, 1, state)


def test_a_snapshot_is_one_moment(bench: Bench) -> None:
    """Also when the group is written between reading its row and its objects, and between its two ranges."""
    archiver, said = bench.archiver()
    archiver.promote(1)
    ids = [object_id(partition, local) for partition in (32767, 32768) for local in range(1500)]
    before = {oid: image(oid, b"before") for oid in ids}
    archiver.add(1, list(before.values()))
    until(said, Flushed)
    with open_snapshot(bench.dsn, 0) as snapshot:
        archiver.add(2, [image(oid, b"after" if oid % 2 else None) for oid in ids])
        until(said, Flushed, lambda flushed: flushed.op == 2)
        batches = snapshot.batches()
        images = next(batches)
        assert 0 < len(images) < len(before)
        archiver.add(3, [image(oid + 1500, b"new") for oid in ids])
        until(said, Flushed, lambda flushed: flushed.op == 3)
        images += [image for batch in batches for image in batch]
    assert (snapshot.archived_op, snapshot.view, snapshot.era) == (1, 1, 1)
    assert {image.oid: image for image in images} == before
    archived_op, _, objects = bench.stored()
    assert (archived_op, len(objects)) == (3, 1500 + 3000)


def test_a_backup_takes_over_where_its_leader_stopped(bench: Bench) -> None:
    leader, leader_said = bench.archiver()
    backup, backup_said = bench.archiver()
    leader.promote(1)
    for op in range(1, 4):
        for archiver in (leader, backup):
            archiver.add(op, [image(op, b"%d" % op)])
    until(leader_said, Flushed, lambda flushed: flushed.op == 3)
    backup.archived_elsewhere(2)
    leader.demote()
    for op in (4, 5):
        backup.add(op, [image(op, b"%d" % op), image(1, None)])
    assert backup.status().state == "standby"
    backup.promote(2)
    until(backup_said, Flushed, lambda flushed: flushed.op == 5)
    assert bench.stored() == (5, 2, {op: image(op, b"%d" % op) for op in range(2, 6)})


def test_what_does_not_fit_is_asked_for_again(bench: Bench) -> None:
    archiver, said = bench.archiver(dirty_bytes=2000)
    for op in range(1, 21):
        archiver.add(op, [image(op)])
    assert archiver.status().dirty_bytes <= 2000
    archiver.promote(1)
    until(said, Overflowed)
    archiver.readd_all(20, [image(op) for op in range(1, 21)])
    until(said, Flushed)
    assert bench.stored() == (20, 1, {op: image(op) for op in range(1, 21)})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_object_of_another_group_stops_the_archiver_visibly(postgres: str) -> None:
    ensure_schema(postgres, "demo", 2)
    bench = Bench(postgres)
    archiver, said = bench.archiver(1)
    archiver.promote(1)
    archiver.add(1, [image(object_id(0, 5))])
    assert "of another group" in until(said, Down).error
    assert archiver.status().state == "down"
    archiver.stop()
    assert bench.stored(1) == (0, 0, {})


def test_sessions_are_bounded_durable_and_read_committed(bench: Bench) -> None:
    name = conninfo_to_dict(bench.dsn)["dbname"]
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    expected = {
        "synchronous_commit": "on",
        "default_transaction_isolation": "read committed",
        "statement_timeout": "10s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "5s",
        "transaction_timeout": "1min",
    }
    with connect(bench.dsn, "test", archive_sql.WRITE_BOUNDS) as session:
        assert {name: session.execute(f"SHOW {name}").fetchone() for name in expected} == {
            name: (value,) for name, value in expected.items()
        }


def test_loading_says_what_is_wrong(bench: Bench) -> None:
    with pytest.raises(StorageError, match="no partition group 7"), open_snapshot(bench.dsn, 7):
        pass
    missing = make_conninfo(bench.dsn, host=str(Path("/nonexistent")))
    with pytest.raises(StorageError, match="cannot be reached"), open_snapshot(missing, 0):
        pass
