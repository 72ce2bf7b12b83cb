"""Blocking work of plugins, in threads; its result comes back as an internal call.

Guards the group's one thread of execution: what waits for a disk or another server waits here. The
number of jobs is bounded; one more is answered `overloaded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from connserver.errors import ClientError
from connserver.limits import BACKGROUND_JOBS, BACKGROUND_THREADS
from connserver.model import Value
from partition.effects import Background, Caller

Returned = Callable[[Background, Caller, Value, ClientError | None], None]


class BackgroundWork:
    """Runs `Background` effects and hands back what they returned, in the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        functions: Mapping[str, Callable[..., Value]],
        returned: Returned,
        on_incident: Callable[[str, BaseException], str],
    ) -> None:
        self.functions = functions
        """By full name; replaced when the plugins are."""
        self._loop = loop
        self._returned = returned
        self._on_incident = on_incident
        self._jobs = 0
        self._threads: ThreadPoolExecutor | None = None

    def start(self, work: Background, caller: Caller) -> None:
        """Run it as soon as a thread is free, by the function that is attached now."""
        function = self.functions.get(work.function)
        if function is None:
            error = ClientError("unknown_method", f"there is no background function {work.function}")
            self._loop.call_soon(self._returned, work, caller, None, error)
            return
        if self._jobs >= BACKGROUND_JOBS:
            error = ClientError("overloaded", f"{BACKGROUND_JOBS} background jobs wait already")
            self._loop.call_soon(self._returned, work, caller, None, error)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(BACKGROUND_THREADS, "background")
        self._jobs += 1
        self._threads.submit(self._run, function, work, caller)

    def stop(self) -> None:
        """Forget what has not begun."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, function: Callable[..., Value], work: Background, caller: Caller) -> None:
        value: Value = None
        error: ClientError | None = None
        try:
            value = function(**work.arguments)
        except ClientError as refusal:
            error = refusal
        except Exception as failure:
            incident = self._on_incident(work.function, failure)
            error = ClientError("plugin_error", f"{work.function} failed", incident=incident)
        self._loop.call_soon_threadsafe(self._back, work, caller, value, error)

    def _back(self, work: Background, caller: Caller, value: Value, error: ClientError | None) -> None:
        self._jobs -= 1
        self._returned(work, caller, value, error)
