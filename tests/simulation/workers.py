"""A model of the worker: it executes ahead of the commit, remembers sessions, and archives.

The seam for the shipped session code is `SessionLogic`: a worker asks it what to do with a request and
what to keep about it. `KeptReplies` is the stand-in; `AlwaysRun` the negative control without dedup.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import msgpack

from connserver.ids import GroupId
from gossip.protocol import (
    NO_GRANT,
    BarrierPassed,
    Committed,
    Deliver,
    Entry,
    Grant,
    Rebase,
    Refused,
    Role,
    Status,
    WorkerRole,
)
from gossip.replica_set import ReplicaSet

if TYPE_CHECKING:
    from tests.simulation.machines import Node
    from tests.simulation.world import World

Objects = dict[str, Any]
KEPT = 128
SUSPECT = msgpack.packb({"images": {}, "request": None})


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. `kind`: add (write), read, take (refused unless the value is odd)."""

    session: str
    number: int
    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What it gets. `op`: where the effect is in the log, or the state that was read."""

    number: int
    outcome: str
    op: int = 0
    value: int = 0
    era: int = 0


class SessionLogic(Protocol):
    """Exactly once: decided from replicated objects, remembered in replicated objects."""

    def known(self, objects: Objects, request: Request) -> Reply | None:
        """The reply kept for this request, if it ran."""

    def keep(self, objects: Objects, request: Request, reply: Reply) -> Objects:
        """After-images that remember the reply."""


class KeptReplies:
    """The last 128 replies of a session, in the session's object."""

    def known(self, objects: Objects, request: Request) -> Reply | None:
        """See SessionLogic."""
        for number, outcome, op, value in objects.get(request.session, ()):
            if number == request.number:
                return Reply(number, outcome, op, value)
        return None

    def keep(self, objects: Objects, request: Request, reply: Reply) -> Objects:
        """See SessionLogic."""
        kept = (*objects.get(request.session, ()), (reply.number, reply.outcome, reply.op, reply.value))
        return {request.session: kept[-KEPT:]}


class AlwaysRun(KeptReplies):
    """Negative control: nothing is remembered."""

    def known(self, objects: Objects, request: Request) -> Reply | None:
        """Nothing is."""
        return None


def images_of(payload: bytes) -> Objects:
    """An entry's after-images."""
    images: Objects = msgpack.unpackb(payload, use_list=False)["images"]
    return images


@dataclass(slots=True)
class Waiting:
    """A reply that may not leave yet."""

    op: int
    token: int
    leave: Callable[[], None]


