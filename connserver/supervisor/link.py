"""Tells the gossip processes of this host what runs here, and hears from them where groups are placed.

Imported late: ZeroMQ is not needed before there is a gossip process to talk to.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from connserver import sockets, telemetry
from connserver.codec import decode, encode
from connserver.driver import Flush, Port
from connserver.errors import WireError
from connserver.messages import GetRoutes, ProcessRecord, ProcessTable, Routes
from connserver.supervisor.plan import STORAGE, Placement

if TYPE_CHECKING:
    from connserver.config import ClusterConfig, Places

REPEAT_S: Final = 1.0
"""A gossip process that is new learns the table within this time."""
CHANGE_DELAY_MS: Final = 20.0
"""Changes within this time travel together: at a start there are some sixty."""

QUESTION: Final = encode(GetRoutes(process="supervisor"))

STORAGE_STATES: Final = {"ready": "ok", "stopped": "unknown"}

log = telemetry.get_logger(__name__)


def storage_state(records: list[ProcessRecord]) -> dict[str, Any]:
    """What the storage process's record means for `status`: state ok, down or unknown."""
    found = next((record for record in records if record.role == STORAGE), None)
    if found is None:
        return {"state": "unknown", "error": ""}
    unsure = "down" if found.reason else "unknown"
    return {"state": STORAGE_STATES.get(found.state, unsure), "error": found.reason}


class GossipLink:
    """One connection to each local gossip process; sends on change and once a second."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: ClusterConfig,
        places: Places,
        records: Callable[[], list[ProcessRecord]],
        on_placement: Callable[[Placement], None],
    ) -> None:
        self._loop = loop
        self._records = records
        self._on_placement = on_placement
        self._host = socket.gethostname()
        self._context = sockets.context()
        identity = f"supervisor:{os.getpid()}".encode()
        self._ports = [
            Port(
                loop,
                sockets.dealer(self._context, identity, places.gossip_endpoint(node.name)),
                self._receive,
            )
            for node in config.host_nodes
        ]
        self._flush = Flush(loop, self._send, CHANGE_DELAY_MS)
        self._timer = loop.call_later(REPEAT_S, self._repeat)

    def changed(self) -> None:
        """The table is another one."""
        self._flush.mark()

    def close(self) -> None:
        """Let go of the sockets."""
        self._timer.cancel()
        for port in self._ports:
            port.close()
        self._ports.clear()
        self._context.term()

    def _repeat(self) -> None:
        self._timer = self._loop.call_later(REPEAT_S, self._repeat)
        self._send()

    def _send(self) -> None:
        records = self._records()
        table = encode(ProcessTable(host=self._host, processes=records, storage=storage_state(records)))
        for port in self._ports:
            # One that cannot be reached now gets the next one.
            port.send([table])
            port.send([QUESTION])

    def _receive(self, frames: list[bytes]) -> None:
        try:
            routes = decode(frames[-1])
        except WireError as error:
            log.warning("link.message_refused", reason=str(error))
            return
        placement = placement_of(routes) if isinstance(routes, Routes) else {}
        if placement:
            self._on_placement(placement)


def placement_of(routes: Routes) -> Placement:
    """The nodes of each group; nothing as long as any group's are not known."""
    placement = {entry.group: tuple(entry.replicas) for entry in routes.entries}
    return placement if all(placement.values()) else {}
