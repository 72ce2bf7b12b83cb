"""Identities: 64-bit object ids, partitions, groups, and the derived ids of named things.

Guards one rule: the same name is the same object on every node, without a lookup. An object id
is `partition (16 bits) << 48 | local (48 bits)`. The lower half of a partition's locals is handed
out from reserved ranges; the upper half belongs to *named* objects, whose id is a hash of kind
and name. PostgreSQL's signed `bigint` is mapped here and nowhere else.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NewType

ObjectId = NewType("ObjectId", int)
PartitionId = NewType("PartitionId", int)
GroupId = NewType("GroupId", int)

PARTITIONS = 65_536
LOCAL_BITS = 48
LOCALS = 1 << LOCAL_BITS
FIRST_NAMED_LOCAL = 1 << (LOCAL_BITS - 1)
"""Locals from here up belong to named objects; below it they come from reserved ranges."""

_HEX = re.compile(r"[0-9a-fA-F]{16}\Z")
_PAIR = re.compile(r"([0-9]{1,5}):([0-9]{1,15})\Z")


def object_id(partition: int, local: int) -> ObjectId:
    """Join a partition (0 ≤ p < 65,536) and a local address (0 ≤ l < 2^48); ValueError outside."""
    if not 0 <= partition < PARTITIONS:
        raise ValueError(f"partition {partition} is not within 0..{PARTITIONS - 1}")
    if not 0 <= local < LOCALS:
        raise ValueError(f"local address {local} is not within 0..2^48-1")
    return ObjectId(partition << LOCAL_BITS | local)


def partition_of(oid: int) -> PartitionId:
    """The partition an object lives in: the upper 16 bits of its id."""
    return PartitionId(oid >> LOCAL_BITS)


def local_of(oid: int) -> int:
    """The address within the partition: the lower 48 bits."""
    return oid & (LOCALS - 1)


def named_id(kind: str, name: str) -> ObjectId:
    """The id of the object called `name` among those of `kind` ("user", "room", …).

    64 bits of BLAKE2b with one bit fixed. Two names may in principle meet in one id, so the object
    keeps its name and whoever opens it compares.
    """
    digest = blake2b(f"{kind}:{name}".encode(), digest_size=8, person=b"connserver").digest()
    return ObjectId(int.from_bytes(digest, "big") | FIRST_NAMED_LOCAL)


def format_oid(oid: int) -> str:
    """Sixteen lower-case hex digits, the way ids are written everywhere."""
    return f"{oid:016x}"


def parse_oid(text: str) -> ObjectId:
    """Read sixteen hex digits or a decimal `partition:local`; ValueError for anything else."""
    if _HEX.match(text):
        return ObjectId(int(text, 16))
    pair = _PAIR.match(text)
    if pair is None:
        raise ValueError(f"{text[:40]!r} is no object id: write 16 hex digits or partition:local")
    return object_id(int(pair[1]), int(pair[2]))


def to_bigint(oid: int) -> int:
    """The signed 64-bit number under which PostgreSQL keeps an id."""
    return oid - (1 << 64) if oid >= 1 << 63 else oid


def from_bigint(number: int) -> ObjectId:
    """The id that PostgreSQL keeps as this signed number."""
    return ObjectId(number + (1 << 64) if number < 0 else number)


def group_of(partition: int, groups: int) -> GroupId:
    """The partition group (of `groups`) whose range holds this partition."""
    return GroupId(partition * groups // PARTITIONS)


def group_range(group: int, groups: int) -> tuple[PartitionId, PartitionId]:
    """First and last partition (both inclusive) of a group."""
    first = -(-group * PARTITIONS // groups)
    after = -(-(group + 1) * PARTITIONS // groups)
    return PartitionId(first), PartitionId(after - 1)
