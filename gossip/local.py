"""The desk for this node's own processes: workers, gateways, the supervisor, administrators.

Guards one rule: a message counts only from an identity of its kind, so that a gateway cannot attach
as a worker by mistake, and a second program on the socket cannot answer for a worker. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from connserver.limits import ROLE_MS
from connserver.messages import (
    NO_STATE,
    AdminReply,
    AdminRequest,
    Attach,
    Forward,
    Forwarded,
    GatewayReport,
    GetRoutes,
    ProcessTable,
    Routes,
    WorkerReport,
)
from gossip.administration import (
    REPLICA_PREFIX,
    Administration,
    AdminOutcome,
    Answer,
    Arguments,
    Orders,
    Origin,
    ToWorker,
)
from gossip.alerts import WARNING, Alert
from gossip.effects import Effect, Gone, Hired, Note, SendLocal, SendPeer, UnwatchProcess, WatchProcess
from gossip.peering import Identity
from gossip.reporters import Heard, Reporters
from gossip.workers import (
    LARGEST_POSITION,
    Employ,
    Lost,
    Reported,
    Tell,
    Unwatch,
    Waiting,
    Watch,
    WorkerOutcome,
    Workers,
    worker_name,
)

ENDPOINT_CHARS = 255
ENDPOINT_FORMS = ("ipc://", "tcp://")


class LocalDesk:
    """Takes what arrives on the local socket; effects and noted alerts are fetched by `drain`.

    `changed`: something is different that other nodes or alerts follow from; `stale`: only numbers
    that `status` shows. The caller resets both.
    """

    def __init__(
        self,
        identity: Identity,
        boot: int,
        routes: Callable[[], Routes],
        answers: Mapping[str, tuple[frozenset[str], Callable[[Arguments, float], Any]]],
        orders: Orders,
    ) -> None:
        self.workers = Workers(identity.node, boot)
        self.reporters = Reporters(identity.names)
        self.changed = self.stale = False
        self._identity = identity
        self._routes = routes
        self._administration = Administration(
            identity.groups, lambda: routes().entries, answers, identity.node, orders
        )
        self._placed: frozenset[int] | None = None
        self._effects: list[Effect] = []
        self._noted: list[Alert] = []
        self._roles_due = 0.0

    def drain(self) -> tuple[list[Effect], list[Alert]]:
        """What is to be done and noted since the last call."""
        effects, noted = self._effects, self._noted
        self._effects, self._noted = [], []
        return effects, noted

    # --- events ---------------------------------------------------------------------------------

    def handle(self, identity: bytes, message: Any, now: float) -> None:
        """A message from a local process."""
        fault = ""
        match message:
            case Attach():
                fault = self._attach(identity, message)
            case WorkerReport():
                fault = self._worker_report(identity, message)
            case GetRoutes():
                self._effects.append(SendLocal(identity, self._routes()))
            case GatewayReport():
                fault = self._gateway_report(identity, message, now)
            case ProcessTable():
                fault = self._process_table(identity, message, now)
            case AdminRequest():
                origin = Origin(message.number, identity=identity)
                asked = self._administration.request(origin, message.command, message.arguments, now)
                self._administer([asked])
            case AdminReply():
                fault = self._worker_reply(identity, message, now)
            case _:
                fault = f"{type(message).__name__} is no message for a gossip process's local socket"
        if fault:
            facts = {"sender": identity[:80].decode("ascii", "replace"), "reason": fault}
            self._effects.append(Note("warning", "local.refused", facts))

    def forward(self, peer: str, message: Forward, now: float) -> None:
        """Another gossip process passes on a request for a worker of this node."""
        origin = Origin(message.number, peer=peer)
        node = self._identity.node
        self._administer(
            [self._administration.relay(origin, node, message.group, message.command, message.arguments, now)]
        )

    def forwarded(self, peer: str, message: Forwarded, now: float) -> None:
        """The answer to what this process passed on."""
        answered = self._administration.answered(
            message.number, peer, None, message.result, message.error, now
        )
        self._administer(answered)

    def not_sent(self, message: Any) -> None:
        """A message given to the shell could not be sent now."""
        if isinstance(message, AdminRequest | Forward):
            error = "who has to do it cannot be reached now: see `cs-cluster status`; nothing was changed"
            self._administer(self._administration.failed(message.number, error))

    def process_died(self, pid: int) -> None:
        """A watched process is dead."""
        self._work(self.workers.died(pid))

    def placed(self, groups: frozenset[int] | None) -> None:
        """The groups this node holds replicas of; None before that is known."""
        self._placed = groups

    def granted(self, group: int, grant: int) -> None:
        """The replica of a group gave its worker this grant, or took it away (0)."""
        self.workers.granted(group, grant)
        self.changed = True

    def tick(self, now: float, late_s: float) -> None:
        """Time has passed; this process itself was `late_s` late."""
        if late_s > 0:
            self.reporters.stretch(late_s)
        self.changed |= self.reporters.tick(now)
        self._administer(self._administration.tick(now))
        if now >= self._roles_due:
            self._roles_due = max(self._roles_due + ROLE_MS / 1000, now)
            self._work(self.workers.waiting())

    # --- one message each -------------------------------------------------------------------------

    def _attach(self, identity: bytes, said: Attach) -> str:
        if identity != b"worker:%d:%d" % (said.group, said.pid):
            return "Attach whose group and pid are not those of its identity"
        if not 0 <= said.group < self._identity.groups or said.pid <= 1:
            return f"Attach of group {said.group}, pid {said.pid}"
        if len(said.endpoint) > ENDPOINT_CHARS or not said.endpoint.startswith(ENDPOINT_FORMS):
            return "Attach with an endpoint that is none"
        if not (NO_STATE <= said.applied <= LARGEST_POSITION and 0 <= said.after <= LARGEST_POSITION):
            return f"Attach with positions {said.applied}, {said.after}"
        if self._placed is not None and said.group not in self._placed:
            name = worker_name(self._identity.node, said.group)
            text = (
                f"{name} runs on {self._identity.node}, where group {said.group} is not placed: it stays "
                "idle. The placement is fixed at the first start; `cs-cluster routes` shows it."
            )
            self._noted.append(Alert(f"group:{said.group}", WARNING, text))
        self._work(self.workers.attach(identity, said))
        self.changed = True
        return ""

    def _worker_report(self, identity: bytes, said: WorkerReport) -> str:
        outcome = self.workers.report(identity, said)
        if outcome is Reported.REFUSED:
            return f"WorkerReport: {outcome.value}"
        self.changed |= outcome is Reported.STATE
        self.stale |= outcome is Reported.NUMBERS
        return ""

    def _gateway_report(self, identity: bytes, said: GatewayReport, now: float) -> str:
        if not identity.startswith(b"gateway:%s:" % said.name.encode()):
            return "GatewayReport whose name is not that of its identity"
        return self._heard(self.reporters.gateway(said, now), "GatewayReport")

    def _process_table(self, identity: bytes, said: ProcessTable, now: float) -> str:
        if not identity.startswith(b"supervisor:"):
            return "ProcessTable from a process that is no supervisor"
        outcome = self.reporters.table(said, now)
        if outcome is not Heard.REFUSED:
            self._work(self.workers.supervised(self.reporters.processes))
        return self._heard(outcome, "ProcessTable")

    def _heard(self, outcome: Heard, what: str) -> str:
        self.changed |= outcome is Heard.STATE
        self.stale |= outcome is Heard.NUMBERS
        return f"{what}: {outcome.value}" if outcome is Heard.REFUSED else ""

    def _worker_reply(self, identity: bytes, said: AdminReply, now: float) -> str:
        group = _group_of(identity)
        worker = None if group is None else self.workers.attached(group)
        if worker is None or worker.identity != identity:
            return "AdminReply from a process that is no attached worker"
        node = self._identity.node
        self._administer(
            self._administration.answered(said.number, node, group, said.result, said.error, now)
        )
        return ""

    # --- outcomes to effects ----------------------------------------------------------------------

    def _work(self, outcomes: Iterable[WorkerOutcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Watch(pid):
                    self._effects.append(WatchProcess(pid))
                case Unwatch(pid):
                    self._effects.append(UnwatchProcess(pid))
                case Tell(identity, role):
                    self._effects.append(SendLocal(identity, role))
                case Employ(identity, said):
                    self._effects.append(Hired(identity, said))
                case Lost(group, identity):
                    self.changed = True
                    self._effects.append(Gone(group))
                    facts = {"group": group, "worker": identity.decode("ascii", "replace")}
                    self._effects.append(Note("warning", "worker.lost", facts))
                    self._administer(self._administration.lost(self._identity.node, group))
                case Waiting(group, pid, old_pid):
                    name = worker_name(self._identity.node, group)
                    text = (
                        f"A second process of {name} (pid {pid}) waits because the first (pid {old_pid}) "
                        "still lives. It takes over when that one is dead."
                    )
                    self._noted.append(Alert(f"process:{name}", WARNING, text))
                    self.changed = True
                case _:
                    assert_never(outcome)

    def _administer(self, outcomes: Iterable[AdminOutcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Answer(origin, result, error):
                    if origin.peer:
                        reply: Effect = SendPeer(origin.peer, Forwarded(origin.number, result, error))
                    else:
                        reply = SendLocal(origin.identity, AdminReply(origin.number, result, error))
                    self._effects.append(reply)
                case ToWorker():
                    self._to_worker(outcome)
                case _:
                    assert_never(outcome)

    def _to_worker(self, asked: ToWorker) -> None:
        if asked.node != self._identity.node:
            forward = Forward(asked.number, asked.group, asked.command, asked.arguments)
            self._effects.append(SendPeer(asked.node, forward))
            return
        worker = self.workers.attached(asked.group)
        anyone = asked.command.startswith(REPLICA_PREFIX)
        if worker is None or not (worker.grant or anyone):
            which = "no worker" if anyone else "no primary worker"
            error = f"group {asked.group} has {which} on {asked.node} now: try again in a moment"
            self._administer(self._administration.failed(asked.number, error))
            return
        request = AdminRequest(asked.number, asked.command, asked.arguments)
        self._effects.append(SendLocal(worker.identity, request))

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        self.workers.check_invariants()
        self._administration.check_invariants()


def _group_of(identity: bytes) -> int | None:
    parts = identity.split(b":")
    return int(parts[1]) if len(parts) == 3 and parts[0] == b"worker" and parts[1].isdigit() else None
