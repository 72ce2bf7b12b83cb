"""The sockets of a simulated node's gossip process: workers, and whoever asks for routes.

Routes are modelled: a node enters the grants it gives into the shipped `RouteTable`, tells the others what
it knows, and publishes it all. Guards the rule that only the living worker process of a node counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connserver import sockets
from connserver.codec import decode, encode
from connserver.driver import Port
from connserver.ids import GroupId, group_range
from connserver.messages import Attach, GetRoutes, RouteEntry, Routes
from connserver.route_feed import ROUTES_TOPIC
from connserver.routes import RouteTable
from gossip.replication import LOG_MESSAGES
from tests.simulation.whole.processes import Process

if TYPE_CHECKING:
    from tests.simulation.whole.world import WholeNode, WholeWorld

PUBLISH_S = 0.5


class Gossip:
    """One life of it."""

    def __init__(self, world: WholeWorld, node: WholeNode) -> None:
        self._world, self._node = world, node
        self.process = Process(world, node, f"gossip-{node.name}", world.pid())
        self.routes = RouteTable("simulated", len(world.placements))
        self._given: dict[int, RouteEntry] = {}
        self._version = 0
        self._changed = False
        self.process.run(self._listen)

    def _listen(self) -> None:
        loop, places = self.process.loop, self._world.settings.options("gossip", self._node.name, "").places
        context = sockets.context()
        local = sockets.router(context)
        sockets.bind(local, places.gossip_endpoint(self._node.name))
        self._local = Port(loop, local, self._from_local)
        self._publisher = sockets.publisher(context)
        sockets.bind(self._publisher, places.publish_endpoint(self._node.name))
        self._again()

    def _again(self) -> None:
        self._publish()
        self.process.loop.call_later(PUBLISH_S, self._again)

    def tell(self, identity: bytes, message: Any) -> None:
        """To a worker."""
        self.process.run(lambda: self._local.send([identity, encode(message)]))

    def _from_local(self, frames: list[bytes]) -> None:
        message = decode(frames[-1])
        if isinstance(message, Attach):
            seat = self._node.seats.get(message.group)
            if seat is not None and seat.is_this(message.pid):
                self._world.worker_says(self._node, lambda logs, now: logs.hired(frames[0], message, now))
        elif isinstance(message, LOG_MESSAGES):
            self._world.worker_says(
                self._node, lambda logs, now: void(logs.worker_says(frames[0], message, now))
            )
        elif isinstance(message, GetRoutes):
            self._local.send([frames[0], encode(self._all())])

    # --- routes ---

    def granted(self, group: int, grant: int) -> None:
        """This node's worker serves a group now, or does no more."""
        node = self._node
        assert node.set is not None and node.replication is not None
        replica = node.set.replicas[GroupId(group)]
        hand = node.replication.workers.get(group)
        if grant and hand is not None:
            first, last = group_range(group, len(self._world.placements))
            self._given[group] = RouteEntry(
                group, first, last, replica.era, replica.view, grant, node.name, hand.said.endpoint,
                list(self._world.nodes), "ready", "",
            )  # fmt: skip
        elif group in self._given:
            known = self._given[group]
            self._given[group] = RouteEntry(
                known.group, known.first_partition, known.last_partition, known.era, known.view, known.grant,
                known.node, "", known.replicas, "starting", "its worker starts",
            )  # fmt: skip
        else:
            return
        self.merge(node.name, [self._given[group]])

    def merge(self, sender: str, entries: list[RouteEntry]) -> None:
        """What another node, or this one, says."""
        routes = Routes("simulated", sender, 0, entries)
        if self.routes.merge(routes, self.process.clock()) and not self._changed:
            self._changed = True
            self._world.after(self._world.random.uniform(0.0002, 0.003), self._publish_change)

    def _publish_change(self) -> None:
        self._changed = False
        if self.process.alive and self.process.stopped_until <= self._world.now:
            self.process.run(self._publish)

    def _all(self) -> Routes:
        return Routes("simulated", self._node.name, self._version, self.routes.entries())

    def _publish(self) -> None:
        """To this cluster's processes, and to the other nodes."""
        self._version += 1
        routes = self._all()
        sockets.send(self._publisher, [ROUTES_TOPIC, encode(routes)])
        world = self._world
        for other in world.whole_nodes:
            if other is not self._node and not world.cuts.get((self._node.name, other.name)):
                world.after(world.random.uniform(0.0002, 0.003), lambda to=other: self._at(to, routes))  # type: ignore[misc]

    @staticmethod
    def _at(other: WholeNode, routes: Routes) -> None:
        if other.gossip is not None and other.paused_until <= other.gossip.process.world.now:
            other.gossip.merge(routes.sender, routes.entries)


def void(result: object) -> None:
    """The result says nothing to anybody here."""
