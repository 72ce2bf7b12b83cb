"""The primary's worker gives the group's state to workers that cannot read the archive."""

from __future__ import annotations

from connserver.codec import encode
from connserver.messages import GetSnapshot, Image
from partition.archive import Archiver
from partition.peers import Send
from partition.serving import Serving
from partition.snapshots import SnapshotGiver


class SnapshotService:
    """Answers GetSnapshot during one grant."""

    def __init__(self, group: int, era: int, serving: Serving, archiver: Archiver, send: Send) -> None:
        self._group = group
        self._era = era
        self._serving = serving
        self._archiver = archiver
        self._send = send
        self._giver = SnapshotGiver(group)

    def asked(self, identity: bytes, message: GetSnapshot, now: float) -> None:
        """Send the next part; the first when the state, as it is now, has committed."""
        if message.group != self._group:
            return
        answer = self._giver.asked(identity, message, now)
        if answer is True:
            self._serving.with_state(lambda op, images: self._first(identity, message, op, images))
        elif answer:
            self._send(identity, encode(answer))

    def _first(self, identity: bytes, message: GetSnapshot, op: int, images: list[Image]) -> None:
        archived = min(self._archiver.archived_op, op)
        part = self._giver.state(identity, message.asking, op, self._era, archived, images)
        if part is not None:
            self._send(identity, encode(part))
