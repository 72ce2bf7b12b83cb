"""Raw ZeroMQ sockets and turn-end flushing on an asyncio (uvloop) loop.

Guards two rules. The ZeroMQ descriptor is edge-triggered: whoever reads must drain until EAGAIN,
and look again after every send, or a message lies unseen for ever. And what a loop turn produced
leaves together: at once when the loop is idle, within FLUSH_DELAY_MS when it is not, because at
moderate load wake-ups cost more than work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from connserver import sockets
from connserver.limits import FLUSH_DELAY_MS
from connserver.sockets import Sent, Socket

DRAIN_MESSAGES = 256
"""Messages read from one socket before others get their turn."""

_EVENTS, _POLLIN = zmq.EVENTS, int(zmq.POLLIN)


def run(main: Callable[[asyncio.AbstractEventLoop], asyncio.Future[None]]) -> None:
    """Run a process's loop (uvloop where there is one) until the future `main` returns is done."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main(loop))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed; the stock loop costs about three times as much."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Port:
    """One ZeroMQ socket on the loop: `on_message(frames)` for each message that arrives."""

    __slots__ = ("_closed", "_descriptor", "_loop", "_on_message", "_pending", "socket")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: Socket, on_message: Callable[[list[bytes]], None]
    ) -> None:
        self.socket = socket
        self._loop = loop
        self._on_message = on_message
        self._pending = False
        self._closed = False
        self._descriptor = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._descriptor, self._drain)
        self._look_again()

    def send(self, frames: list[bytes]) -> Sent:
        """Send without blocking. A send may swallow the read edge, so a look follows."""
        if self._closed:
            return Sent.UNREACHABLE
        outcome = sockets.send(self.socket, frames)
        if not self._pending and self._is_readable():
            self._look_again()
        return outcome

    def close(self) -> None:
        """Stop reading and close the socket; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self.socket.close()

    def _is_readable(self) -> bool:
        # asking first costs a quarter of the exception that reading from an empty socket raises
        return bool(int(self.socket.get(_EVENTS)) & _POLLIN)

    def _look_again(self) -> None:
        if not self._pending and not self._closed:
            self._pending = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._pending = True  # what is sent meanwhile needs no look of its own
        is_drained = False
        try:
            for _ in range(DRAIN_MESSAGES):
                if self._closed or not self._is_readable():
                    is_drained = True
                    return
                frames = sockets.receive(self.socket)
                if frames is not None:
                    self._on_message(frames)
        finally:
            self._pending = False
            if not is_drained:
                self._look_again()


class Flush:
    """Calls `action` once for all that was marked in a loop turn."""

    __slots__ = ("_action", "_delay_s", "_last", "_loop", "_marked")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        action: Callable[[], None],
        delay_ms: float = FLUSH_DELAY_MS,
    ) -> None:
        self._loop = loop
        self._action = action
        self._delay_s = delay_ms / 1000
        self._last = 0.0
        self._marked = False

    def mark(self) -> None:
        """There is something to flush."""
        if self._marked:
            return
        self._marked = True
        wait = self._last + self._delay_s - self._loop.time()
        if wait <= 0:
            self._loop.call_soon(self._run)
        else:
            self._loop.call_later(wait, self._run)

    def _run(self) -> None:
        self._marked = False
        self._last = self._loop.time()
        self._action()
