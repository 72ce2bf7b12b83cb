"""The worker process of one partition group on one node: the shell around everything here.

It loads its plugins and the group's state, follows the group's log as a backup, and executes while it
holds a grant. What it may do is decided by `partition.duty`; how it executes, by `partition.serving`.
Guards: one thing at a time changes the state, the backup that applies or the tenure that executes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
from typing import Any

from connserver import sockets, telemetry
from connserver.codec import decode, encode
from connserver.driver import Port, new_loop
from connserver.errors import ClientError, PluginLoadError, WireError
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
from partition.loader import load_plugins
from partition.operating import operate
from partition.peers import is_named
from partition.promotion import Office, Tenure, patience_of, promote
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
        self._plugins = load_plugins(
            plugin.path for plugin in self._config.plugins if plugin.in_group(self._group)
        )
        if self._config.auth.provider == "plugin":
            self._plugins.require_login()
        self._patience = patience_of(self._config, self._group)
        router = sockets.router(self._context)
        self._endpoint = sockets.bind(router, places.worker_endpoint(options.node, self._group))
        self._router = Port(self._loop, router, self._received)
        self._holding = Holding(
            self._loop,
            self._context,
            self._config,
            options.storage_dsn,
            self._group,
            self._plugins,
            self._endpoint,
            routed=lambda: self._routes.table.entry(self._group),
            loaded=self._loaded,
            refused=lambda why: self._stop(why, 1),
            waiting=self._lifeline.waiting,
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
            patience=self._patience,
            incidents=IncidentFile(options.places.log_dir, options.node),
            note=RunningNote(note_path(options.places.node_dir(options.node), self._group)),
            send=self._send,
            boot=self._boot,
            routes=self._routes.table,
            clock=self._clock,
        )
        self._holding.load(self._role.era, 0)

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
            tenure = self._tenure = promote(office, backup, archiver, granted, role)
        except PluginLoadError as error:
            log.error("plugin.refused", error=str(error))
            self._stop(str(error), 1)
            return
        serving = tenure.serving
        self._holding.promoted(role.view, serving.with_state)
        self._watchdog.start()
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
        tenure = self._tenure
        if tenure is None:
            state = "loading" if self._holding.backup is None else "backup"
            why = f"group {self._group} is not served here now ({state}); try again"
            self._gossip.send(AdminReply(request.number, None, why))
            return
        group = tenure.serving.group

        def carry_out() -> tuple[Any, str]:
            try:
                return operate(group, request.command, request.arguments, self._clock()), ""
            except (ClientError, ValueError) as error:
                return None, str(error)

        tenure.serving.administer(request.number, carry_out)

    def _report(self) -> WorkerReport:
        return report(self._group, self._role, self._plugins, self._holding, self._tenure)

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
