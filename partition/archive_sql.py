"""The archive's statements: the fenced write, the re-read after it, and the snapshot.

Guards two rules. The fence comes first in every transaction that writes, so whoever passed it holds
the group's row until its commit, and an older view or era never passes. And a snapshot is one moment:
rows, view and `archived_op` are read in one REPEATABLE READ transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from connserver.errors import StorageError
from connserver.ids import from_bigint, to_bigint
from connserver.limits import ARCHIVE_STATEMENT_BYTES, ARCHIVE_STATEMENT_ROWS
from connserver.messages import Image
from connserver.storage.connection import GRACE_S, BoundedConnection, Bounds, connect, storage_errors
from connserver.storage.ranges import bigint_ranges
from partition.archive_outcomes import GroupRow, Write

FENCE: Final = (
    "UPDATE partition_groups SET view = %(view)s, archived_op = %(op)s, updated_at = now() "
    "WHERE group_id = %(group)s AND era = %(era)s AND view <= %(view)s AND archived_op <= %(op)s "
    "RETURNING old.archived_op, first_partition, last_partition"
)
READ_GROUP: Final = (
    "SELECT era, view, archived_op, first_partition, last_partition FROM partition_groups WHERE group_id = %s"
)
UPSERT: Final = (
    "INSERT INTO objects (oid, kind, schema, data) "
    "SELECT * FROM unnest(%b::bigint[], %b::text[], %b::integer[], %b::bytea[]) "
    "ON CONFLICT (oid) DO UPDATE SET kind = excluded.kind, schema = excluded.schema, data = excluded.data"
)
DELETE: Final = "DELETE FROM objects WHERE oid = ANY(%b::bigint[])"
DELETE_RANGE: Final = "DELETE FROM objects WHERE oid BETWEEN %s AND %s"
READ_OBJECTS: Final = "SELECT oid, kind, schema, data FROM objects WHERE oid BETWEEN %s AND %s"

WRITE_BOUNDS: Final = Bounds()
WHOLE_BOUNDS: Final = Bounds(statement_ms=120_000, transaction_ms=600_000)
"""Writing a whole group: its range is deleted in one statement, and there may be millions of rows."""
SNAPSHOT_BOUNDS: Final = Bounds(statement_ms=60_000, idle_in_transaction_ms=60_000, transaction_ms=600_000)
"""Loading a group: between two batches its worker builds the objects."""


@dataclass(frozen=True, slots=True)
class Written:
    """The transaction committed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The fence updated no row; this is the row as re-read afterwards (None: there is none)."""

    row: GroupRow | None


@dataclass(frozen=True, slots=True)
class Receded:
    """The row stood at this operation, lower than it had already been; nothing was written."""

    previous_op: int


def read_group(connection: BoundedConnection, group: int) -> GroupRow | None:
    """The group's row as committed now."""
    row = connection.execute(READ_GROUP, (group,)).fetchone()
    return None if row is None else GroupRow(row[0], row[1], row[2])


def write(connection: BoundedConnection, group: int, era: int, order: Write) -> Written | Refused | Receded:
    """One transaction: fence, rows, commit. psycopg.Error: it is unknown whether that happened."""
    bounds = WHOLE_BOUNDS if order.whole else WRITE_BOUNDS
    if order.whole:
        _set_bounds(connection, bounds)
    try:
        with connection.transaction():
            fence = {"view": order.view, "op": order.op, "group": group, "era": era}
            passed = connection.execute(FENCE, fence).fetchone()
            if passed is None:
                return Refused(read_group(connection, group))
            previous_op, first, last = passed
            if previous_op < order.expected_op:
                raise _ArchiveReceded(previous_op)
            _write_rows(connection, order, bigint_ranges(first, last))
    except _ArchiveReceded as receded:
        return Receded(receded.previous_op)
    if order.whole:
        _set_bounds(connection, WRITE_BOUNDS)
    return Written()


class _ArchiveReceded(Exception):
    """Rolls the transaction back; never leaves this file."""

    def __init__(self, previous_op: int) -> None:
        super().__init__(previous_op)
        self.previous_op = previous_op


def _set_bounds(connection: BoundedConnection, bounds: Bounds) -> None:
    connection.execute(bounds.settings())
    connection.answer_s = bounds.statement_ms / 1000 + GRACE_S


def _write_rows(connection: BoundedConnection, order: Write, ranges: tuple[tuple[int, int], ...]) -> None:
    images = [image for _, image in order.images.values()]
    for image in images:
        number = to_bigint(image.oid)
        # The fence guards this group's rows only: one of another group would go past its own fence.
        assert any(low <= number <= high for low, high in ranges), f"{image.oid:016x} is of another group"
    if order.whole:
        for low, high in ranges:
            connection.execute(DELETE_RANGE, (low, high))
    for rows in statements([image for image in images if image.data is not None]):
        columns = (
            [to_bigint(image.oid) for image in rows],
            [image.kind for image in rows],
            [image.schema for image in rows],
            [image.data for image in rows],
        )
        connection.execute(UPSERT, columns)
    for rows in statements([image for image in images if image.data is None]):
        connection.execute(DELETE, ([to_bigint(image.oid) for image in rows],))


def statements(images: Collection[Image]) -> Iterator[list[Image]]:
    """The images in portions that one statement may carry, by rows and by bytes."""
    rows: list[Image] = []
    size = 0
    for image in images:
        length = len(image.data or b"")
        if rows and (len(rows) >= ARCHIVE_STATEMENT_ROWS or size + length > ARCHIVE_STATEMENT_BYTES):
            yield rows
            rows, size = [], 0
        rows.append(image)
        size += length
    if rows:
        yield rows


class Snapshot:
    """A group as archived at one moment. `batches` can be read once, while the snapshot is open."""

    def __init__(self, connection: BoundedConnection, dsn: str, group: int) -> None:
        row = connection.execute(READ_GROUP, (group,)).fetchone()
        if row is None:
            raise StorageError(f"the archive has no partition group {group}; is this the cluster's database?")
        self.era: int = row[0]
        self.view: int = row[1]
        self.archived_op: int = row[2]
        self.first_partition: int = row[3]
        self.last_partition: int = row[4]
        self._connection = connection
        self._dsn = dsn

    def batches(self) -> Iterator[list[Image]]:
        """The objects, in portions; StorageError if PostgreSQL goes away meanwhile."""
        with storage_errors(self._dsn):
            for low, high in bigint_ranges(self.first_partition, self.last_partition):
                with self._connection.cursor(name="snapshot", binary=True) as cursor:
                    cursor.execute(READ_OBJECTS, (low, high))
                    while rows := cursor.fetchmany(ARCHIVE_STATEMENT_ROWS):
                        yield [
                            Image(from_bigint(oid), kind, schema, data) for oid, kind, schema, data in rows
                        ]


@contextmanager
def open_snapshot(dsn: str, group: int) -> Iterator[Snapshot]:
    """Open a snapshot of the group. Blocks: not for the loop's thread. StorageError as usual."""
    connection = connect(dsn, f"load of group {group}", SNAPSHOT_BOUNDS)
    try:
        with storage_errors(dsn):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = Snapshot(connection, dsn, group)
        yield snapshot
    finally:
        connection.close()
