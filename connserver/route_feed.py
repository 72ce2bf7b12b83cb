"""Keeps a process's RouteTable true: subscribes to every gossip process and asks once for the rest.

Guards two rules: a dead local gossip process cannot leave a process with stale routes, so all nodes
are heard; and what was published before the subscription took hold is not missed, so a table is
asked for directly until one has come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from connserver import sockets
from connserver.codec import decode, encode
from connserver.driver import Port
from connserver.errors import WireError
from connserver.messages import GetRoutes, RouteEntry, Routes
from connserver.routes import RouteTable

if TYPE_CHECKING:
    from connserver.config import ClusterConfig, Places

ASK_AGAIN_S = 0.1
ROUTES_TOPIC = b"routes"


class RouteReader:
    """Reads tables; one that comes again, as each does every second, is not taken apart again."""

    def __init__(self, senders: int) -> None:
        self._senders = senders
        self._recent: dict[bytes, Routes] = {}

    def read(self, data: bytes) -> Routes | None:
        """The table in these bytes; None: they are something else."""
        routes = self._recent.get(data)
        if routes is not None:
            return routes
        try:
            routes = decode(data)
        except WireError:
            return None
        if not isinstance(routes, Routes):
            return None
        if len(self._recent) >= self._senders:
            del self._recent[next(iter(self._recent))]
        self._recent[data] = routes
        return routes


class RouteFeed:
    """`on_change(entries)` is called in the loop for every change of the table."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        config: ClusterConfig,
        places: Places,
        process: str,
        identity: bytes,
        on_change: Callable[[list[RouteEntry]], None],
    ) -> None:
        self.table = RouteTable(config.cluster.name, config.cluster.partition_groups)
        self._loop = loop
        self._process = process
        self._on_change = on_change
        self._reader = RouteReader(2 * len(config.nodes))
        self._ports: list[Port] = []
        self._asked: list[Port] = []
        for node in config.nodes:
            socket = sockets.subscriber(context, places.publish_endpoint(node.name), [ROUTES_TOPIC])
            self._ports.append(Port(loop, socket, self._published))
        for node in config.host_nodes:
            socket = sockets.dealer(context, identity, places.gossip_endpoint(node.name))
            self._asked.append(Port(loop, socket, self._answered))
        self._timer = loop.call_soon(self._ask)

    def close(self) -> None:
        """Stop listening."""
        self._timer.cancel()
        for port in [*self._ports, *self._asked]:
            port.close()

    def _ask(self) -> None:
        if self.table.complete:
            return
        for port in self._asked:
            port.send([encode(GetRoutes(self._process))])
        self._timer = self._loop.call_later(ASK_AGAIN_S, self._ask)

    def _published(self, frames: list[bytes]) -> None:
        if len(frames) == 2:
            self._merge(frames[1])

    def _answered(self, frames: list[bytes]) -> None:
        self._merge(frames[-1])

    def _merge(self, data: bytes) -> None:
        routes = self._reader.read(data)
        if routes is not None:
            changed = self.table.merge(routes, time.monotonic())
            if changed:
                self._on_change(changed)
