"""All objects of one partition group, in memory: images by id, and the live objects read from them.

Guards three rules. The image is the truth: a live object is only a reading of it and is dropped when
another image is put. Ids come from ranges that are opened by an image of the partition's counter, so
that none is ever used twice. Kinds that begin with "cs." are the system's and never become live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from connserver.ids import FIRST_NAMED_LOCAL, local_of, object_id, partition_of
from connserver.limits import ID_RANGE
from connserver.messages import Image
from connserver.plugin.objects import Object, copied
from partition.indexes import KindIndex
from partition.kinds import SYSTEM, Kind, Kinds

COUNTER = "cs.ids"
"""Kind of the object at local 0 of a partition: where its handed-out ids end."""

FIRST_LOCAL = 1 << 20
"""The first id that is handed out; those below have fixed uses in the system."""


@dataclass(slots=True)
class Counter:
    """Ids of a partition: `next` is the first free one, those below `end` are reserved by the log."""

    next: int
    end: int


class Store:
    """Images, live objects, ids and indexes of a group."""

    def __init__(self) -> None:
        self._images: dict[int, Image] = {}
        self._of_kind: dict[str, dict[int, set[int]]] = {}
        self._live: dict[int, Object] = {}
        self._counters: dict[int, Counter] = {}
        self._indexes: dict[str, KindIndex] = {}
        self._kinds = Kinds()
        self._recalled: dict[int, Mapping[str, Any]] = {}
        self.changed_transients: set[int] = set()
        """Objects whose transient fields may be others than a snapshot says."""

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Image]:
        """All images, in no order."""
        return iter(self._images.values())

    def __contains__(self, oid: object) -> bool:
        return oid in self._images

    # --- images ---

    def load(self, images: Iterable[Image]) -> None:
        """Take what the archive holds."""
        for image in images:
            self.put(image)

    def image(self, oid: int) -> Image | None:
        """The image of an object, also of the system's."""
        return self._images.get(oid)

    def images(self, kind: str = "") -> Iterator[Image]:
        """All images (of a kind), in the order of ids."""
        if not kind:
            return iter([self._images[oid] for oid in sorted(self._images)])
        found = self._of_kind.get(kind, {}).values()
        return iter([self._images[oid] for oid in sorted(oid for ids in found for oid in ids)])

    def put(self, image: Image) -> None:
        """From now on the object is like this, whatever was known of it."""
        self._live.pop(image.oid, None)
        self.keep(image)
        if image.kind == COUNTER:
            self._counters.pop(partition_of(image.oid), None)

    def keep(self, image: Image, live: Object | None = None) -> None:
        """The same for a change of which the live object is the source: it stays."""
        oid = image.oid
        former = self._images.get(oid)
        if former is not None and (former.kind != image.kind or image.data is None):
            self._unlist(former)
        if image.data is None:
            self._images.pop(oid, None)
            self._live.pop(oid, None)
            self._recalled.pop(oid, None)
        else:
            self._images[oid] = image
            if former is None or former.kind != image.kind:
                self._of_kind.setdefault(image.kind, {}).setdefault(partition_of(oid), set()).add(oid)
            if live is not None:
                self._live[oid] = live
        if self._indexes:
            self._follow(image)

    def _unlist(self, image: Image) -> None:
        partitions = self._of_kind.get(image.kind, {})
        partition = partition_of(image.oid)
        ids = partitions.get(partition, set())
        ids.discard(image.oid)
        if not ids:
            partitions.pop(partition, None)
            if not partitions:
                self._of_kind.pop(image.kind, None)

    # --- live objects ---

    def bind(self, kinds: Kinds) -> None:
        """Read objects as these kinds say; whatever was read before is read again, but for transients."""
        kept = list(self.transients())
        self._kinds = kinds
        self._live.clear()
        self._indexes.clear()
        for oid, values in kept:
            self.restore_transients(oid, values)

    def transients(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What no image holds: the transient fields of each object that has been read, by id."""
        for oid, one in self._live.items():
            kind = self._kinds.by_class.get(type(one))
            if kind is not None and kind.transients:
                yield oid, {name: copied(one.__dict__[name]) for name in kind.transients}

    def transients_of(self, oid: int) -> tuple[dict[str, Any], bool] | None:
        """An object's transient fields, and whether all are as in a new object; None if there are none."""
        one = self._live.get(oid)
        kind = self._kinds.by_class.get(type(one)) if one is not None else None
        if one is None or kind is None or not kind.transients:
            return None
        values = {name: copied(one.__dict__[name]) for name in kind.transients}
        return values, all(value == kind.fields[name].fresh() for name, value in values.items())

    def recall(self, oid: int, values: Mapping[str, Any]) -> None:
        """Transient fields that a snapshot has: the object gets them, now or when it is first read."""
        if oid in self._live:
            self.restore_transients(oid, values)
        elif oid in self._images:
            self._recalled[oid] = values

    def restore_transients(self, oid: int, values: Mapping[str, Any]) -> None:
        """Give an object what `transients` told; what does not fit its kind any more is left out."""
        try:
            one = self.live(oid)
        except Exception:  # a plugin's migration may raise anything; whoever uses the object is told
            return
        kind = self._kinds.by_class.get(type(one)) if one is not None else None
        if one is None or kind is None:
            return
        for name in kind.transients:
            if name in values:
                try:
                    one.__dict__[name] = kind.fields[name].revived(values[name])
                except (ValueError, TypeError, AttributeError):
                    continue

    def live(self, oid: int) -> Object | None:
        """The object, read from its image when first asked for; PluginLoadError if it cannot be.

        Objects of a plugin that is not attached are plain `Object`s without fields.
        """
        found = self._live.get(oid)
        if found is not None:
            return found
        image = self._images.get(oid)
        if image is None or image.kind.startswith(SYSTEM):
            return None
        kind = self._kinds.of_image(image)
        found = self._live[oid] = (kind or _foreign(image)).load(image)
        if self._recalled and oid in self._recalled:
            self.restore_transients(oid, self._recalled.pop(oid))
        return found

    def living(self) -> Iterator[Object]:
        """Every object that has been read and not dropped since."""
        return iter(list(self._live.values()))

    # --- finding ---

    def of_kind(self, kind: Kind, partition: int) -> set[int]:
        """Ids of a partition's objects of a kind."""
        found = self._of_kind.get(kind.name, {}).get(partition, set())
        if kind.name != self._kinds.user or kind.name == "user":
            return found
        return found | self._of_kind.get("user", {}).get(partition, set())

    def partitions(self, kind: str) -> list[int]:
        """Partitions that have objects of a kind, in order."""
        return sorted(self._of_kind.get(kind, ()))

    def schemas(self) -> dict[str, set[int]]:
        """Which schemas the stored objects of each plugin kind have."""
        found: dict[str, set[int]] = {}
        for image in self._images.values():
            if not image.kind.startswith(SYSTEM):
                found.setdefault(image.kind, set()).add(image.schema)
        return found

    def index(self, kind: Kind) -> KindIndex:
        """The index of a kind, made if it is not there yet."""
        found = self._indexes.get(kind.name)
        if found is None:
            found = self._indexes[kind.name] = KindIndex(kind, self._indexed(kind))
        return found

    def _indexed(self, kind: Kind) -> Iterator[Image]:
        yield from self.images(kind.name)
        if kind.name == self._kinds.user and kind.name != "user":
            yield from self.images("user")

    def _follow(self, image: Image) -> None:
        kind = self._kinds.of_image(image)
        for name, index in self._indexes.items():
            if kind is not None and kind.name == name:
                index.put(image)
            else:
                index.forget(image.oid)

    # --- ids ---

    def allocate(self, partition: int, count: int = 1, align: int = 1) -> tuple[int, list[Image]]:
        """The first of `count` fresh locals in a row, a multiple of `align`, and what to log for them.

        The images (none or one) are in the store already and have to become part of the log.
        """
        counter = self._counters.get(partition)
        if counter is None:
            counter = self._counters[partition] = self._counter(partition)
        first = -(-counter.next // align) * align
        images = []
        if first + count > counter.end:
            end = max(counter.end + ID_RANGE, first + count)
            if end > FIRST_NAMED_LOCAL:
                raise OverflowError(f"partition {partition} has handed out all its ids")
            image = Image(object_id(partition, 0), COUNTER, 1, msgpack.packb({"end": end}))
            self.keep(image)
            counter.end = end
            images.append(image)
        counter.next = first + count
        return first, images

    def _counter(self, partition: int) -> Counter:
        image = self._images.get(object_id(partition, 0))
        if image is None or image.data is None:
            return Counter(FIRST_LOCAL, FIRST_LOCAL)
        # what was left of the range is given up: nobody knows any more how much of it was used
        end = int(msgpack.unpackb(image.data)["end"])
        return Counter(end, end)

    def mark_ids(self, partition: int) -> tuple[Counter | None, Image | None]:
        """Where the ids of a partition stand, for `reset_ids`."""
        counter = self._counters.get(partition)
        kept = Counter(counter.next, counter.end) if counter else None
        return kept, self._images.get(object_id(partition, 0))

    def reset_ids(self, partition: int, mark: tuple[Counter | None, Image | None]) -> None:
        """Take back what was allocated since the mark; none of those ids may have been seen."""
        counter, image = mark
        if counter is None:
            self._counters.pop(partition, None)
        else:
            self._counters[partition] = counter
        if image is not None:
            self.keep(image)
            return
        # a time limit may have struck in the middle of opening the range: leave nothing of it
        oid = object_id(partition, 0)
        self._images.pop(oid, None)
        self._unlist(Image(oid, COUNTER, 1, None))

    # --- invariants ---

    def check_invariants(self) -> None:
        """Lists and indexes agree with the images; live objects are what their images say."""
        listed = {oid for partitions in self._of_kind.values() for ids in partitions.values() for oid in ids}
        assert listed == set(self._images)
        for kind, partitions in self._of_kind.items():
            for partition, ids in partitions.items():
                assert ids, (kind, partition)
                for oid in ids:
                    assert self._images[oid].kind == kind and partition_of(oid) == partition
        for index in self._indexes.values():
            index.check_invariants(self._indexed(index.kind))
        for partition, counter in self._counters.items():
            assert FIRST_LOCAL <= counter.next <= counter.end, partition
        for oid, one in self._live.items():
            self._check_live(one, self._images[oid])

    def _check_live(self, one: Object, image: Image) -> None:
        kind = self._kinds.of_image(image) or _foreign(image)
        assert image.data is not None and local_of(one.oid) == local_of(image.oid)
        fresh = kind.load(image)
        for name in kind.kept:
            now, stored = one.__dict__[name], fresh.__dict__[name]
            assert now == stored, (
                f"{kind.name} {one.oid:016x} was changed outside of a callback: {name} is {now!r}, "
                f"stored is {stored!r}; keep a Ref for later, not the object"
            )


def _foreign(image: Image) -> Kind:
    return Kind(name=image.kind, cls=Object, schema=image.schema, plugin="", fields={})
