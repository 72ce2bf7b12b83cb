"""The replicated logs of this node under its workers: a ReplicaSet, and what workers say and hear.

Guards three rules. What a worker hears (Deliver, Committed, Role) leaves in the order in which its
replica made it. A worker's state counts only with a replica that knows its era and still has what
follows it; else it loads a newer snapshot (Rebase). And only the process that counts is listened to:
its identity, its group. Pure: effects are fetched by `drain`, which flushes the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, assert_never

from connserver.codec import encode
from connserver.ids import GroupId
from connserver.limits import ROLE_MS
from connserver.messages import (
    BACKUP,
    DRAINING,
    NO_STATE,
    PRIMARY,
    Archived,
    Attach,
    BarrierPassed,
    Committed,
    Deliver,
    Drained,
    Entry,
    GetBarrier,
    GroupPosition,
    Rebase,
    Refused,
    Role,
    Submit,
)
from connserver.running import Source
from gossip import protocol
from gossip.records import DurableNode
from gossip.replica import Replica, ReplicaStatus
from gossip.replica_set import ReplicaSet
from gossip.replica_state import Timing
from gossip.workers import is_repeat

LOG_MESSAGES = (Submit, GetBarrier, Drained, Archived)
"""What workers say of the log."""
SETTLED = (protocol.Status.NORMAL, protocol.Status.VIEW_CHANGE)
"""A replica in one of these has a log that a worker's state can be compared with."""
POSITIONS_S = 0.1
"""Between two looks at where the replicas stand, those to which something happened."""
ALL_POSITIONS_S = 1.0
"""Between two looks at all of them, for what time alone has changed."""


@dataclass(frozen=True, slots=True)
class WriteLog:
    """Append these records to the write-ahead log, then report `written`."""

    write: protocol.Write


@dataclass(frozen=True, slots=True)
class PublishLog:
    """To all other nodes."""

    messages: tuple[protocol.Message, ...]


