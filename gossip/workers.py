"""The workers of this node: which process of a group is the one, what it reports, who is dead.

Guards one rule: at most one living process of a group counts. A second one waits, as a backup, until
the first is known to be dead, so that a worker is reaped before another takes its place. Who may
execute is decided by the group's replica, which knows only the process that counts. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgpack

from connserver.limits import RECORD_TEXT_CHARS, WORKER_DETAILS_BYTES
from connserver.messages import (
    BACKUP,
    NO_STATE,
    Attach,
    ProcessRecord,
    Role,
    WorkerRecord,
    WorkerReport,
)

DOWN = frozenset({"stopped", "failed", "backoff"})
"""States of a ProcessRecord in which there is no process."""
PLUGIN_FACTS = 16
"""What is known of one plugin on one worker: name, version, state and a few more."""
LARGEST_POSITION = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Watch:
    """Say when this process dies."""

    pid: int


@dataclass(frozen=True, slots=True)
class Unwatch:
    """Nobody cares for this process any more."""

    pid: int


@dataclass(frozen=True, slots=True)
class Tell:
    """This Role goes to a worker that waits."""

    identity: bytes
    role: Role


@dataclass(frozen=True, slots=True)
class Employ:
    """This is said by the process of its group that counts."""

    identity: bytes
    said: Attach


@dataclass(frozen=True, slots=True)
class Lost:
    """The attached worker of a group is dead; what was asked of it will not be answered."""

    group: int
    identity: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A new worker of a group has to wait, because the old process still lives."""

    group: int
    pid: int
    old_pid: int


WorkerOutcome = Watch | Unwatch | Tell | Employ | Lost | Waiting


class Reported(Enum):
    """What a WorkerReport brought."""

    REFUSED = "it is not from the attached worker, or makes no sense"
    NOTHING = "what was known already"
    NUMBERS = "positions only"
    STATE = "something that routes or alerts follow from"


@dataclass(slots=True)
class Attached:
    """A living worker process, what it said when it came, and what it reported last."""

    identity: bytes
    said: Attach
    grant: int = 0
    commit: int = 0
    archived: int = 0
    storage: str = ""
    storage_error: str = ""
    state: str = "loading"
    plugins: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    parked_calls: int = 0
    held_timers: int = 0

    @property
    def group(self) -> int:
        """The group it executes for."""
        return self.said.group

    @property
    def waits(self) -> tuple[Any, ...]:
        """What of it alerts follow from; of numbers only whether there are any."""
        return self.quarantined, self.parked_calls > 0, self.held_timers > 0

    @property
    def pid(self) -> int:
        """Its process."""
        return self.said.pid


