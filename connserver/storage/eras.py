"""The era of a partition group in the archive: reading it, and raising it after `recover`.

Guards one rule: an era only rises here, and raising it fences: no archiver of an older era writes after
that, whatever its view. Both functions wait for PostgreSQL, so they are called from a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from connserver.errors import StorageError
from connserver.storage.connection import BoundedConnection, Bounds, connect, storage_errors, whereabouts

BOUNDS: Final = Bounds(statement_ms=3_000, lock_ms=2_000, idle_in_transaction_ms=3_000, transaction_ms=5_000)
"""An administrator waits for this; what fails is tried again."""


@dataclass(frozen=True, slots=True)
class ArchivedGroup:
    """Where a group stands in the archive: a primary of `view` wrote everything up to `op` of `era`."""

    era: int
    view: int
    op: int


def archived_group(dsn: str, group: int) -> ArchivedGroup:
    """Where a group stands; StorageError if that cannot be read."""
    with connect(dsn, "gossip", BOUNDS) as connection, storage_errors(dsn):
        return _read(connection, dsn, group)


def raise_era(dsn: str, group: int, era: int) -> ArchivedGroup:
    """Bring a group's row to this era if it is below, and say where it stands then.

    Views of the new era begin anew, so the row's does too. StorageError if that cannot be done.
    """
    with connect(dsn, "gossip", BOUNDS) as connection, storage_errors(dsn):
        connection.execute(
            "UPDATE partition_groups SET era = %s, view = 0, updated_at = now() "
            "WHERE group_id = %s AND era < %s",
            (era, group, era),
        )
        return _read(connection, dsn, group)


def _read(connection: BoundedConnection, dsn: str, group: int) -> ArchivedGroup:
    row = connection.execute(
        "SELECT era, view, archived_op FROM partition_groups WHERE group_id = %s", (group,)
    ).fetchone()
    if row is None:
        raise StorageError(f"PostgreSQL ({whereabouts(dsn)}) has no row of partition group {group}")
    return ArchivedGroup(*map(int, row))
