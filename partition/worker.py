"""The worker process of one partition group on one node: the shell around everything here.

It loads its plugins, attaches to its node's gossip process, and while it holds a grant loads the
group from the archive and serves it. What it may do is decided by its role; how, by `Serving`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import time
from typing import Any

from connserver import sockets, telemetry
from connserver.codec import decode
from connserver.driver import Port, new_loop
from connserver.errors import ClientError, PluginLoadError, StorageError, WireError
from connserver.messages import (
    AdminReply,
    AdminRequest,
    Attach,
    Image,
    Role,
    RouteEntry,
    WorkerReport,
)
from connserver.model import Value
from connserver.plugin import Result
from connserver.process import Lifeline, ProcessOptions
from connserver.route_feed import RouteFeed
from partition import archive_outcomes as outcomes
from partition.archive import Archiver, open_snapshot
from partition.background import BackgroundWork
from partition.courier_service import CourierService
from partition.deadline import Deadline, Watchdog
from partition.dispatch import Dispatcher
from partition.effects import Background, Caller
from partition.gossip_link import GossipLink
from partition.group import Group
from partition.incident_file import IncidentFile
from partition.loader import load_plugins
from partition.objects import Store
from partition.operating import operate
from partition.peers import Peers
from partition.serving import Serving
from partition.suspects import Suspects

LOAD_AGAIN_S = 0.5
"""Between attempts to load the group while PostgreSQL cannot be read."""

DEFAULT_HANDLER_TIMEOUT_MS = 250

STOP_ARCHIVE_S = 5.0
"""How long a stopping worker may take to archive the rest."""

log = telemetry.get_logger(__name__)


class Worker:
    """One process. `stopped` is done when it may exit; its result is the exit status."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ProcessOptions) -> None:
        self._loop = loop
        self._options = options
        self._config = options.config
        self._group_id = options.group
        self._boot = secrets.randbits(63)
        self._context = sockets.context()
        self._role = Role(options.group, 0, False, 0, 0)
        self._serving: Serving | None = None
        self._loading: asyncio.Task[None] | None = None
        self._couriers: CourierService | None = None
        self._state = "standby"
        self._storage_error = ""
        self.stopped: asyncio.Future[int] = loop.create_future()
        self._lifeline = Lifeline(loop, options, self._stop)
        node_dir = options.places.node_dir(options.node)
        self._watchdog = Watchdog(loop)
        self._suspects = Suspects(node_dir / f"w-{options.group}.suspects")
        self._incidents = IncidentFile(options.places.log_dir, options.node)

    def start(self) -> None:
        """Load plugins, listen, attach."""
        death = self._suspects.last_death
        if death is not None:
            log.warning("worker.died_running", source=str(death.source), deaths=death.deaths)
        paths = [plugin.path for plugin in self._config.plugins if plugin.in_group(self._group_id)]
        self._plugins = load_plugins(paths)
        endpoint = self._options.places.worker_endpoint(self._options.node, self._group_id)
        router = sockets.router(self._context)
        self._endpoint = sockets.bind(router, endpoint)
        self._router = Port(self._loop, router, self._received)
        attach = Attach(self._group_id, os.getpid(), self._endpoint, 0)
        gossip_endpoint = self._options.places.gossip_endpoint(self._options.node)
        self._gossip = GossipLink(
            self._loop, self._context, gossip_endpoint, attach, self._on_role, self._on_admin, self._report
        )
        identity = b"worker-routes:%d:%d" % (self._group_id, os.getpid())
        self._routes = RouteFeed(
            self._loop,
            self._context,
            self._config,
            self._options.places,
            self._options.name,
            identity,
            self._on_routes,
        )

    # --- role and loading ---

    def _on_role(self, role: Role) -> None:
        if role.group != self._group_id or role == self._role:
            return
        log.info("worker.role", primary=role.primary, grant=role.grant, view=role.view)
        self._role = role
        if role.primary and role.grant:
            self._become_primary()
        else:
            self._become_backup()
        self._gossip.report_now()

    def _become_primary(self) -> None:
        if self._serving is not None:
            # The same state under another grant: all streams begin anew.
            self._serving.peers = Peers(self._role.grant, self._send)
            self._serving.view = self._role.view
            self._serving.archiver.promote(self._role.view)
        elif self._loading is None:
            self._state = "loading"
            self._loading = self._loop.create_task(self._load())

    def _become_backup(self) -> None:
        if self._serving is not None:
            # What it executed under its grant may not be what the others have: begin anew as a process.
            log.warning("worker.deposed")
            self._stop("the grant was taken away")
            return
        self._state = "standby"
        self._lifeline.ready(self._endpoint)

    async def _load(self) -> None:
        while True:
            try:
                images, archived_op, view, era = await asyncio.to_thread(self._read_archive)
                break
            except StorageError as error:
                self._storage_error = str(error)
                self._lifeline.waiting(str(error))
                await asyncio.sleep(LOAD_AGAIN_S)
        self._storage_error = ""
        self._loading = None
        if not self._role.primary:
            self._state = "standby"
            return
        self._serve(images, archived_op, max(view, self._role.view), era)

    def _read_archive(self) -> tuple[list[Image], int, int, int]:
        with open_snapshot(self._options.storage_dsn, self._group_id) as snapshot:
            images = [image for batch in snapshot.batches() for image in batch]
            return images, snapshot.archived_op, snapshot.view, snapshot.era

    def _serve(self, images: list[Image], archived_op: int, view: int, era: int) -> None:
        store = Store()
        store.load(images)
        self._plugins.refuse_unreadable(store)
        dispatcher = Dispatcher(
            store,
            self._plugins,
            random=random.Random(),
            on_incident=self._incidents.record,
            incident_prefix=f"{self._options.node}-{self._group_id}",
            on_slow=lambda method, ms: log.warning("method.slow", method=method, milliseconds=round(ms, 1)),
            on_log=_plugin_log,
        )
        self._background = BackgroundWork(
            self._loop, self._plugins.backgrounds, self._background_returned, self._incidents.failed
        )
        group = Group(
            group=self._group_id,
            groups=self._config.cluster.partition_groups,
            store=store,
            dispatcher=dispatcher,
            secret=lambda: secrets.token_hex(16),
            resume_window_s=self._config.auth.resume_window_s,
            background=self._background.start,
            limits=self._config.limits,
            keepalive_ms=self._config.gateway.keepalive_ms,
        )
        group.at(time.time())
        group.load()
        gc.freeze()  # what has been loaded mostly stays
        archiver = Archiver(
            self._options.storage_dsn,
            self._group_id,
            era=era,
            view=view,
            archived_op=archived_op,
            on_outcome=self._archived_in_thread,
            archive_interval_ms=self._config.storage.archive_interval_ms,
        )
        archiver.start()
        archiver.promote(view)
        self._serving = Serving(
            self._loop,
            group=group,
            peers=Peers(self._role.grant, self._send),
            view=view,
            archived_op=archived_op,
            archiver=archiver,
            suspects=self._suspects,
            deadline=Deadline(self._handler_timeout_s(), lambda: self._overdue(dispatcher)),
            deliver=self._deliver,
        )
        self._watchdog.start()
        self._state = "ready"
        self._gossip.attached_at(archived_op)
        self._gossip.report_now()
        self._couriers = CourierService(
            self._loop,
            self._context,
            self._group_id,
            self._boot,
            self._routes.table,
            self._waiting_parcels,
            self._serving.parcels_done,
            self._serving.parcels_met,
        )
        for target in sorted({target for target, _, _ in group.outbox.waiting()}):
            self._couriers.open(target)
        log.info("worker.serving", objects=len(store), archived=archived_op, grant=self._role.grant)
        self._lifeline.ready(self._endpoint)

    def _handler_timeout_s(self) -> float:
        """The shortest limit of the plugins here: how often a running callback is looked at."""
        limits = [
            plugin.handler_timeout_ms for plugin in self._config.plugins if plugin.in_group(self._group_id)
        ]
        return min(limits, default=DEFAULT_HANDLER_TIMEOUT_MS) / 1000

    def _overdue(self, dispatcher: Dispatcher) -> bool:
        running = dispatcher.running
        return running is not None and time.perf_counter() - running.started >= self._handler_timeout_s()

    def _archived_in_thread(self, outcome: outcomes.Outcome) -> None:
        self._loop.call_soon_threadsafe(self._archived, outcome)

    def _archived(self, outcome: outcomes.Outcome) -> None:
        serving = self._serving
        if serving is None:
            return
        match outcome:
            case outcomes.Flushed():
                self._storage_error = ""
            case outcomes.Down():
                self._storage_error = outcome.error
                log.warning("archive.down", error=outcome.error)
            case outcomes.Deposed():
                log.error("archive.deposed", view=outcome.view, era=outcome.era)
                self._stop("another primary owns this group")
            case outcomes.WentBack() | outcomes.Overflowed():
                log.warning("archive.everything_again", outcome=type(outcome).__name__)
                op, images = serving.everything()
                serving.archiver.readd_all(op, images)
            case outcomes.Behind():
                log.warning("archive.ahead_of_us", archived=outcome.archived_op)

    # --- messages ---

    def _send(self, identity: bytes, data: bytes) -> object:
        return self._router.send([identity, data])

    def _received(self, frames: list[bytes]) -> None:
        if self._serving is None or len(frames) != 2:
            return
        try:
            message: Any = decode(frames[1])
        except WireError as error:
            log.warning("peer.garbage", error=str(error))
            return
        self._serving.receive(frames[0], message)

    def _on_routes(self, entries: list[RouteEntry]) -> None:
        if self._couriers is not None:
            self._couriers.routed(entries)

    def _waiting_parcels(self, target: int) -> list[tuple[int, bytes]]:
        return self._serving.committed_parcels(target) if self._serving is not None else []

    def _deliver(self, parcels: dict[int, list[tuple[int, bytes]]]) -> None:
        for target, items in parcels.items():
            if target == self._group_id:
                assert self._serving is not None
                self._serving.own_parcels(items)
            elif self._couriers is not None:
                self._couriers.send(target, items)

    def _background_returned(
        self, work: Background, caller: Caller, value: Value, error: ClientError | None
    ) -> None:
        if self._serving is not None and work.then:
            self._serving.group.background_done(work, caller, Result.of(value, error), time.time())
            self._serving.changed()

    # --- administration ---

    def _on_admin(self, request: AdminRequest) -> AdminReply:
        if self._serving is None:
            why = f"group {self._group_id} is not served here now ({self._state}); try again"
            return AdminReply(request.number, None, why)
        try:
            result = operate(self._serving.group, request.command, request.arguments, time.time())
        except (ClientError, ValueError) as error:
            return AdminReply(request.number, None, str(error))
        self._serving.changed()
        return AdminReply(request.number, result, "")

    def _report(self) -> WorkerReport:
        serving = self._serving
        plugins = sorted(self._plugins.plugins.items())
        rows = [{"name": name, "version": version, "state": "attached"} for name, version in plugins]
        details: dict[str, Any] = {"plugins": rows}
        if serving is None:
            details["state"] = "loading" if self._state == "loading" else "ready"
            storage = "down" if self._storage_error else "standby"
            return WorkerReport(self._group_id, self._role.grant, 0, 0, storage, self._storage_error, details)
        status = serving.archiver.status()
        details |= {
            "state": "ready",
            "objects": len(serving.group.store),
            "sessions": len(serving.group.sessions),
            "rooms": len(serving.group.rooms),
            "parked_calls": serving.group.calls.parked,
        }
        return WorkerReport(
            self._group_id,
            self._role.grant,
            serving.queue.commit,
            status.archived_op,
            status.state,
            status.error,
            details,
        )

    # --- the end ---

    def _stop(self, reason: str) -> None:
        if self.stopped.done():
            return
        log.info("worker.stopping", reason=reason)
        self._loop.create_task(self._stop_in_order())

    async def _stop_in_order(self) -> None:
        serving, self._serving = self._serving, None
        if self._loading is not None:
            self._loading.cancel()
        if self._couriers is not None:
            self._couriers.close()
        if serving is not None:
            serving.stop()
            self._watchdog.close()
            self._background.stop()
            status = await asyncio.to_thread(serving.archiver.stop, STOP_ARCHIVE_S)
            if status.lag_ops:
                log.error("archive.incomplete", lag_ops=status.lag_ops, error=status.error)
        self._suspects.close()
        if not self.stopped.done():
            self.stopped.set_result(0)

    def close(self) -> None:
        """Let go of sockets and signals."""
        self._lifeline.close()
        self._context.destroy(linger=0)


def _plugin_log(level: str, plugin: str, text: str, facts: dict[str, Any]) -> None:
    getattr(log, level, log.info)(
        "plugin.says", plugin=plugin, text=text, **{f"x_{k}": v for k, v in facts.items()}
    )


def main(options: ProcessOptions) -> int:
    """Run a worker until it is told to stop; the process's exit status."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    # a full collection among the group's objects would be felt by everybody who waits for them
    gc.set_threshold(50_000, 20, 100)
    worker = Worker(loop, options)
    try:
        worker.start()
        return loop.run_until_complete(worker.stopped)
    except PluginLoadError as error:
        log.error("plugin.refused", error=str(error))
        return 1
    finally:
        worker.close()
        loop.close()
