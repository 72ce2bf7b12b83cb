"""A wheel of deadlines: one cheap note per connection instead of a loop timer for each.

Guards one rule: an idle client costs one look per keepalive interval and no memory of a timer. Pure;
times in seconds. A note is not taken back: whoever is looked at decides whether anything is due.
"""

from __future__ import annotations

from math import ceil
from typing import Final, Generic, TypeVar

K = TypeVar("K")

STEP_S: Final = 0.25
"""How late a deadline may be noticed. Every limit that is watched here is some seconds long."""

LOOKS_PER_TURN: Final = 512
"""Keys handed out at once, so that many connections of one moment do not hold the loop."""


class Deadlines(Generic[K]):
    """Keys by the step in which they are to be looked at."""

    __slots__ = ("_due", "_next", "_steps")

    def __init__(self, now: float) -> None:
        self._steps: dict[int, list[K]] = {}
        self._due: list[K] = []
        self._next = int(now / STEP_S)

    def at(self, key: K, when: float) -> None:
        """Look at `key` at `when` or up to STEP_S later."""
        step = max(ceil(when / STEP_S), self._next)
        keys = self._steps.get(step)
        if keys is None:
            self._steps[step] = [key]
        else:
            keys.append(key)

    def due(self, now: float) -> list[K]:
        """The next keys to look at, at most LOOKS_PER_TURN; `waiting` says whether there are more."""
        upto = int(now / STEP_S)
        while self._next <= upto:
            self._due.extend(self._steps.pop(self._next, ()))
            self._next += 1
        taken = self._due[:LOOKS_PER_TURN]
        del self._due[:LOOKS_PER_TURN]
        return taken

    @property
    def waiting(self) -> bool:
        """Whether keys are due that have not been handed out."""
        return bool(self._due)
