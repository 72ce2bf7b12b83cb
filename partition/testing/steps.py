"""Steps: the commits of a `TestWorld`, each a place where a worker can die.

Guards the rule that a step has a name which says what it did, so that a test that fails says where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from partition.dispatch import Dispatcher
from partition.effects import Outcome
from partition.table import Method


@dataclass(frozen=True, slots=True)
class Step:
    """One commit of one partition group.

    `number`: counted from 1, over all groups. `causes`: the callbacks whose changes it holds, in
    order ("trade.buy", "world.hand_over"); where none ran, what else happened ("login",
    "room.send", "confirmed": another group has what was sent to it).
    """

    number: int
    group: int
    causes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first of its causes."""
        return self.causes[0]

    def __str__(self) -> str:
        return f"step {self.number}, {' and '.join(self.causes)}, of group {self.group}"


@dataclass(slots=True)
class Causes:
    """What has happened at one group since its last commit."""

    callbacks: list[str]
    others: list[str]

    @classmethod
    def none(cls) -> Causes:
        """Nothing so far."""
        return cls([], [])

    def take(self) -> tuple[str, ...]:
        """What the commit is made of; the next begins with nothing."""
        found = self.callbacks or self.others or ["confirmed"]
        self.callbacks, self.others = [], []
        return tuple(dict.fromkeys(found))


class NotingDispatcher(Dispatcher):
    """A dispatcher that says which callbacks ran."""

    def __init__(self, causes: Causes, *positional: Any, **named: Any) -> None:
        self._causes = causes
        super().__init__(*positional, **named)

    def _run(self, method: Method, *positional: Any, **named: Any) -> Outcome:
        self._causes.callbacks.append(method.name)
        return super()._run(method, *positional, **named)
