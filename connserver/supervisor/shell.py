"""The supervisor's shell: gives the tree its events and the time, and performs its effects.

Runs in the main thread of `cs-cluster up` on a plain asyncio loop. Nothing here decides.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, assert_never

from connserver import telemetry
from connserver.messages import ProcessRecord
from connserver.process import ENTRY_MODULES
from connserver.supervisor.events import (
    AllStopped,
    Begun,
    Changed,
    Died,
    Event,
    Forked,
    Note,
    Replanned,
    RestartAsked,
    Signal,
    Spawn,
    StopAsked,
    Ticked,
)
from connserver.supervisor.forkserver import describe_exit
from connserver.supervisor.nursery import ForkNursery, SpawnNursery
from connserver.supervisor.plan import FORK_SERVER, STORAGE, Placement, ProcessSpec, obvious_placement, plan
from connserver.supervisor.rotation import rotate
from connserver.supervisor.tree import ProcessTree

if TYPE_CHECKING:
    from connserver.config import ClusterConfig, Places
    from connserver.supervisor.link import GossipLink

MODULES: Final = {STORAGE: "connserver.supervisor.keeper", **ENTRY_MODULES}
"""The program of each role, in the order in which they are needed."""
PRELOADED: Final = ("connserver.telemetry", "msgpack", "orjson", "zmq", "uvloop", "psycopg")
"""What processes import only when they run: loaded before the first of them is forked, if installed."""
ROTATION_S: Final = 5.0

WELL: Final = describe_exit(0)

log = telemetry.get_logger(__name__)


def can_fork() -> bool:
    """Whether the fork server's promises hold here: they need Linux."""
    return sys.platform == "linux"


@dataclass(slots=True)
class Errand:
    """A process that is run once, and the news of its end."""

    ended: asyncio.Future[str]
    pid: int = 0


