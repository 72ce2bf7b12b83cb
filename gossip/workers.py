"""The workers of this node: who is attached, who may execute, who is dead.

Guards two rules. At most one living process of a group holds a grant of this node: a second one waits,
as a backup, until the first is known to be dead. And a grant is never given twice: it is fresh for
every process that becomes primary, and dies with its process. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgpack

from connserver.limits import GRANTS_PER_INCARNATION, RECORD_TEXT_CHARS, WORKER_DETAILS_BYTES
from connserver.messages import Attach, ProcessRecord, Role, WorkerRecord, WorkerReport
from gossip.grants import incarnation_of, make_grant

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
    """This Role goes to the worker behind this identity."""

    identity: bytes
    role: Role


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


WorkerOutcome = Watch | Unwatch | Tell | Lost | Waiting


class Reported(Enum):
    """What a WorkerReport brought."""

    REFUSED = "it is not from the attached worker, or makes no sense"
    NOTHING = "what was known already"
    NUMBERS = "positions only"
    STATE = "something that routes or alerts follow from"


@dataclass(slots=True)
class Attached:
    """A living worker process and what it last said."""

    group: int
    pid: int
    identity: bytes
    endpoint: str
    grant: int = 0
    commit: int = 0
    archived: int = 0
    storage: str = ""
    storage_error: str = ""
    state: str = "ready"
    plugins: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Duty:
    """What a group's log says of this node: its position, and whether this node leads."""

    era: int = 1
    view: int = 0
    primary: bool = False

    @property
    def position(self) -> tuple[int, int]:
        """A grant holds for one of these."""
        return self.era, self.view


NO_DUTY = Duty()


