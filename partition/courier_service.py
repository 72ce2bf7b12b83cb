"""Which couriers a primary has: one for each group it has something for, to that group's primary now.

Guards: a stream is opened when there is a first parcel and closed when there was none for a while,
so that many groups do not keep a full mesh alive; after a change of route everything unconfirmed
goes to the new primary.
"""

from __future__ import annotations

import asyncio

from connserver import sockets
from connserver.messages import RouteEntry
from connserver.routes import RouteTable
from partition.couriers import Courier, Done, Met, Waiting

TICK_S = 0.05

CONNECTING_TICK_S = 0.003
"""The same while a worker is being connected: somebody waits for the answer to a call."""

IDLE_S = 60.0


class CourierService:
    """Brings committed parcels to other groups."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        group: int,
        boot: int,
        routes: RouteTable,
        waiting: Waiting,
        done: Done,
        met: Met,
    ) -> None:
        self._loop = loop
        self._context = context
        self._group = group
        self._boot = boot
        self._routes = routes
        self._waiting = waiting
        self._done = done
        self._met = met
        self._couriers: dict[int, Courier] = {}
        self._used: dict[int, float] = {}
        self._wanted: set[int] = set()
        self._timer = loop.call_later(TICK_S, self._tick)

    def send(self, target: int, parcels: list[tuple[int, bytes]]) -> None:
        """Parcels that have just been committed."""
        self._used[target] = self._loop.time()
        if target not in self._couriers:
            self.open(target)
        courier = self._couriers.get(target)
        if courier is not None:
            courier.send(parcels)

    def open(self, target: int) -> None:
        """There is something for this group."""
        self._wanted.add(target)
        entry = self._routes.entry(target)
        if entry is not None and entry.state == "ready":
            self._connect(entry)

    def routed(self, entries: list[RouteEntry]) -> None:
        """Routes have changed."""
        for entry in entries:
            known = self._couriers.get(entry.group)
            if entry.group not in self._wanted or entry.state != "ready":
                continue
            same = known is not None and (known.route.grant, known.route.endpoint) == (
                entry.grant,
                entry.endpoint,
            )
            if not same:
                self._connect(entry)

    def close(self) -> None:
        """The worker serves no more."""
        self._timer.cancel()
        for courier in self._couriers.values():
            courier.close()

    def _connect(self, entry: RouteEntry) -> None:
        known = self._couriers.get(entry.group)
        if known is not None:
            known.close()
        self._used[entry.group] = self._loop.time()
        self._couriers[entry.group] = Courier(
            self._loop, self._context, self._group, self._boot, entry, self._waiting, self._done, self._met
        )
        self._tick_in(CONNECTING_TICK_S)

    def _tick(self) -> None:
        now = self._loop.time()
        for target, courier in list(self._couriers.items()):
            if now - self._used[target] > IDLE_S and not self._waiting(target):
                courier.close()
                del self._couriers[target]
                self._wanted.discard(target)
            else:
                courier.tick()
        if any(courier.connecting for courier in self._couriers.values()):
            self._tick_in(CONNECTING_TICK_S)
        else:
            self._tick_in(TICK_S if self._couriers else 10 * TICK_S)

    def _tick_in(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._tick)
