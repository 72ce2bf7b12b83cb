"""Gossip machines and their logs through random kills, pauses and cuts: nothing is lost or goes back."""

from __future__ import annotations

import random

import pytest

from connserver.ids import GroupId
from connserver.messages import Role
from gossip.replica import Replica
from tests.unit.gossip.mesh import Mesh
from tests.unit.gossip.model_worker import ModelWorker

STEPS = 30
FAULTS = ("kill", "kill gossip", "pause", "cut", "die", "die", "lose")
REMEDIES = ("start", "wake", "heal", "staff", "staff")
SUBMITS = 3
"""Per step, to every group."""


class Chaos:
    """One run: faults by a seed, and what was published, granted and committed in it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.mesh = Mesh()
        self.pid = self.submitted = 0
        self.grants: dict[str, set[tuple[bytes, int, int]]] = {name: set() for name in self.mesh.names}
        self.ranks: dict[tuple[str, int, int], list[tuple[int, int, int]]] = {}
        """By publisher, its life, and group."""
        self.lives = dict.fromkeys(self.mesh.names, 1)
        self.acknowledged: dict[int, dict[int, bytes]] = {group: {} for group in range(self.mesh.groups)}
        """By group and op: what any worker was told to be committed."""
        self.lost: set[str] = set()
        """Nodes whose disk was lost and has not come back."""
        self.mesh.start()
        self.mesh.run(1.0)
        for name in self.mesh.names:
            self.staff(name)

    def running(self) -> list[str]:
        hosts = self.mesh.hosts.values()
        return [host.name for host in hosts if host.node is not None and not host.paused]

    def step(self) -> None:
        """One fault, some things put right, some work, and some time."""
        self.do(self.random.choice(FAULTS), self.random.choice(self.mesh.names))
        for _ in range(2):
            self.do(self.random.choice(REMEDIES), self.random.choice(self.mesh.names))
        for _ in range(SUBMITS):
            self.mesh.run(self.random.choice((0.03, 0.1, 0.3, 0.8)))
            for group in range(self.mesh.groups):
                self.submit(group)
        self.collect()

    def do(self, fault: str, name: str) -> None:
        mesh, host = self.mesh, self.mesh.hosts[name]
        runs = host.node is not None and not host.paused
        match fault:
            case "kill" if host.node is not None:
                self.collect()
                mesh.kill(name)
            case "kill gossip" if host.node is not None:
                self.collect()
                mesh.kill_gossip(name)
            case "start" if host.node is None:
                self.start(name)
            case "lose" if host.node is None and self.may_lose(name):
                host.disk.lose()
                self.lost.add(name)
            case "pause" if runs:
                host.paused = True
            case "wake" if host.paused and host.node is not None:
                mesh.wake(name)
            case "cut":
                mesh.cuts.add((name, self.random.choice(mesh.names)))
            case "heal":
                mesh.cuts.clear()
            case "die" if runs and host.workers:
                self.die(name, self.random.choice(sorted(host.workers)))
            case "staff" if runs:
                self.staff(name)
            case _:
                pass

    def may_lose(self, name: str) -> bool:
        """One disk at a time, and only while the other two have all that was committed."""
        self.lost = {lost for lost in self.lost if not self.recovered(lost)}
        others = [other for other in self.mesh.names if other != name]
        return not self.lost and self.running() == others and all(map(self.recovered, others))

    def recovered(self, name: str) -> bool:
        """Whether all replicas of a node take part."""
        host = self.mesh.hosts[name]
        if host.logs is None or host.paused:
            return False
        replicas = host.logs.set.replicas
        states = [host.logs.set.status(GroupId(group)).status.value for group in replicas]
        return states == ["normal"] * self.mesh.groups

    def die(self, name: str, identity: bytes) -> None:
        """A worker dies; the watch of its node says so where the node has heard of it."""
        host = self.mesh.hosts[name]
        worker = host.workers[identity]
        host.running[worker.group] = (7, worker.pid, 1)
        if worker.pid in host.watched:
            self.mesh.die(name, worker.pid)
        else:
            del host.workers[identity]
        host.running.pop(worker.group)

    def attach(self, name: str, group: int) -> None:
        """A worker of a group that has none begins with the state that is archived: none."""
        workers = [row for row in self.mesh.hosts[name].workers.values() if row.group == group]
        if not workers:
            self.pid += 1
            self.mesh.attach(name, group, 100 + self.pid)

    def staff(self, name: str) -> None:
        """The supervisor starts what is missing on a node."""
        for group in range(self.mesh.groups):
            self.attach(name, group)

    def start(self, name: str) -> None:
        """A node's gossip starts; its living workers notice by themselves."""
        self.lives[name] += 1
        self.mesh.start(name)

    def primaries(self, group: int) -> list[tuple[str, ModelWorker]]:
        """Who believes to hold a grant, also where gossip is dead or paused."""
        return [
            (name, worker)
            for name, host in self.mesh.hosts.items()
            for worker in host.workers.values()
            if worker.group == group and worker.grant and not worker.ended
        ]

    def submit(self, group: int) -> None:
        """All that believe to be primary execute something."""
        for name, worker in self.primaries(group):
            self.submitted += 1
            message = worker.submit(b"%d" % self.submitted)
            self.mesh._say(self.mesh.hosts[name], worker, [message])
        self.mesh.deliver()

    def collect(self) -> None:
        """Note what was granted, committed and published since the last time; replace who has to go."""
        for name, host in self.mesh.hosts.items():
            for identity, messages in host.inbox.items():
                group = int(identity.split(b":")[1])
                granted = {row.grant for row in messages if isinstance(row, Role) and row.grant}
                self.grants[name] |= {(identity, group, grant) for grant in granted}
                messages.clear()
            for worker in list(host.workers.values()):
                self.witness(worker)
                if worker.ended:
                    self.die(name, worker.identity)
            for routes in host.routes:
                for entry in routes.entries:
                    rank = (entry.era, entry.view, entry.grant)
                    self.ranks.setdefault((name, self.lives[name], entry.group), []).append(rank)
            host.routes.clear()

    def witness(self, worker: ModelWorker) -> None:
        """What one was told to be committed nobody may be told differently."""
        known = self.acknowledged[worker.group]
        for op, payload in worker.entries.items():
            assert known.setdefault(op, payload) == payload, f"op {op} of group {worker.group} was two things"

    def heal(self) -> None:
        """Everything is started, woken, joined and staffed; a few seconds pass."""
        mesh = self.mesh
        mesh.cuts.clear()
        for name, host in mesh.hosts.items():
            if host.node is None:
                self.start(name)
            elif host.paused:
                mesh.wake(name)
        mesh.run(4.0)
        for _ in range(3):
            self.collect()
            for name in mesh.names:
                self.staff(name)
            mesh.run(2.0)
        self.collect()