class Workers:
    """Attached workers by group. `incarnation` changes by `raised`, duties by `set_duties`."""

    def __init__(self, node: str, incarnation: int) -> None:
        self._node = node
        self._incarnation = incarnation
        self._count = 0
        self._attached: dict[int, Attached] = {}
        self._candidates: dict[int, Attached] = {}
        self._gone: dict[int, Attached] = {}
        self._last_grants: dict[int, int] = {}
        self._duties: dict[int, Duty] = {}

    # --- events ---------------------------------------------------------------------------------

    def attach(self, identity: bytes, said: Attach) -> list[WorkerOutcome]:
        """A worker is there. The same process again keeps its grant; another waits for its death."""
        new = Attached(
            said.group, said.pid, identity, said.endpoint, commit=said.archived, archived=said.archived
        )
        old = self._attached.get(said.group)
        if old is None:
            self._take(new)
            return [Watch(new.pid), self._tell(new)]
        if old.pid == new.pid and old.endpoint == new.endpoint:
            old.identity = identity
            return [self._tell(old)]
        if old.pid == new.pid:  # started over without dying: what it was given before is void
            self._forget(said.group)
            self._take(new)
            return [self._tell(new)]
        known = self._candidates.get(said.group)
        self._candidates[said.group] = new
        outcomes: list[WorkerOutcome] = [self._tell(new)]
        if known is None or known.pid != new.pid:
            outcomes = [Waiting(said.group, new.pid, old.pid), Watch(new.pid), *outcomes]
            if known is not None:
                outcomes.append(Unwatch(known.pid))
        return outcomes

    def report(self, identity: bytes, said: WorkerReport) -> Reported:
        """Positions, storage and plugins of an attached worker."""
        worker = self._attached.get(said.group)
        if worker is None or worker.identity != identity:
            return Reported.REFUSED
        if not (0 <= said.commit <= LARGEST_POSITION and 0 <= said.archived <= LARGEST_POSITION):
            return Reported.REFUSED
        numbers = worker.commit, worker.archived, worker.storage_error
        before = worker.state, worker.storage, worker.plugins
        worker.commit, worker.archived = said.commit, said.archived
        worker.storage, worker.storage_error = said.storage[:40], said.storage_error[:400]
        details = _kept(said.details)
        worker.state = "loading" if details.get("state") == "loading" else "ready"
        rows = details.get("plugins")
        worker.plugins = [row for row in rows if is_plugin_row(row)] if isinstance(rows, list) else []
        after = worker.state, worker.storage, worker.plugins
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
            self._forget(group)
            outcomes += [Lost(group, worker.identity), Unwatch(pid)]
            candidate = self._candidates.pop(group, None)
            if candidate is not None:
                self._take(candidate)
                outcomes.append(self._tell(candidate))
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

    def set_duties(self, duties: dict[int, Duty]) -> list[WorkerOutcome]:
        """What this node is to each of its groups from now on; roles change accordingly."""
        before, self._duties = self._duties, duties
        outcomes: list[WorkerOutcome] = []
        for group, worker in self._attached.items():
            if before.get(group) != duties.get(group):
                moved = before.get(group, NO_DUTY).position != self._duty(group).position
                self._regrant(worker, anew=moved)
                outcomes.append(self._tell(worker))
        return outcomes

    def raised(self, incarnation: int) -> list[WorkerOutcome]:
        """This node has a new incarnation: all grants are given anew."""
        self._incarnation = incarnation
        self._count = 0
        self._gone.clear()
        self._last_grants.clear()
        for worker in self._attached.values():
            self._regrant(worker, anew=True)
        return self.roles()

    # --- what others read -----------------------------------------------------------------------

    def roles(self) -> list[WorkerOutcome]:
        """Everybody's Role again: the heartbeat of gossip to its workers."""
        told = [*self._attached.values(), *self._candidates.values()]
        return [self._tell(worker) for worker in told]

    def attached(self, group: int) -> Attached | None:
        """The living worker of a group that is not waiting for another's death."""
        return self._attached.get(group)

    def exhausted(self) -> bool:
        """No grant is left in this incarnation; it has to be raised."""
        return self._count >= GRANTS_PER_INCARNATION - 1

    def rows(self) -> list[WorkerRecord]:
        """The node record's workers, the dead ones included for the grants they had."""
        rows = {group: self._row(worker, "gone") for group, worker in self._gone.items()}
        for group, worker in self._attached.items():
            rows[group] = self._row(worker, worker.state)
        return [rows[group] for group in sorted(rows)]

    # --- inside ---------------------------------------------------------------------------------

    def _waits(self, group: int, pid: int) -> bool:
        candidate = self._candidates.get(group)
        return candidate is not None and candidate.pid == pid

    def _duty(self, group: int) -> Duty:
        return self._duties.get(group, NO_DUTY)

    def _take(self, worker: Attached) -> None:
        self._attached[worker.group] = worker
        self._regrant(worker, anew=True)

    def _forget(self, group: int) -> None:
        self._gone[group] = self._attached.pop(group)

    def _regrant(self, worker: Attached, *, anew: bool) -> None:
        if not self._duty(worker.group).primary or self.exhausted():
            worker.grant = 0
        elif anew or not worker.grant:
            self._count += 1
            worker.grant = make_grant(self._incarnation, self._count)
            self._last_grants[worker.group] = worker.grant

    def _tell(self, worker: Attached) -> Tell:
        duty = self._duty(worker.group)
        granted = bool(worker.grant) and self._attached.get(worker.group) is worker
        role = Role(worker.group, worker.grant if granted else 0, granted, duty.era, duty.view)
        return Tell(worker.identity, role)

    def _row(self, worker: Attached, state: str) -> WorkerRecord:
        return WorkerRecord(
            group=worker.group,
            pid=worker.pid,
            endpoint=worker.endpoint,
            # also when it is void: a route never falls back behind a grant that was published
            grant=self._last_grants.get(worker.group, 0),
            state=state,
            commit=worker.commit,
            archived=worker.archived,
            storage=worker.storage,
            storage_error=worker.storage_error,
            plugins=worker.plugins,
        )

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        grants = [worker.grant for worker in self._attached.values() if worker.grant]
        assert len(grants) == len(set(grants)), "one grant given twice"
        assert all(incarnation_of(grant) == self._incarnation for grant in grants)
        for group, candidate in self._candidates.items():
            assert not candidate.grant, "a waiting worker with a grant"
            assert self._attached[group].pid != candidate.pid, "a worker that waits for itself"


def worker_name(node: str, group: int) -> str:
    """What the supervisor calls a node's worker of a group."""
    return f"w-{node}-{group}"


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
