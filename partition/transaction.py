"""One transaction over one partition: what a callback touched, made and removed.

Guards the rule that a callback happens whole or not at all. Nothing in the store changes before
`finish` has checked everything; `roll_back` gives every touched object, transient fields too, back
what it had. Objects of other partitions raise WrongPartition, also inside one group, so that moving
and splitting groups never breaks a game.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connserver.errors import ClientError, WrongPartition
from connserver.ids import format_oid, object_id
from connserver.messages import Image
from connserver.plugin.objects import Object
from partition.kinds import REQUIRED, Kind, Kinds
from partition.objects import Counter, Store

Before = dict[str, Any]

_NONE_CREATED: dict[int, tuple[Kind, Object]] = {}
_NONE_REMOVED: dict[int, tuple[Object, Before]] = {}
"""Shared and always empty."""


class Transaction:
    """Objects go through here between the store and a callback."""

    __slots__ = (
        "_created",
        "_id_images",
        "_id_mark",
        "_kinds",
        "_removed",
        "_store",
        "_touched",
        "partition",
    )

    def __init__(self, store: Store, kinds: Kinds, partition: int) -> None:
        self.partition = partition
        self._store = store
        self._kinds = kinds
        self._touched: dict[int, tuple[Object, Before]] = {}
        # most calls make and remove nothing: these two get a map of their own when one does
        self._created: dict[int, tuple[Kind, Object]] = _NONE_CREATED
        self._removed: dict[int, tuple[Object, Before]] = _NONE_REMOVED
        self._id_images: list[Image] = []
        self._id_mark: tuple[Counter | None, Image | None] | None = None

    # --- what a callback does ---

    def get(self, oid: int) -> Object | None:
        """The object, which from now on is part of the transaction; None if there is none."""
        entry = self._touched.get(oid)
        if entry is not None:
            return entry[0]
        if oid >> 48 != self.partition:
            self._refuse_elsewhere(oid)
        if oid in self._created:
            return self._created[oid][1]
        if oid in self._removed:
            return None
        found = self._store.live(oid)
        if found is not None:
            self._touched[oid] = (found, found.__dict__.copy())
        return found

    def create(
        self, kind: Kind, values: Mapping[str, Any], oid: int | None = None, named: str = ""
    ) -> Object:
        """A new object, with an id of its own or a fresh one; `conflict` if the id is taken."""
        if oid is None:
            oid = self._fresh_id()
        elif oid >> 48 != self.partition:
            self._refuse_elsewhere(oid)
        if self._exists(oid):
            raise ClientError("conflict", f"{kind.name} {named or format_oid(oid)} is there already")
        made = kind.make(oid, named, values)
        if self._created is _NONE_CREATED:
            self._created = {}
        self._created[oid] = (kind, made)
        return made

    def delete(self, oid: int) -> None:
        """Remove the object, if it is there."""
        found = self.get(oid)
        if found is None:
            return
        if self._created.pop(oid, None) is None:
            if self._removed is _NONE_REMOVED:
                self._removed = {}
            # in this order: a time limit may strike between any two steps of a callback
            self._removed[oid] = self._touched[oid]
            del self._touched[oid]

    def where(self, kind: Kind, fields: Mapping[str, Any]) -> list[Object]:
        """Objects of the kind with these values, as this transaction sees them, in the order of ids."""
        for name in fields:
            if name not in kind.fields:
                raise TypeError(f"kind {kind.name} has no field {name!r}")
        wanted = {name: value.ref if isinstance(value, Object) else value for name, value in fields.items()}
        found = {oid: one for oid in self._candidates(kind, wanted) if (one := self._seen(oid)) is not None}
        matching = []
        for oid in sorted(found):
            attributes = found[oid].__dict__
            if all(attributes.get(name, REQUIRED) == value for name, value in wanted.items()):
                one = self.get(oid)
                assert one is not None
                matching.append(one)
        return matching

    def _candidates(self, kind: Kind, wanted: Mapping[str, Any]) -> set[int]:
        index = self._store.index(kind) if kind.index or kind.unique else None
        lookups = [name for name in wanted if index is not None and name in index.fields]
        if index is None or not lookups:
            ids = set(self._store.of_kind(kind, self.partition))
        else:
            ids = set.intersection(
                *(set(index.holders(name, wanted[name], self.partition)) for name in lookups)
            )
        ids.update(oid for oid, (one, _) in self._touched.items() if type(one) is kind.cls)
        ids.update(oid for oid, (of, _) in self._created.items() if of is kind)
        return ids

    def _seen(self, oid: int) -> Object | None:
        """The object as it is now, without taking part in the transaction."""
        if oid in self._touched:
            return self._touched[oid][0]
        if oid in self._created:
            return self._created[oid][1]
        return None if oid in self._removed else self._store.live(oid)

    def _exists(self, oid: int) -> bool:
        return oid in self._created or (oid in self._store and oid not in self._removed)

    def _fresh_id(self) -> int:
        if self._id_mark is None:
            self._id_mark = self._store.mark_ids(self.partition)
        local, images = self._store.allocate(self.partition)
        self._id_images += images
        return object_id(self.partition, local)

    def _refuse_elsewhere(self, oid: int) -> None:
        raise WrongPartition(
            f"{format_oid(oid)} lives in partition {oid >> 48}, this call is a transaction over partition "
            f"{self.partition}; reach it with ctx.call"
        )

    # --- the end ---

    def finish(self) -> tuple[list[Image], bool]:
        """Check what was done and take it into the store: the images, and whether anything changed.

        ValueError or TypeError (kind and field named) for values that cannot be kept, ClientError
        `conflict` for a unique value that is taken; then nothing has changed and `roll_back` is due.
        """
        changes: list[tuple[Image, Kind, Object]] = []
        created = self._created
        changed = bool(created or self._removed)
        for oid, (one, before) in self._touched.items():
            if one._opened is None and one.__dict__ == before:
                continue
            kind = self._kind_of(one)
            kind.check(one, before)
            data = kind.pack(one)
            if data != self._stored(kind, oid):
                changes.append((Image(oid, kind.name, kind.schema, data), kind, one))
                changed = True
            elif kind.transients and _differs(one, before):
                changed = True
                self._store.changed_transients.add(oid)
        for oid, (kind, one) in created.items():
            kind.check(one, {})
            changes.append((Image(oid, kind.name, kind.schema, kind.pack(one)), kind, one))
        if not changed:
            self._close_containers()
            return self._id_images, False
        for _, kind, one in changes:
            if kind.unique:
                self._check_unique(kind, one)
        return self._apply(changes), True

    def _apply(self, changes: list[tuple[Image, Kind, Object]]) -> list[Image]:
        images = self._id_images
        store = self._store
        for oid in self._removed:
            if oid in self._created:
                continue
            former = store.image(oid)
            assert former is not None
            gone = Image(oid, former.kind, former.schema, None)
            store.keep(gone)
            images.append(gone)
        for image, kind, one in changes:
            assert image.data is not None
            if one._opened is not None or image.oid in self._created:
                # a list that was assigned may also be held by another object or by the plugin
                kind.reread(one, image.data)
            store.keep(image, one)
            images.append(image)
            if kind.transients:
                store.changed_transients.add(image.oid)
        self._close_containers()
        return images

    def _close_containers(self) -> None:
        for one, _ in self._touched.values():
            one._opened = None
        for _, one in self._created.values():
            one._opened = None

    def roll_back(self) -> None:
        """Give every object back what it had; forget what was made and removed."""
        for entries in (self._touched, self._removed):
            for oid, (one, before) in entries.items():
                opened = one._opened
                one.__dict__ = before
                if opened is not None:
                    self._restore(oid, one, opened)
        if self._id_mark is not None:
            self._store.reset_ids(self.partition, self._id_mark)

    def _restore(self, oid: int, one: Object, opened: dict[str, Any]) -> None:
        image = self._store.image(oid)
        assert image is not None
        kind = self._kind_of(one)
        fresh = kind.load(image).__dict__
        for name, copy in opened.items():
            one.__dict__[name] = fresh[name] if name in kind.containers else copy
        one._opened = None

    def _kind_of(self, one: Object) -> Kind:
        kind = self._kinds.by_class.get(type(one))
        if kind is None:
            names = ", ".join(map(repr, one.__dict__)) or "none"
            raise ValueError(
                f"object {format_oid(one.oid)} has no fields that can be written (found {names})"
            )
        return kind

    def _stored(self, kind: Kind, oid: int) -> bytes | None:
        image = self._store.image(oid)
        assert image is not None
        if image.kind == kind.name and image.schema == kind.schema:
            return image.data
        # reading alone does not write a migrated object: compare with what the stored one amounts to
        return kind.pack(kind.load(image))

    def _check_unique(self, kind: Kind, one: Object) -> None:
        index = self._store.index(kind)
        for name in kind.unique:
            value = one.__dict__[name]
            if value is None:
                continue
            others = set(index.holders(name, value, self.partition))
            others.update(oid for oid, (of, _) in self._created.items() if of is kind)
            others.update(oid for oid, (other, _) in self._touched.items() if type(other) is kind.cls)
            others.discard(one.oid)
            for oid in others:
                other = self._seen(oid)
                if other is not None and other.__dict__.get(name, REQUIRED) == value:
                    raise ClientError("conflict", f"{kind.name}: {name} {value!r} is taken")


def _differs(one: Object, before: Before) -> bool:
    """Whether a transient field is another now: the kept ones were found to be the same."""
    if one.__dict__ != before:
        return True
    return any(copy is not None and one.__dict__[name] != copy for name, copy in (one._opened or {}).items())
