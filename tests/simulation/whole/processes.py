"""A process of the whole world: an event loop in virtual time around shipped code, and how it dies.

Shipped shells run here as they are: what they ask of asyncio is answered by `Loop`, what they ask of the
operating system by `tests.simulation.whole.environment`. Guards determinism: a process does one thing at
a time, in the order of the world's events, and nothing of it happens while it is stopped or after its death.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.machines import Node
    from tests.simulation.whole.wires import Socket
    from tests.simulation.world import World

TURN_S = (1e-5, 1e-4)
"""From something to do to the turn of the loop that does it."""
THREAD_S = (0.0005, 0.01)
"""What a job in a thread takes."""
WALL_S = 1_750_000_000.0
"""When the world begins, in Unix seconds."""


class Process:
    """One life of a gossip process, worker or gateway."""

    current: Process | None = None
    """Whose code runs now."""

    def __init__(self, world: World, node: Node, name: str, pid: int) -> None:
        self.world, self.node, self.name, self.pid = world, node, name, pid
        self.alive = True
        self.paused_until = 0.0
        self.sockets: list[Socket] = []
        self.loop = Loop(self)

    @property
    def stopped_until(self) -> float:
        """It or its machine is stopped until then."""
        return max(self.paused_until, self.node.paused_until)

    def clock(self) -> float:
        """The machine's monotonic clock, in seconds."""
        return self.world.clock(self.node)

    def wall(self) -> float:
        """The machine's wall clock."""
        return WALL_S + self.world.now + self.node.offset / 4000

    def run(self, action: Callable[[], object]) -> None:
        """Execute something as this process."""
        before, Process.current = Process.current, self
        asyncio._set_running_loop(self.loop)
        try:
            action()
        finally:
            Process.current = before
            asyncio._set_running_loop(before.loop if before is not None else None)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after that."""
        self.paused_until = max(self.paused_until, self.world.now + seconds)

    def die(self) -> None:
        """SIGKILL, or the end of its main function."""
        if self.alive:
            self.alive = False
            for socket in list(self.sockets):
                socket.close()


class Loop(asyncio.AbstractEventLoop):
    """What asyncio, uvloop and the shells want of an event loop, without a thread or a descriptor."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._ready: deque[asyncio.Handle] = deque()
        self._awake = False
        self._readers: dict[int, Callable[[], None]] = {}

    def time(self) -> float:
        return self._process.clock()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    # --- callbacks ---

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._enter(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        seconds = max(0.0, when - self.time()) / self._process.node.rate
        self._world.after(seconds, lambda: self._enter(handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time comes."""

    def _enter(self, handle: asyncio.Handle) -> None:
        if handle.cancelled() or not self._process.alive:
            return
        self._ready.append(handle)
        if not self._awake:
            self._awake = True
            self._world.after(self._world.random.uniform(*TURN_S), self._turn)

    def _turn(self) -> None:
        process, world = self._process, self._world
        if process.alive and process.stopped_until > world.now:
            world.after(process.stopped_until - world.now + 1e-5, self._turn)
            return
        self._awake = False
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not process.alive:
                return
            if not handle.cancelled():
                process.run(handle._run)
        if self._ready and not self._awake:
            self._awake = True
            world.after(world.random.uniform(*TURN_S), self._turn)

    # --- futures, tasks, threads ---

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **named: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **named)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """The job is done at one moment, a little later."""
        future = self.create_future()

        def done() -> None:
            if future.done():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        def finish() -> None:
            if self._process.alive:
                self._process.run(done)

        self._world.after(self._world.random.uniform(*THREAD_S), finish)
        return future

    # --- descriptors, signals, errors ---

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        self._readers[fd] = lambda: callback(*args)

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def readable(self, fd: int) -> asyncio.Handle | None:
        """A descriptor has an edge: whoever reads it is called in the next turn."""
        reader = self._readers.get(fd)
        return self.call_soon(reader) if reader is not None else None

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """Orderly ends are asked for directly."""

    def remove_signal_handler(self, sig: int) -> bool:
        return True

    def set_exception_handler(self, handler: Any) -> None:
        """An error in a callback is never survived here."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback that raises ends the run: shells log it and go on, which hides bugs."""
        error = context.get("exception")
        if self._process.alive and error is not None:
            raise error
