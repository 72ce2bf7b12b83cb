"""A cluster of gossip machines in virtual time, each with its replicated logs and model workers beside it.

Every message goes through its bytes, links can be cut, and a node's disk keeps what was written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from random import Random
from typing import Any

from connserver.codec import decode, encode
from connserver.messages import AdminReply, AdminRequest, Entry, Heartbeat, Role, RouteEntry, WorkerReport
from gossip import replica_state, replication
from gossip.effects import (
    Effect,
    Gone,
    Hired,
    KeepIncarnation,
    KeepPlacement,
    Note,
    Place,
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
from gossip.records import Boot, replay
from gossip.replication import LOG_MESSAGES, Granted, Positioned, PublishLog, Replication, SendLog, WriteLog
from gossip.wire import Decoder, Encoder
from tests.unit.gossip.mesh_host import Host, Reach
from tests.unit.gossip.model_worker import ModelWorker

WALL_MS = 1_700_000_000_000


class Mesh:
    """`names` in one cluster of `groups`; `cuts` holds (from, to) pairs nothing passes between.

    `muted`: workers of which nothing arrives.
    """

    def __init__(self, names: tuple[str, ...] = ("n1", "n2", "n3"), groups: int = 4) -> None:
        self.now = 1000.0
        self.names = names
        self.groups = groups
        self.hosts = {name: Host(name) for name in names}
        self.cuts: set[tuple[str, str]] = set()
        self.muted: set[bytes] = set()
        self.timing = Timing()
        self.log_timing = replica_state.Timing()
        self._sent: deque[tuple[str, Any, str, Any]] = deque()
        self._boots = self._steps = 0
        self.archive: dict[str, Any] = {"state": "known", "era": 1, "view": 0, "op": 0}
        """Where the archive of every group stands, as ArchiveEras tells it."""

    # --- processes --------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start these nodes' gossip processes, or all."""
        for name in names or self.names:
            host = self.hosts[name]
            assert host.node is None
            host.disk.incarnation += 1
            host.watched.clear()
            host.waiting.clear()
            host.paused = False
            self._boots += 1
            beginning = Beginning(
                identity=self._identity(host),
                incarnation=host.disk.incarnation,
                boot=self._boots,
                placement=host.disk.placement,
                placement_damaged=host.disk.damaged,
                wall_ms=WALL_MS,
                timing=self.timing,
            )
            log = Reach(host, lambda: self.now)
            host.node = GossipNode(beginning, lambda: "metrics", log, lambda group: self.archive, self.now)
            restored = replay(host.disk.records)
            host.disk.records.append(Boot("boot", False, host.cluster, name))
            host.encoder, host.decoder = Encoder(name), Decoder()
            host.logs = Replication(
                name, self._boots, restored, self.log_timing, Random(self._boots), host.running.get, self.now
            )
            self._settle(host)

    def _identity(self, host: Host) -> Identity:
        return Identity(
            cluster=host.cluster,
            node=host.name,
            names=self.names,
            groups=self.groups,
            digest=host.digest,
            sections=host.sections,
        )

    def kill(self, name: str) -> None:
        """All processes of the node are gone, the disk stays."""
        self.kill_gossip(name)
        self.hosts[name].workers.clear()
        self.hosts[name].inbox.clear()

    def kill_gossip(self, name: str) -> None:
        """The gossip process alone is gone: its workers live on and ask for it."""
        self.hosts[name].node = self.hosts[name].logs = None

    def run(self, seconds: float) -> None:
        """Let time pass, a tick of the logs at a time."""
        beats = round(self.timing.heartbeat_s * 1000 / self.log_timing.tick_ms)
        for _ in range(round(seconds * 1000 / self.log_timing.tick_ms)):
            self.now = round(self.now + self.log_timing.tick_ms / 1000, 6)
            self._steps += 1
            for host in self.hosts.values():
                if host.node is not None and not host.paused:
                    self._tick(host, beat=self._steps % beats == 0)
                if self._steps % beats == 0:
                    self._tick_workers(host)
            self.deliver()

    def _tick(self, host: Host, *, beat: bool) -> None:
        if beat:
            self._perform(host, host.machine.tick(self.now))
        host.log.tick(self.now)
        self._settle(host)

    def _tick_workers(self, host: Host) -> None:
        for worker in host.workers.values():
            self._say(host, worker, worker.tick(self.now))

    def wake(self, name: str) -> None:
        """A paused node goes on: what arrived meanwhile, then its overdue tick."""
        host = self.hosts[name]
        host.paused = False
        while host.waiting:
            self._give(host, *host.waiting.popleft())
        self._tick(host, beat=True)
        self.deliver()

    def deliver(self) -> None:
        """Everything that is under way arrives."""
        while self._sent:
            how, sender, receiver, message = self._sent.popleft()
            host = self.hosts[receiver]
            if how == "worker":
                worker = host.workers.get(sender)
                if worker is not None:
                    self._say(host, worker, worker.react(message, self.now))
            elif host.node is None or (sender, receiver) in self.cuts:
                continue
            elif host.paused:
                host.waiting.append((how, sender, message))
            else:
                self._give(host, how, sender, message)

    # --- local processes --------------------------------------------------------------------------

    def local(self, name: str, identity: bytes, message: Any) -> None:
        """A process of a node says something."""
        self._give(self.hosts[name], "local", identity, decode(encode(message)))
        self.deliver()

    def attach(self, name: str, group: int, pid: int, *, loaded: bool = True) -> bytes:
        """A worker attaches; its identity."""
        return self.employ(
            name, ModelWorker(group, pid, f"ipc:///run/w-{name}-{group}-{pid}", self.now, loaded=loaded)
        ).identity

    def employ(self, name: str, worker: ModelWorker) -> ModelWorker:
        """This worker process begins."""
        host = self.hosts[name]
        host.workers[worker.identity] = worker
        self._say(host, worker, [worker.hello()])
        self.deliver()
        return worker

    def attach_all(self) -> None:
        """A worker of every group on every node that runs, the group's first primary first."""
        count = len(self.names)
        for group in range(self.groups):
            for index in (step % count for step in range(group, group + count)):
                if self.hosts[self.names[index]].node is not None:
                    self.attach(self.names[index], group, 10_000 * (index + 1) + group)

    def worker(self, name: str, group: int) -> ModelWorker:
        """The newest worker of a group on a node."""
        found = [worker for worker in self.hosts[name].workers.values() if worker.group == group]
        assert found, f"{name} has no worker of group {group}"
        return found[-1]

    def submit(self, name: str, group: int, *payloads: bytes) -> ModelWorker:
        """A primary's worker executes something and hands it in."""
        worker = self.worker(name, group)
        self._say(self.hosts[name], worker, [worker.submit(*payloads)])
        self.deliver()
        return worker

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
        host.workers = {key: worker for key, worker in host.workers.items() if worker.pid != pid}
        self._perform(host, host.machine.process_died(pid, self.now))
        self._settle(host)
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

    def route(self, name: str, group: int) -> RouteEntry:
        """A group's entry in a node's table."""
        return self.hosts[name].machine.board.routes.entries[group]

    def route_states(self, name: str) -> list[str]:
        """The state of each group in a node's table."""
        return [entry.state for entry in self.hosts[name].machine.board.routes.entries]

    def alerts(self, name: str) -> list[str]:
        """The texts of a node's alerts."""
        return [row["text"] for row in self.result(name, "status")["alerts"]]

    def payloads(self, name: str, group: int) -> list[bytes]:
        """The committed part of a node's log, oldest first."""
        replica = next(row for key, row in self.hosts[name].log.set.replicas.items() if key == group)
        return [replica.log.entry(op).payload for op in range(replica.log.base + 1, replica.commit + 1)]

    def suspects(self, name: str, group: int) -> list[list[int]]:
        """The sources that were running at deaths, as a node's log has them."""
        found = []
        for payload in self.payloads(name, group):
            try:
                entry = decode(payload)
            except Exception:
                continue  # what tests submit is no entry
            assert isinstance(entry, Entry)
            found += entry.suspects
        return found

    # --- inside -----------------------------------------------------------------------------------

    def perform(self, name: str, effects: list[Effect]) -> None:
        """Do what a test made a machine ask for."""
        self._perform(self.hosts[name], effects)
        self._settle(self.hosts[name])
        self.deliver()

    def _say(self, host: Host, worker: ModelWorker, messages: Iterable[Any]) -> None:
        if worker.identity not in self.muted:
            for message in messages:
                self._sent.append(("local", worker.identity, host.name, decode(encode(message))))

    def _give(self, host: Host, how: str, sender: Any, message: Any) -> None:
        match how:
            case "published":
                self._perform(host, host.machine.published(sender, message, self.now))
            case "direct":
                self._perform(host, host.machine.direct(sender, message, self.now))
            case "log" if host.machine.accepts(sender):
                bundle = host.decoder.decode(message)
                assert bundle.sender == sender
                host.log.peer_says(sender, bundle.incarnation, bundle.messages, self.now)
            case "local" if isinstance(message, LOG_MESSAGES):
                if not host.log.worker_says(sender, message, self.now):
                    host.notes.append(Note("warning", "local.refused", {"reason": type(message).__name__}))
            case "local":
                self._perform(host, host.machine.local(sender, message, self.now))
        self._settle(host)

    def _perform(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(topic, message):
                    self._publish(host, topic, decode(encode(message)))
                case SendPeer(peer, message):
                    self._sent.append(("direct", host.name, peer, decode(encode(message))))
                case SendLocal(identity, message):
                    self._tell(host, identity, message)
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
                case Place(groups):
                    host.log.place(groups, self.now)
                case Hired(identity, said):
                    host.log.hired(identity, said, self.now)
                case Gone(group):
                    host.log.gone(group, self.now)
                case Note():
                    host.notes.append(effect)
        host.machine.check_invariants()

    def _settle(self, host: Host) -> None:
        """The end of a turn: what the logs ask for, and what comes of it."""
        logs = host.log
        while effects := logs.drain(self.now):
            incarnation = logs.set.incarnation
            for effect in effects:
                match effect:
                    case WriteLog(write):
                        host.disk.records.extend(write.records)
                        logs.written(write.upto, self.now)
                    case PublishLog(messages):
                        payload = host.encoder.encode("", incarnation, messages)
                        for name in self.names:
                            if name != host.name:
                                self._sent.append(("log", host.name, name, payload))
                    case SendLog(node, messages):
                        payload = host.encoder.encode(node, incarnation, messages)
                        self._sent.append(("log", host.name, node, payload))
                    case replication.Tell(identity, message):
                        self._tell(host, identity, message)
                    case Granted(group, grant):
                        self._perform(host, host.machine.granted([(group, grant)], self.now))
                    case Positioned(rows, urgent):
                        self._perform(host, host.machine.positioned(rows, self.now, urgent=urgent))
        logs.check_invariants()

    def _tell(self, host: Host, identity: bytes, message: Any) -> None:
        message = decode(encode(message))
        host.inbox.setdefault(identity, []).append(message)
        if identity in host.workers:
            self._sent.append(("worker", identity, host.name, message))

    def _publish(self, host: Host, topic: bytes, message: Any) -> None:
        if topic != GOSSIP_TOPIC:
            host.routes.append(message)
            return
        assert message.incarnation <= host.disk.incarnation, "said before it was kept"
        for name in self.names:
            if name != host.name:
                self._sent.append(("published", host.name, name, message))


def heartbeat(mesh: Mesh, name: str) -> Heartbeat:
    """What a node would say next."""
    machine = mesh.hosts[name].machine
    return Heartbeat(
        cluster="demo",
        node=name,
        incarnation=machine.membership.incarnation,
        number=machine.membership.number + 1,
        leaving=False,
        digest="d" * 32,
        placement=machine.placing.digest,
        sightings=[],
        records=[],
    )


def serving(timing: replica_state.Timing | None = None) -> Mesh:
    """Three nodes that serve; group 1 is led by n2, then by n3, then by n1."""
    mesh = Mesh()
    mesh.log_timing = timing or mesh.log_timing
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.run(0.3)
    assert mesh.route_states("n1") == ["ready"] * 4
    return mesh


def heard(mesh: Mesh, name: str, worker: ModelWorker, kind: type) -> list[Any]:
    """What a worker was told, of one kind."""
    return [row for row in mesh.got(name, worker.identity) if isinstance(row, kind)]


def everywhere(mesh: Mesh, group: int) -> list[list[bytes]]:
    """The committed payloads of a group, on each node."""
    return [mesh.payloads(name, group) for name in mesh.names]
