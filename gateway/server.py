"""The gateway process: listens for clients, and brings them and the workers together.

Guards two rules. A gateway holds nothing that cannot be lost: sessions live with their workers, and a
client that loses its gateway resumes through another. And a stop is orderly: what was received is
answered, every client is told, within `drain_ms`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

from connserver import driver, telemetry
from connserver.config import Endpoint
from connserver.errors import ClientError, ConfigError
from connserver.messages import Outputs
from connserver.process import Lifeline, ProcessOptions
from gateway.admission import Doors
from gateway.authentication import authenticator
from gateway.buffered import BufferedClient
from gateway.client import Client
from gateway.cluster import Cluster
from gateway.connection import Settings
from gateway.deadlines import STEP_S, Deadlines
from gateway.distribution import Counts, Distribution
from gateway.entrance import Rules
from gateway.forwarding import Link
from gateway.forwarding import State as LinkState
from gateway.line import Line, Pending
from gateway.session import ANSWER_S, DRAINING
from gateway.speaker import Speaker
from gateway.states import Home
from gateway.tls import server_context

BACKLOG: Final = 4_096
"""Connections the kernel accepts for us ahead: after a failover all clients come at once."""

DRAIN_PER_TURN: Final = 512
"""Clients told of a stop in one loop turn."""

SETTLE_S: Final = 0.5
"""After the last client, the workers have so long to take note that the connections are gone."""

SPARE_DESCRIPTORS: Final = 512
"""What a gateway opens besides client connections: ZeroMQ's own, libraries, logs."""

# looked up once for the message path: members of an Enum are slow to reach in Python 3.11
_SERVES, _AWAY, _FULL, _LINK_OPEN = Home.SERVES, Home.AWAY, Home.FULL, LinkState.OPEN

log = telemetry.get_logger(__name__)

_clients = telemetry.gauge("connserver_gateway_clients", "Client connections")
_requests = telemetry.counter("connserver_gateway_requests_total", "Requests forwarded to workers")
_payloads = telemetry.counter("connserver_gateway_payloads_total", "Messages of workers sent to clients")
_too_slow = telemetry.counter("connserver_gateway_too_slow_total", "Clients that did not read")
_failed = telemetry.counter("connserver_gateway_failures_total", "Connections closed by an internal error")


class Gateway:
    """All clients of this process and its links to the cluster."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ProcessOptions) -> None:
        config = options.config
        listen = Endpoint.parse(options.listen)
        self.loop = loop
        self.rules = Rules(
            config.limits,
            config.cluster.partition_groups,
            config.gateway.keepalive_ms,
            authenticator(config.auth, lambda: token_hex(8)),
            time.time,
        )
        self.tls_context = server_context(config.gateway)
        self.settings = Settings(
            limits=config.limits,
            tls=self.tls_context is not None,
            proxy_protocol=config.gateway.proxy_protocol,
            policy_domains=config.gateway.policy_domains,
            port=listen.port,
            allowed_origins=config.gateway.allowed_origins,
        )
        self.doors = Doors(config.limits)
        self.deadlines: Deadlines[int] = Deadlines(loop.time())
        self.clients: dict[int, Client] = {}
        self.read_buffer = bytearray(65_536)
        self.counts = Counts()
        self.is_ready = False
        self.on_ready: Callable[[list[int]], None] = lambda missing: None
        self._reported = Counts()
        self._last_number = 0
        self._to_flush: list[Speaker] = []
        self._draining = False
        self._drain_s = config.gateway.drain_ms / 1000
        self._cluster = Cluster(loop, options, self)
        self._distribution = Distribution(loop, self.clients, self._cluster.links, self.counts)
        self._timer = loop.call_later(STEP_S, self._look)

    def close(self) -> None:
        """Close what is left, at once."""
        self._timer.cancel()
        for client in list(self.clients.values()):
            client.abort()
        self._cluster.close()

    # --- for clients ------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """A connection's number; never used twice."""
        self._last_number += 1
        return self._last_number

    def home(self, line: Line | None) -> Home:
        """Whether the worker of this connection answers."""
        if line is None or line.group < 0:
            return _SERVES
        link = self._cluster.links[line.group]
        if link.full:
            return _FULL
        return _SERVES if link.state is _LINK_OPEN else _AWAY

    def join(self, client: Client, group: int) -> None:
        """A client's next requests are for this group."""
        line = client.line
        if line is None:
            line = client.line = Line(client.number)
        if line.group == group:
            return
        if line.group >= 0:
            self._cluster.links[line.group].leave(line, self.loop.time(), gone=False)
        self._cluster.links[group].join(line)

    def forward(self, client: Client, items: list[tuple[int, bytes]]) -> None:
        """Requests of a client, in order."""
        line = client.line
        assert line is not None
        self._cluster.links[line.group].add(line, items, self.loop.time())
        self.counts.requests += len(items)
        self._cluster.flush_soon(line.group)

    def left(self, client: Client) -> None:
        """A client's connection is closed or closing; its worker is told."""
        line, client.line = client.line, None
        if line is not None and line.group >= 0:
            group = line.group
            self._cluster.links[group].leave(line, self.loop.time(), gone=True)
            self._cluster.flush_soon(group)

    def overdue(self, client: Client) -> None:
        """Answer in the worker's place what it has not answered for ANSWER_S."""
        line, now = client.line, self.loop.time()
        if line is None or line.group < 0:
            return
        link = self._cluster.links[line.group]
        requests = link.overdue(line, now - ANSWER_S)
        error = ClientError(
            "timeout",
            f"not answered within {ANSWER_S:.0f} s; it may still run: "
            "send it again with the same integer id to learn what became of it",
        )
        self._distribution.expired(line, requests, error)

    def to_flush(self, client: Speaker) -> None:
        """A client has something to be written at the end of the turn."""
        if not self._to_flush:
            self.loop.call_soon(self._flush_clients)
        self._to_flush.append(client)

    def _flush_clients(self) -> None:
        clients, self._to_flush = self._to_flush, []
        for client in clients:
            try:
                client.flush()
            except Exception:
                client.failed("what is sent to a client")

    def _look(self) -> None:
        now = self.loop.time()
        for number in self.deadlines.due(now):
            client = self.clients.get(number)
            if client is None:
                continue
            try:
                client.look(now)
            except Exception:
                client.failed("a client's deadline")
        self._timer = self.loop.call_later(0 if self.deadlines.waiting else STEP_S, self._look)

    # --- from workers -----------------------------------------------------------------------------------

    def outputs(self, link: Link, outputs: Outputs) -> None:
        """What a worker says to clients of this gateway."""
        self._distribution.outputs(link, outputs)

    def expired(self, link: Link, line: Line, requests: list[Pending], error: ClientError) -> None:
        """These requests have no answer."""
        self._distribution.expired(line, requests, error)

    # --- the process ------------------------------------------------------------------------------------

    def links_changed(self) -> None:
        """Ready is who has once been connected to every group; /healthz follows the moment."""
        missing = self._cluster.missing
        self.is_ready = not missing and not self._draining
        self.on_ready(missing)

    def report(self) -> tuple[int, float, dict[str, Any]]:
        """Clients, requests per second, and more for `status`; brings the metrics up to date."""
        counts, before = self.counts, self._reported
        _clients.set(len(self.clients))
        _requests.inc(counts.requests - before.requests)
        _payloads.inc(counts.payloads - before.payloads)
        _too_slow.inc(counts.too_slow - before.too_slow)
        _failed.inc(counts.failed - before.failed)
        rate = float(counts.requests - before.requests)
        self._reported = Counts(counts.requests, counts.payloads, counts.too_slow, counts.failed)
        details: dict[str, Any] = {
            "payloads": counts.payloads,
            "too_slow": counts.too_slow,
            "failed": counts.failed,
            "unavailable_groups": self._cluster.missing,
        }
        return len(self.clients), rate, details

    async def drain(self) -> None:
        """Answer what was received, tell every client, and wait until they and the workers know."""
        self._draining = True
        self.is_ready = False
        deadline = self.loop.time() + self._drain_s
        for index, client in enumerate(list(self.clients.values())):
            client.drain(DRAINING, "the gateway is stopping: connect again")
            if index % DRAIN_PER_TURN == DRAIN_PER_TURN - 1:
                await asyncio.sleep(0)
        while self.clients and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        for client in list(self.clients.values()):
            client.abort()
        settled_by = max(deadline, self.loop.time() + SETTLE_S)
        while not self._cluster.settled and self.loop.time() < settled_by:
            await asyncio.sleep(0.01)


