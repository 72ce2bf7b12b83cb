"""Where a partition group's objects lie in PostgreSQL.

Guards one rule: ids are unsigned and `bigint` is signed, so their orders differ. Partitions from
32,768 up are negative numbers there, and a group that holds both 32,767 and 32,768 has its rows at
the two ends of the signed order: it is two ranges.
"""

from __future__ import annotations

from connserver.ids import LOCALS, PARTITIONS, object_id, to_bigint

FIRST_NEGATIVE_PARTITION = PARTITIONS // 2
"""The first partition whose ids have the sign bit set."""


def bigint_ranges(first_partition: int, last_partition: int) -> tuple[tuple[int, int], ...]:
    """The signed ranges (both ends inclusive) of these partitions, in the ids' own order."""
    if not first_partition <= last_partition:
        raise ValueError(f"partitions {first_partition}..{last_partition} are no range")
    parts = [(first_partition, last_partition)]
    if first_partition < FIRST_NEGATIVE_PARTITION <= last_partition:
        parts = [
            (first_partition, FIRST_NEGATIVE_PARTITION - 1),
            (FIRST_NEGATIVE_PARTITION, last_partition),
        ]
    return tuple(
        (to_bigint(object_id(first, 0)), to_bigint(object_id(last, LOCALS - 1))) for first, last in parts
    )
