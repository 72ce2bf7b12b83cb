"""From a state to a group that executes: what is built when a worker gets its grant.

Guards the length of a failover's pause: everything that can be made before is made before (plugins,
the store, the archiver); here is only what has to be read from the state as it is at the grant.
"""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from connserver import sockets, telemetry
from connserver.config import ClusterConfig
from connserver.errors import ClientError
from connserver.messages import Role
from connserver.model import Value
from connserver.plugin import Result
from connserver.routes import RouteTable
from connserver.running import RunningNote
from partition.archive import Archiver
from partition.background import BackgroundWork
from partition.backup import Backup
from partition.courier_service import CourierService
from partition.deadline import Deadline
from partition.dispatch import Dispatcher
from partition.effects import Background, Caller
from partition.group import Group
from partition.incident_file import IncidentFile
from partition.intake import Intake
from partition.peers import Peers, Send
from partition.plugins_desk import PluginDesk
from partition.plugins_loading import Repertoire
from partition.quarantine import Quarantine
from partition.retained import Receipts
from partition.serving import Log, Serving
from partition.snapshot_service import SnapshotService
from partition.suspects import Suspects
from partition.table import Method

log = telemetry.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Office:
    """What a worker has all its life and every promotion uses."""

    loop: asyncio.AbstractEventLoop
    context: sockets.Context
    config: ClusterConfig
    node: str
    group: int
    plugins: PluginDesk
    incidents: IncidentFile
    note: RunningNote
    send: Send
    boot: int
    routes: RouteTable
    clock: Callable[[], float]
    """Unix seconds, for everything that is executed."""


@dataclass(frozen=True, slots=True)
class Tenure:
    """One grant: what serves under it, and what ends with it. `gossip`: the boot that gave the grant."""

    grant: int
    gossip: int
    serving: Serving
    background: BackgroundWork
    couriers: CourierService
    snapshots: SnapshotService
    deadline: Deadline
    quarantine: Quarantine

    def use(self, new: Repertoire) -> None:
        """From the next call on, these plugins; PluginLoadError, and then everything is as before."""
        self.serving.group.use(new.table)
        self.background.functions = new.table.backgrounds
        self.deadline.limit_s = new.patience.shortest

    def stop(self) -> None:
        """Nothing is executed any more."""
        self.serving.stop()
        self.background.stop()
        self.couriers.close()


def promote(office: Office, backup: Backup, archiver: Archiver, granted: Log, role: Role) -> Tenure:
    """Build what executes under this grant; ValueError, PluginLoadError: the state cannot be served."""
    began = time.perf_counter()
    office.note.step()
    dispatcher = _dispatcher(office, backup)
    found: list[Serving] = []

    def returned(work: Background, caller: Caller, value: Value, error: ClientError | None) -> None:
        if work.then:
            serving = found[0]
            result = Result.of(value, error)
            serving.when_active(lambda: serving.group.background_done(work, caller, result, office.clock()))

    background = BackgroundWork(
        office.loop, office.plugins.current.table.backgrounds, returned, office.incidents.failed
    )
    group = _group(office, backup, dispatcher, background.start)
    receipts = Receipts(backup.retained)
    quarantine = Quarantine(group, office.note, Suspects(backup.store), office.incidents.opened)
    deadline = Deadline(
        office.plugins.current.patience.shortest,
        lambda: office.plugins.current.patience.is_over(dispatcher.running, time.perf_counter()),
    )
    serving = Serving(
        office.loop,
        group=group,
        peers=Peers(role.grant, office.send, receipts.has),
        view=role.view,
        applied=backup.applied,
        archive=archiver,
        intake=Intake(group, office.note, quarantine, deadline, office.clock),
        log=granted,
        retained=backup.retained,
        receipts=receipts,
        deliver=lambda parcels: _deliver(office.group, parcels, serving, couriers),
    )
    found.append(serving)
    couriers = _couriers(office, serving)
    snapshots = SnapshotService(office.group, backup.era, serving, archiver, office.send)
    took_ms = round((time.perf_counter() - began) * 1000, 1)
    log.info("worker.promoted", objects=len(backup.store), op=backup.applied, milliseconds=took_ms)
    return Tenure(role.grant, role.gossip, serving, background, couriers, snapshots, deadline, quarantine)


def _couriers(office: Office, serving: Serving) -> CourierService:
    couriers = CourierService(
        office.loop,
        office.context,
        office.group,
        office.boot,
        office.routes,
        serving.committed_parcels,
        serving.parcels_done,
        serving.parcels_met,
    )
    for target in sorted({target for target, _, _ in serving.group.outbox.waiting()}):
        couriers.open(target)
    return couriers


def _deliver(
    own: int, parcels: dict[int, list[tuple[int, bytes]]], serving: Serving, couriers: CourierService
) -> None:
    for target, items in parcels.items():
        if target == own:
            serving.own_parcels(items)
        else:
            couriers.send(target, items)


def _dispatcher(office: Office, backup: Backup) -> Dispatcher:
    def says(level: str, plugin: str, text: str, facts: dict[str, Any]) -> None:
        version = dispatcher.plugins.plugins.get(plugin, "")
        more = {f"x_{name}": value for name, value in facts.items()}
        write = getattr(log, level, log.info)
        write("plugin.says", plugin=plugin, version=version, text=text, **more)

    dispatcher = Dispatcher(
        backup.store,
        office.plugins.current.table,
        random=random.Random(),
        on_incident=office.incidents.record,
        incident_prefix=f"{office.node}-{office.group}",
        on_slow=_slow,
        on_log=says,
    )
    return dispatcher


def _group(
    office: Office, backup: Backup, dispatcher: Dispatcher, background: Callable[[Background, Caller], None]
) -> Group:
    group = Group(
        group=office.group,
        groups=office.config.cluster.partition_groups,
        store=backup.store,
        dispatcher=dispatcher,
        secret=lambda: secrets.token_hex(16),
        resume_window_s=office.config.auth.resume_window_s,
        background=background,
        limits=office.config.limits,
        keepalive_ms=office.config.gateway.keepalive_ms,
        room_idle_s=office.config.rooms.idle_s,
        login_by_plugin=office.config.auth.provider == "plugin",
    )
    group.at(office.clock())
    group.load()
    gc.freeze()  # what has been loaded mostly stays
    return group


def _slow(method: Method, milliseconds: float) -> None:
    log.warning(
        "method.slow",
        method=method.name,
        plugin=method.plugin,
        version=method.version,
        milliseconds=round(milliseconds, 1),
    )
