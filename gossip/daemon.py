"""The gossip process: the shell around the machine of `gossip.node`, with the logs' shell beside it.

Guards two rules. It is ready as soon as it can be talked to, and waits for no other node. And what has
to be on the disk before it is said is there: effects are performed in their order, and a failure to
keep something ends the process instead of being said all the same.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import time
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Any, assert_never

import zmq

from connserver import sockets, telemetry
from connserver.codec import decode, encode
from connserver.driver import Port, new_loop
from connserver.errors import ConnServerError, WireError
from connserver.limits import GOSSIP_MESSAGE_BYTES, WIRE_MESSAGE_BYTES
from connserver.messages import Forwarded, GroupPosition, Routes
from connserver.process import Lifeline, ProcessOptions
from connserver.sockets import Sent
from connserver.storage.embedded import embedded_dsn
from gossip.death_watch import DeathWatch
from gossip.effects import (
    Effect,
    Gone,
    Hired,
    KeepIncarnation,
    KeepPlacement,
    Note,
    Place,
    Publish,
    Reconnect,
    SendLocal,
    SendPeer,
    UnwatchProcess,
    WatchProcess,
)
from gossip.eras import ArchiveEras
from gossip.folder import Damaged, NodeFolder
from gossip.links import PeerLinks
from gossip.log_shell import LOG_TOPIC, LogShell
from gossip.membership import Timing
from gossip.node import GOSSIP_TOPIC, Beginning, GossipNode
from gossip.peering import Identity
from gossip.replication import LOG_MESSAGES
from gossip.routing import READY
from gossip.wal_words import advice, failure

if TYPE_CHECKING:
    from connserver.config import ClusterConfig

GOODBYE_S = 0.05
"""Given to ZeroMQ to hand the last heartbeat over before its sockets close."""

log = telemetry.get_logger(__name__)
noise = telemetry.RateLimited(log)

messages_refused = telemetry.counter(
    "connserver_gossip_messages_refused_total", "Messages that were not understood", ("source",)
)
ticks_late = telemetry.counter(
    "connserver_gossip_ticks_late_total", "Turns of the loop that came later than an interval"
)
nodes_alive = telemetry.gauge("connserver_gossip_nodes_alive", "Nodes that this one holds for alive")
groups_ready = telemetry.gauge("connserver_gossip_groups_ready", "Partition groups that are served")


def main(options: ProcessOptions) -> int:
    """Run the gossip process of a node until it is asked to stop; the exit status."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    telemetry.watch_loop(loop)
    # what is here now stays, and a full collection among the entries of the logs would be felt by all groups
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        return loop.run_until_complete(_serve(loop, options))
    except ConnServerError as error:
        log.error("gossip.cannot_start", reason=str(error))
    except zmq.ZMQError as error:
        log.error("gossip.cannot_start", reason=f"{error}: see that no other process uses its sockets")
    except OSError as error:
        log.error("gossip.cannot_start", reason=f"{error}: see that its folder can be written to")
    finally:
        loop.close()
    return 1


async def _serve(loop: asyncio.AbstractEventLoop, options: ProcessOptions) -> int:
    folder = NodeFolder(options.places.node_dir(options.node))
    context = sockets.context()
    try:
        daemon = Daemon(loop, context, folder, options)
        try:
            return await daemon.ended
        finally:
            daemon.close()
    finally:
        context.term()
        folder.close()


