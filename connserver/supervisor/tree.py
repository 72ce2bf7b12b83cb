"""The machine of the process tree: events and the time in, effects out. No clock, no process here.

Guards four rules. Nothing starts before what it needs was there once, and everything starts again
when it dies, later each time. Five deaths within a minute are no accident: the process is left down
and says why. A process that asks to be started anew is, at once, and has not died; but one that asks
again and again does nothing else, so past a bound each such end is a death. And stopping goes through
the ranks from the clients' side inwards, with SIGTERM, a grace, then SIGKILL, so that it always ends.

    PENDING ──needs met──▶ STARTING ──────▶ READY
       ▲                      │ died          │ died      a stop or restart asked: STARTING, READY
       │ asked again          ▼               ▼                               │
       ├─────────────────  BACKOFF ◀──────────┘                               ▼
       │ or it asked          │ fifth in a minute                          STOPPING
       └─────────────────  FAILED                                             │ died
                                                       STOPPED (a stop), PENDING (a restart)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from connserver.messages import ProcessRecord
from connserver.supervisor.events import (
    AllStopped,
    BecameReady,
    Begun,
    Changed,
    Died,
    Effect,
    Event,
    Forked,
    Note,
    Replanned,
    RestartAsked,
    Signal,
    Spawn,
    StopAsked,
    Ticked,
    Waits,
)
from connserver.supervisor.plan import FORK_SERVER, STORAGE, ProcessSpec

DEATHS_LIMIT = 5
"""Deaths within DEATH_WINDOW_S after which a process is left down."""
DEATH_WINDOW_S = 60.0
FIRST_BACKOFF_S = 0.1
"""Wait before the first restart; doubled by every further death within the window."""
LONGEST_BACKOFF_S = 5.0
RENEWALS_LIMIT = 20
"""Starts anew within DEATH_WINDOW_S that a process may ask for: a failover asks for one, so this is a
storm of them. Then five deaths are left."""
STOP_GRACE_S = 10.0
"""From SIGTERM to SIGKILL."""


class State(Enum):
    """Where a process is."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    BACKOFF = "backoff"
    FAILED = "failed"


ALIVE = frozenset({State.STARTING, State.READY, State.STOPPING})
SHOWN = {State.PENDING: "starting", State.STOPPING: "stopped"}
"""What `status` calls a state that is the machine's alone; the others have the name they have."""


@dataclass(slots=True)
class _Process:
    spec: ProcessSpec
    state: State = State.PENDING
    pid: int = 0
    endpoint: str = ""
    reason: str = ""
    last_end: str = ""
    """How it died the last time."""
    starts: int = 0
    due: float | None = None
    """BACKOFF: when to start again; STOPPING: when to kill."""
    deaths: list[float] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    """When it asked to be started anew, within the last DEATH_WINDOW_S."""
    was_ready: bool = False
    settled: bool = False
    """Was ready or died once."""
    leaving: bool = False
    """Not in the plan any more: forgotten as soon as it is not alive."""

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


