"""A group's partitions as signed ranges, proved on the numbers (PostgreSQL itself: integration)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver.ids import PARTITIONS, group_of, group_range, object_id, partition_of, to_bigint
from connserver.storage.ranges import bigint_ranges

ids = st.integers(0, 2**64 - 1)


def inside(oid: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return sum(low <= to_bigint(oid) <= high for low, high in ranges) == 1


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 0, ((0, 2**48 - 1),)),
        (0, 32767, ((0, 2**63 - 1),)),
        (32768, 65535, ((-(2**63), -1),)),
        (65535, 65535, ((-(2**48), -1),)),
        (32767, 32768, ((2**63 - 2**48, 2**63 - 1), (-(2**63), -(2**63) + 2**48 - 1))),
        (0, 65535, ((0, 2**63 - 1), (-(2**63), -1))),
    ],
)
def test_ranges_by_hand(first: int, last: int, expected: tuple[tuple[int, int], ...]) -> None:
    assert bigint_ranges(first, last) == expected


@given(ids, st.integers(0, PARTITIONS - 1), st.integers(0, PARTITIONS - 1))
def test_an_id_is_in_the_ranges_exactly_if_its_partition_is(oid: int, one: int, other: int) -> None:
    first, last = sorted((one, other))
    ranges = bigint_ranges(first, last)
    assert all(low <= high for low, high in ranges)
    assert inside(oid, ranges) == (first <= partition_of(oid) <= last)


@given(ids, st.sampled_from([1, 2, 3, 4, 5, 7, 64, 1000, 65536]))
def test_every_id_is_in_exactly_one_group(oid: int, groups: int) -> None:
    own = group_of(partition_of(oid), groups)
    for group in {max(0, own - 1), own, min(groups - 1, own + 1)}:
        assert inside(oid, bigint_ranges(*group_range(group, groups))) == (group == own)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="no range"):
        bigint_ranges(5, 4)
    with pytest.raises(ValueError):
        bigint_ranges(0, PARTITIONS)
    assert bigint_ranges(0, 0)[0][1] == object_id(0, 2**48 - 1)
