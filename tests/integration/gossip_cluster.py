"""Real gossip processes of one cluster, with workers and administrators that are sockets of the test."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from connserver import sockets
from connserver.codec import decode, encode
from connserver.config import Overrides, Places, load_cluster
from connserver.messages import (
    AdminReply,
    AdminRequest,
    GetRoutes,
    Role,
    RouteEntry,
    Routes,
    Submit,
    WorkerReport,
)
from connserver.running import RunningNote, note_path
from tests.unit.gossip.model_worker import ModelWorker

DEADLINE_S = 20.0
"""For anything that is waited for; the machine may be busy."""

Table = dict[int, RouteEntry]
"""Routes by group."""

CHILD = """
import json, sys
from pathlib import Path
from connserver.config import Overrides, Places, load_cluster
from connserver.process import ProcessOptions, run
from gossip.daemon import main
given = json.loads(sys.argv[1])
flags = Overrides(state_dir=Path(given.pop("state")))
config = load_cluster(Path(given.pop("file")), environ={}, flags=flags)
sys.exit(run(ProcessOptions(role="gossip", config=config, places=Places(config), **given), main))
"""


class Child:
    """One gossip process; it dies with the test, whose pipe it watches."""

    def __init__(self, cluster: Cluster, node: str, file: Path) -> None:
        lifeline, self._lifeline = os.pipe()
        self._status, status = os.pipe()
        given = {"node": node, "name": f"g-{node}", "lifeline_fd": lifeline, "status_fd": status}
        given |= {"file": str(file), "state": str(cluster.state)}
        self.log = cluster.folder / f"g-{node}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD, json.dumps(given)],
                pass_fds=(lifeline, status),
                stderr=log,
            )
        os.close(lifeline)
        os.close(status)

    def ready(self) -> dict[str, Any]:
        """Wait for its status line."""
        readable, _, _ = select.select([self._status], [], [], DEADLINE_S)
        line = os.read(self._status, 4096) if readable else b""
        assert line, f"not ready: {self.log.read_text()}"
        return dict(json.loads(line))

    def cut_lifeline(self) -> None:
        """As if the supervisor had died."""
        os.close(self._lifeline)
        self._lifeline = -1

    def kill(self) -> None:
        """SIGKILL, and reaped."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Make sure that nothing stays."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        for descriptor in (self._lifeline, self._status):
            if descriptor >= 0:
                os.close(descriptor)


class Peer:
    """A DEALER to a node's local socket."""

    def __init__(self, cluster: Cluster, node: str, identity: bytes) -> None:
        self.socket = sockets.dealer(cluster.context, identity, cluster.places.gossip_endpoint(node))

    def say(self, message: Any) -> None:
        """Send, waiting for the connection to stand."""
        assert self.socket.poll(int(DEADLINE_S * 1000), zmq.POLLOUT), "no connection"
        assert sockets.send(self.socket, [encode(message)]) is sockets.Sent.YES

    def hear(self, kind: type, accept: Callable[[Any], bool] = lambda message: True) -> Any:
        """The next message of a kind that is accepted."""
        until = time.monotonic() + DEADLINE_S
        while True:
            message = self._one(until)
            if isinstance(message, kind) and accept(message):
                return message

    def take(self, message: Any) -> None:
        """Something was heard."""

    def _one(self, until: float) -> Any:
        left = until - time.monotonic()
        assert left > 0 and self.socket.poll(int(left * 1000) + 1), f"nothing of it within {DEADLINE_S:g} s"
        message = decode(self.socket.recv_multipart()[-1])
        self.take(message)
        return message


class Worker(Peer):
    """A process that lives, a note whose progress rises, and a socket that speaks as a worker of a group.

    What it hears goes through a model of a worker, so that it begins anew whenever it has to.
    """

    def __init__(self, cluster: Cluster, node: str, group: int) -> None:
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.node, self.group, self.pid = node, group, self.process.pid
        self.endpoint = f"ipc:///nowhere/w-{node}-{group}-{self.pid}"
        self.model = ModelWorker(group, self.pid, self.endpoint, time.monotonic())
        self.note = RunningNote(note_path(cluster.places.node_dir(node), group))
        self.hangs = False
        super().__init__(cluster, node, self.model.identity)

    def attach(self) -> Role:
        """Say that it is there, with the state after op 0; the first Role."""
        self.say(self.model.hello())
        role = self.hear(Role)
        assert isinstance(role, Role)
        return role

    def take(self, message: Any) -> None:
        """Let the model answer."""
        for answer in self.model.react(message, time.monotonic()):
            self.say(answer)

    def submit(self, *payloads: bytes) -> Submit:
        """Execute something and hand it in."""
        message = self.model.submit(*payloads)
        self.say(message)
        return message

    def learn(self, count: int) -> list[bytes]:
        """Wait until it has so many committed entries; they."""
        until = time.monotonic() + DEADLINE_S
        while len(self.model.entries) < count:
            self._one(until)
        return [self.model.entries[op] for op in sorted(self.model.entries)]

    def report(self, commit: int, archived: int) -> None:
        """What a worker says once a second."""
        self.say(WorkerReport(self.group, 0, commit, archived, "ok", "", {}))

    def kill(self) -> None:
        """The process dies and is reaped; its socket says nothing any more."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self.socket.close()

    def close(self) -> None:
        """Make sure that nothing stays."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.socket.close()


