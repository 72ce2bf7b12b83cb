"""Which objects of a kind have a certain value in a field, by partition.

Guards the rule that an index is never wrong: it is made from the stored images when it is first
asked for, and follows every image that is put after that. A worker that only follows as a backup
therefore pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from connserver.ids import partition_of
from connserver.messages import Image
from partition.kinds import Kind

Partitions = dict[int, set[int]]


class KindIndex:
    """The declared fields of one kind: value → partition → ids."""

    def __init__(self, kind: Kind, images: Iterable[Image]) -> None:
        self.kind = kind
        self.fields = tuple(dict.fromkeys((*kind.index, *kind.unique)))
        self._values: dict[int, tuple[Any, ...]] = {}
        self._holders: dict[str, dict[Any, Partitions]] = {name: {} for name in self.fields}
        for image in images:
            self.put(image)

    def put(self, image: Image) -> None:
        """Follow a new image of an object of this kind, or its end."""
        self.forget(image.oid)
        if image.data is None:
            return
        stored = self.kind.read(image)
        values = tuple(self._value(name, stored) for name in self.fields)
        self._values[image.oid] = values
        partition = partition_of(image.oid)
        for name, value in zip(self.fields, values, strict=True):
            self._holders[name].setdefault(value, {}).setdefault(partition, set()).add(image.oid)

    def _value(self, name: str, stored: dict[str, Any]) -> Any:
        field = self.kind.fields[name]
        return stored.get(name, field.default)

    def forget(self, oid: int) -> None:
        """The object is gone, or of another kind now."""
        values = self._values.pop(oid, None)
        if values is None:
            return
        partition = partition_of(oid)
        for name, value in zip(self.fields, values, strict=True):
            partitions = self._holders[name][value]
            partitions[partition].discard(oid)
            if not partitions[partition]:
                del partitions[partition]
                if not partitions:
                    del self._holders[name][value]

    def holders(self, name: str, value: Any, partition: int) -> set[int]:
        """Ids of the objects in a partition whose field has this value."""
        return self._holders[name].get(value, {}).get(partition, set())

    def partitions(self, name: str, value: Any) -> Iterator[int]:
        """Partitions in which an object has this value."""
        return iter(self._holders[name].get(value, ()))

    def check_invariants(self, images: Iterable[Image]) -> None:
        """The index is what it would be if it were made now."""
        fresh = KindIndex(self.kind, images)
        assert fresh._values == self._values, self.kind.name
        assert fresh._holders == self._holders, self.kind.name
