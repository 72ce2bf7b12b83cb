"""The streams that this worker opens to others, to bring them its parcels.

Guards: everything unconfirmed is sent again, in order, to whoever is the target group's primary
now; the target's cursor drops what it has already had.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from connserver import sockets
from connserver.codec import decode, encode
from connserver.driver import Port
from connserver.errors import WireError
from connserver.messages import (
    OpenStream,
    Parcels,
    ParcelsDone,
    RouteEntry,
    StreamAck,
    StreamOpened,
    StreamProbe,
    StreamResend,
    WrongGrant,
)
from connserver.sockets import Sent
from connserver.stream import Duplex

OPEN_AGAIN_S = 0.2
CONNECTING_S = 1.0
"""A worker that is there is connected by then."""
GREET_S = 1.0
PARCELS_AT_ONCE = 512
"""Parcels in one message, so that a long outage is not one huge message at its end."""

VOLATILE_WAITING = 1_024
"""Volatile parcels that wait for a stream to begin; of more the oldest are lost."""

Waiting = Callable[[int], list[tuple[int, bytes]]]
Done = Callable[[int, int], None]
Met = Callable[[int, int], None]
"""A stream to this group has begun, and it has had our parcels up to this number."""


class Courier:
    """The stream to one target group's primary."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        group: int,
        boot: int,
        route: RouteEntry,
        waiting: Waiting,
        done: Done,
        met: Met,
    ) -> None:
        self.route = route
        self._loop = loop
        self._group = group
        self._boot = boot
        self._waiting = waiting
        self._done = done
        self._met = met
        self._duplex: Duplex | None = None
        self._is_met = False
        self._volatile: deque[tuple[int, bytes]] = deque(maxlen=VOLATILE_WAITING)
        self._asked = float("-inf")
        self._began = loop.time()
        self._greeted = 0.0
        identity = b"group:%d:%x:%x" % (group, boot, route.grant)
        self._port = Port(loop, sockets.dealer(context, identity, route.endpoint), self._received)
        self.tick()

    def send(self, parcels: list[tuple[int, bytes]]) -> None:
        """Bring committed parcels; before the other side has said its cursor they wait in the outbox,
        and volatile ones, which are in none, here."""
        if self._duplex is None or not self._is_met:
            self._volatile.extend(parcel for parcel in parcels if not parcel[0])
            return
        for start in range(0, len(parcels), PARCELS_AT_ONCE):
            part = parcels[start : start + PARCELS_AT_ONCE]
            numbers, bodies = [number for number, _ in part], [body for _, body in part]
            within = self._duplex.post(
                lambda number, acked, numbers=numbers, bodies=bodies: Parcels(  # type: ignore[misc]
                    self.route.grant, number, acked, self._group, numbers, bodies
                ),
                self._loop.time(),
            )
            if not within:
                self._duplex = None
                return

    @property
    def connecting(self) -> bool:
        """Whether the stream is not asked for yet, because there is no connection; not for long."""
        now = self._loop.time()
        return self._duplex is None and now - self._asked >= OPEN_AGAIN_S and now - self._began < CONNECTING_S

    def tick(self) -> None:
        """Open the stream if it is not; acknowledge and probe if it is."""
        now = self._loop.time()
        if self._duplex is None:
            if now - self._asked >= OPEN_AGAIN_S:
                opening = OpenStream(f"group:{self._group}", self._boot, self.route.grant, 0)
                if self._port.send([encode(opening)]) is Sent.YES:
                    self._asked = now
            return
        greet = now - self._greeted >= GREET_S
        if greet:
            self._greeted = now
        self._duplex.tick(now, greet=greet)

    def close(self) -> None:
        """The route has changed or the worker stops."""
        self._port.close()

    def _received(self, frames: list[bytes]) -> None:
        try:
            message = decode(frames[-1])
        except WireError:
            return
        now = self._loop.time()
        if isinstance(message, WrongGrant):
            self._duplex = None
        elif getattr(message, "grant", None) != self.route.grant:
            return
        elif isinstance(message, StreamOpened):
            if self._duplex is None:
                self._duplex = Duplex(self.route.grant, lambda data: self._port.send([data]), now)
                self._is_met = False
        elif self._duplex is None:
            return
        elif isinstance(message, ParcelsDone):
            if self._duplex.accept(message.number, message.acked, now):
                self._confirmed(message)
        elif isinstance(message, StreamAck | StreamProbe | StreamResend):
            self._duplex.control(message, now)

    def _confirmed(self, message: ParcelsDone) -> None:
        if self._is_met:
            self._done(message.target, message.upto)
            return
        self._met(message.target, message.upto)
        # the stream begins with the first that waits; what commits from now on follows it
        self._is_met = True
        volatile, self._volatile = list(self._volatile), deque(maxlen=VOLATILE_WAITING)
        self.send([*self._waiting(self.route.group), *volatile])