class Worker:
    """The worker of one group on one node, over all its processes: `life` counts them."""

    def __init__(self, world: World, node: Node, group: GroupId) -> None:
        self.world, self.node, self.group = world, node, group
        self.logic = world.logic()
        self.life = 0
        self.arrival = 0.0
        self.departure = 0.0
        self.deaths = 0
        self.attempt = 0
        self.inbox: deque[Committed | Deliver | Role | Refused | BarrierPassed | Rebase] = deque()
        self._start()

    # --- life and death ---

    def _start(self) -> None:
        self.life += 1
        self.inbox.clear()
        self.objects: Objects = {}
        self.applied = self.committed = 0
        self.attached = False
        self.grant: Grant = NO_GRANT
        self.era = self.view = self.state_era = 0
        self.draining = False
        self.unsent: list[bytes] = []
        self.outputs: list[Waiting] = []
        self.reads: list[Waiting] = []
        self.token = 0
        self.passed = 0
        self.flush_due = False
        self.history: list[tuple[int, Objects]] = []
        self.archiving = False
        self.broken = False
        self._later(self.world.random.uniform(0.005, 0.04), self._load)

    def kill(self) -> None:
        """The process is gone; whoever calls this starts a new one."""
        self.life += 1
        self.inbox.clear()
        self.attached = False
        self.grant = NO_GRANT

    def replace(self, why: str) -> None:
        """Killed and reaped, its gossip told, then a new process."""
        self.world.note(f"{self.node.name} g{self.group} worker replaced: {why}")
        self.world.coverage[f"worker_{why}"] += 1
        self.kill()
        self.deaths += 1
        words = (SUSPECT,) if why == "killed" else ()
        self._to_gossip(lambda s, now: s.detach(self.group, now, words))
        self._later(self.world.random.uniform(0.01, 0.1), self._start)

    def gossip_restarted(self) -> None:
        """The living worker sees its gossip come back: it attaches again if it is clean."""
        self._later(self.world.random.uniform(0.001, 0.05), self._attach_again)

    def _attach_again(self) -> None:
        if self.broken:
            return
        if self.grant and (self.applied != self.committed or self.unsent):
            self.replace("executed_ahead")
        elif self.attached:
            self._attach()

    def _load(self) -> None:
        if self.world.archive.down:
            self._later(0.05, self._load)
            return
        row = self.world.archive.rows[self.group]
        self.objects = dict(row.objects)
        self.applied = self.committed = row.archived_op
        self.state_era = row.era
        self.history = []
        self._attach()

    def _attach(self) -> None:
        self.attached = True
        self.grant = NO_GRANT
        self.draining = False
        self.reads = []  # a barrier under a later grant says nothing about what was read under this one
        self.attempt += 1
        state, attempt, life = self.committed, self.attempt, self.life
        after = max(0, state - self.world.random.choice((0, 0, 3)))

        def attach(replicas: ReplicaSet, now: float) -> None:
            if (attempt, life) == (self.attempt, self.life):
                self._attach_to(replicas, after, state, now)

        self._to_gossip(attach)

    def _attach_to(self, replicas: ReplicaSet, after: int, state: int, now: float) -> None:
        """What the shell of the core does: the worker's era must be the replica's."""
        replica = replicas.replicas[self.group]
        if replica.status not in (Status.NORMAL, Status.VIEW_CHANGE) or self.state_era > replica.era:
            self._later(0.05, self._attach)
        elif self.state_era < replica.era or state < replica.log.base:
            self.hear(Rebase(self.group, replica.log.base))
        else:
            replicas.attach(self.group, max(after, replica.log.base), now, state)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        life = self.life

        def run() -> None:
            if life != self.life:
                return
            if self.node.paused_until > self.world.now:
                self.world.after(self.node.paused_until - self.world.now + 1e-4, run)
            else:
                action()

        self.world.after(seconds, run)

    # --- to and from gossip ---

    def _to_gossip(self, action: Callable[[ReplicaSet, float], None]) -> None:
        self.departure = max(self.world.now + self.world.random.uniform(2e-5, 2e-4), self.departure + 1e-6)
        node, life = self.node, self.node.life
        self.world.after(
            self.departure - self.world.now,
            lambda: self.world.turn(node, life if node.life == life else node.life, action),
        )

    def hear(self, effect: Committed | Deliver | Role | Refused | BarrierPassed | Rebase) -> None:
        """From gossip, in order."""
        self.arrival = max(self.world.now + self.world.random.uniform(2e-5, 2e-4), self.arrival + 1e-6)
        self.inbox.append(effect)
        self._later(self.arrival - self.world.now, self._take_next)

    def _take_next(self) -> None:
        self._take(self.inbox.popleft())  # whatever pauses did to the moment, the order stays

    def _take(self, effect: Committed | Deliver | Role | Refused | BarrierPassed | Rebase) -> None:
        if not self.attached:
            return
        match effect:
            case Deliver(_, entries):
                for entry in entries:
                    self._apply(entry)
            case Committed(_, op):
                self.committed = max(self.committed, op)
                self._release()
            case BarrierPassed(_, _, token):
                self.passed = max(self.passed, token)
                self._release()
            case Role():
                self._take_role(effect)
            case Refused(_, grant, _, reason, _):
                if grant == self.grant:
                    self.replace(f"refused_{reason.value}")
            case Rebase():
                self.replace("rebased")

    def _apply(self, entry: Entry) -> None:
        if entry.op <= self.applied:
            return
        if self.grant or entry.op != self.applied + 1:
            self.world.checkers.violation(
                f"{self.node.name} g{self.group}: op {entry.op} delivered to a worker at {self.applied}, "
                f"grant {self.grant}"
            )
        images = images_of(entry.payload)
        self.objects.update(images)
        self.history.append((entry.op, images))
        self.applied = self.committed = entry.op

    def _take_role(self, role: Role) -> None:
        match role.role:
            case WorkerRole.PRIMARY:
                self.grant, self.era, self.view = role.grant, role.era, role.view
                self.draining = False
                self.world.checkers.granted(self.group, self.node.name, role, self.applied)
                self._archive_later()
            case WorkerRole.DRAINING:
                self.draining = True
                self._flush()
                grant = self.grant
                self._to_gossip(lambda s, now: s.drained(self.group, grant, now))
            case WorkerRole.BACKUP:
                if self.grant:
                    self._attach_again()
                    self.grant = NO_GRANT

    # --- requests ---

    def request(self, request: Request, answer: Callable[[Reply], None]) -> None:
        """A client's request arrives at this node."""
        if self.node.paused_until > self.world.now:
            self._later(0.0, lambda: self.request(request, answer))
            return
        if not self.grant or self.draining or not self.attached:
            answer(Reply(request.number, "not_primary"))
            return
        known = self.logic.known(self.objects, request)
        if known is not None:
            self.world.coverage["known_requests"] += 1
            again = replace(known, era=self.era)
            self.outputs.append(Waiting(known.op, 0, lambda: answer(again)))
            self._release()
            return
        value = self.objects.get(request.key, 0)
        if request.kind == "read" or (request.kind == "take" and value % 2 == 0):
            outcome = "read" if request.kind == "read" else "refused"
            reply = Reply(request.number, outcome, self.applied, value, self.era)
            self.reads.append(Waiting(self.applied, self.token + 1, lambda: answer(reply)))
        else:
            self._execute(request, value + 1, answer)
        if not self.flush_due:
            self.flush_due = True
            self._later(self.world.random.uniform(1e-4, 1e-3), self._flush)

    def _execute(self, request: Request, value: int, answer: Callable[[Reply], None]) -> None:
        op = self.applied + 1
        reply = Reply(request.number, "done", op, value, self.era)
        images = {request.key: value, **self.logic.keep(self.objects, request, reply)}
        self.objects.update(images)
        self.history.append((op, images))
        self.applied = op
        self.unsent.append(msgpack.packb({"images": images, "request": (request.session, request.number)}))
        self.outputs.append(Waiting(op, 0, lambda: answer(reply)))

    def _flush(self) -> None:
        self.flush_due = False
        if not self.grant:
            return
        grant, payloads = self.grant, tuple(self.unsent)
        first = self.applied - len(payloads) + 1
        self.unsent = []
        if payloads:
            self._to_gossip(lambda s, now: s.submit(self.group, grant, first, payloads, now))
            if self.world.random.random() < 0.02:  # sent again: idempotent
                self._to_gossip(lambda s, now: s.submit(self.group, grant, first, payloads, now))
        if any(read.token > self.token for read in self.reads):
            self.token += 1
            token = self.token
            self._to_gossip(lambda s, now: s.request_barrier(self.group, grant, token, now))

    def may_leave(self, waiting: Waiting) -> bool:
        """Rule 6."""
        return waiting.op <= self.committed and (waiting.token <= self.passed)

    def _release(self) -> None:
        for name in ("outputs", "reads"):
            items: list[Waiting] = getattr(self, name)
            for item in items:
                if self.may_leave(item):
                    item.leave()
            setattr(self, name, [item for item in items if not self.may_leave(item)])

    # --- archiving ---

    def _archive_later(self) -> None:
        if not self.archiving:
            self.archiving = True
            self._later(self.world.random.uniform(0.03, 0.08), self._archive)

    def archivable_op(self) -> int:
        """Only what is committed."""
        return self.committed

    def _archive(self) -> None:
        self.archiving = False
        if not self.grant:
            return
        self._archive_later()
        archive = self.world.archive
        row = archive.rows[self.group]
        op, era, view = self.archivable_op(), self.era, self.view
        if archive.down or op <= row.archived_op:
            return
        images: Objects = {}
        for at, changed in self.history:
            if row.archived_op < at <= op:
                images.update(changed)
        slow = self.world.random.random() < 0.1
        delay = self.world.random.uniform(0.3, 2.0) if slow else self.world.random.uniform(0.001, 0.02)

        def finish() -> None:  # a COMMIT on its way needs no living worker
            if not archive.down and archive.commit(self.group, era, view, op, images):
                self.history = [item for item in self.history if item[0] > op - 1_000]
                self._to_gossip(lambda s, now: s.archived(self.group, op, now))

        self.world.after(delay, finish)

    @property
    def serving(self) -> bool:
        """For nemeses that look for a primary."""
        replica = self.node.set.replicas[self.group] if self.node.set else None
        return bool(self.grant) and replica is not None and replica.status is Status.NORMAL
