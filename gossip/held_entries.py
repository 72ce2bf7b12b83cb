"""Committed entries on their way to workers that only follow, gathered for a moment.

A backup's worker that is told of each entry on its own wakes as often as the primary's, on two nodes for
every operation; nobody waits for what it does. Guards two rules: what a worker hears keeps its order, so
anything else for it takes along what is held; and what is held is bounded, in time by whoever calls
`due` and in bytes here. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connserver.messages import Deliver

HELD_S = 0.05
"""Entries wait at most so long: the worker that takes over has that much more to apply, a few dozen
entries, which takes less than a millisecond."""
HELD_BYTES = 1 << 20
"""Payload of one worker above which it is told at once."""


@dataclass(slots=True)
class Held:
    """Entries of one worker, dense."""

    message: Deliver
    bytes: int
    since: float

    def takes(self, message: Deliver) -> bool:
        """Whether these entries follow those."""
        mine = self.message
        follows = mine.first_op + len(mine.payloads) == message.first_op
        return follows and (mine.group, mine.era) == (message.group, message.era)


class HeldEntries:
    """By the identity of the worker."""

    def __init__(self) -> None:
        self._held: dict[bytes, Held] = {}

    def tell(self, identity: bytes, message: Any, now: float) -> list[Any]:
        """What to tell this worker now, in order; entries are kept for `due`."""
        if type(message) is not Deliver:
            return [*self._take(identity), message]
        held, before = self._held.get(identity), []
        if held is None or not held.takes(message):
            before = self._take(identity)
            held = self._held[identity] = Held(
                Deliver(message.group, message.era, message.first_op, []), 0, now
            )
        held.message.payloads.extend(message.payloads)
        held.bytes += sum(map(len, message.payloads))
        if held.bytes > HELD_BYTES:
            return [*before, *self._take(identity)]
        return before

    def due(self, now: float) -> list[tuple[bytes, Deliver]]:
        """What has been held for long enough."""
        due = [identity for identity, held in self._held.items() if now - held.since >= HELD_S]
        return [(identity, self._held.pop(identity).message) for identity in due]

    def _take(self, identity: bytes) -> list[Any]:
        held = self._held.pop(identity, None)
        return [held.message] if held is not None else []

    def check_invariants(self) -> None:
        """The sizes are those of the payloads, and within the bound."""
        for held in self._held.values():
            assert held.bytes == sum(map(len, held.message.payloads)) <= HELD_BYTES
            assert held.message.payloads
