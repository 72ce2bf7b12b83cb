"""Connections to PostgreSQL that cannot wait for ever, and errors that tell no secrets.

Guards two rules. Whatever happens to the server or the way to it (killed, stopped, cut off), a
statement ends within its bound: the server's own timeouts bound it there, ours here. And what is
logged or shown of an error holds neither the password nor a row's values.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from connserver.errors import StorageError

ERROR_CHARS = 300
"""Length of an error's text in a status line."""
CONNECT_S = 3
"""Seconds for one attempt to connect to one host."""
GRACE_S = 2.0
"""How much longer we wait for an answer than the server may work on it."""
PATH_OPTIONS: Final[dict[str, str | int | None]] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms: a cut network is noticed though data is under way
    "target_session_attrs": "read-write",  # of several hosts the one that takes writes
    "client_encoding": "UTF8",
    "connect_timeout": CONNECT_S,
}
"""Taken where the dsn says nothing else."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a session may take, in milliseconds, enforced by the server (and by us a little later)."""

    statement_ms: int = 10_000
    lock_ms: int = 3_000
    idle_in_transaction_ms: int = 5_000
    transaction_ms: int = 60_000

    def settings(self) -> str:
        """The statements that make the server enforce them, whatever role and database have as defaults.

        What is archived is cut off the replicated log, so a commit that is only promised will not do.
        """
        return (
            "SET default_transaction_isolation = 'read committed';"
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off';"
            f"SET statement_timeout = {self.statement_ms}; SET lock_timeout = {self.lock_ms};"
            f"SET idle_in_transaction_session_timeout = {self.idle_in_transaction_ms};"
            f"SET transaction_timeout = {self.transaction_ms}"
        )


class BoundedConnection(psycopg.Connection[TupleRow]):
    """A connection on which no wait outlasts `answer_s`, nor the moment `give_up_at` (monotonic)."""

    answer_s: float = 30.0
    give_up_at: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server; past the bound the connection is closed, for its state is unknown."""
        allowed = self.answer_s if timeout is None else timeout
        if self.give_up_at is not None:
            allowed = max(0.0, min(allowed, self.give_up_at - time.monotonic()))
        started = time.monotonic()
        try:
            return super().wait(gen, interval, allowed)
        except psycopg.OperationalError as error:
            if error.sqlstate is None and time.monotonic() - started >= allowed:
                self.pgconn.finish()
                raise psycopg.OperationalError(f"no answer within {allowed:.1f} s") from None
            raise


def connect(dsn: str, name: str, bounds: Bounds) -> BoundedConnection:
    """Open a connection (autocommit) for `name`; StorageError says where and why not.

    The settings are a session's, so a pooler between has to pool sessions, not transactions.
    """
    where = whereabouts(dsn)
    try:
        options = PATH_OPTIONS | conninfo_to_dict(dsn) | {"application_name": f"connserver {name}"}
        connection = BoundedConnection.connect(
            make_conninfo("", **options),
            autocommit=True,
            prepare_threshold=None,  # planning is cheap here, and prepared names trouble poolers
        )
    except (psycopg.Error, OSError) as error:
        raise StorageError(f"PostgreSQL ({where}) cannot be reached: {describe(error)}") from None
    connection.answer_s = bounds.statement_ms / 1000 + GRACE_S
    try:
        connection.execute(bounds.settings())
    except psycopg.errors.UndefinedObject:
        connection.close()
        raise StorageError(f"PostgreSQL ({where}) is older than 18; install a newer one") from None
    except psycopg.Error as error:
        connection.close()
        raise StorageError(f"PostgreSQL ({where}) refused a session: {describe(error)}") from None
    return connection


@contextmanager
def storage_errors(dsn: str) -> Iterator[None]:
    """Turn what PostgreSQL says into a StorageError without secrets."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise StorageError(f"PostgreSQL ({whereabouts(dsn)}): {describe(error)}") from None


def whereabouts(dsn: str) -> str:
    """Host, port and database of a dsn, for messages; StorageError if it cannot be read."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:  # its text would quote the dsn, perhaps the password
        parts = {"host": "@"}
    host = str(parts.get("host") or parts.get("hostaddr") or "local socket")
    port = str(parts.get("port") or 5432)
    # A password with one of :/@ in it ends up in the host or the port, and would be shown with them.
    if "@" in host or not port.replace(",", "").isdigit():
        raise StorageError(
            "[storage] dsn is no PostgreSQL connection string; write postgresql://user@host:port/database "
            "(in a password, write the characters of :/@% as %3A %2F %40 %25) or host=… user=… dbname=…"
        )
    return f"{host} port {port}, database {parts.get('dbname') or parts.get('user') or 'default'}"


def describe(error: BaseException) -> str:
    """One line about an error: no values of rows (they are in its detail), no password."""
    text = ""
    if isinstance(error, psycopg.Error) and error.sqlstate:
        text = f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})"
    if not text:
        text = " ".join(str(error).split())
    return (text or type(error).__name__)[:ERROR_CHARS]