class ProcessTree:
    """All processes of a host: takes every event with the time (monotonic seconds), gives effects."""

    def __init__(self, specs: Iterable[ProcessSpec]) -> None:
        self._processes = {spec.name: _Process(spec) for spec in specs}
        self._begun = False
        self._stopping = False
        self._at_once = False
        self._ended = False
        self._changed = False
        self._effects: list[Effect] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; the effects, in the order in which to perform them."""
        self._effects = []
        self._changed = False
        match event:
            case Begun():
                self._begun = True
            case Replanned(specs):
                self._replan(specs, now)
            case RestartAsked(names):
                for process in [self._processes[name] for name in names if name in self._processes]:
                    self._restart(process, now)
            case StopAsked(at_once):
                self._stop(at_once)
            case Ticked():
                pass
            case Forked(name) | BecameReady(name) | Waits(name) | Died(name):
                self._happened(self._processes[name], event, now)
            case _:
                assert_never(event)
        self._kill_overdue(now)
        if self._stopping:
            self._stop_next_rank(now)
        elif self._begun:
            self._start_what_may(now)
        if self._changed:
            self._effects.append(Changed())
        return self._effects

    # --- what the shell asks --------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When to send a Ticked, if nothing happens before."""
        return min(
            (process.due for process in self._processes.values() if process.due is not None), default=None
        )

    def records(self) -> list[ProcessRecord]:
        """The table, in the order of the plan."""
        return [
            ProcessRecord(
                node=process.spec.node,
                role=process.spec.role,
                name=process.spec.name,
                pid=process.pid,
                state=SHOWN.get(process.state, process.state.value),
                restarts=max(0, process.starts - 1),
                endpoint=process.endpoint or process.spec.listen,
                reason=process.reason,
                last_end=process.last_end,
            )
            for process in self._processes.values()
        ]

    def __contains__(self, name: str) -> bool:
        """Whether this is a process of the plan, or one that has not left yet; "" is all of them."""
        return not name or name in self._processes

    def endpoint(self, name: str) -> str:
        """Where a process said that it serves; empty when it is not ready."""
        return self._processes[name].endpoint

    def spec(self, name: str) -> ProcessSpec:
        """The plan's entry of this name."""
        return self._processes[name].spec

    # --- one event each -------------------------------------------------------------------------

    def _happened(self, process: _Process, event: Forked | BecameReady | Waits | Died, now: float) -> None:
        match event:
            case Forked(pid=pid):
                self._forked(process, pid, now)
            case BecameReady(pid=pid, endpoint=endpoint):
                self._ready(process, pid, endpoint)
            case Waits(pid=pid, reason=reason):
                self._waits(process, pid, reason)
            case Died(pid=pid, reason=reason, anew=anew):
                self._died(process, pid, reason, anew, now)

    def _replan(self, specs: tuple[ProcessSpec, ...], now: float) -> None:
        wanted = {spec.name: spec for spec in specs}
        for process in list(self._processes.values()):
            process.leaving = process.spec.name not in wanted
            if process.leaving and process.state in (State.STARTING, State.READY):
                self._terminate(process, now)
            elif process.leaving and not process.alive:
                del self._processes[process.spec.name]
                self._changed = True
        known = self._processes
        self._processes = {spec.name: known.pop(spec.name, _Process(spec)) for spec in specs} | known

    def _forked(self, process: _Process, pid: int, now: float) -> None:
        if not process.alive or process.pid:
            return  # the fork server that made it is gone, and so is the process
        process.pid = pid
        self._changed = True
        if process.state is State.STOPPING:
            self._terminate(process, now)

    def _ready(self, process: _Process, pid: int, endpoint: str) -> None:
        if pid != process.pid or process.state not in (State.STARTING, State.READY):
            return  # said before it was stopped or died
        process.endpoint = endpoint
        process.was_ready = process.settled = True
        process.reason = ""
        self._to(process, State.READY)

    def _waits(self, process: _Process, pid: int, reason: str) -> None:
        if pid == process.pid and process.state in (State.STARTING, State.READY):
            process.reason = reason
            self._to(process, State.STARTING)

    def _died(self, process: _Process, pid: int, reason: str, anew: bool, now: float) -> None:
        if not process.alive or pid != process.pid:
            return
        asked = process.state is State.STOPPING
        self._clear(process)
        if process.leaving:
            del self._processes[process.spec.name]
            self._changed = True
        elif self._stopping:
            self._to(process, State.STOPPED)
        elif asked or (anew and self._renews(process, reason, now)):
            self._to(process, State.PENDING)
        else:
            self._count_death(process, reason, now)
        if process.spec.role == FORK_SERVER:
            self._lose_children()

    def _renews(self, process: _Process, reason: str, now: float) -> bool:
        """Whether a process that asks to be started anew may have it; else this is a death like any."""
        process.renewals = [at for at in process.renewals if now - at < DEATH_WINDOW_S]
        if len(process.renewals) >= RENEWALS_LIMIT:
            return False
        process.renewals.append(now)
        self._effects.append(Note("process.starts_anew", process.spec.name, reason))
        return True

    def _count_death(self, process: _Process, reason: str, now: float) -> None:
        process.deaths = [at for at in process.deaths if now - at < DEATH_WINDOW_S] + [now]
        count = len(process.deaths)
        process.last_end = reason
        if count >= DEATHS_LIMIT:
            process.reason = f"left down after {count} deaths in a minute; the last: {reason}"
            self._to(process, State.FAILED)
            self._effects.append(Note("process.left_down", process.spec.name, process.reason))
            return
        process.reason = reason
        process.due = now + min(FIRST_BACKOFF_S * 2 ** (count - 1), LONGEST_BACKOFF_S)
        self._to(process, State.BACKOFF)
        self._effects.append(Note("process.died", process.spec.name, reason))

    def _lose_children(self) -> None:
        """The kernel kills what the fork server made with it: no deaths of their own."""
        for process in list(self._processes.values()):
            if process.leaving:
                del self._processes[process.spec.name]
            elif process.alive:
                self._clear(process)
                self._to(process, State.STOPPED if self._stopping else State.PENDING)

    def _restart(self, process: _Process, now: float) -> None:
        match process.state:
            case State.STARTING | State.READY:
                self._terminate(process, now)
            case State.BACKOFF | State.FAILED:
                process.deaths.clear()
                process.renewals.clear()
                process.due = None
                self._to(process, State.PENDING)
            case State.PENDING | State.STOPPING | State.STOPPED:
                pass

    def _stop(self, at_once: bool) -> None:
        self._stopping = True
        self._at_once = self._at_once or at_once
        for process in self._processes.values():
            if process.state in (State.PENDING, State.BACKOFF):
                process.due = None
                self._to(process, State.STOPPED)

    # --- what follows from any event ------------------------------------------------------------

    def _start_what_may(self, now: float) -> None:
        for process in self._processes.values():
            waits_until = process.due if process.state is State.BACKOFF else None
            if process.state not in (State.PENDING, State.BACKOFF) or (waits_until or now) > now:
                continue
            if self._needs_met(process):
                process.due = None
                process.starts += 1
                self._to(process, State.STARTING)
                self._effects.append(Spawn(process.spec.name))

    def _needs_met(self, process: _Process) -> bool:
        spec = process.spec
        maker = self._processes.get(FORK_SERVER)  # there is none where processes are not forked
        if maker not in (None, process) and maker.state is not State.READY:
            return False
        return all(self._processes[name].was_ready for name in spec.after) and all(
            process.settled for process in self._processes.values() if process.spec.role == spec.settling
        )

    def _stop_next_rank(self, now: float) -> None:
        alive = [process for process in self._processes.values() if process.alive]
        if not alive and not self._ended:
            self._ended = True
            self._effects.append(AllStopped())
        rank = max((process.spec.rank for process in alive), default=0)
        for process in alive:
            at_once = self._at_once and process.spec.role not in (FORK_SERVER, STORAGE)
            if process.state is not State.STOPPING and (at_once or process.spec.rank == rank):
                self._terminate(process, now)
            if at_once and process.pid and process.due is not None:
                self._kill(process)

    def _kill_overdue(self, now: float) -> None:
        for process in self._processes.values():
            if process.state is State.STOPPING and process.due is not None and process.due <= now:
                self._kill(process)

    def _kill(self, process: _Process) -> None:
        process.due = None
        if process.pid:
            self._effects.append(Signal(process.spec.name, process.pid, hard=True))
            self._effects.append(Note("process.killed", process.spec.name, "did not stop in time"))

    def _terminate(self, process: _Process, now: float) -> None:
        process.due = now + STOP_GRACE_S
        process.endpoint = ""
        process.reason = "stopping"
        self._to(process, State.STOPPING)
        if process.pid:
            self._effects.append(Signal(process.spec.name, process.pid, hard=False))

    def _clear(self, process: _Process) -> None:
        process.pid = 0
        process.endpoint = process.reason = ""
        process.due = None
        process.settled = True

    def _to(self, process: _Process, state: State) -> None:
        process.state = state
        self._changed = True

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        pids = [process.pid for process in self._processes.values() if process.pid]
        assert len(pids) == len(set(pids)), "two processes with one pid"
        for process in self._processes.values():
            assert not process.pid or process.alive, f"{process.spec.name} has a pid and is not alive"
            assert (process.state is State.BACKOFF) <= (process.due is not None), "backoff without an end"
            assert process.due is None or process.state in (State.BACKOFF, State.STOPPING)
            assert process.state is not State.READY or process.was_ready
            assert len(process.renewals) <= RENEWALS_LIMIT
            assert (process.state is not State.FAILED) or len(process.deaths) >= DEATHS_LIMIT
        if self._ended:
            assert not any(process.alive for process in self._processes.values())