class Workers:
    """Attached workers by group. `boot` is this gossip process's, for the roles of those that wait."""

    def __init__(self, node: str, boot: int) -> None:
        self._node = node
        self._boot = boot
        self._attached: dict[int, Attached] = {}
        self._candidates: dict[int, Attached] = {}
        self._gone: dict[int, Attached] = {}
        self._last_grants: dict[int, int] = {}

    # --- events ---------------------------------------------------------------------------------

    def attach(self, identity: bytes, said: Attach) -> list[WorkerOutcome]:
        """A worker is there, or says more of itself; another process waits for the first one's death."""
        old = self._attached.get(said.group)
        if old is None:
            self._attached[said.group] = Attached(identity, said)
            return [Watch(said.pid), Employ(identity, said)]
        if old.pid == said.pid:
            old.identity, old.said = identity, said
            return [Employ(identity, said)]
        new = Attached(identity, said)
        known = self._candidates.get(said.group)
        self._candidates[said.group] = new
        outcomes: list[WorkerOutcome] = []
        if known is None or not is_repeat(known.said, said):
            outcomes.append(self._wait(new))
        if known is None or known.pid != new.pid:
            outcomes = [Waiting(said.group, new.pid, old.pid), Watch(new.pid), *outcomes]
            if known is not None:
                outcomes.append(Unwatch(known.pid))
        return outcomes

    def granted(self, group: int, grant: int) -> None:
        """The replica has given the attached worker this grant; 0: it has taken it away."""
        worker = self._attached.get(group)
        if worker is not None:
            worker.grant = grant
            if grant:
                self._last_grants[group] = grant

    def report(self, identity: bytes, said: WorkerReport) -> Reported:
        """Positions, storage and plugins of an attached worker."""
        worker = self._attached.get(said.group)
        if worker is None or worker.identity != identity:
            return Reported.REFUSED
        if not (0 <= said.commit <= LARGEST_POSITION and 0 <= said.archived <= LARGEST_POSITION):
            return Reported.REFUSED
        numbers = worker.commit, worker.archived, worker.storage_error
        before = worker.state, worker.storage, worker.plugins, worker.waits
        worker.commit, worker.archived = said.commit, said.archived
        worker.storage, worker.storage_error = said.storage[:40], said.storage_error[:400]
        details = _kept(said.details)
        worker.state = "loading" if details.get("state") == "loading" else "ready"
        worker.plugins = _rows(details.get("plugins"))
        worker.quarantined = _rows(details.get("quarantined"))
        worker.parked_calls = _count(details.get("parked_calls"))
        worker.held_timers = _count(details.get("held_timers"))
        after = worker.state, worker.storage, worker.plugins, worker.waits
        if before != after:
            return Reported.STATE
        same = numbers == (worker.commit, worker.archived, worker.storage_error)
        return Reported.NOTHING if same else Reported.NUMBERS

    def died(self, pid: int) -> list[WorkerOutcome]:
        """A process is dead; one that waited for that takes its place."""
        outcomes: list[WorkerOutcome] = []
        for group, waiting in list(self._candidates.items()):
            if waiting.pid == pid:
                del self._candidates[group]
                outcomes.append(Unwatch(pid))
        for group, worker in list(self._attached.items()):
            if worker.pid != pid:
                continue
            self._gone[group] = self._attached.pop(group)
            outcomes += [Lost(group, worker.identity), Unwatch(pid)]
            candidate = self._candidates.pop(group, None)
            if candidate is not None:
                self._attached[group] = candidate
                outcomes.append(Employ(candidate.identity, candidate.said))
        return outcomes

    def supervised(self, table: Iterable[ProcessRecord]) -> list[WorkerOutcome]:
        """The supervisor's table: a worker that it says is down, or replaced, is dead."""
        outcomes: list[WorkerOutcome] = []
        rows = {row.name: row for row in table if row.role == "worker" and row.node == self._node}
        for group in sorted(self._attached):
            worker, row = self._attached.get(group), rows.get(worker_name(self._node, group))
            if worker is None or row is None:
                continue
            # a living row with another pid: the supervisor reaps a worker before it starts the next
            if row.state in DOWN or (row.pid and row.pid != worker.pid and self._waits(group, row.pid)):
                outcomes += self.died(worker.pid)
        return outcomes

    # --- what others read -----------------------------------------------------------------------

    def waiting(self) -> list[WorkerOutcome]:
        """The Role of everybody who waits, again: the heartbeat of gossip to its workers."""
        return [self._wait(worker) for worker in self._candidates.values()]

    def attached(self, group: int) -> Attached | None:
        """The living worker of a group that is not waiting for another's death."""
        return self._attached.get(group)

    def rows(self) -> list[WorkerRecord]:
        """The node record's workers, the dead ones included for the grants they had."""
        rows = {group: self._row(worker, "gone") for group, worker in self._gone.items()}
        for group, worker in self._attached.items():
            rows[group] = self._row(worker, "serving" if worker.grant else worker.state)
        return [rows[group] for group in sorted(rows)]

    # --- inside ---------------------------------------------------------------------------------

    def _waits(self, group: int, pid: int) -> bool:
        candidate = self._candidates.get(group)
        return candidate is not None and candidate.pid == pid

    def _wait(self, worker: Attached) -> Tell:
        role = Role(worker.group, 0, BACKUP, 0, 0, False, 0, 0, self._boot)
        return Tell(worker.identity, role)

    def _row(self, worker: Attached, state: str) -> WorkerRecord:
        return WorkerRecord(
            group=worker.group,
            pid=worker.pid,
            endpoint=worker.said.endpoint,
            # also when it is void: a route never falls back behind a grant that was published
            grant=self._last_grants.get(worker.group, 0),
            state=state,
            commit=worker.commit,
            archived=worker.archived,
            storage=worker.storage,
            storage_error=worker.storage_error,
            plugins=worker.plugins,
            quarantined=worker.quarantined,
            parked_calls=worker.parked_calls,
            held_timers=worker.held_timers,
        )

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        grants = [worker.grant for worker in self._attached.values() if worker.grant]
        assert len(grants) == len(set(grants)), "one grant given twice"
        for group, candidate in self._candidates.items():
            assert not candidate.grant, "a waiting worker with a grant"
            assert self._attached[group].pid != candidate.pid, "a worker that waits for itself"


def is_repeat(before: Attach, said: Attach) -> bool:
    """Whether a worker says the same again because it is not attached: it hears with the next heartbeat.

    Answered at once it would say it again at once. A question without a state is always answered.
    """
    return said == before and said.applied != NO_STATE


def worker_name(node: str, group: int) -> str:
    """What the supervisor calls a node's worker of a group."""
    return f"w-{node}-{group}"


def _rows(rows: Any) -> list[dict[str, Any]]:
    return [row for row in rows if is_plugin_row(row)] if isinstance(rows, list) else []


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= LARGEST_POSITION else 0


def is_plugin_row(row: Any) -> bool:
    """Whether this can be shown as a plugin: names with short plain values, as JSON has them."""
    if not isinstance(row, dict) or len(row) > PLUGIN_FACTS:
        return False
    return all(isinstance(name, str) and _is_plain(value) for name, value in row.items())


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= RECORD_TEXT_CHARS
    return value is None or isinstance(value, bool | int)


def _kept(details: dict[str, Any]) -> dict[str, Any]:
    """A worker's details, nothing when they are larger than what a record carries."""
    try:
        size = len(msgpack.packb(details))
    except (TypeError, ValueError, OverflowError):
        return {}
    return details if size <= WORKER_DETAILS_BYTES else {}