class Supervisor:
    """All processes of this host. `run` ends when all of them have stopped.

    `modules` says by role which module's main is run; `on_change` hears of every change of the
    table, `on_note` what an operator should read (event, process, words).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: ClusterConfig,
        places: Places,
        *,
        modules: dict[str, str] | None = None,
        forking: bool | None = None,
        on_change: Callable[[], None] = lambda: None,
        on_note: Callable[[str, str, str], None] = lambda event, name, detail: None,
    ) -> None:
        forking = can_fork() if forking is None else forking
        self._loop = loop
        self._config = config
        self._places = places
        self._on_change = on_change
        self._on_note = on_note
        self._forking = forking
        self._placement = obvious_placement(config)
        self._tree = ProcessTree(self._plan())
        self._events: deque[Event] = deque()
        self._errands: dict[str, Errand] = {}
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._rotation: asyncio.TimerHandle | None = None
        self._link: GossipLink | None = None
        self._ended = loop.create_future()
        programs = MODULES if modules is None else modules
        self._nursery: ForkNursery | SpawnNursery
        if forking:
            loads = loading_order(programs)
            self._nursery = ForkNursery(loop, config, places, loads, self._take)
        else:
            self._nursery = SpawnNursery(loop, config, places, started_as(programs), self._take)

    async def run(self) -> None:
        """Start everything and see to it until all has stopped."""
        from connserver.supervisor.link import GossipLink

        self._take(Begun())
        # Made while the fork server imports its modules, on the other core.
        self._link = GossipLink(self._loop, self._config, self._places, self.records, self._placed)
        self._rotation = self._loop.call_later(ROTATION_S, self._rotate)
        try:
            await self._ended
        finally:
            self._link.close()
            self._rotation.cancel()
            self._nursery.close()

    def stop(self, *, at_once: bool = False) -> None:
        """Stop everything in order; `at_once`: without waiting for anything but storage."""
        self._take(StopAsked(at_once))

    def restart(self, names: tuple[str, ...]) -> None:
        """Stop these processes and start them again."""
        self._take(RestartAsked(names))

    async def errand(self, role: str, timeout_s: float) -> str:
        """Run a process that ends by itself, outside the tree; how it ended, in words ("" if well).

        Past `timeout_s` it is killed.
        """
        errand = self._errands[role] = Errand(self._loop.create_future())
        first = self._config.host_nodes[0].name
        self._nursery.spawn(self._options(ProcessSpec(name=role, role=role, node=first)))
        try:
            return await asyncio.wait_for(errand.ended, timeout_s)
        except TimeoutError:
            if errand.pid:
                self._nursery.signal(role, errand.pid, hard=True)
            return f"it took more than {timeout_s:g} s"
        finally:
            del self._errands[role]

    def records(self) -> list[ProcessRecord]:
        """The table: this process, then its own in the order of starting."""
        first = self._config.host_nodes[0].name
        own = ProcessRecord(first, "supervisor", "supervisor", os.getpid(), "ready", 0, "", "")
        rows = self._tree.records()
        if not self._config.storage.dsn:
            # Its endpoint is a DSN for the workers; nobody else has a use for it.
            rows = [replace(row, endpoint="embedded") if row.role == STORAGE else row for row in rows]
        return [own, *rows]

    def _plan(self) -> tuple[ProcessSpec, ...]:
        specs = plan(self._config, self._placement)
        return specs if self._forking else tuple(spec for spec in specs if spec.role != FORK_SERVER)

    def _placed(self, placement: Placement) -> None:
        if placement != self._placement:
            self._placement = placement
            self._take(Replanned(self._plan()))

    def _take(self, event: Event) -> None:
        """Queue an event: performing an effect may well give the next one."""
        name = getattr(event, "name", "")
        if name in self._errands or name not in self._tree:
            self._run_errand(name, event)
            return
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                for effect in self._tree.handle(self._events.popleft(), self._loop.time()):
                    self._perform(effect)
        finally:
            self._busy = False
        self._set_timer()

    def _run_errand(self, name: str, event: Event) -> None:
        errand = self._errands.get(name)
        match event:
            case Forked(pid=pid) if errand is not None:
                errand.pid = pid
            case Died(reason=reason) if errand is not None and not errand.ended.done():
                errand.ended.set_result("" if reason == WELL else reason)

    def _perform(self, effect: Spawn | Signal | Note | Changed | AllStopped) -> None:
        match effect:
            case Spawn(name):
                self._nursery.spawn(self._options(self._tree.spec(name)))
            case Signal(name, pid, hard):
                self._nursery.signal(name, pid, hard=hard)
            case Note(event, name, detail):
                log.warning(event, name=name, detail=detail)
                self._on_note(event, name, detail)
            case Changed():
                if self._link is not None:
                    self._link.changed()
                self._on_change()
            case AllStopped():
                self._ended.set_result(None)
            case _:
                assert_never(effect)

    def _options(self, spec: ProcessSpec) -> dict[str, Any]:
        dsn = self._config.storage.dsn or self._tree.endpoint(STORAGE)
        return {
            "role": spec.role,
            "node": spec.node,
            "name": spec.name,
            "group": spec.group,
            "listen": spec.listen,
            "storage_dsn": dsn if spec.role in ("worker", "gossip") else "",
        }

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._tree.next_due()
        if due is not None:
            self._timer = self._loop.call_at(due, self._take, Ticked())

    def _rotate(self) -> None:
        self._rotation = self._loop.call_later(ROTATION_S, self._rotate)
        try:
            rotate(self._places.log_dir)
        except OSError as error:
            log.warning("log.rotation_failed", reason=str(error))


def loading_order(modules: dict[str, str]) -> list[str]:
    """What the fork server imports, as `role=module`: PostgreSQL's keeper first, it takes longest."""
    first = [f"{STORAGE}={modules[STORAGE]}"]
    others = [f"{role}={module}" for role, module in modules.items() if role != STORAGE]
    return [*first, *(f"={module}" for module in PRELOADED), *others]


def started_as(modules: dict[str, str]) -> dict[str, str]:
    """What to give to `python -m` for each role: of the process packages their own entry."""
    return {
        role: module.partition(".")[0] if module == ENTRY_MODULES.get(role) else module
        for role, module in modules.items()
    }
