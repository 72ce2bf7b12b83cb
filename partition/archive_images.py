"""The committed images that PostgreSQL does not have yet: the last one of each object.

Guards one rule: they lie in the order of operations, so that forgetting what is archived touches only
what is forgotten. Their size is always known, because it is bounded by whoever holds them.
"""

from __future__ import annotations

from typing import Final

from connserver.limits import ARCHIVE_ROW_BYTES, NAME_CHARS
from connserver.messages import Image

LARGEST_SCHEMA: Final = 2**31 - 1
"""PostgreSQL's `integer`."""


class KeptImages:
    """Images by object id, each with the operation that left it."""

    __slots__ = ("by_id", "size")

    def __init__(self) -> None:
        self.by_id: dict[int, tuple[int, Image]] = {}
        self.size = 0

    def put(self, op: int, image: Image) -> None:
        """Keep the image that `op`, not older than any other, left."""
        earlier = self.by_id.pop(image.oid, None)
        if earlier is not None:
            self.size -= image_size(earlier[1])
        self.by_id[image.oid] = (op, image)
        self.size += image_size(image)

    def forget_through(self, op: int) -> None:
        """Drop the images that no operation after `op` touched."""
        gone = []
        for oid, (last, image) in self.by_id.items():
            if last > op:
                break
            gone.append(oid)
            self.size -= image_size(image)
        for oid in gone:
            del self.by_id[oid]

    def put_under(self, older: KeptImages) -> None:
        """Keep also what is in `older` (which is used up) and was not touched since."""
        merged = older.by_id
        size = older.size + self.size
        for oid, newer in self.by_id.items():
            earlier = merged.pop(oid, None)
            if earlier is not None:
                size -= image_size(earlier[1])
            merged[oid] = newer
        self.by_id, self.size = merged, size

    def check_invariants(self) -> None:
        """What is true between any two calls."""
        ops = [op for op, _ in self.by_id.values()]
        assert ops == sorted(ops), "images lie in the order of operations"
        assert self.size == sum(image_size(image) for _, image in self.by_id.values())


def image_size(image: Image) -> int:
    """Bytes that keeping the image costs, about."""
    return ARCHIVE_ROW_BYTES + (0 if image.data is None else len(image.data))


def check_image(image: Image) -> None:
    """ValueError for what PostgreSQL could never store: it would block the group's archive for ever."""
    if not 0 <= image.oid < 1 << 64 or not 0 <= image.schema <= LARGEST_SCHEMA:
        raise ValueError(f"object {image.oid:x} of kind {image.kind!r}, schema {image.schema}: out of range")
    if not image.kind.isprintable() or len(image.kind) > NAME_CHARS:
        raise ValueError(f"object {image.oid:016x}: {image.kind[:NAME_CHARS]!r} is no kind")
