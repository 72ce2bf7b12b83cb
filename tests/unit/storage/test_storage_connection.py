"""What is said about a connection: enough to act on, and no secret."""

from __future__ import annotations

import psycopg
import pytest

from connserver.errors import StorageError
from connserver.storage.connection import (
    ERROR_CHARS,
    PATH_OPTIONS,
    Bounds,
    connect,
    describe,
    whereabouts,
)

SECRET = "tops3cret"


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (f"postgresql://me:{SECRET}@db.example:6432/games", "db.example port 6432, database games"),
        (f"host=a,b user=me password={SECRET}", "a,b port 5432, database me"),
        ("host='/tmp/a b' dbname=x", "/tmp/a b port 5432, database x"),
        ("", "local socket port 5432, database default"),
    ],
)
def test_whereabouts_of_a_dsn(dsn: str, expected: str) -> None:
    assert whereabouts(dsn) == expected


@pytest.mark.parametrize(
    "dsn",
    [
        f"host=db password={SECRET} {SECRET}",
        f"postgresql://me:x@{SECRET}@db/games",
        f"postgresql://me:{SECRET}@[db",
        f"postgresql://me:{SECRET}/word@db/games",
        f"{SECRET}",
    ],
)
def test_a_dsn_that_cannot_be_read_is_not_repeated(dsn: str) -> None:
    with pytest.raises(StorageError) as error:
        connect(dsn, "test", Bounds())
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    assert "dsn" in str(error.value)


def test_nothing_listens_there() -> None:
    dsn = f"host=/nonexistent/folder user=me password={SECRET} dbname=games"
    with pytest.raises(StorageError, match="cannot be reached") as error:
        connect(dsn, "test", Bounds())
    assert SECRET not in str(error.value)
    assert "/nonexistent/folder" in str(error.value)


def test_an_error_is_one_bounded_line() -> None:
    text = describe(psycopg.OperationalError("first\nsecond " + "x" * 1000))
    assert text.startswith("first second x")
    assert len(text) == ERROR_CHARS
    assert describe(ValueError()) == "ValueError"


def test_every_wait_is_bounded_on_the_server_too() -> None:
    settings = Bounds(statement_ms=1, lock_ms=2, idle_in_transaction_ms=3, transaction_ms=4).settings()
    for setting in (
        "statement_timeout = 1",
        "lock_timeout = 2",
        "idle_in_transaction_session_timeout = 3",
        "transaction_timeout = 4",
    ):
        assert setting in settings
    assert {"connect_timeout", "keepalives", "tcp_user_timeout"} <= set(PATH_OPTIONS)
