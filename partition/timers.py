"""Durable timers on objects: set in one entry, fired in another, whatever dies in between."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from connserver.ids import partition_of
from connserver.model import Message
from partition.effects import SetTimer
from partition.ledger import Ledger

TIMER = "cs.timer"


@dataclass(frozen=True, slots=True)
class Timer:
    """`method` of the object `target` runs at `due` (Unix seconds) with `arguments`."""

    oid: int
    target: int
    name: str
    method: str
    due: float
    arguments: Message


class Timers:
    """All timers of a group's objects. A timer of the same object and name replaces the former."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_name: dict[tuple[int, str], Timer] = {}
        self._queue: list[tuple[float, int]] = []
        self._by_oid: dict[int, Timer] = {}
        self._held: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._by_oid)

    def load(self) -> None:
        """Find the timers of the group again."""
        for oid, kept in self._ledger.of_kind(TIMER):
            self._enter(
                Timer(oid, kept["target"], kept["name"], kept["method"], kept["due"], kept["arguments"])
            )

    def apply(self, change: SetTimer) -> None:
        """Set, replace or cancel."""
        former = self._by_name.get((change.oid, change.name))
        if change.cancel:
            if former:
                self._remove(former)
            return
        oid = former.oid if former else self._ledger.allocate(partition_of(change.oid))
        timer = Timer(oid, change.oid, change.name, change.method, change.due, change.arguments)
        self._ledger.write(
            oid,
            TIMER,
            {
                "target": timer.target,
                "name": timer.name,
                "method": timer.method,
                "due": timer.due,
                "arguments": timer.arguments,
            },
        )
        self._enter(timer)

    def soon(self, now: float) -> bool:
        """Whether a timer may fire within the next half second."""
        return bool(self._queue) and self._queue[0][0] <= now + 0.5

    def due(self, now: float, may_run: Callable[[Timer], bool]) -> list[Timer]:
        """Timers whose time has come, removed; what they run belongs to the same entry.

        One that may not run stays, and comes again after `release`.
        """
        fired = []
        while self._queue and self._queue[0][0] <= now:
            due, oid = heapq.heappop(self._queue)
            timer = self._by_oid.get(oid)
            if timer is None or timer.due != due:
                continue
            if may_run(timer):
                self._remove(timer)
                fired.append(timer)
            else:
                self._held.append((due, oid))
        return fired

    def release(self) -> None:
        """Other plugins are attached now: those that were held come again."""
        for entry in self._held:
            heapq.heappush(self._queue, entry)
        self._held.clear()

    @property
    def held(self) -> list[Timer]:
        """Overdue timers that may not run."""
        found = ((due, self._by_oid.get(oid)) for due, oid in self._held)
        return [timer for due, timer in found if timer is not None and timer.due == due]

    def _enter(self, timer: Timer) -> None:
        self._by_name[timer.target, timer.name] = timer
        self._by_oid[timer.oid] = timer
        heapq.heappush(self._queue, (timer.due, timer.oid))

    def _remove(self, timer: Timer) -> None:
        del self._by_name[timer.target, timer.name]
        del self._by_oid[timer.oid]
        self._ledger.delete(timer.oid, TIMER)