def _listen(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((endpoint.host, endpoint.port))
    except OSError:
        sock.close()
        raise
    return sock


def _raise_descriptor_limit(connections: int) -> None:
    """As many descriptors as the configured connections need, if the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_DESCRIPTORS
    if soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < wanted:
        log.warning("gateway.few_descriptors", wanted=wanted, allowed=allowed)


async def _serve(loop: asyncio.AbstractEventLoop, options: ProcessOptions) -> int:
    try:
        gateway = Gateway(loop, options)
    except ConfigError as error:
        log.error("gateway.cannot_start", reason=str(error))
        return 2
    stop: asyncio.Future[str] = loop.create_future()
    lifeline = Lifeline(loop, options, stop.set_result)
    is_uvloop = type(loop).__module__.startswith("uvloop")
    try:
        server = await loop.create_server(
            lambda: Client(gateway) if is_uvloop else BufferedClient(gateway),
            sock=_listen(Endpoint.parse(options.listen)),
            backlog=BACKLOG,
        )
    except OSError as error:
        log.error("gateway.cannot_listen", endpoint=options.listen, reason=str(error))
        gateway.close()
        lifeline.close()
        return 1
    host, port = server.sockets[0].getsockname()[:2]
    endpoint = str(Endpoint(host=host, port=port))

    def on_ready(missing: list[int]) -> None:
        if missing:
            lifeline.waiting(f"waiting for the workers of partition groups {missing}")
        else:
            lifeline.ready(endpoint)

    gateway.on_ready = on_ready
    gateway.links_changed()
    log.info("gateway.listening", endpoint=endpoint, tls=gateway.tls_context is not None)
    try:
        reason = await stop
        log.info("gateway.stopping", reason=reason, clients=len(gateway.clients))
        server.close()
        await gateway.drain()
    finally:
        gateway.close()
        lifeline.close()
    log.info("gateway.stopped")
    return 0


def main(options: ProcessOptions) -> int:
    """Run a gateway until it is told to stop; the exit status."""
    _raise_descriptor_limit(options.config.limits.connections)
    loop = driver.new_loop()
    asyncio.set_event_loop(loop)
    telemetry.watch_loop(loop)
    # what is here now stays; and a full collection among 65,536 clients would be felt by all of them
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        return loop.run_until_complete(_serve(loop, options))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
