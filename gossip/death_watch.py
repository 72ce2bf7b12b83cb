"""Notices the death of processes that are not our children.

Guards one rule: a process is said to be dead once, and only when it is: a pidfd means one process for
ever, while a bare number may be given to another. Where the kernel has no pidfd, or none is left, the
number is looked at a few times a second; a number that was given anew then counts as still alive,
which delays but never doubles.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

POLL_S = 0.25


class DeathWatch:
    """`on_death(pid)` is called in the loop, also for a process that is dead already when named."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_death: Callable[[int], None], *, use_pidfd: bool = True
    ) -> None:
        self._loop = loop
        self._on_death = on_death
        self._open = getattr(os, "pidfd_open", None) if use_pidfd else None
        self._descriptors: dict[int, int] = {}
        self._polled: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, pid: int) -> None:
        """Begin to watch a process; again for one that is watched changes nothing."""
        if pid in self._descriptors or pid in self._polled:
            return
        descriptor = self._pidfd(pid)
        if descriptor is None:
            self._polled.add(pid)
            self._poll_soon(0.0)
        else:
            self._descriptors[pid] = descriptor
            self._loop.add_reader(descriptor, self._dead, pid)

    def unwatch(self, pid: int) -> None:
        """Stop watching a process."""
        self._polled.discard(pid)
        descriptor = self._descriptors.pop(pid, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Stop watching all."""
        for pid in [*self._descriptors, *self._polled]:
            self.unwatch(pid)
        if self._timer is not None:
            self._timer.cancel()

    def _pidfd(self, pid: int) -> int | None:
        if self._open is None:
            return None
        try:
            return int(self._open(pid))
        except OSError:  # no such process, no pidfd in this kernel, no descriptor left: the poll knows
            return None

    def _poll_soon(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._poll)

    def _poll(self) -> None:
        self._timer = None
        for pid in sorted(self._polled):
            if not _exists(pid):
                self._dead(pid)
        if self._polled:
            self._poll_soon(POLL_S)

    def _dead(self, pid: int) -> None:
        self.unwatch(pid)
        self._on_death(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