class Daemon:
    """One gossip process: brings events to the machine and performs its effects. `ended`: exit status."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        folder: NodeFolder,
        options: ProcessOptions,
        timing: Timing | None = None,
    ) -> None:
        self.ended: asyncio.Future[int] = loop.create_future()
        self._loop = loop
        self._folder = folder
        self._interval_s = (timing or Timing()).heartbeat_s
        self._failed = False
        self._routes: Routes | None = None
        self._routes_bytes = b""
        self._waker: asyncio.Handle | None = None
        loop.set_exception_handler(self._broken)
        places, node = options.places, options.node
        beginning = _beginning(options.config, node, folder, timing or Timing())
        self._eras = ArchiveEras(loop, lambda: options.storage_dsn or embedded_dsn(places.storage_dir))
        cluster, replication = options.config.cluster.name, options.config.replication
        self._logs = LogShell(loop, cluster, node, beginning.boot, folder.path, replication, self)
        self._node = GossipNode(beginning, _metrics, self._logs, self._eras.look, loop.time())
        self._node.disk_problems = self._logs.problems
        self._measure()
        self._deaths = DeathWatch(loop, self._process_died)
        local = sockets.router(context)
        self._local = Port(loop, local, self._from_local)
        self._links: PeerLinks | None = None
        try:
            self._links = PeerLinks(
                loop,
                context,
                places,
                node,
                beginning.identity.peers,
                [GOSSIP_TOPIC, LOG_TOPIC],
                self._published,
                self._direct,
            )
            endpoint = sockets.bind(local, places.gossip_endpoint(node))
        except Exception:
            self.close()
            raise
        self._lifeline = Lifeline(loop, options, self._stop)
        self._due = loop.time()
        self._timer: asyncio.Handle = loop.call_soon(self._tick)
        log.info("gossip.ready", incarnation=beginning.incarnation, endpoint=endpoint)
        self._lifeline.ready(endpoint)

    def _measure(self) -> None:
        board = self._node.board
        nodes_alive.set_function(lambda: list(board.picture.states.values()).count("alive"))
        groups_ready.set_function(lambda: sum(entry.state == READY for entry in board.routes.entries))

    def close(self) -> None:
        """Let go of everything."""
        self._logs.close(clean=not self._failed)
        self._eras.close()
        if self._links is not None:
            self._links.close()
        self._local.close()
        self._deaths.close()
        if self._waker is not None:
            self._waker.cancel()
        if hasattr(self, "_lifeline"):
            self._timer.cancel()
            self._lifeline.close()

    # --- events -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._due > self._interval_s:
            ticks_late.inc()
        self._due = max(self._due + self._interval_s, now)
        self._timer = self._loop.call_at(self._due, self._tick)
        self._perform(self._node.tick(now))

    def _published(self, peer: str, topic: bytes, payload: bytes) -> None:
        if topic == LOG_TOPIC:
            self._logs.peer_says(peer, payload)
            return
        message = _read(payload, peer)
        if message is not None:
            self._perform(self._node.published(peer, message, self._loop.time()))

    def _direct(self, peer: str, topic: bytes, payload: bytes) -> None:
        if topic == LOG_TOPIC:
            self._logs.peer_says(peer, payload)
            return
        message = _read(payload, peer) if topic == GOSSIP_TOPIC else None
        if message is not None:
            self._perform(self._node.direct(peer, message, self._loop.time()))

    def _from_local(self, frames: list[bytes]) -> None:
        if len(frames) != 2:
            messages_refused.labels("local").inc()
            return
        message = _read(frames[1], "local", WIRE_MESSAGE_BYTES)
        if isinstance(message, LOG_MESSAGES):
            self._logs.worker_says(frames[0], message)
        elif message is not None:
            self._perform(self._node.local(frames[0], message, self._loop.time()))

    def _process_died(self, pid: int) -> None:
        self._perform(self._node.process_died(pid, self._loop.time()))

    def _stop(self, reason: str) -> None:
        log.info("gossip.stopping", reason=reason)
        self._perform(self._node.stopping(self._loop.time()))
        self._timer.cancel()
        self._loop.call_later(GOODBYE_S, self._end, 0)

    # --- what the logs say ------------------------------------------------------------------------------

    def granted(self, grants: list[tuple[int, int]]) -> None:
        """The workers of these groups hold these grants from now on; 0: none."""
        self._perform(self._node.granted(grants, self._loop.time()))

    def positioned(self, rows: list[GroupPosition], urgent: bool) -> None:
        """Where this node's replicas stand."""
        self._eras.positioned(rows)
        self._perform(self._node.positioned(rows, self._loop.time(), urgent=urgent))

    def dying(self, why: str) -> None:
        """This process ends in a moment, and the other nodes are to know why."""
        self._perform(self._node.dying(why, self._loop.time()))

    def accepts(self, peer: str) -> bool:
        """Whether a peer's word counts."""
        return self._node.accepts(peer)

    def publish_log(self, payload: bytes) -> None:
        """To all nodes; what is lost on the way the logs repair."""
        self._open_links.publish(LOG_TOPIC, payload)

    def send_log(self, peer: str, payload: bytes) -> None:
        """To one node; the same."""
        self._open_links.send(peer, LOG_TOPIC, payload)

    def tell_worker(self, identity: bytes, payload: bytes) -> None:
        """To a worker; one that misses something asks again."""
        self._local.send([identity, payload])

    # --- effects ------------------------------------------------------------------------------------

    def _perform(self, effects: Iterable[Effect]) -> None:
        queue = deque(effects)
        while queue and not self._failed:
            effect = queue.popleft()
            match effect:
                case SendLocal(identity, message):
                    outcome = self._local.send([identity, self._bytes(message)])
                    queue.extend(self._after(outcome, message))
                case Publish(topic, message):
                    self._open_links.publish(topic, self._bytes(message))
                case SendPeer(peer, message):
                    outcome = self._open_links.send(peer, GOSSIP_TOPIC, _for_peer(message))
                    queue.extend(self._after(outcome, message))
                case WatchProcess(pid):
                    self._deaths.watch(pid)
                case UnwatchProcess(pid):
                    self._deaths.unwatch(pid)
                case KeepIncarnation() | KeepPlacement():
                    self._keep(effect)
                case Reconnect(peer):
                    self._open_links.reconnect(peer)
                case Place(groups):
                    self._logs.place(groups)
                case Hired(identity, said):
                    self._logs.hired(identity, said)
                case Gone(group):
                    self._logs.gone(group)
                case Note(level, event, facts):
                    write = noise.warning if level == "warning" else log.info
                    write(event, **facts)
                case _:
                    assert_never(effect)
        if self._waker is None and self._node.due < inf:
            self._waker = self._loop.call_at(self._node.due, self._wake)

    def _wake(self) -> None:
        self._waker = None
        self._perform(self._node.wake(self._loop.time()))

    def _bytes(self, message: Any) -> bytes:
        """A message's bytes; what is said again and again without change is not made again."""
        if not isinstance(message, Routes):
            return encode(message)
        if message is not self._routes:
            self._routes, self._routes_bytes = message, encode(message)
        return self._routes_bytes

    def _after(self, outcome: Sent, message: Any) -> list[Effect]:
        return [] if outcome is Sent.YES else self._node.not_sent(message, self._loop.time())

    def _keep(self, effect: KeepIncarnation | KeepPlacement) -> None:
        try:
            if isinstance(effect, KeepIncarnation):
                self._folder.keep_incarnation(effect.incarnation)
            else:
                self._folder.keep_placement(effect.placement)
        except OSError as error:
            log.error("folder.cannot_write", folder=str(self._folder.path), reason=str(error))
            self.dying(f"its folder {self._folder.path} cannot be written: {failure(error)}. {advice(error)}")
            self._failed = True
            self._loop.call_later(GOODBYE_S, self._end, 1)

    @property
    def _open_links(self) -> PeerLinks:
        assert self._links is not None
        return self._links

    # --- the end ------------------------------------------------------------------------------------

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A bug: what the machine believes cannot be trusted any more, so its supervisor starts a new one."""
        error = context.get("exception")
        facts = telemetry.describe(error) if isinstance(error, BaseException) else {}
        log.error("gossip.broken", what=str(context.get("message", "")), **facts)
        self._fail()

    def _fail(self) -> None:
        self._failed = True
        self._end(1)

    def _end(self, status: int) -> None:
        if not self.ended.done():
            self.ended.set_result(status)


def _beginning(config: ClusterConfig, node: str, folder: NodeFolder, timing: Timing) -> Beginning:
    """What the folder and the configuration say at the start; ClusterError if it cannot be used."""
    damaged = False
    try:
        placement = folder.placement()
    except Damaged as error:
        placement, damaged = None, True
        log.error("placement.damaged", folder=str(folder.path), reason=str(error))
    return Beginning(
        identity=Identity(
            cluster=config.cluster.name,
            node=node,
            names=tuple(each.name for each in config.nodes),
            groups=config.cluster.partition_groups,
            digest=config.digest,
            sections=config.section_digests,
        ),
        incarnation=folder.next_incarnation(),
        boot=secrets.randbits(63),
        placement=placement,
        placement_damaged=damaged,
        wall_ms=time.time_ns() // 1_000_000,
        timing=timing,
    )


def _read(payload: bytes, source: str, limit: int = GOSSIP_MESSAGE_BYTES) -> Any:
    """The message in these bytes, None if there is none; that is counted and noted."""
    try:
        if len(payload) > limit:
            raise WireError(f"a message of {len(payload)} bytes, at most {limit} are read")
        return decode(payload)
    except (WireError, TypeError) as error:  # TypeError: a map whose key cannot be one
        messages_refused.labels(source).inc()
        noise.warning("message.refused", source=source, reason=str(error))
        return None


def _for_peer(message: Any) -> bytes:
    """A message's bytes; a worker's answer that is too large for a peer becomes an error that says so."""
    payload = encode(message)
    if len(payload) > GOSSIP_MESSAGE_BYTES and isinstance(message, Forwarded):
        error = (
            f"the answer has {len(payload)} bytes, at most {GOSSIP_MESSAGE_BYTES} travel: ask for fewer rows"
        )
        return encode(Forwarded(message.number, None, error))
    return payload


def _metrics() -> str:
    return telemetry.render().decode()
