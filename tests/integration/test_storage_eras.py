"""The eras of the archive on a real PostgreSQL: only rising, and fencing whoever is of an older one."""

from __future__ import annotations

import time

import psycopg
import pytest

from connserver.errors import StorageError
from connserver.storage.eras import ArchivedGroup, archived_group, raise_era
from connserver.storage.schema import ensure_schema

pytestmark = pytest.mark.integration

ARCHIVE = (
    "UPDATE partition_groups SET view = %s, archived_op = %s WHERE group_id = 1 AND era = %s AND view <= %s"
)


def archive(dsn: str, *, era: int, view: int, op: int) -> int:
    """What an archiver of this era and view does first; the rows it could write."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(ARCHIVE, (view, op, era, view)).rowcount


@pytest.fixture
def dsn(postgres: str) -> str:
    """A cluster of two groups; group 1 is archived up to op 70 by the primary of view 9."""
    ensure_schema(postgres, "demo", 2)
    assert archive(postgres, era=1, view=9, op=70) == 1
    return postgres


def test_where_a_group_stands(dsn: str) -> None:
    assert archived_group(dsn, 0) == ArchivedGroup(1, 0, 0)
    assert archived_group(dsn, 1) == ArchivedGroup(1, 9, 70)


def test_a_raised_era_fences_the_older_and_lets_the_newer_in_whatever_its_view(dsn: str) -> None:
    assert raise_era(dsn, 1, 3) == ArchivedGroup(3, 0, 70)
    assert archive(dsn, era=1, view=99, op=80) == 0
    assert archive(dsn, era=3, view=1, op=71) == 1
    assert archived_group(dsn, 0).era == 1, "another group is left alone"


def test_raising_again_changes_nothing_and_an_era_never_falls(dsn: str) -> None:
    raise_era(dsn, 1, 3)
    archive(dsn, era=3, view=4, op=75)
    assert raise_era(dsn, 1, 3) == ArchivedGroup(3, 4, 75)
    assert raise_era(dsn, 1, 2) == ArchivedGroup(3, 4, 75)


def test_a_row_that_is_held_by_another_is_not_waited_for_without_end(dsn: str) -> None:
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT 1 FROM partition_groups WHERE group_id = 1 FOR UPDATE")
        begun = time.monotonic()
        with pytest.raises(StorageError, match="lock timeout"):
            raise_era(dsn, 1, 2)
        assert time.monotonic() - begun < 5
    assert raise_era(dsn, 1, 2).era == 2


def test_what_is_not_there_is_told(dsn: str) -> None:
    with pytest.raises(StorageError, match="no row of partition group 7"):
        archived_group(dsn, 7)
    with pytest.raises(StorageError, match="cannot be reached"):
        archived_group("host=/nowhere user=x", 0)
