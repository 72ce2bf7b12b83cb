"""The gateway's side of the cluster as a shell: one link per group, routes, and reports.

Performs what the links say on ZeroMQ sockets and hands their outputs on. Guards one rule: all that
a loop turn has for a worker leaves as one message.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import zmq

from connserver import sockets, telemetry
from connserver.codec import decode, encode
from connserver.driver import Flush, Port
from connserver.errors import WireError
from connserver.messages import AdminReply, AdminRequest, GatewayReport, Outputs, RouteEntry
from connserver.process import ProcessOptions
from connserver.route_feed import RouteFeed
from connserver.sockets import Sent
from gateway.forwarding import Connect, Deliver, Disconnect, Effect, Link, Opened, State, Transmit
from gateway.line import Line, Pending

if TYPE_CHECKING:
    from connserver.errors import ClientError

TICK_S: Final = 0.05
"""Interval of acknowledgements, probes and retries while something is under way."""

REST_TICK_S: Final = 0.25
"""The same while nothing is: of many gateways most of the time most links are at rest."""

OPENING_TICK_S: Final = 0.003
"""The same while a worker is being connected, or one has just been lost: clients are waiting."""

EXPIRE_S: Final = 0.5
"""Requests of groups without a worker are looked through this often."""

REPORT_S: Final = 1.0

log = telemetry.get_logger(__name__)
noise = telemetry.RateLimited(log, per_s=1.0, burst=20)


class Audience(Protocol):
    """Who gets what comes from the workers."""

    def outputs(self, link: Link, outputs: Outputs) -> None:
        """A worker's outputs, once each and in their order."""

    def expired(self, link: Link, line: Line, requests: list[Pending], error: ClientError) -> None:
        """These requests were not answered and will not be."""

    def links_changed(self) -> None:
        """A group has got or lost its worker."""

    def report(self) -> tuple[int, float, dict[str, Any]]:
        """Clients, messages per second and details, for `status`."""


class Cluster:
    """All links of a gateway, by group."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ProcessOptions, audience: Audience) -> None:
        self._loop = loop
        self._audience = audience
        self._options = options
        self._context = sockets.context()
        self.boot = int.from_bytes(os.urandom(7), "big") | 1
        self._identity = f"gateway:{options.name}:{self.boot:x}"
        groups = options.config.cluster.partition_groups
        self.links = [Link(group, options.name, self.boot, loop.time()) for group in range(groups)]
        self._ports: dict[int, Port] = {}
        self._openings: dict[int, bytes] = {}
        self._expire_at = loop.time()
        self._flush = Flush(loop, self._send_batches)
        self._feed = RouteFeed(
            loop,
            self._context,
            options.config,
            options.places,
            options.name,
            f"{self._identity}:routes".encode(),
            self._routed,
        )
        gossip = options.places.gossip_endpoint(options.node)
        self._gossip = Port(
            loop, sockets.dealer(self._context, self._identity.encode(), gossip), self._from_gossip
        )
        self._timers: list[asyncio.TimerHandle] = [
            loop.call_later(OPENING_TICK_S, self._tick),
            loop.call_later(REPORT_S, self._report),
        ]

    def close(self) -> None:
        """Close every socket."""
        for timer in self._timers:
            timer.cancel()
        self._feed.close()
        for port in [*self._ports.values(), self._gossip]:
            port.close()
        self._context.term()

    # --- for clients ------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Something was added to a link."""
        self._flush.mark()

    @property
    def missing(self) -> list[int]:
        """The groups whose worker does not answer."""
        return [link.group for link in self.links if link.state is not State.OPEN]

    @property
    def settled(self) -> bool:
        """Whether all workers have what was said to them."""
        return all(link.settled for link in self.links)

    def _send_batches(self) -> None:
        now = self._loop.time()
        for link in self.links:
            if link.unflushed:
                self._perform(link.flush(now))
                if link.unflushed:
                    self._flush.mark()

    # --- effects ----------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self._connect(effect)
                case Disconnect():
                    self._disconnect(effect.group)
                    self._tick_in(OPENING_TICK_S)
                case Transmit():
                    port = self._ports.get(effect.group)
                    if port is not None:
                        # what cannot be sent now is kept by the stream and asked for again
                        port.send([effect.data])
                case Opened():
                    log.info("link.opened", group=effect.group)
                    self._openings.pop(effect.group, None)
                    self._flush.mark()
                    self._audience.links_changed()
                case Deliver():
                    self._audience.outputs(self.links[effect.group], effect.outputs)

    def _connect(self, effect: Connect) -> None:
        self._disconnect(effect.group)
        try:
            # one identity for all attempts: the worker's ROUTER lets the newest take it over
            socket = sockets.dealer(self._context, self._identity.encode(), effect.endpoint)
        except zmq.ZMQError as error:
            noise.error("link.bad_endpoint", group=effect.group, endpoint=effect.endpoint, reason=str(error))
            return
        receive = partial(self._from_worker, effect.group, effect.attempt)
        self._ports[effect.group] = Port(self._loop, socket, receive)
        self._openings[effect.group] = effect.opening
        self._try_openings()
        self._tick_in(OPENING_TICK_S)

    def _disconnect(self, group: int) -> None:
        self._openings.pop(group, None)
        port = self._ports.pop(group, None)
        if port is not None:
            port.close()
            self._audience.links_changed()

    def _try_openings(self) -> None:
        for group, opening in list(self._openings.items()):
            if self._ports[group].send([opening]) is Sent.YES:
                del self._openings[group]

    # --- what comes in ----------------------------------------------------------------------------------

    def _from_worker(self, group: int, attempt: int, frames: list[bytes]) -> None:
        try:
            message = decode(frames[-1])
        except WireError as error:
            noise.error("link.unreadable", group=group, reason=str(error))
            return
        link = self.links[group]
        if link.attempt == attempt:
            self._perform(link.receive(message, self._loop.time()))

    def _routed(self, entries: list[RouteEntry]) -> None:
        now = self._loop.time()
        for entry in entries:
            log.info("group.routed", group=entry.group, state=entry.state, at=entry.node, view=entry.view)
            self._perform(self.links[entry.group].routed(entry, now))

    def _from_gossip(self, frames: list[bytes]) -> None:
        try:
            message = decode(frames[-1])
        except WireError as error:
            noise.error("gossip.unreadable", reason=str(error))
            return
        if isinstance(message, AdminRequest):
            self._gossip.send([encode(_answer(message))])

    # --- time -------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        expire = now >= self._expire_at
        if expire:
            self._expire_at = now + EXPIRE_S
        self._try_openings()
        for link in self.links:
            self._perform(link.tick(now))
            if expire:
                for line, requests in link.expire(now):
                    self._audience.expired(link, line, requests, link.unavailable())
        wait = REST_TICK_S if all(link.at_rest for link in self.links) else TICK_S
        if any(link.opening for link in self.links):
            wait = OPENING_TICK_S
        self._tick_in(wait)

    def _tick_in(self, wait: float) -> None:
        self._timers[0].cancel()
        self._timers[0] = self._loop.call_later(wait, self._tick)

    def _report(self) -> None:
        clients, rate, details = self._audience.report()
        report = GatewayReport(self._options.name, os.getpid(), self._options.listen, clients, rate, details)
        self._gossip.send([encode(report)])
        self._timers[1] = self._loop.call_later(REPORT_S, self._report)


def _answer(request: AdminRequest) -> AdminReply:
    if request.command == "metrics":
        return AdminReply(request.number, telemetry.render().decode(), "")
    return AdminReply(request.number, None, f"a gateway has no command {request.command!r}")
