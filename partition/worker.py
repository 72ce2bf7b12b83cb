"""The worker process of one partition group on one node: the shell around everything here.

It loads its plugins and the group's state, follows the group's log as a backup, and executes while it
holds a grant. What it may do is decided by `partition.duty`; how it executes, by `partition.serving`.
Guards: one thing at a time changes the state, the backup that applies or the tenure that executes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import secrets
from typing import Any

from connserver import sockets, telemetry
from connserver.codec import decode, encode
from connserver.driver import Port, new_loop
from connserver.errors import PluginLoadError, WireError
from connserver.limits import PLUGIN_RETRY_S
from connserver.messages import (
    BACKUP,
    STALE_GRANT,
    AdminReply,
    AdminRequest,
    BarrierPassed,
    Committed,
    Deliver,
    Drained,
    GetSnapshot,
    OpenStream,
    Rebase,
    Refused,
    Role,
    RouteEntry,
    WorkerReport,
    WrongGrant,
)
from connserver.process import START_ANEW, Lifeline, ProcessOptions
from connserver.route_feed import RouteFeed
from connserver.running import RunningNote, note_path
from partition.attachment import Attachment
from partition.backup import Backup
from partition.clock import SteadyClock
from partition.deadline import Watchdog
from partition.duty import Act, Standing, judge
from partition.gossip_link import GossipLink, GrantedLog
from partition.holding import Holding
from partition.incident_file import IncidentFile
from partition.objects import Store
from partition.operating import operate_in_turn
from partition.peers import is_named
from partition.plugins_desk import plugin_desk
from partition.plugins_orders import PLUGIN_COMMANDS, PluginOrders
from partition.promotion import Office, Tenure, promote
from partition.report import report

STOP_ARCHIVE_S = 5.0
"""How long a stopping primary may take to archive the rest."""

ATTACH_AGAIN_S = 0.25
"""Between two attempts to begin anew: what is under way for the earlier one is let pass."""

EARLY_STREAMS = 4_096
"""Streams opened for a grant that this worker has not heard of yet; they wait for it."""

log = telemetry.get_logger(__name__)


class Worker:
    """One process. `stopped` is done when it may exit; its result is the exit status."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ProcessOptions) -> None:
        self._loop = loop
        self._options = options
        self._config = options.config
        self._group = options.group
        self._boot = secrets.randbits(63)
        self._context = sockets.context()
        self._role = Role(options.group, 0, BACKUP, 0, 0, False, 0, 0, 0)
        self._office: Office | None = None
        self._tenure: Tenure | None = None
        self._void = 0
        self._attached_at = float("-inf")
        self._attached_to = 0
        self._early: dict[bytes, OpenStream] = {}
        self._ending = False
        self.stopped: asyncio.Future[int] = loop.create_future()
        self._lifeline = Lifeline(loop, options, lambda reason: self._stop(reason, 0))
        self._watchdog = Watchdog(loop)
        self._clock = SteadyClock()

    def start(self) -> None:
        """Load plugins, listen, say that we are there; PluginLoadError."""
        options, places = self._options, self._options.places
        self._plugins = plugin_desk(self._config, places.node_dir(options.node), self._group)
        self._plugins.prefetch()
        router = sockets.router(self._context)
        self._endpoint = sockets.bind(router, places.worker_endpoint(options.node, self._group))
        self._router = Port(self._loop, router, self._received)
        self._holding = Holding(
            self._loop,
            self._context,
            self._config,
            options.storage_dsn,
            self._group,
            self._endpoint,
            routed=lambda: self._routes.table.entry(self._group),
            adopt=self._adopt,
            loaded=self._loaded,
            refused=self._refused,
            waiting=self._lifeline.waiting,
        )
        self._orders = PluginOrders(
            self._loop,
            self._plugins,
            standing=lambda: (self._holding.backup, self._tenure),
            reply=self._reply,
            refused=lambda why: self._stop(f"the plugins of the group cannot be loaded: {why}", START_ANEW),
            changed=lambda: self._gossip.report_now(),
        )
        self._attachment = Attachment(self._group, os.getpid(), self._endpoint)
        self._gossip = GossipLink(
            self._loop,
            self._context,
            places.gossip_endpoint(options.node),
            self._attachment.hello(),
            self._on_role,
            self._on_message,
            self._on_admin,
            self._report,
        )
        identity = b"worker-routes:%d:%d" % (self._group, os.getpid())
        self._routes = RouteFeed(
            self._loop, self._context, self._config, places, options.name, identity, self._on_routes
        )

    def _begin(self) -> None:
        """The replica of this node speaks to us, so whatever ran here before is dead and accounted for."""
        options = self._options
        self._office = Office(
            loop=self._loop,
            context=self._context,
            config=self._config,
            node=options.node,
            group=self._group,
            plugins=self._plugins,
            incidents=IncidentFile(options.places.log_dir, options.node),
            note=RunningNote(note_path(options.places.node_dir(options.node), self._group)),
            send=self._send,
            boot=self._boot,
            routes=self._routes.table,
            clock=self._clock,
        )
        self._holding.load(self._role.era, 0)

    def _adopt(self, store: Store) -> None:
        """In a thread: have the plugins that a state names; PluginLoadError."""
        self._plugins.adopt(store)
        self._plugins.current.table.refuse_unreadable(store)

    def _refused(self, why: str) -> None:
        """The state is there and cannot be served by the plugins it names."""
        if self._plugins.begins_anew or not self._plugins.problem:
            self._stop(f"the plugins cannot be used: {why}", 1)
            return
        # this node does not take over; what its group chooses next may be loaded again
        self._lifeline.waiting(why)
        self._gossip.report_now()
        self._loop.call_later(PLUGIN_RETRY_S, self._holding.load, self._role.era, 0)

    def _loaded(self) -> None:
        self._attach()
        self._gossip.report_now()
        self._lifeline.ready(self._endpoint)

    # --- the role ---

    def _on_role(self, role: Role) -> None:
        if role.group != self._group or self._ending:
            return
        before, self._role = self._role, role
        if (role.grant, role.role, role.era, role.view) != (
            before.grant,
            before.role,
            before.era,
            before.view,
        ):
            log.info("worker.role", role=role.role, grant=role.grant, era=role.era, view=role.view)
        if self._office is None and role.era:
            self._begin()
        if self._holding.archiver is not None and self._tenure is None:
            self._holding.archiver.archived_elsewhere(role.archived)
        self._act(judge(role, self._standing()), role)

    def _standing(self) -> Standing:
        backup, tenure = self._holding.backup, self._tenure
        if backup is None:
            return Standing()
        if tenure is None:
            return Standing(backup.era, backup.applied, void=self._void)
        return Standing(
            backup.era, backup.applied, tenure.grant, tenure.gossip, tenure.serving.draining, self._void
        )

    def _act(self, act: Act, role: Role) -> None:
        match act:
            case Act.NOTHING:
                pass
            case Act.PROMOTE:
                self._promote(role)
            case Act.DRAIN if self._tenure is not None:
                self._tenure.serving.drain()
            case Act.GO_ON if self._tenure is not None:
                self._tenure.serving.go_on()
            case Act.DRAINED:
                self._gossip.send(Drained(self._group, role.grant))
            case Act.LOSE:
                self._lose()
            case Act.BEGIN_ANEW:
                self._attach_again()
            case Act.REPEAT:
                self._repeat(role)
            case Act.ARCHIVE_AHEAD:
                self._refuse_to_serve(role)
            case Act.RELOAD:
                self._holding.load(role.era, 0)

    def _refuse_to_serve(self, role: Role) -> None:
        backup = self._holding.backup
        assert backup is not None
        why = (
            f"the archive is ahead of the log: it stands at op {backup.applied}, the log at op "
            f"{role.commit}; group {self._group} is not served"
        )
        if why != self._holding.trouble:
            log.error("archive.ahead_of_log", state=backup.applied, commit=role.commit)
        self._holding.trouble = why

    def _attach(self) -> None:
        """A new attempt, with the state as it is."""
        backup = self._holding.backup
        assert backup is not None
        self._attached_at, self._attached_to = self._loop.time(), self._role.gossip
        after = min(backup.after, backup.applied)
        self._gossip.send(self._attachment.begin(backup.era, backup.applied, after))

    def _attach_again(self) -> None:
        if self._loop.time() - self._attached_at >= ATTACH_AGAIN_S:
            self._attach()

    def _repeat(self, role: Role) -> None:
        """The replica may not have heard us, or have begun anew; it may also still be thinking."""
        waited_s = self._loop.time() - self._attached_at
        if role.gossip != self._attached_to or waited_s >= 2 * ATTACH_AGAIN_S:
            self._attach()
        else:
            self._gossip.send(self._attachment.current())

    def _promote(self, role: Role) -> None:
        backup, archiver, office = self._holding.backup, self._holding.archiver, self._office
        assert backup is not None and archiver is not None and office is not None
        granted = GrantedLog(self._gossip, self._group, role.grant)
        try:
            self._plugins.adopt(backup.store)
            tenure = self._tenure = promote(office, backup, archiver, granted, role)
        except PluginLoadError as error:
            log.error("plugin.refused", error=str(error))
            self._stop(f"the plugins cannot be used: {error}", 1 if self._plugins.begins_anew else START_ANEW)
            return
        serving = tenure.serving
        self._holding.promoted(role.view, serving.with_state)
        self._watchdog.start()
        serving.when_active(lambda: self._plugins.settle(serving.group.store, serving.group.ledger))
        early, self._early = self._early, {}
        for identity, opening in early.items():
            serving.receive(identity, opening)
        self._gossip.report_now()

    def _lose(self) -> None:
        """The grant is over. What was executed beyond the commit cannot be taken back, but by dying."""
        tenure = self._tenure
        assert tenure is not None
        queue = tenure.serving.queue
        if tenure.serving.ends_ahead():
            log.warning("worker.deposed_ahead", head=queue.head, commit=queue.commit)
            self._stop("it executed more than the log has", START_ANEW)
            return
        log.info("worker.deposed", op=queue.commit)
        self._void = tenure.grant
        self._end_tenure(tenure)
        self._holding.demoted(queue.commit)
        self._attach()
        self._gossip.report_now()

    def _end_tenure(self, tenure: Tenure) -> None:
        self._tenure = None
        tenure.stop()
        self._watchdog.close()

    # --- the log ---

    def _on_message(self, message: Any) -> None:
        backup = self._holding.backup
        if backup is None or self._ending:
            return
        try:
            if self._tenure is not None:
                self._hear_as_primary(message, self._tenure)
            elif getattr(message, "group", None) == self._group:
                self._hear_as_backup(message, backup)
        except ValueError as error:
            # what the log says and what this process did do not fit together: only a fresh one may go on
            log.error("log.unexpected", error=str(error))
            self._stop("the log does not fit this worker's state", START_ANEW)

    def _hear_as_backup(self, message: Any, backup: Backup) -> None:
        if isinstance(message, Deliver):
            if not backup.deliver(message):
                self._attach_again()
            if self._plugins.is_behind(backup.store):
                self._orders.follow(backup.store)
        elif isinstance(message, Rebase):
            if message.era != backup.era or message.op > backup.applied:
                self._holding.load(message.era, message.op)
            else:
                backup.after = max(backup.after, message.op)
                self._attach_again()

    def _hear_as_primary(self, message: Any, tenure: Tenure) -> None:
        if isinstance(message, Rebase):
            self._lose()
        elif getattr(message, "grant", None) != tenure.grant:
            return
        elif isinstance(message, Committed):
            tenure.serving.committed(message.op)
        elif isinstance(message, BarrierPassed):
            tenure.serving.barrier_passed(message.token)
        elif isinstance(message, Refused):
            if message.reason == STALE_GRANT:
                self._lose()
            else:
                tenure.serving.refused(message)

    # --- streams ---

    def _send(self, identity: bytes, data: bytes) -> object:
        return self._router.send([identity, data])

    def _received(self, frames: list[bytes]) -> None:
        if len(frames) != 2 or self._ending or not is_named(frames[0]):
            return
        identity = frames[0]
        try:
            message: Any = decode(frames[1])
        except WireError as error:
            log.warning("peer.garbage", error=str(error))
            return
        if isinstance(message, GetSnapshot):
            if self._tenure is not None:
                self._tenure.snapshots.asked(identity, message, self._loop.time())
        elif self._tenure is not None:
            self._tenure.serving.receive(identity, message)
        elif isinstance(message, OpenStream) and message.grant != self._void:
            # its route may be faster than our role
            if identity in self._early or len(self._early) < EARLY_STREAMS:
                self._early[identity] = message
        elif hasattr(message, "grant"):
            self._send(identity, encode(WrongGrant(message.grant, 0)))

    def _on_routes(self, entries: list[RouteEntry]) -> None:
        if self._tenure is not None:
            self._tenure.couriers.routed(entries)

    # --- administration ---

    def _on_admin(self, request: AdminRequest) -> None:
        if request.command in PLUGIN_COMMANDS:
            self._orders.asked(request)
        elif self._tenure is not None:
            operate_in_turn(self._tenure.serving, self._tenure.quarantine, request, self._clock)
        else:
            state = "loading" if self._holding.backup is None else "backup"
            why = f"group {self._group} is not served here now ({state}); try again"
            self._reply(AdminReply(request.number, None, why))

    def _reply(self, reply: AdminReply) -> None:
        self._gossip.send(reply)

    def _report(self) -> WorkerReport:
        return report(self._group, self._role, self._plugins.rows(), self._holding, self._tenure)

    # --- the end ---

    def _stop(self, reason: str, status: int) -> None:
        if not self._ending:
            self._ending = True
            log.info("worker.stopping", reason=reason, status=status)
            self._loop.create_task(self._stop_in_order(status))

    async def _stop_in_order(self, status: int) -> None:
        if self._tenure is not None:
            self._end_tenure(self._tenure)
        await self._holding.stop(STOP_ARCHIVE_S, quickly=status != 0)
        if self._office is not None:
            self._office.note.close()
        if not self.stopped.done():
            self.stopped.set_result(status)

    def close(self) -> None:
        """Let go of sockets and signals."""
        self._lifeline.close()
        self._context.destroy(linger=0)


def bound_memory(mebibytes: int) -> None:
    """Past so much data an allocation fails: a MemoryError in whoever asked for it, not a full machine."""
    if mebibytes:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = mebibytes << 20
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def main(options: ProcessOptions) -> int:
    """Run a worker until it is told to stop; the process's exit status."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    # a full collection among the group's objects would be felt by everybody who waits for them
    gc.set_threshold(50_000, 20, 100)
    bound_memory(options.config.limits.worker_memory_mb)
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
