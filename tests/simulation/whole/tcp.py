"""A client's TCP connection to a simulated gateway: bytes in order, both ways, until one side ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.whole.processes import Process

DELAY_S = (1e-4, 2e-3)
RESET_S = (0.001, 0.1)


class Connection(asyncio.Transport):
    """To the gateway an asyncio transport; to the client `send`, `drop` and what it is called back with."""

    def __init__(self, process: Process, received: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        super().__init__({"peername": ("10.0.0.1", 1)})
        self._process, self._world = process, process.world
        self._received, self._lost = received, lost
        self._protocol: Any = None
        self._closing = self._dropped = self._reset = False
        self._reading = True
        self._waiting: list[bytes] = []
        self._to_client = self._to_gateway = 0.0

    def open(self, protocol: Any) -> None:
        """The gateway accepts it."""
        self._protocol = protocol
        self._enter(lambda: protocol.connection_made(self))

    # --- the client's side ---

    def send(self, data: bytes) -> None:
        """Bytes of the client."""
        self._to_gateway = max(self._to_gateway, self._world.now + self._world.random.uniform(*DELAY_S))
        self._enter(lambda: self._feed(data), self._to_gateway - self._world.now)

    def drop(self) -> None:
        """The client is gone, without another word."""
        if not self._dropped:
            self._dropped = True
            self._enter(self._over, self._world.random.uniform(*RESET_S))

    def reset(self) -> None:
        """The gateway is dead."""
        self._reset = True
        self._world.after(self._world.random.uniform(*RESET_S), self._tell_lost)

    def _tell_lost(self) -> None:
        if not self._dropped:
            self._dropped = True
            self._lost()

    # --- the gateway's side ---

    def _enter(self, action: Callable[[], None], seconds: float = 0.0) -> None:
        def arrive() -> None:
            if self._process.alive:
                self._process.loop.call_soon(action)

        if seconds > 0:
            self._world.after(seconds, arrive)
        else:
            arrive()

    def _feed(self, data: bytes) -> None:
        if self._protocol is None:
            return
        if self._reading and not self._waiting:
            self._protocol.data_received(data)
        else:
            self._waiting.append(data)

    def _feed_waiting(self) -> None:
        while self._waiting and self._reading and self._protocol is not None:
            self._protocol.data_received(self._waiting.pop(0))

    def _over(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self._closing = True
            protocol.connection_lost(None)

    def write(self, data: Any) -> None:
        if self._closing:
            return
        self._to_client = max(self._to_client, self._world.now + self._world.random.uniform(*DELAY_S))
        self._world.after(self._to_client - self._world.now, lambda: self._arrive(bytes(data)))

    def _arrive(self, data: bytes) -> None:
        if not self._dropped and not self._reset:
            self._received(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._process.loop.call_soon(self._over)
            wait = max(self._to_client - self._world.now, 0.0) + 1e-4
            self._world.after(wait, self._tell_lost)

    def abort(self) -> None:
        self.close()

    def write_eof(self) -> None:
        """The client closes when it has read everything."""
        wait = max(self._to_client - self._world.now, 0.0) + 1e-4
        self._world.after(wait, lambda: self._enter(self._over))
        self._world.after(wait, self._tell_lost)

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._process.loop.call_soon(self._feed_waiting)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The kernel takes everything."""
