"""A replica's state while somebody else executes: committed entries are applied as they come.

Guards the rule that the state is that after exactly `applied` ops: entries come dense, one that is
known already changes nothing but what is kept for gateways, and after a gap the log is asked again
from where it broke off. Retained outputs and suspects are parts of the state. Pure.
"""

from __future__ import annotations

from typing import Protocol

from connserver.codec import decode
from connserver.errors import WireError
from connserver.messages import Deliver, Entry, Image
from partition import suspects
from partition.objects import Store
from partition.retained import Retained


class Archive(Protocol):
    """The archiver's side that collects committed images."""

    def add(self, op: int, images: list[Image]) -> None: ...


class Backup:
    """The group's state between loading and the grant, and again after the grant.

    `applied`: the op whose state `store` is; `after`: entries up to here have been seen since the
    outputs of the log's beginning (0: none yet).
    """

    def __init__(self, store: Store, first_partition: int, era: int, applied: int, archive: Archive) -> None:
        self.store = store
        self.era = era
        self.applied = applied
        self.after = 0
        self.retained = Retained()
        self._first_partition = first_partition
        self._archive = archive

    def deliver(self, message: Deliver) -> bool:
        """Committed entries; False: some before them are missing. ValueError: this is no log of ours."""
        if message.era != self.era:
            return True
        # the log begins where it was truncated, at or below the state that was loaded
        next_op = self.after + 1 if self.after else self.applied + 1
        if message.first_op > next_op:
            return False
        for op, payload in enumerate(message.payloads, start=message.first_op):
            if op > self.after:
                self._take(op, payload)
                self.after = op
        return True

    def _take(self, op: int, payload: bytes) -> None:
        try:
            entry = decode(payload)
        except WireError as error:
            raise ValueError(f"entry {op} of the log cannot be read: {error}") from None
        if not isinstance(entry, Entry):
            raise ValueError(f"entry {op} of the log is no Entry")
        self.retained.add(op, entry.outputs)
        self.retained.received(entry.received)
        if op <= self.applied:
            return
        put = self.store.put
        for image in entry.images:
            put(image)
        images = entry.images
        if entry.suspects:
            counted = suspects.count(self.store, self._first_partition, entry.suspects, op)
            images = [*images, *counted]
        self._archive.add(op, images)
        self.applied = op

    def resume(self, commit: int) -> None:
        """This worker was primary until now; its state and outputs are those after `commit`."""
        self.applied = self.after = commit

    def check_invariants(self) -> None:
        """Once entries have come, what was seen reaches up to the state or is on the way there."""
        self.retained.check_invariants()
        assert self.applied >= 0 and self.after >= 0
