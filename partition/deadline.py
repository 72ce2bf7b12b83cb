"""The time limit of a callback: it is interrupted where it stands and its transaction rolled back.

Guards the group against a callback that loops or blocks. An interval timer signals the process's
main thread; the exception rises inside the callback only, never in the worker's own code. Code that
holds the interpreter (a C loop) cannot be interrupted so: it costs the worker, whose end `Watchdog`
brings about without the interpreter, and the request is a suspect.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Protocol

STUCK_S = 8.0
"""A worker whose loop has not turned for so long ends: far above a collection or a slow machine, and
twice it is below what a gateway waits for an answer."""

REARM_S = 1.0


class Watchdog:
    """Ends the process, with its traceback on standard error, when its loop does not turn any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on, until `close`."""
        faulthandler.dump_traceback_later(STUCK_S, exit=True, file=2)
        self._timer = self._loop.call_later(REARM_S, self.start)

    def close(self) -> None:
        """The loop may end."""
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()


class HandlerTimeout(BaseException):
    """Raised inside a callback that has run for too long; not an Exception, so that plugins do not
    catch it by accident."""


class Callback(Protocol):
    """A callback that runs: `started` by the clock of `time.perf_counter`."""

    @property
    def plugin(self) -> str: ...
    @property
    def started(self) -> float: ...


class Patience:
    """How long callbacks may run, by plugin, in seconds."""

    def __init__(self, by_plugin: Mapping[str, float], otherwise: float) -> None:
        self._by_plugin = dict(by_plugin)
        self._otherwise = otherwise

    @property
    def shortest(self) -> float:
        """So often whoever watches has to look."""
        return min(self._by_plugin.values(), default=self._otherwise)

    def is_over(self, running: Callback | None, now: float) -> bool:
        """Whether what runs has run for longer than its plugin may."""
        if running is None:
            return False
        return now - running.started >= self._by_plugin.get(running.plugin, self._otherwise)


class Deadline:
    """A context for executing one item. `overdue()` tells whether a callback runs now and is late."""

    def __init__(self, limit_s: float, overdue: Callable[[], bool]) -> None:
        self.limit_s = limit_s
        """So often it is looked; may be changed between two items."""
        self._overdue = overdue
        self._armed = threading.current_thread() is threading.main_thread()
        if self._armed:
            signal.signal(signal.SIGALRM, self._alarm)

    def __enter__(self) -> None:
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, self.limit_s, self.limit_s)

    def __exit__(self, *_: object) -> None:
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _alarm(self, _signal: int, _frame: FrameType | None) -> None:
        if self._overdue():
            raise HandlerTimeout
