"""What a failover leaves of transient fields: a snapshot of each changed object, now and then.

Guards: a change of a transient field costs no entry of its own; an object's snapshot is written at most
once in each round, and only if it says something new. What a snapshot holds may be some seconds old.
"""

from __future__ import annotations

import msgpack

from connserver.ids import partition_of
from connserver.limits import TRANSIENT_BYTES
from partition.ledger import Fields, Ledger
from partition.objects import Store

TRANSIENT = "cs.transient"


class Transients:
    """The snapshots of a group's objects, each an object beside the one it is of."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self._ledger = ledger
        self._store = store
        self._slots: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def load(self) -> None:
        """Give objects back what the last snapshots say, when they are next read."""
        for slot, kept in self._ledger.of_kind(TRANSIENT):
            self._slots[kept["of"]] = slot
            self._store.recall(kept["of"], kept["fields"])

    def forget_removed(self) -> None:
        """Remove the snapshots of objects that are gone."""
        for oid in [oid for oid in self._slots if oid not in self._store]:
            self._ledger.delete(self._slots.pop(oid), TRANSIENT)

    def keep(self, most: int, size: int) -> int:
        """Write snapshots of objects that changed, at most so many and until the turn has this size;
        how many more might have been written."""
        changed = self._store.changed_transients
        while changed and most > 0 and self._ledger.turn.size < size:
            most -= 1
            self._keep(changed.pop())
        return 0 if changed else most

    def _keep(self, oid: int) -> None:
        found = self._store.transients_of(oid)
        if found is None:
            return
        values, are_fresh = found
        slot = self._slots.get(oid)
        if slot is None and are_fresh:
            return
        fields: Fields = {"of": oid, "fields": values}
        if len(msgpack.packb(fields)) > TRANSIENT_BYTES:
            return
        if slot is None:
            slot = self._slots[oid] = self._ledger.allocate(partition_of(oid))
        elif self._ledger.read(slot, TRANSIENT) == fields:
            return
        self._ledger.write(slot, TRANSIENT, fields)

    def check_invariants(self) -> None:
        """Every snapshot is stored where it is listed."""
        for oid, slot in self._slots.items():
            kept = self._ledger.read(slot, TRANSIENT)
            assert kept is not None and kept["of"] == oid
