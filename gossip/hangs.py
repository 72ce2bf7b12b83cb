"""Which workers hang: they hold a grant, and their loop has not come round for too long.

Guards one rule: a worker is given up for its own silence only. Progress is a number in shared memory
that a worker raises by itself, so no message can be late; and a look that is itself late (this process
or the whole machine stood still) begins the wait anew. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

HANG_S = 2.0
"""A worker's loop comes round four times a second when idle, and a callback may take its timeout."""
LOOK_S = 0.25
LATE_S = 0.5
"""A look that comes so much later than the last says nothing about workers."""


@dataclass(slots=True)
class _Watched:
    pid: int
    progress: int
    since: float


class Hangs:
    """`look` is called every LOOK_S with the progress of every worker that holds a grant."""

    def __init__(self, now: float) -> None:
        self._watched: dict[int, _Watched] = {}
        self._looked = now

    def look(self, progress: dict[int, tuple[int, int]], now: float) -> list[tuple[int, int]]:
        """`progress` by group: (pid, number). The (group, pid) of workers to be killed."""
        late = now - self._looked > LATE_S
        self._looked = now
        hanging = []
        for group in self._watched.keys() - progress.keys():
            del self._watched[group]
        for group, (pid, number) in progress.items():
            known = self._watched.get(group)
            if known is None or late or (known.pid, known.progress) != (pid, number):
                self._watched[group] = _Watched(pid, number, now)
            elif now - known.since >= HANG_S:
                hanging.append((group, pid))
                known.since = now
        return hanging