@dataclass(frozen=True, slots=True)
class SendLog:
    """To one node."""

    node: str
    messages: tuple[protocol.Message, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """To the worker behind this identity."""

    identity: bytes
    message: Any


@dataclass(frozen=True, slots=True)
class Granted:
    """The worker of a group holds this grant from now on; 0: none."""

    group: int
    grant: int


@dataclass(frozen=True, slots=True)
class Positioned:
    """Where all replicas stand. `urgent`: more than numbers is different."""

    rows: list[GroupPosition]
    urgent: bool


LogEffect = WriteLog | PublishLog | SendLog | Tell | Granted | Positioned

ROLES = {
    protocol.WorkerRole.PRIMARY: PRIMARY,
    protocol.WorkerRole.DRAINING: DRAINING,
    protocol.WorkerRole.BACKUP: BACKUP,
}


@dataclass(slots=True)
class Hand:
    """The worker process that counts, and what it said last. `attempt`: the one that was acted upon."""

    identity: bytes
    said: Attach
    attempt: int = 0


class Replication:
    """All replicas of a node and their workers. `source_of` tells what a dead worker was running."""

    def __init__(
        self,
        node: str,
        boot: int,
        restored: DurableNode,
        timing: Timing,
        random: Random,
        source_of: Callable[[int], Source | None],
        now: float,
    ) -> None:
        self.set = ReplicaSet(node, restored, timing, random, now)
        self._boot = boot
        self._source_of = source_of
        self._placed: frozenset[int] = frozenset()
        self.workers: dict[int, Hand] = {}
        self._waiting: set[int] = set()  # groups whose worker has a state and could not begin yet
        self._effects: list[LogEffect] = []
        self._roles_due = self._look_due = self._look_at_all_due = now
        self._rows: dict[GroupId, GroupPosition] = {}
        self._shown: list[GroupPosition] = []

    # --- groups and workers ---------------------------------------------------------------------------

    def place(self, groups: Mapping[int, tuple[str, ...]], now: float) -> None:
        """This node holds replicas of these groups, on these nodes, and may serve them."""
        self._placed |= groups.keys()
        for group, nodes in groups.items():
            self.set.add_group(GroupId(group), nodes, now)

    def hired(self, identity: bytes, said: Attach, now: float) -> None:
        """The worker process of a group is there, or has a state now."""
        worker = self.workers.get(said.group)
        again = worker is not None and is_repeat(worker.said, said)
        if worker is None or worker.said.pid != said.pid:
            worker = self.workers[said.group] = Hand(identity, said)
        elif worker.said.endpoint != said.endpoint or said.attempt < worker.attempt:
            worker.attempt = 0  # it has started over without dying
        worker.identity, worker.said = identity, said
        if self._begin(worker, now):
            return
        if said.applied != NO_STATE and said.attempt > worker.attempt:
            self._waiting.add(said.group)
        if not again:
            self._tell_role(worker)

    def gone(self, group: int, now: float) -> None:
        """The worker process is dead and reaped; what it was running is committed with its death."""
        if self.workers.pop(group, None) is None or group not in self.set.replicas:
            return
        source = self._source_of(group)
        words = () if source is None else (encode(Entry([], [], [], [list(source)])),)
        self.set.detach(GroupId(group), now, words)
        self._effects.append(Granted(group, 0))

    def _begin(self, worker: Hand, now: float) -> bool:
        """Attach a worker that wants to begin (anew) to its replica, if that is possible now."""
        said = worker.said
        replica = self.set.replicas.get(GroupId(said.group))
        if said.applied == NO_STATE or said.attempt <= worker.attempt or replica is None:
            return False
        if said.group not in self._placed:
            return False  # its disk has the replica, but the node does not serve
        if replica.status not in SETTLED or said.era > replica.era:
            return False  # looked at again with each tick
        worker.attempt = said.attempt
        if said.era < replica.era or said.applied < replica.log.base:
            base = Rebase(said.group, replica.era, replica.log.base)
            self._effects.append(Tell(worker.identity, base))
        else:
            after = max(said.after, replica.log.base)
            self.set.attach(GroupId(said.group), after, now, max(said.applied, after))
        return True

    def _tell_role(self, worker: Hand) -> None:
        group = worker.said.group
        replica = self.set.replicas.get(GroupId(group))
        if replica is None:
            role = Role(group, 0, BACKUP, 0, 0, False, 0, 0, self._boot)
        else:
            name = BACKUP
            if replica.grant:
                name = DRAINING if replica.handoff else PRIMARY
            role = self._role(replica, replica.grant, name)
        self._effects.append(Tell(worker.identity, role))

    def _role(self, replica: Replica, grant: int, role: str) -> Role:
        attached = replica.worker_op is not None
        return Role(
            replica.group, grant, role, replica.era, replica.view,
            attached, replica.commit, replica.archived_op, self._boot,
        )  # fmt: skip

    # --- messages -------------------------------------------------------------------------------------

    def worker_says(self, identity: bytes, message: Any, now: float) -> bool:
        """One of LOG_MESSAGES; False: not from the process that counts, or of no group here."""
        worker = self.workers.get(message.group)
        if worker is None or worker.identity != identity or message.group not in self.set.replicas:
            return False
        group = GroupId(message.group)
        match message:
            case Submit():
                payloads = tuple(message.payloads)
                self.set.submit(group, protocol.Grant(message.grant), message.first_op, payloads, now)
            case GetBarrier():
                self.set.request_barrier(group, protocol.Grant(message.grant), message.token, now)
            case Drained():
                self.set.drained(group, protocol.Grant(message.grant), now)
            case Archived():
                self.set.archived(group, message.op, now)
        return True

    def peer_says(
        self, node: str, incarnation: int, messages: tuple[protocol.Message, ...], now: float
    ) -> None:
        """A bundle of another node."""
        self.set.receive(node, incarnation, messages, now)

    def written(self, upto: int, now: float) -> None:
        """The Write with this number, and all before it, are on disk."""
        self.set.written(upto, now)

    def disk_full(self, full: bool, now: float) -> None:
        """The disk has no room but for view records; or has room again."""
        self.set.set_disk_full(full, now)

    def tick(self, now: float) -> None:
        """Every `timing.tick_ms`."""
        self.set.tick(now)
        if self._waiting:
            # at once, or a primary without a worker passes primacy on before its own may begin
            for group in sorted(self._waiting):
                waiting = self.workers.get(group)
                if waiting is None or self._begin(waiting, now):
                    self._waiting.discard(group)
        if now >= self._roles_due:
            self._roles_due = max(self._roles_due + ROLE_MS / 1000, now)
            for worker in self.workers.values():
                self._tell_role(worker)

    # --- the operator ---------------------------------------------------------------------------------

    def resign(self, group: int, target: str | None, now: float) -> str:
        """Begin a planned handoff of this node's primacy; returns why not, or ""."""
        if group not in self.set.replicas:
            return f"group {group} has no replica on {self.set.node}"
        return self.set.resign(GroupId(group), target, now)

    def begin_era(self, group: int, base: int | None, above: tuple[int, int], now: float) -> str:
        """`recover`: begin a new history of a group here; returns why not, or ""."""
        if group not in self.set.replicas:
            return f"group {group} has no replica on {self.set.node}"
        return self.set.begin_era(GroupId(group), now, base, above)

    def holds(self, group: int) -> ReplicaStatus | None:
        """What the replica of a group holds; None: there is none here."""
        return self.set.status(GroupId(group)) if group in self.set.replicas else None

    # --- effects --------------------------------------------------------------------------------------

    def drain(self, now: float) -> list[LogEffect]:
        """What this turn added up to, in the order in which to do it."""
        urgent = False
        for effect in self.set.flush(now):
            urgent |= isinstance(effect, protocol.Role)
            self._translate(effect)
        if urgent or now >= self._look_due:
            self._look_due = now + POSITIONS_S
            self._look(now)
        effects, self._effects = self._effects, []
        return effects

    def _translate(self, effect: protocol.Effect) -> None:
        match effect:
            case protocol.Write():
                self._effects.append(WriteLog(effect))
            case protocol.Publish(messages):
                self._effects.append(PublishLog(messages))
            case protocol.SendTo(node, messages):
                self._effects.append(SendLog(node, messages))
            case protocol.Alert():
                pass  # what holds is in `status().problem`, from which node alerts are made
            case _:
                self._translate_for_worker(effect)

    def _translate_for_worker(
        self,
        effect: protocol.Committed
        | protocol.Deliver
        | protocol.Role
        | protocol.Refused
        | protocol.BarrierPassed
        | protocol.Rebase,
    ) -> None:
        worker = self.workers.get(effect.group)
        if worker is None:
            return
        replica = self.set.replicas[effect.group]
        message: Any
        match effect:
            case protocol.Committed(_, op):
                message = Committed(replica.grant, op)
            case protocol.Deliver(group, entries):
                payloads = [entry.payload for entry in entries]
                message = Deliver(group, replica.era, entries[0].op, payloads)
            case protocol.Role(group, grant, role, _, _):
                message = self._role(replica, grant, ROLES[role])
                self._effects.append(Granted(group, grant))
            case protocol.Refused(_, grant, first_op, reason, head):
                message = Refused(grant, first_op, reason.value, head)
            case protocol.BarrierPassed(_, grant, token):
                message = BarrierPassed(grant, token)
            case protocol.Rebase(group, op):
                message = Rebase(group, replica.era, op)
            case _:
                assert_never(effect)
        self._effects.append(Tell(worker.identity, message))

    def _look(self, now: float) -> None:
        groups = self.set.take_touched()
        if now >= self._look_at_all_due or len(self._rows) < len(self.set.replicas):
            self._look_at_all_due = now + ALL_POSITIONS_S
            groups = set(self.set.replicas)
        if groups:
            self._rows.update({group: self._position(group) for group in groups})
        rows = [self._rows[group] for group in sorted(self._rows)]
        if rows == self._shown:
            return
        urgent = [_standing(row) for row in rows] != [_standing(row) for row in self._shown]
        self._shown = rows
        self._effects.append(Positioned(rows, urgent))

    def _position(self, group: GroupId) -> GroupPosition:
        row = self.set.status(group)
        # one that changes views took part last in that of its log: what it joins may never come to be
        view = max(row.log_view, 0) if row.status is protocol.Status.VIEW_CHANGE else row.view
        return GroupPosition(
            group, row.era, view, row.status.value, row.head, row.commit,
            row.base, row.archived_op, row.worker_ready, row.problem or self._later_archive(row),
        )  # fmt: skip

    def _later_archive(self, row: ReplicaStatus) -> str:
        """A worker has read the archive of a later era: this log, and those of its peers, are of the past."""
        worker = self.workers.get(row.group)
        if worker is None or worker.said.era <= row.era or row.status is not protocol.Status.NORMAL:
            return ""
        return (
            f"the archive of group {row.group} is of era {worker.said.era} and its log of era {row.era}: "
            "the logs of that era are not here; start the nodes that hold them, or see `recover`"
        )

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        self.set.check_invariants()
        for group, worker in self.workers.items():
            assert worker.said.group == group


def _standing(row: GroupPosition) -> tuple[Any, ...]:
    return row.era, row.view, row.status, row.ready, row.problem
