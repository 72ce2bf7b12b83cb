"""Ids: the mapping to and from PostgreSQL's bigint, ranges of groups, written forms, names."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver.ids import (
    FIRST_NAMED_LOCAL,
    LOCALS,
    PARTITIONS,
    format_oid,
    from_bigint,
    group_of,
    group_range,
    local_of,
    named_id,
    object_id,
    parse_oid,
    partition_of,
    to_bigint,
)

CORNERS = [
    (partition, local) for partition in (0, 1, 32767, 32768, 65535) for local in (0, 1, 2**47, 2**48 - 1)
]


@pytest.mark.parametrize(("partition", "local"), CORNERS)
def test_corners_survive_the_signed_mapping(partition: int, local: int) -> None:
    oid = object_id(partition, local)
    signed = to_bigint(oid)
    assert -(2**63) <= signed < 2**63
    assert from_bigint(signed) == oid
    assert (partition_of(oid), local_of(oid)) == (partition, local)
    assert (signed < 0) == (partition >= 32768)


@given(st.integers(0, 2**64 - 1))
def test_every_id_survives_every_form(oid: int) -> None:
    assert from_bigint(to_bigint(oid)) == oid
    assert parse_oid(format_oid(oid)) == oid
    assert parse_oid(f"{partition_of(oid)}:{local_of(oid)}") == oid


@given(st.integers(1, 4096), st.data())
def test_groups_cover_every_partition_once(groups: int, data: st.DataObject) -> None:
    partition = data.draw(st.integers(0, PARTITIONS - 1))
    group = group_of(partition, groups)
    first, last = group_range(group, groups)
    assert first <= partition <= last
    assert group_range(0, groups)[0] == 0
    assert group_range(groups - 1, groups)[1] == PARTITIONS - 1


def test_the_ranges_of_three_groups_meet_without_gap() -> None:
    ranges = [group_range(group, 3) for group in range(3)]
    assert all(before[1] + 1 == after[0] for before, after in pairwise(ranges))


@pytest.mark.parametrize("text", ["", "12", "x" * 16, "1:", ":1", "65536:0", f"0:{LOCALS}", "-1:0", "1:1\n"])
def test_what_is_no_id_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"partition|local"):
        parse_oid(text)


def test_named_ids_are_stable_and_apart_from_allocated_ones() -> None:
    assert named_id("user", "alice") == named_id("user", "alice")
    assert named_id("user", "alice") != named_id("room", "alice")
    assert local_of(named_id("user", "alice")) >= FIRST_NAMED_LOCAL
    assert format_oid(named_id("user", "alice")) == "18add81557ac04f7"  # kept in archives: never changes
