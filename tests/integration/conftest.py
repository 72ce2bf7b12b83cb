"""One embedded PostgreSQL for the whole session, and a fresh database in it for each test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connserver.storage.embedded import EmbeddedPostgres
from connserver.storage.lock import StateLock
from tests.integration.cluster import cluster, fake_cluster

__all__ = ["cluster", "fake_cluster", "postgres"]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[str]:
    # Not pytest's own folder: that is private, and root's server runs under another account.
    state = Path(tempfile.mkdtemp(prefix="connserver-test-"))
    with StateLock(state) as lock:
        server = EmbeddedPostgres(state, lock=lock)
        try:
            yield server.start()
        finally:
            server.stop()
    shutil.rmtree(state)


@pytest.fixture
def postgres(_postgres_server: str) -> Iterator[str]:
    """The dsn of an empty database of the test's own."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(_postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield make_conninfo(_postgres_server, dbname=name)
    with psycopg.connect(_postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
