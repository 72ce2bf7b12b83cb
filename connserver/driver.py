"""Raw ZeroMQ sockets and turn-end flushing on an asyncio (uvloop) loop.

Guards two rules. The ZeroMQ descriptor is edge-triggered: whoever reads must drain until EAGAIN,
and look again after every send, or a message lies unseen for ever. And what a loop turn produced
leaves together, a burst over several turns too. Where much comes one by one it waits up to
FLUSH_DELAY_MS for more, because then wake-ups cost more than work; nowhere else, because a wait is a
wake-up of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import zmq

from connserver import sockets
from connserver.limits import FLUSH_DELAY_MS
from connserver.sockets import Sent, Socket

DRAIN_MESSAGES = 256
"""Messages read from one socket before others get their turn."""

BURST_GAP_S = 0.00006
"""What is marked so soon after another mark belongs to the same burst; reading one message takes as long."""

WORTH_A_WAIT = 3.0
"""Bursts within one delay from which on waiting for the next ones saves more than the timer costs; lower
where a flush is dear to others."""

WINDOW_DELAYS = 8
"""Bursts are counted over so many delays before it is decided anew whether to wait."""

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
                # when this is called there nearly always is a message, so the first is not asked for
                frames = None if self._closed else sockets.receive(self.socket)
                if frames is None:
                    is_drained = True
                    return
                self._on_message(frames)
                if self._closed or not self._is_readable():
                    is_drained = True
                    return
        finally:
            self._pending = False
            if not is_drained:
                self._look_again()


class Flush:
    """Calls `action` for all that was marked, as soon as a loop turn brings nothing more, but at most
    `delay_ms` after the first mark.

    While marks come in `worth_a_wait` bursts a delay or more, it is called once in `delay_ms` instead.
    """

    __slots__ = (
        "_action",
        "_bursts",
        "_by",
        "_clock",
        "_delay_s",
        "_heard",
        "_is_news",
        "_last",
        "_loop",
        "_marked",
        "_waits",
        "_window",
        "_worth_a_wait",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        action: Callable[[], None],
        delay_ms: float = FLUSH_DELAY_MS,
        worth_a_wait: float = WORTH_A_WAIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._action = action
        self._delay_s = delay_ms / 1000
        self._clock = clock  # uvloop's own stands still within a turn and counts in milliseconds
        self._last = self._window = self._heard = self._by = clock()
        self._worth_a_wait = worth_a_wait
        self._bursts = 0
        self._waits = False
        self._marked = False
        self._is_news = False

    def mark(self) -> None:
        """There is something to flush."""
        now = self._clock()
        if now - self._heard > BURST_GAP_S:
            self._bursts += 1
        self._heard = now
        self._is_news = True
        if self._marked:
            return
        self._marked = True
        self._by = now + self._delay_s
        if self._waits and self._last + self._delay_s > now:
            self._loop.call_later(self._last + self._delay_s - now, self._run)
        else:
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Flush unless the turn since the last look has brought something."""
        if self._is_news and self._clock() < self._by:
            self._is_news = False
            self._loop.call_soon(self._look)
        else:
            self._run()

    def _run(self) -> None:
        self._marked = False
        self._last = now = self._clock()
        passed = now - self._window
        if passed >= WINDOW_DELAYS * self._delay_s:
            self._waits = self._bursts * self._delay_s >= self._worth_a_wait * passed
            self._bursts, self._window = 0, now
        self._action()
