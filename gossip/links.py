"""The sockets between gossip processes: a mesh of PUB/SUB, and a DEALER to each one's ROUTER.

Guards two rules. Whatever is said directly goes over the own connection to the peer, or back over the
peer's when that is the one that stands, so one blocked direction does not cut the answer off. And a
silent peer's sockets are made anew when the machine asks: a SUB that never sends does not notice
that the other end of its connection is gone.

Frames: PUB [topic, payload]; DEALER [topic, payload], which a ROUTER sees as [identity, topic,
payload]. The topic says which part of the process a payload is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from connserver import sockets
from connserver.driver import Port
from connserver.sockets import Sent

if TYPE_CHECKING:
    from connserver.config import Places

_IDENTITY = b"gossip:"

Receive = Callable[[str, bytes, bytes], None]
"""(peer, topic, payload)"""


class PeerLinks:
    """Connections to all `peers`; `on_published` and `on_direct` are called in the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        places: Places,
        node: str,
        peers: Iterable[str],
        topics: list[bytes],
        on_published: Receive,
        on_direct: Receive,
    ) -> None:
        self._loop = loop
        self._context = context
        self._places = places
        self._identity = _IDENTITY + node.encode()
        self._topics = topics
        self._on_published = on_published
        self._on_direct = on_direct
        self._names = {_IDENTITY + peer.encode(): peer for peer in peers}
        self._publisher = sockets.publisher(context)
        router = sockets.router(context)
        self._router = Port(loop, router, self._from_router)
        self._subscribers: dict[str, Port] = {}
        self._dealers: dict[str, Port] = {}
        try:
            sockets.bind(self._publisher, places.publish_endpoint(node))
            sockets.bind(router, places.peer_endpoint(node))
        except Exception:
            self.close()
            raise
        for peer in self._names.values():
            self._connect(peer)

    def publish(self, topic: bytes, payload: bytes) -> None:
        """To every subscriber of the topic; slow ones may miss it."""
        sockets.send(self._publisher, [topic, payload])

    def send(self, peer: str, topic: bytes, payload: bytes) -> Sent:
        """To one peer, over whichever connection stands."""
        outcome = self._dealers[peer].send([topic, payload])
        if outcome is not Sent.YES:
            outcome = self._router.send([_IDENTITY + peer.encode(), topic, payload])
        return outcome

    def reconnect(self, peer: str) -> None:
        """Make the sockets to a peer anew; what was queued in them is lost."""
        self._subscribers.pop(peer).close()
        self._dealers.pop(peer).close()
        self._connect(peer)

    def close(self) -> None:
        """Close everything; safe to call twice."""
        for port in [*self._subscribers.values(), *self._dealers.values(), self._router]:
            port.close()
        self._publisher.close()

    def _connect(self, peer: str) -> None:
        subscriber = sockets.subscriber(self._context, self._places.publish_endpoint(peer), self._topics)
        dealer = sockets.dealer(self._context, self._identity, self._places.peer_endpoint(peer))
        self._subscribers[peer] = Port(self._loop, subscriber, self._handler(peer, self._on_published))
        self._dealers[peer] = Port(self._loop, dealer, self._handler(peer, self._on_direct))

    @staticmethod
    def _handler(peer: str, receive: Receive) -> Callable[[list[bytes]], None]:
        def handle(frames: list[bytes]) -> None:
            if len(frames) == 2:
                receive(peer, frames[0], frames[1])

        return handle

    def _from_router(self, frames: list[bytes]) -> None:
        peer = self._names.get(frames[0])
        if peer is not None and len(frames) == 3:
            self._on_direct(peer, frames[1], frames[2])