def replicas_of(mesh: Mesh) -> list[Replica]:
    """Of all nodes."""
    return [replica for host in mesh.hosts.values() for replica in host.log.set.replicas.values()]


@pytest.fixture(scope="module", params=range(8))
def chaos(request: pytest.FixtureRequest) -> Chaos:
    """A whole story, healed in the end."""
    chaos = Chaos(request.param)
    for _ in range(STEPS):
        chaos.step()
    chaos.heal()
    return chaos


def test_whatever_happens_all_agree_in_the_end(chaos: Chaos) -> None:
    mesh = chaos.mesh
    for name in mesh.names:
        assert mesh.states(name) == dict.fromkeys(mesh.names, "alive")
        assert mesh.route_states(name) == ["ready"] * mesh.groups
    tables = [mesh.hosts[name].machine.board.routes.entries for name in mesh.names]
    assert tables[0] == tables[1] == tables[2]
    assert len({host.disk.placement for host in mesh.hosts.values()}) == 1
    for name, host in mesh.hosts.items():
        granted = {entry.group: entry.grant for entry in tables[0] if entry.node == name}
        for worker in host.workers.values():
            attached = host.machine.desk.workers.attached(worker.group)
            assert attached is not None and attached.pid == worker.pid
            assert attached.grant == granted.get(worker.group, 0), "what is published is what was granted"
            assert worker.grant == attached.grant, "and what its worker believes"


def test_nothing_that_was_committed_is_lost_or_different(chaos: Chaos) -> None:
    committed = 0
    for group, entries in chaos.acknowledged.items():
        logs = [chaos.mesh.payloads(name, group) for name in chaos.mesh.names]
        assert logs[0] == logs[1] == logs[2]
        assert sorted(entries) == list(range(1, len(entries) + 1)), "a gap"
        assert logs[0][: len(entries)] == [entries[op] for op in sorted(entries)]
        for name in chaos.mesh.names:
            assert chaos.mesh.worker(name, group).entries == dict(enumerate(logs[0], 1))
        committed += len(entries)
    assert committed > 50, "nothing happened"
    assert any(replica.view > 2 for replica in replicas_of(chaos.mesh)), "nobody ever took over"


def test_no_grant_is_given_twice_and_no_table_goes_back(chaos: Chaos) -> None:
    holders: dict[tuple[int, int], tuple[str, bytes]] = {}
    for name, grants in chaos.grants.items():
        for identity, group, grant in grants:
            holder = holders.setdefault((group, grant), (name, identity))
            assert holder == (name, identity), "granted twice"
    seen = 0
    for ranks in chaos.ranks.values():
        views = [rank[:2] for rank in ranks]
        assert views == sorted(views)
        placed = [rank for rank in ranks if rank[2]]
        assert placed == sorted(placed)
        seen += len(set(placed))
    assert seen > 20, "nothing happened"
