"""Calls between groups: dense numbers on the way out, one cursor per source on the way in.

Guards exactly-once between shards: a parcel's number is assigned in the source's own entry; the
target writes its cursor in the entry that holds the parcel's effects and takes only cursor + 1;
the source deletes a parcel by an entry of its own after the target's entry has committed.

A group whose log was lost begins with its archive and may have forgotten its last parcels. So each new
stream begins with the target's cursor, and with the first parcel the source has: what one side forgot is
skipped by the other, and numbers that were used before are not used again. Parcels wait for that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from connserver.ids import ObjectId, object_id
from partition.ledger import Fields, Ledger

PARCEL = "cs.parcel"
OUTBOX = "cs.outbox"
CURSOR = "cs.cursor"

OUTBOX_LOCAL = 0x1_0000
CURSOR_LOCAL = 0x2_0000
"""Where, in a group's first partition, the counters per other group are kept."""


@dataclass(slots=True)
class _Lane:
    """All parcels to one target group that it has not confirmed."""

    last: int = 0
    loaded: int = 0
    """Up to here numbers were given by an earlier life of the group."""
    met: bool = False
    """Whether the target has said its cursor in this life."""
    waiting: deque[tuple[int, int, bytes]] = field(default_factory=deque)


class Outbox:
    """The numbered traffic of one group with all others."""

    def __init__(self, ledger: Ledger, partition: int) -> None:
        self._ledger = ledger
        self._partition = partition
        self._lanes: dict[int, _Lane] = {}
        self._cursors: dict[int, int] = {}

    def load(self) -> None:
        """Find lanes, cursors and unconfirmed parcels again."""
        for _, kept in self._ledger.of_kind(OUTBOX):
            self._lanes[kept["target"]] = _Lane(kept["last"], kept["last"])
        for _, kept in self._ledger.of_kind(CURSOR):
            self._cursors[kept["source"]] = kept["number"]
        parcels = sorted(self._ledger.of_kind(PARCEL), key=lambda item: item[1]["number"])
        for oid, kept in parcels:
            self._lanes[kept["target"]].waiting.append((kept["number"], oid, kept["body"]))

    def send(self, target: int, body: bytes) -> None:
        """Give a parcel the next number of its lane, in this turn's entry."""
        lane = self._lanes.setdefault(target, _Lane())
        lane.last += 1
        oid = self._ledger.allocate(self._partition)
        self._write(target, lane.last, oid, body)
        lane.waiting.append((lane.last, oid, body))
        self._ledger.turn.parcel(target, lane.last, body)

    def _write(self, target: int, number: int, oid: int, body: bytes) -> None:
        fields: Fields = {"target": target, "number": number, "body": body}
        self._ledger.write(ObjectId(oid), PARCEL, fields)
        counter = object_id(self._partition, OUTBOX_LOCAL + target)
        self._ledger.write(counter, OUTBOX, {"target": target, "last": number})

    def met(self, target: int, cursor: int) -> bool:
        """A stream to the target begins: it has had everything up to its cursor, perhaps from an earlier
        life of ours that gave numbers which are forgotten here. What this life gave them to is new.

        Returns whether what waits got other numbers; under those it is sent again, as of this turn."""
        lane = self._lanes.setdefault(target, _Lane())
        anew = not lane.met and cursor > lane.loaded
        if not anew:
            self.confirmed(target, cursor)
        else:
            self.confirmed(target, lane.loaded)
            renumbered = [(cursor + place, row) for place, row in enumerate(lane.waiting, start=1)]
            lane.waiting = deque((number, oid, body) for number, (_, oid, body) in renumbered)
            for number, oid, body in lane.waiting:
                self._write(target, number, oid, body)
                self._ledger.turn.parcel(target, number, body)
            lane.last = cursor + len(lane.waiting)
        lane.met = True
        return anew

    def begins(self, source: int, number: int) -> int:
        """A stream of the source begins with this parcel: all before it were confirmed to it, so what
        is missing here was forgotten. Returns how many that were."""
        forgotten = max(0, number - 1 - self.cursor(source))
        if forgotten:
            self._cursors[source] = number - 1
        return forgotten

    def cursor(self, source: int) -> int:
        """The last parcel of a source that has taken effect here."""
        return self._cursors.get(source, 0)

    def waiting(self) -> list[tuple[int, int, bytes]]:
        """Everything unconfirmed, (target, number, body), to be sent again to a new grant."""
        return [
            (target, number, body)
            for target, lane in sorted(self._lanes.items())
            for number, _, body in lane.waiting
        ]

    def confirmed(self, target: int, upto: int) -> None:
        """The target has committed everything up to this number."""
        lane = self._lanes.get(target)
        while lane is not None and lane.waiting and lane.waiting[0][0] <= upto:
            _, oid, _ = lane.waiting.popleft()
            self._ledger.delete(oid, PARCEL)

    def accept(self, source: int, number: int) -> bool:
        """Whether this parcel is the next of its source; if so its number is taken in this entry."""
        cursor = self._cursors.get(source, 0)
        if number <= cursor:
            self._ledger.turn.done(source, cursor)
            return False
        if number != cursor + 1:
            return False
        self._cursors[source] = number
        self._ledger.write(
            object_id(self._partition, CURSOR_LOCAL + source), CURSOR, {"source": source, "number": number}
        )
        self._ledger.turn.done(source, number)
        return True

    def check_invariants(self) -> None:
        """Unconfirmed numbers of a lane are dense and end at its last."""
        for lane in self._lanes.values():
            numbers = [number for number, _, _ in lane.waiting]
            assert numbers == list(range(lane.last - len(numbers) + 1, lane.last + 1)), numbers
