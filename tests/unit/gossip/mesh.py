"""A cluster of gossip machines in virtual time: every message goes through its bytes, links can be cut."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from connserver.codec import decode, encode
from connserver.messages import AdminReply, AdminRequest, Attach, Role, Routes, WorkerReport
from gossip.effects import (
    Effect,
    KeepIncarnation,
    KeepPlacement,
    Note,
    Publish,
    Reconnect,
    SendLocal,
    SendPeer,
    UnwatchProcess,
    WatchProcess,
)
from gossip.membership import Timing
from gossip.node import GOSSIP_TOPIC, Beginning, GossipNode
from gossip.peering import Identity
from gossip.placement import Placement

SECTIONS = {"cluster": "a", "nodes": "b", "replication": "c"}
WALL_MS = 1_700_000_000_000


@dataclass
class Disk:
    """What survives a node's process."""

    incarnation: int = 0
    placement: Placement | None = None
    damaged: bool = False


@dataclass
class Host:
    """One node: its machine while it runs, its disk, and what its local processes got."""

    name: str
    disk: Disk = field(default_factory=Disk)
    digest: str = "d" * 32
    sections: dict[str, str] = field(default_factory=lambda: dict(SECTIONS))
    cluster: str = "demo"
    node: GossipNode | None = None
    paused: bool = False
    watched: set[int] = field(default_factory=set)
    inbox: dict[bytes, list[Any]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    reconnects: list[str] = field(default_factory=list)
    routes: list[Routes] = field(default_factory=list)
    waiting: deque[tuple[str, str, Any]] = field(default_factory=deque)
    """What arrived while it was paused: (published|direct, from, message)."""

    @property
    def machine(self) -> GossipNode:
        """The running machine."""
        assert self.node is not None
        return self.node


class Mesh:
    """`names` in one cluster of `groups`; `cuts` holds (from, to) pairs nothing passes between."""

    def __init__(self, names: tuple[str, ...] = ("n1", "n2", "n3"), groups: int = 4) -> None:
        self.now = 1000.0
        self.names = names
        self.groups = groups
        self.hosts = {name: Host(name) for name in names}
        self.cuts: set[tuple[str, str]] = set()
        self.timing = Timing()
        self._sent: deque[tuple[str, str, str, Any]] = deque()

    # --- processes --------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start these nodes, or all."""
        for name in names or self.names:
            host = self.hosts[name]
            assert host.node is None
            host.disk.incarnation += 1
            host.watched.clear()
            host.inbox.clear()
            host.waiting.clear()
            host.paused = False
            identity = Identity(
                cluster=host.cluster,
                node=name,
                names=self.names,
                groups=self.groups,
                digest=host.digest,
                sections=host.sections,
            )
            beginning = Beginning(
                identity=identity,
                incarnation=host.disk.incarnation,
                placement=host.disk.placement,
                placement_damaged=host.disk.damaged,
                wall_ms=WALL_MS,
                timing=self.timing,
            )
            host.node = GossipNode(beginning, lambda: "metrics", self.now)

    def kill(self, name: str) -> None:
        """The process is gone, the disk stays."""
        self.hosts[name].node = None

    def run(self, seconds: float) -> None:
        """Let time pass, a heartbeat's interval at a time."""
        until = self.now + seconds - 1e-9
        while self.now < until:
            self.now += self.timing.heartbeat_s
            for host in self.hosts.values():
                if host.node is not None and not host.paused:
                    self._perform(host, host.node.tick(self.now))
            self.deliver()

    def wake(self, name: str) -> None:
        """A paused node goes on: what arrived meanwhile, then its overdue tick."""
        host = self.hosts[name]
        host.paused = False
        while host.waiting:
            self._give(host, *host.waiting.popleft())
        self._perform(host, host.machine.tick(self.now))
        self.deliver()

    def deliver(self) -> None:
        """Everything that is under way arrives."""
        while self._sent:
            how, sender, receiver, message = self._sent.popleft()
            host = self.hosts[receiver]
            if host.node is None or (sender, receiver) in self.cuts:
                continue
            if host.paused:
                host.waiting.append((how, sender, message))
            else:
                self._give(host, how, sender, message)

    # --- local processes --------------------------------------------------------------------------

    def local(self, name: str, identity: bytes, message: Any) -> None:
        """A process of a node says something."""
        host = self.hosts[name]
        self._perform(host, host.machine.local(identity, decode(encode(message)), self.now))
        self.deliver()

    def attach(self, name: str, group: int, pid: int) -> bytes:
        """A worker attaches; its identity."""
        identity = b"worker:%d:%d" % (group, pid)
        self.local(name, identity, Attach(group, pid, f"ipc:///run/w-{name}-{group}-{pid}", 5))
        return identity

    def attach_all(self) -> None:
        """A worker of every group on every node that runs."""
        for index, name in enumerate(self.names):
            if self.hosts[name].node is not None:
                for group in range(self.groups):
                    self.attach(name, group, 10_000 * (index + 1) + group)

    def report(self, name: str, identity: bytes, commit: int, archived: int, **more: Any) -> None:
        """A worker's report."""
        facts = {"storage": "ok", "storage_error": "", "details": {}, **more}
        group = int(identity.split(b":")[1])
        self.local(name, identity, WorkerReport(group, 0, commit, archived, **facts))

    def die(self, name: str, pid: int) -> None:
        """A local process dies; who watches it hears of it."""
        host = self.hosts[name]
        assert pid in host.watched, f"nobody watches {pid}"
        host.watched.discard(pid)
        self._perform(host, host.machine.process_died(pid, self.now))
        self.deliver()

    def ask(self, name: str, command: str, **arguments: Any) -> AdminReply | None:
        """An administrator's request to a node: the reply if it is there already."""
        identity = b"cli:%d" % len(self.hosts[name].inbox)
        self.local(name, identity, AdminRequest(7, command, arguments))
        replies = [row for row in self.got(name, identity) if isinstance(row, AdminReply)]
        return replies[-1] if replies else None

    def result(self, name: str, command: str, **arguments: Any) -> Any:
        """The result of a command that must succeed at once."""
        reply = self.ask(name, command, **arguments)
        assert reply is not None and not reply.error, reply
        return reply.result

    def error(self, name: str, command: str, **arguments: Any) -> str:
        """The error of a command that must fail at once."""
        reply = self.ask(name, command, **arguments)
        assert reply is not None and reply.error, reply
        return reply.error

    def got(self, name: str, identity: bytes) -> list[Any]:
        """What a local process was sent."""
        return self.hosts[name].inbox.get(identity, [])

    def role(self, name: str, identity: bytes) -> Role:
        """The last Role a worker was told."""
        roles = [row for row in self.got(name, identity) if isinstance(row, Role)]
        assert roles, f"{identity!r} was told nothing"
        return roles[-1]

    # --- looking ----------------------------------------------------------------------------------

    def states(self, name: str) -> dict[str, str]:
        """What a node thinks of all."""
        return {row["name"]: row["state"] for row in self.result(name, "status")["nodes"]}

    def route_states(self, name: str) -> list[str]:
        """The state of each group in a node's table."""
        return [entry.state for entry in self.hosts[name].machine.board.routes.entries]

    def alerts(self, name: str) -> list[str]:
        """The texts of a node's alerts."""
        return [row["text"] for row in self.result(name, "status")["alerts"]]

    # --- inside -----------------------------------------------------------------------------------

    def _give(self, host: Host, how: str, sender: str, message: Any) -> None:
        if how == "published":
            self._perform(host, host.machine.published(sender, message, self.now))
        else:
            self._perform(host, host.machine.direct(sender, message, self.now))

    def _perform(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(topic, message):
                    self._publish(host, topic, decode(encode(message)))
                case SendPeer(peer, message):
                    self._sent.append(("direct", host.name, peer, decode(encode(message))))
                case SendLocal(identity, message):
                    host.inbox.setdefault(identity, []).append(decode(encode(message)))
                case WatchProcess(pid):
                    host.watched.add(pid)
                case UnwatchProcess(pid):
                    host.watched.discard(pid)
                case KeepIncarnation(incarnation):
                    assert incarnation > host.disk.incarnation
                    host.disk.incarnation = incarnation
                case KeepPlacement(placement):
                    host.disk.placement, host.disk.damaged = placement, False
                case Reconnect(peer):
                    host.reconnects.append(peer)
                case Note():
                    host.notes.append(effect)
        host.machine.check_invariants()

    def _publish(self, host: Host, topic: bytes, message: Any) -> None:
        if topic != GOSSIP_TOPIC:
            host.routes.append(message)
            return
        assert message.incarnation <= host.disk.incarnation, "said before it was kept"
        for name in self.names:
            if name != host.name:
                self._sent.append(("published", host.name, name, message))
