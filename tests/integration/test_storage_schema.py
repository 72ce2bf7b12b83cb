"""The schema on a real PostgreSQL: made once, whoever comes at the same time; refused when not ours."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from connserver.errors import StorageError
from connserver.ids import from_bigint, group_of, group_range, object_id, partition_of, to_bigint
from connserver.storage import schema
from connserver.storage.ranges import bigint_ranges
from connserver.storage.schema import VERSION, SchemaInfo, ensure_schema

pytestmark = pytest.mark.integration

CORNER_PARTITIONS = (0, 1, 32767, 32768, 65535)
CORNER_LOCALS = (0, 1, 2**47, 2**48 - 1)


def test_the_first_start_makes_it_and_the_next_finds_it(postgres: str) -> None:
    said: list[str] = []
    assert ensure_schema(postgres, "demo", 3, said.append) == SchemaInfo(VERSION, "demo", 3, True, None)
    assert said == ["setting up the database's tables"]
    assert ensure_schema(postgres, "demo", 3, said.append) == SchemaInfo(VERSION, "demo", 3, False, None)
    assert len(said) == 1
    with psycopg.connect(postgres) as connection:
        rows = connection.execute(
            "SELECT group_id, era, view, archived_op, first_partition, last_partition "
            "FROM partition_groups ORDER BY 1"
        ).fetchall()
    assert rows == [(0, 1, 0, 0, 0, 21845), (1, 1, 0, 0, 21846, 43690), (2, 1, 0, 0, 43691, 65535)]


def test_several_hosts_start_at_once(postgres: str) -> None:
    with ThreadPoolExecutor(6) as hosts:
        found = list(hosts.map(lambda _: ensure_schema(postgres, "demo", 4), range(6)))
    assert sum(info.created for info in found) == 1
    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT count(*) FROM cluster").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM partition_groups").fetchone() == (4,)


def test_two_clusters_at_once_on_one_database_do_not_both_get_it(postgres: str) -> None:
    def host(name: str) -> str:
        try:
            return ensure_schema(postgres, name, 4).cluster_name
        except StorageError as error:
            return str(error)

    with ThreadPoolExecutor(2) as hosts:
        one, other = sorted(hosts.map(host, ["red", "blue"]), key=len)
    assert one in ("red", "blue")
    assert f"holds the cluster '{one}'" in other


def test_another_cluster_another_number_of_groups_another_format(postgres: str) -> None:
    ensure_schema(postgres, "demo", 4)
    with pytest.raises(StorageError, match=r"holds the cluster 'demo', not 'other'"):
        ensure_schema(postgres, "other", 4)
    with pytest.raises(StorageError, match=r"partition_groups = 4.*fixed at the first start"):
        ensure_schema(postgres, "demo", 8)
    with pytest.raises(StorageError, match="not within"):
        ensure_schema(postgres, "demo", 0)
    with psycopg.connect(postgres) as connection:
        connection.execute("UPDATE cluster SET format = 99")
    with pytest.raises(StorageError, match="format 99"):
        ensure_schema(postgres, "demo", 4)


def test_a_newer_schema_is_left_alone(postgres: str) -> None:
    ensure_schema(postgres, "demo", 4)
    with psycopg.connect(postgres) as connection:
        connection.execute("UPDATE connserver_schema SET version_num = '9999'")
    with pytest.raises(StorageError, match="schema 9999, written by a newer ConnServer"):
        ensure_schema(postgres, "demo", 4)


def test_tables_of_something_else_are_left_alone(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE objects (precious text)")
    with pytest.raises(StorageError, match=r'"objects" already exists.*database of its own'):
        ensure_schema(postgres, "demo", 4)
    with psycopg.connect(postgres) as connection:
        tables = connection.execute("SELECT relname FROM pg_stat_user_tables").fetchall()
    assert tables == [("objects",)], "a step that fails leaves nothing behind"


def test_an_older_server_is_refused(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_SERVER", 990_000)
    with pytest.raises(StorageError, match=r"is version 18; ConnServer needs 99"):
        ensure_schema(postgres, "demo", 4)


def test_a_database_that_is_not_utf8_is_refused(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        try:
            with pytest.raises(StorageError, match="encoding is LATIN1"):
                ensure_schema(f"{postgres} dbname=latin", "demo", 4)
        finally:
            connection.execute("DROP DATABASE latin WITH (FORCE)")


def test_postgresql_keeps_unsigned_ids_as_signed_numbers(postgres: str) -> None:
    """All corners: what is written under an id comes back as it, and sorts within its partition."""
    ensure_schema(postgres, "demo", 1)
    ids = [object_id(*corner) for corner in itertools.product(CORNER_PARTITIONS, CORNER_LOCALS)]
    with psycopg.connect(postgres) as connection:
        connection.cursor().executemany(
            "INSERT INTO objects VALUES (%s, 'thing', 1, %s)",
            [(to_bigint(oid), oid.to_bytes(8, "big")) for oid in ids],
        )
        for partition in CORNER_PARTITIONS:
            ((low, high),) = bigint_ranges(partition, partition)
            rows = connection.execute(
                "SELECT oid, data FROM objects WHERE oid BETWEEN %s AND %s ORDER BY oid", (low, high)
            ).fetchall()
            expected = [object_id(partition, local) for local in CORNER_LOCALS]
            assert [from_bigint(number) for number, _ in rows] == expected
            assert [int.from_bytes(data, "big") for _, data in rows] == expected


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 7, 64])
def test_a_group_s_ranges_hold_exactly_its_objects(postgres: str, groups: int) -> None:
    """Also for groups with partitions 32,767 and 32,768, whose rows lie at both ends of the order."""
    edges = {edge for group in range(groups) for edge in group_range(group, groups)}
    partitions = sorted(edges | set(CORNER_PARTITIONS))
    ids = [object_id(*corner) for corner in itertools.product(partitions, CORNER_LOCALS)]
    ensure_schema(postgres, "demo", groups)
    with psycopg.connect(postgres) as connection:
        connection.execute(
            "INSERT INTO objects SELECT oid, 'thing', 1, '' FROM unnest(%s::bigint[]) AS new (oid)",
            ([to_bigint(oid) for oid in ids],),
        )
        for group in range(groups):
            found = set()
            for low, high in bigint_ranges(*group_range(group, groups)):
                rows = connection.execute("SELECT oid FROM objects WHERE oid BETWEEN %s AND %s", (low, high))
                found |= {from_bigint(number) for (number,) in rows}
            assert found == {oid for oid in ids if group_of(partition_of(oid), groups) == group}