class Heart:
    """Lets the notes of living workers make progress, as their loops would."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart")
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(0.1):
            for worker in list(self._workers):
                if not worker.hangs:
                    worker.note.step()

    def stop(self) -> None:
        """No worker makes progress any more."""
        self._over.set()
        self._thread.join()


class Cluster:
    """`nodes` gossip processes with one folder each below a state folder of their own."""

    def __init__(self, nodes: int = 3, groups: int = 3) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cs-", dir="/tmp"))
        self.state = self.folder / "s"
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.file = self.write("cluster.toml", groups)
        config = load_cluster(self.file, environ={}, flags=Overrides(state_dir=self.state))
        self.places = Places(config)
        self.context = sockets.context()
        self.children: dict[str, Child] = {}
        self.workers: list[Worker] = []
        self._heart = Heart(self.workers)
        self._closing: list[Any] = []
        self._count = 0

    def write(self, name: str, groups: int, more: str = "") -> Path:
        """A cluster.toml."""
        nodes = "".join(f'[[nodes]]\nname = "{node}"\n' for node in self.names)
        path = self.folder / name
        path.write_text(f'[cluster]\nname = "demo"\npartition_groups = {groups}\n{nodes}{more}')
        return path

    def start(self, *names: str, file: Path | None = None) -> None:
        """Start these nodes' gossip processes, or all, and wait until they are ready."""
        started = [(name, Child(self, name, file or self.file)) for name in names or self.names]
        for name, child in started:
            self.children[name] = child
            self._closing.append(child)
        for _, child in started:
            child.ready()

    def attach_all(self, *names: str) -> dict[tuple[str, int], Worker]:
        """A worker of each group on these nodes, or all; by node and group."""
        return {(name, group): self.worker(name, group) for group in range(3) for name in names or self.names}

    def worker_of(self, node: str, group: int) -> Worker:
        """The newest worker of a group on a node."""
        return [worker for worker in self.workers if (worker.node, worker.group) == (node, group)][-1]

    def primary(self, group: int) -> Worker:
        """The worker that serves a group now, once it knows that it does."""
        entry = self.routes_when(self.names[0], lambda table: table[group].state == "ready")[group]
        worker = self.worker_of(entry.node, group)
        if worker.model.grant != entry.grant:
            worker.hear(Role, lambda role: role.grant == entry.grant)
        return worker

    def kill_node(self, name: str) -> None:
        """Its gossip process and its workers, all at once."""
        self.children[name].kill()
        for worker in self.workers:
            if worker.node == name and worker.process.poll() is None:
                worker.kill()

    def worker(self, node: str, group: int) -> Worker:
        """An attached worker."""
        worker = Worker(self, node, group)
        self.workers.append(worker)
        worker.attach()
        return worker

    def ask(self, node: str, command: str, **arguments: Any) -> AdminReply:
        """What a node answers to an administrator."""
        asked = self.request(node, command, **arguments)
        reply = asked.hear(AdminReply)
        asked.socket.close()
        assert isinstance(reply, AdminReply)
        return reply

    def request(self, node: str, command: str, **arguments: Any) -> Peer:
        """Ask, without waiting for the answer."""
        self._count += 1
        peer = self.peer(node, b"cli:%d" % self._count)
        peer.say(AdminRequest(self._count, command, arguments))
        return peer

    def peer(self, node: str, identity: bytes) -> Peer:
        """A connection to a node's local socket."""
        peer = Peer(self, node, identity)
        self._closing.append(peer.socket)
        return peer

    def status(self, node: str) -> Any:
        """A node's status."""
        reply = self.ask(node, "status")
        assert not reply.error
        return reply.result

    def status_when(self, node: str, wanted: Callable[[Any], bool]) -> Any:
        """Ask a node for its status until it is as wanted."""
        until = time.monotonic() + DEADLINE_S
        while not wanted(status := self.status(node)):
            assert time.monotonic() < until, f"{node} came to {status}"
        return status

    def state_when(self, node: str, about: str, state: str) -> None:
        """Ask a node until it holds another for dead, alive and so on."""
        row = {"name": about, "state": state}
        self.status_when(node, lambda status: any(row.items() <= each.items() for each in status["nodes"]))

    def states(self, node: str) -> dict[str, str]:
        """What a node thinks of all nodes."""
        return {row["name"]: row["state"] for row in self.status(node)["nodes"]}

    def routes_when(self, node: str, wanted: Callable[[Table], bool]) -> Table:
        """Follow what a node publishes until its table is as wanted."""
        socket = sockets.subscriber(self.context, self.places.publish_endpoint(node), [b"routes"])
        asked = self.peer(node, b"cli:routes")
        asked.say(GetRoutes("test"))
        latest = asked.hear(Routes)
        table: Table = {}
        until = time.monotonic() + DEADLINE_S
        try:
            while True:
                table |= {entry.group: entry for entry in latest.entries}  # what is published is what changed
                if wanted(table):
                    return table
                left = until - time.monotonic()
                assert left > 0 and socket.poll(int(left * 1000) + 1), f"{node} came to {table}"
                latest = decode(socket.recv_multipart()[1])
        finally:
            socket.close()
            asked.socket.close()

    def close(self) -> None:
        """End every process and socket, and remove the folders."""
        self._heart.stop()
        for worker in self.workers:
            worker.close()
        for each in self._closing:
            each.close()
        self.context.destroy(linger=0)
        shutil.rmtree(self.folder)


@contextmanager
def cluster(nodes: int = 3, groups: int = 3) -> Iterator[Cluster]:
    """A cluster that leaves nothing behind."""
    made = Cluster(nodes, groups)
    try:
        yield made
    finally:
        made.close()
