"""The archive's tables: made at the first start, brought up to date later, checked at every start.

Guards these rules. A database belongs to one cluster, and its number of partition groups is fixed at
the first start. A program never works on a schema newer than itself. Several hosts may start at once:
who finds something to do takes a lock in the database, looks again, and does all of it in one
transaction. The usual start is a plain query; the migration library is imported only to migrate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg

from connserver.errors import StorageError
from connserver.ids import PARTITIONS, group_range
from connserver.storage.connection import (
    BoundedConnection,
    Bounds,
    connect,
    describe,
    storage_errors,
    whereabouts,
)

if TYPE_CHECKING:
    import sqlalchemy

VERSION: Final = "0001"
"""The schema this program works on: the revision of the last module in migrations/versions."""
FORMAT: Final = 1
"""How images are written in `objects.data`; another number is another encoding."""
VERSION_TABLE: Final = "connserver_schema"
"""Where the database's version stands (Alembic's table, under a name of ours)."""
MIGRATION_LOCK: Final = 0x436F6E6E_53727601
"""Advisory lock under which one host migrates."""
OLDEST_SERVER: Final = 180_000
"""`server_version_num` from which `RETURNING old.…` and `transaction_timeout` are there."""
CHECK_BOUNDS: Final = Bounds()
MIGRATION_BOUNDS: Final = Bounds(
    statement_ms=600_000, lock_ms=120_000, idle_in_transaction_ms=60_000, transaction_ms=600_000
)
"""Another host may be migrating (we wait for it), and a later step may rewrite a large table."""


@dataclass(frozen=True, slots=True)
class SchemaInfo:
    """What `ensure_schema` found or made."""

    version: str
    cluster_name: str
    partition_groups: int
    created: bool
    migrated_from: str | None


def ensure_schema(
    dsn: str, cluster_name: str, groups: int, on_progress: Callable[[str], None] | None = None
) -> SchemaInfo:
    """Make or bring up to date the tables of this cluster; StorageError if the database is not its own."""
    if not 1 <= groups <= PARTITIONS:
        raise StorageError(f"partition_groups = {groups} is not within 1..{PARTITIONS}")
    with connect(dsn, "schema", CHECK_BOUNDS) as connection, storage_errors(dsn):
        _check_server(connection, dsn)
        found = _found_version(connection)
        _refuse_newer(found, dsn)
        if found == VERSION:
            _check_cluster(connection, dsn, cluster_name, groups)
            return SchemaInfo(VERSION, cluster_name, groups, created=False, migrated_from=None)
    return _migrate(dsn, cluster_name, groups, on_progress or (lambda _: None))


def preload_migrations() -> None:
    """Import the migration library: for a thread, while a first start waits for something else."""
    import alembic.command  # noqa: F401
    import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401


def _check_server(connection: BoundedConnection, dsn: str) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise StorageError(
            f"PostgreSQL ({whereabouts(dsn)}) is version {connection.info.server_version // 10_000}; "
            f"ConnServer needs {OLDEST_SERVER // 10_000} or newer"
        )
    (encoding,) = connection.execute("SHOW server_encoding").fetchone() or ("",)
    if encoding != "UTF8":
        raise StorageError(
            f"PostgreSQL ({whereabouts(dsn)}): the database's encoding is {encoding}; create one with UTF8"
        )


def _found_version(connection: BoundedConnection) -> str | None:
    """The database's schema version, None where there is none yet."""
    try:
        row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return str(row[0]) if row else None


def _check_cluster(connection: BoundedConnection, dsn: str, name: str, groups: int) -> None:
    row = connection.execute("SELECT name, format, partition_groups FROM cluster").fetchone()
    if row is None:
        raise StorageError(f"PostgreSQL ({whereabouts(dsn)}): the table cluster is empty; restore a backup")
    if row[0] != name:
        raise StorageError(
            f"PostgreSQL ({whereabouts(dsn)}) holds the cluster {row[0]!r}, not {name!r}; give this cluster "
            "a database of its own, or its own state_dir"
        )
    if row[1] != FORMAT:
        raise StorageError(
            f"PostgreSQL ({whereabouts(dsn)}) holds objects of format {row[1]}; this program writes {FORMAT}"
        )
    if row[2] != groups:
        raise StorageError(
            f"PostgreSQL ({whereabouts(dsn)}) was set up with partition_groups = {row[2]}, and cluster.toml "
            f"says {groups}; the number is fixed at the first start: write partition_groups = {row[2]}"
        )


def _migrate(dsn: str, name: str, groups: int, on_progress: Callable[[str], None]) -> SchemaInfo:
    """Bring the schema up to date in one transaction, after whoever else is doing so."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: _migration_session(dsn), poolclass=sqlalchemy.NullPool
    )
    try:
        with storage_errors(dsn), engine.begin() as transaction:
            session = transaction.connection.driver_connection
            assert isinstance(session, BoundedConnection)
            session.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            found = _found_version(session) if _has_version_table(session) else None
            _refuse_newer(found, dsn)
            if found is None:
                on_progress("setting up the database's tables")
            elif found != VERSION:
                on_progress(f"bringing the database from schema {found} to {VERSION}")
            if found != VERSION:
                _upgrade(transaction)
            if found is None:
                _enter_cluster(session, name, groups)
            _check_cluster(session, dsn, name, groups)
    except sqlalchemy.exc.DBAPIError as error:
        reason = describe(error.orig or error)
        if isinstance(error.orig, psycopg.errors.DuplicateTable):
            reason += ", and it is not ConnServer's; give the cluster a database of its own"
        raise StorageError(f"PostgreSQL ({whereabouts(dsn)}): {reason}") from None
    finally:
        engine.dispose()
    before = None if found == VERSION else found
    return SchemaInfo(VERSION, name, groups, created=found is None, migrated_from=before)


def _migration_session(dsn: str) -> BoundedConnection:
    session = connect(dsn, "migration", MIGRATION_BOUNDS)
    session.autocommit = False  # as the library expects
    return session


def _upgrade(transaction: sqlalchemy.Connection) -> None:
    """Run the missing steps inside this transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "connserver.storage:migrations")
    config.attributes.update(connection=transaction, version_table=VERSION_TABLE)
    command.upgrade(config, "head")


def _refuse_newer(found: str | None, dsn: str) -> None:
    if found is not None and found > VERSION:
        raise StorageError(
            f"PostgreSQL ({whereabouts(dsn)}) has schema {found}, written by a newer ConnServer; this knows "
            f"up to {VERSION}: run the newer one"
        )


def _has_version_table(connection: BoundedConnection) -> bool:
    row = connection.execute("SELECT to_regclass(%s)", (VERSION_TABLE,)).fetchone()
    return row is not None and row[0] is not None


def _enter_cluster(connection: BoundedConnection, name: str, groups: int) -> None:
    """The rows of a new cluster: era 1, nothing archived yet."""
    connection.execute(
        "INSERT INTO cluster (name, format, partition_groups) VALUES (%s, %s, %s)", (name, FORMAT, groups)
    )
    ranges = [group_range(group, groups) for group in range(groups)]
    connection.execute(
        "INSERT INTO partition_groups (group_id, era, view, archived_op, first_partition, last_partition) "
        "SELECT group_id, 1, 0, 0, first_partition, last_partition "
        "FROM unnest(%s::integer[], %s::integer[], %s::integer[]) "
        "AS new (group_id, first_partition, last_partition)",
        (list(range(groups)), [first for first, _ in ranges], [last for _, last in ranges]),
    )
