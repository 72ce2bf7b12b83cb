"""A group's state from one worker to another, for when PostgreSQL cannot be read.

Guards two rules. What is given is committed: the images of one op, handed out after that op is safe.
And nobody needs memory for more than a part: parts go out one by one as they are asked for, and the
primary keeps references to images it has anyway. Pure; times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from connserver.messages import GetSnapshot, Image, SnapshotPart
from partition.archive_images import image_size

PART_BYTES = 1 << 20
"""Images in one part (at least one)."""

GIVEN_AT_ONCE = 4
"""Snapshots handed out at a time: the other replicas of the group, and some that died meanwhile."""

GIVEN_FOR_S = 30.0
"""Silence after which whoever asked is taken for dead."""

ASK_AGAIN_S = 0.5
"""Before a part that did not come is asked for again."""

GIVE_UP_S = 5.0
"""Silence of the giver after which everything is begun anew."""


@dataclass(slots=True)
class _Giving:
    """One snapshot on its way; the part that was sent last is kept to be sent again."""

    asking: int
    asked_at: float
    op: int = 0
    era: int = 0
    archived: int = 0
    images: list[Image] = field(default_factory=list)
    next_image: int = 0
    sent: SnapshotPart | None = None
    ready: bool = False


class SnapshotGiver:
    """The primary's side, by who asks (their identity on the socket)."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._giving: dict[bytes, _Giving] = {}

    def asked(self, identity: bytes, message: GetSnapshot, now: float) -> SnapshotPart | bool:
        """The part to send; True: the state is wanted first, bring it by `state`; False: nothing now."""
        for old in [one for one, giving in self._giving.items() if now - giving.asked_at > GIVEN_FOR_S]:
            del self._giving[old]
        giving = self._giving.get(identity)
        if giving is None or giving.asking != message.asking:
            if message.part or (giving is None and len(self._giving) >= GIVEN_AT_ONCE):
                return False
            self._giving[identity] = _Giving(message.asking, now)
            return True
        giving.asked_at = now
        if not giving.ready:
            return False
        sent = giving.sent
        if sent is not None and message.part == sent.part:
            return sent
        if message.part != (0 if sent is None else sent.part + 1) or (sent is not None and sent.last):
            return False
        return self._next_part(giving, message.part)

    def state(
        self, identity: bytes, asking: int, op: int, era: int, archived: int, images: list[Image]
    ) -> SnapshotPart | None:
        """The committed state for somebody who asked; the first part to send."""
        giving = self._giving.get(identity)
        if giving is None or giving.asking != asking or giving.ready:
            return None
        giving.op, giving.era, giving.archived, giving.images = op, era, archived, images
        giving.ready = True
        return self._next_part(giving, 0)

    def _next_part(self, giving: _Giving, part: int) -> SnapshotPart:
        first, size, after = giving.next_image, 0, giving.next_image
        while after < len(giving.images) and size < PART_BYTES:
            size += image_size(giving.images[after])
            after += 1
        giving.next_image = after
        last = after == len(giving.images)
        images = giving.images[first:after]
        giving.sent = SnapshotPart(
            self._group, giving.asking, part, giving.op, giving.era, giving.archived, images, last
        )
        if last:
            giving.images = []
        return giving.sent

    def forget(self) -> None:
        """This worker is not primary any more."""
        self._giving.clear()


class SnapshotTaker:
    """The other side: one wish, until everything is there or the giver is silent."""

    def __init__(self, group: int, asking: int, now: float) -> None:
        self.op = self.era = self.archived = 0
        self.images: list[Image] = []
        self.done = False
        self._group = group
        self._asking = asking
        self._part = 0
        self._heard_at = now
        self._asked_at = float("-inf")

    def tick(self, now: float) -> GetSnapshot | None:
        """What to ask now."""
        if self.done or now - self._asked_at < ASK_AGAIN_S:
            return None
        self._asked_at = now
        return GetSnapshot(self._group, self._asking, self._part)

    def take(self, part: SnapshotPart, now: float) -> GetSnapshot | None:
        """A part has come; what to ask next. Parts of other wishes and repeats are dropped."""
        if self.done or (part.group, part.asking, part.part) != (self._group, self._asking, self._part):
            return None
        self._heard_at = now
        self.op, self.era, self.archived = part.op, part.era, part.archived
        self.images += part.images
        self._part += 1
        self.done = part.last
        return None if self.done else self.ask(now)

    def ask(self, now: float) -> GetSnapshot:
        """The next part is wanted now."""
        self._asked_at = now
        return GetSnapshot(self._group, self._asking, self._part)

    def given_up(self, now: float) -> bool:
        """Whether the giver has been silent for too long."""
        return not self.done and now - self._heard_at > GIVE_UP_S
