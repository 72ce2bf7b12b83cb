"""Gossip machines through random kills, pauses and cuts: nothing goes back, and all agree after it."""

from __future__ import annotations

import random

import pytest

from connserver.messages import Role
from tests.unit.gossip.mesh import Mesh

STEPS = 40
FAULTS = ("kill", "start", "pause", "wake", "cut", "heal", "die", "attach", "lose")


class Chaos:
    """One run: faults by a seed, and what was published and granted in it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.mesh = Mesh()
        self.pid = 100
        self.workers: dict[str, dict[int, int]] = {name: {} for name in self.mesh.names}
        self.grants: dict[str, set[tuple[bytes, int]]] = {name: set() for name in self.mesh.names}
        self.ranks: dict[tuple[str, int, int], list[tuple[int, int, int]]] = {}
        """By publisher, its life, and group."""
        self.lives = dict.fromkeys(self.mesh.names, 1)
        self.mesh.start()
        self.mesh.run(1.0)

    def running(self) -> list[str]:
        hosts = self.mesh.hosts.values()
        return [host.name for host in hosts if host.node is not None and not host.paused]

    def step(self) -> None:
        """One fault, and some time."""
        fault = self.random.choice(FAULTS)
        name = self.random.choice(self.mesh.names)
        self.do(fault, name)
        self.mesh.run(self.random.choice((0.1, 0.3, 1.0, 2.5)))
        self.collect()

    def do(self, fault: str, name: str) -> None:
        mesh, host = self.mesh, self.mesh.hosts[name]
        runs = host.node is not None and not host.paused
        match fault:
            case "kill" if host.node is not None:
                self.collect()
                mesh.kill(name)
            case "start" if host.node is None:
                self.start(name)
            case "lose" if host.node is None and len(self.running()) == 2:
                host.disk.incarnation, host.disk.placement = 0, None
            case "pause" if runs:
                host.paused = True
            case "wake" if host.paused and host.node is not None:
                mesh.wake(name)
            case "cut":
                mesh.cuts.add((name, self.random.choice(mesh.names)))
            case "heal":
                mesh.cuts.clear()
            case "die" if runs and self.workers[name]:
                group, pid = self.random.choice(sorted(self.workers[name].items()))
                del self.workers[name][group]
                mesh.die(name, pid)
            case "attach" if runs:
                self.attach(name, self.random.randrange(mesh.groups))
            case _:
                pass

    def attach(self, name: str, group: int) -> None:
        """A worker of a group that has none attaches."""
        if group not in self.workers[name]:
            self.pid += 1
            self.workers[name][group] = self.pid
            self.mesh.attach(name, group, self.pid)

    def start(self, name: str) -> None:
        """A node's gossip starts anew, and its living workers notice."""
        self.lives[name] += 1
        self.mesh.start(name)
        for group, pid in self.workers[name].items():
            self.mesh.attach(name, group, pid)

    def collect(self) -> None:
        """Note what was granted and published since the last time."""
        for name, host in self.mesh.hosts.items():
            for identity, messages in host.inbox.items():
                granted = {row.grant for row in messages if isinstance(row, Role) and row.grant}
                self.grants[name] |= {(identity, grant) for grant in granted}
                messages.clear()
            for routes in host.routes:
                for entry in routes.entries:
                    rank = (entry.era, entry.view, entry.grant)
                    self.ranks.setdefault((name, self.lives[name], entry.group), []).append(rank)
            host.routes.clear()

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
        for name in mesh.names:
            for group in range(mesh.groups):
                self.attach(name, group)
        mesh.run(1.0)
        self.collect()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_all_agree_in_the_end(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(STEPS):
        chaos.step()
    chaos.heal()
    mesh = chaos.mesh
    for name in mesh.names:
        assert mesh.states(name) == dict.fromkeys(mesh.names, "alive")
        assert mesh.route_states(name) == ["ready"] * mesh.groups
    tables = [mesh.hosts[name].machine.board.routes.entries for name in mesh.names]
    assert tables[0] == tables[1] == tables[2]
    assert len({host.disk.placement for host in mesh.hosts.values()}) == 1
    for name, host in mesh.hosts.items():
        granted = {entry.group: entry.grant for entry in tables[0] if entry.node == name}
        for group, pid in chaos.workers[name].items():
            worker = host.machine.desk.workers.attached(group)
            assert worker is not None and worker.pid == pid
            assert worker.grant == granted.get(group, 0), "what is published is what was granted"


@pytest.mark.parametrize("seed", range(12, 20))
def test_no_grant_is_given_twice_and_no_table_goes_back(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(STEPS):
        chaos.step()
    chaos.heal()
    for name, grants in chaos.grants.items():
        assert len({grant for _, grant in grants}) == len(grants), f"{name} granted twice"
    seen = 0
    for ranks in chaos.ranks.values():
        placed = [rank for rank in ranks if rank[2]]
        assert placed == sorted(placed)
        seen += len(set(placed))
    assert seen > 20, "nothing happened"
