"""The system's own objects: sessions, kept replies, rooms, parcels, cursors, timers.

Guards the rule that everything replicated is an object: whatever must survive is written here, as
an image of the turn, and is found again by `of_kind` when a group is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgpack

from connserver.ids import ObjectId, object_id
from connserver.messages import Image
from partition.turn import TurnBuilder

SYSTEM_KINDS = "cs."
"""Kinds with this beginning are never visible to plugins."""

Fields = dict[str, Any]


class Objects(Protocol):
    """The part of the object store that the ledger needs."""

    def put(self, image: Image) -> None: ...
    def image(self, oid: int) -> Image | None: ...
    def images(self, kind: str = "") -> Iterator[Image]: ...
    def allocate(self, partition: int, count: int = 1, align: int = 1) -> tuple[int, list[Image]]: ...


class Ledger:
    """Writes system objects into the store and the turn at once."""

    def __init__(self, objects: Objects, turn: TurnBuilder) -> None:
        self.turn = turn
        self._objects = objects

    def write(self, oid: int, kind: str, fields: Fields) -> None:
        """Create or replace an object."""
        self._record(Image(oid, kind, 1, msgpack.packb(fields)))

    def delete(self, oid: int, kind: str) -> None:
        """Remove an object."""
        self._record(Image(oid, kind, 1, None))

    def allocate(self, partition: int, count: int = 1, align: int = 1) -> ObjectId:
        """The first of `count` fresh ids in a row."""
        first, images = self._objects.allocate(partition, count, align)
        for image in images:
            self.turn.image(image)
        return object_id(partition, first)

    def read(self, oid: int, kind: str) -> Fields | None:
        """An object's fields; None where there is none of this kind."""
        image = self._objects.image(oid)
        if image is None or image.kind != kind or image.data is None:
            return None
        fields: Fields = msgpack.unpackb(image.data, strict_map_key=False)
        return fields

    def of_kind(self, kind: str) -> Iterator[tuple[int, Fields]]:
        """All objects of a system kind, in the order of their ids."""
        for image in self._objects.images(kind):
            assert image.data is not None
            yield image.oid, msgpack.unpackb(image.data, strict_map_key=False)

    def _record(self, image: Image) -> None:
        self._objects.put(image)
        self.turn.image(image)
