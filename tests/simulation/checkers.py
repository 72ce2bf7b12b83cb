"""What must be true, checked from outside: these know nothing of how the core decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from connserver.ids import GroupId
from gossip.protocol import Role, Status
from gossip.replica_log import ReplicaLog

if TYPE_CHECKING:
    from tests.simulation.clients import Client
    from tests.simulation.machines import Node
    from tests.simulation.world import World


class Violation(AssertionError):
    """A promise of the design was broken."""


@dataclass(slots=True)
class Finished:
    """A request as its client saw it."""

    session: str
    number: int
    kind: str
    key: str
    group: GroupId
    start: float
    end: float
    outcome: str
    op: int
    value: int
    era: int


@dataclass(frozen=True, slots=True)
class NewEra:
    """A history that `recover` began: of the ones before it everything up to `kept` is part of it."""

    era: int
    kept: int


class Checkers:
    """Collects what happened; raises Violation at once where it can, at the end where it must."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.truth: dict[GroupId, dict[int, tuple[int, int, bytes]]] = {g: {} for g in world.placements}
        self._states: dict[GroupId, list[dict[str, Any]]] = {g: [{}] for g in world.placements}
        self._seen: dict[tuple[str, int, GroupId, int], int] = {}
        self._primaries: dict[tuple[GroupId, int, int], str] = {}
        self.finished: list[Finished] = []
        self._commit_views: dict[GroupId, tuple[int, int]] = {}
        self.eras: dict[GroupId, list[NewEra]] = {g: [NewEra(1, 0)] for g in world.placements}

    def violation(self, text: str) -> None:
        """Stop here."""
        raise Violation(text)

    # --- while it runs ---

    def after_turn(self, node: Node) -> None:
        """Committed prefixes agree."""
        assert node.set is not None
        for group, replica in node.set.replicas.items():
            if replica.era < self.eras[group][-1].era:
                continue  # whatever it does, it belongs to a history that was given up
            key = (node.name, node.life, group, replica.era)
            seen = max(self._seen.get(key, 0), replica.log.base)
            if replica.commit <= seen:
                continue
            truth = self.truth[group]
            for op in range(seen + 1, replica.commit + 1):
                entry = replica.log.entry(op)
                said = (entry.view, entry.crc, entry.payload)
                before = truth.setdefault(op, said)
                if before != said:
                    self.violation(
                        f"g{group} op {op}: {node.name} committed that of view {entry.view}, "
                        f"before it was that of view {before[0]}"
                    )
            self._seen[key] = replica.commit
            known = self._commit_views.get(group, (0, 0))
            self._commit_views[group] = max(known, (replica.era, replica.view))

    def committing_primary(self, group: GroupId, era: int, view: int, node: str) -> None:
        """At most one per (era, view)."""
        known = self._primaries.setdefault((group, era, view), node)
        if known != node:
            self.violation(f"g{group} view {view}: both {known} and {node} commit")

    def granted(self, group: GroupId, node: str, role: Role, applied: int) -> None:
        """A new primary has all that was ever committed: nothing is executed twice."""
        most = max(self.truth[group], default=0)
        if applied < most and self._commit_views[group] <= (role.era, role.view):  # else the news is old
            self.violation(
                f"g{group}: {node} may execute in view {role.view} at op {applied}, committed is {most}"
            )

    def state_at(self, group: GroupId, op: int) -> dict[str, Any]:
        """The objects after the first `op` committed entries."""
        states, truth = self._states[group], self.truth[group]
        while len(states) <= op:
            entry = truth.get(len(states))
            if entry is None:
                self.violation(f"g{group}: the state after op {op} is not committed")
            assert entry is not None
            states.append({**states[-1], **msgpack.unpackb(entry[2], use_list=False)["images"]})
        return states[op]

    def archived(self, group: GroupId, op: int, objects: dict[str, Any]) -> None:
        """The archive is the committed state, exactly."""
        if self.state_at(group, op) != objects:
            self.violation(f"g{group}: the archive at op {op} is not the committed state")

    def era_begun(self, group: GroupId, era: int, log: ReplicaLog, archived_op: int) -> int:
        """The operator gave up what is not in this log; returns how many committed ops that was.

        What the archive has is not given up. (An op of the log that nobody committed may become part
        of the history; whoever asked for it is still waiting.)
        """
        if era <= self.eras[group][-1].era:
            self.violation(f"g{group}: era {era} began twice")
        truth = self.truth[group]
        most = kept = max(truth, default=0)
        for op in range(log.base + 1, most + 1):
            entry = log.entry(op) if op <= log.head else None
            if entry is None or (entry.view, entry.crc, entry.payload) != truth[op]:
                kept = op - 1
                break
        if kept < archived_op:
            self.violation(f"g{group}: era {era} keeps {kept} ops, the archive has {archived_op}")
        for op in range(kept + 1, most + 1):
            del truth[op]
        del self._states[group][kept + 1 :]
        self.eras[group].append(NewEra(era, kept))
        return most - kept

    def given_up(self, item: Finished) -> bool:
        """Whether what its client saw was lost with an era."""
        return any(item.era < begun.era and item.op > begun.kept for begun in self.eras[item.group])

    # --- at the end ---

    def check_history(self) -> None:
        """Every acked request exactly once at its op; reads true; real-time order."""
        for group in self._world.placements:
            places = self._request_places(group)
            items = [item for item in self.finished if item.group == group and not self.given_up(item)]
            for item in items:
                self._check_reply(item, places)
            self._check_order(items)

    def _request_places(self, group: GroupId) -> dict[tuple[str, int], list[int]]:
        places: dict[tuple[str, int], list[int]] = {}
        for op, (_, _, payload) in sorted(self.truth[group].items()):
            request = msgpack.unpackb(payload, use_list=False)["request"]
            if request is not None:
                places.setdefault(request, []).append(op)
        for request, ops in places.items():
            if len(ops) > 1:
                self.violation(f"g{group}: request {request} ran at ops {ops}")
        return places

    def _check_reply(self, item: Finished, places: dict[tuple[str, int], list[int]]) -> None:
        found = places.get((item.session, item.number), [])
        if item.outcome == "done" and found != [item.op]:
            self.violation(f"{item}: acked at op {item.op}, in the log at {found}")
        if item.outcome in ("read", "refused") and item.op not in self.truth[item.group] and item.op:
            self.violation(f"{item}: read a state that never was")
        if self.state_at(item.group, item.op).get(item.key, 0) != item.value:
            self.violation(f"{item}: not the value after op {item.op}")

    def _check_order(self, items: list[Finished]) -> None:
        highest, done = 0, sorted(items, key=lambda item: item.end)
        at = 0
        for item in sorted(items, key=lambda item: item.start):
            while done[at].end < item.start:
                highest = max(highest, done[at].op)
                at += 1
            if item.op < highest or (item.outcome == "done" and item.op == highest and highest):
                self.violation(f"{item}: began after a reply that showed op {highest}")

    def check_converged(self) -> None:
        """After healing all replicas are NORMAL, equal, and fully committed."""
        for group in self._world.placements:
            logs = []
            for node in self._world.nodes.values():
                assert node.set is not None
                replica = node.set.replicas[group]
                if replica.status is not Status.NORMAL:
                    self.violation(f"{node.name} g{group} is {replica.status.value} after healing")
                logs.append((replica.view, replica.log.head, replica.commit, replica.log.head_view))
            if len(set(logs)) != 1 or logs[0][1] != logs[0][2]:
                self.violation(f"g{group} did not converge: {logs}")
            self._check_workers(group)

    def _check_workers(self, group: GroupId) -> None:
        op = max(self.truth[group], default=0)
        for node in self._world.nodes.values():
            worker = node.workers[group]
            if worker.attached and (worker.applied, worker.objects) != (op, self.state_at(group, op)):
                self.violation(f"{node.name} g{group}: worker at {worker.applied} differs from op {op}")

    def check_finished(self, clients: list[Client]) -> None:
        """Nobody waits for ever."""
        for client in clients:
            if not client.done:
                self.violation(f"{client.session} still waits for {sorted(client.waiting)}")
