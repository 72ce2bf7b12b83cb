"""The places of processes on a node: who sits there now, and that a dead one is replaced.

Guards the supervisor's order: a worker is dead and reaped, and its gossip process has been told, before
another one begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from connserver.ids import GroupId
from connserver.process import START_ANEW
from connserver.running import NoteReader, Source, note_path
from gateway.client import Client
from gateway.server import Gateway
from partition.worker import Worker
from tests.simulation.whole.processes import Process
from tests.simulation.whole.tcp import Connection

if TYPE_CHECKING:
    from tests.simulation.whole.world import WholeNode, WholeWorld

REAPED_S = (0.0005, 0.01)
STARTED_S = (0.01, 0.1)


class Seat:
    """The worker of one group on one node."""

    def __init__(self, world: WholeWorld, node: WholeNode, group: GroupId) -> None:
        self._world, self._node, self._group = world, node, int(group)
        self.process: Process | None = None
        self.worker: Worker | None = None
        self._life = 0

    @property
    def source(self) -> Source | None:
        """What the last process was running when it died."""
        options = self._world.settings.options("worker", self._node.name, "")
        return NoteReader(note_path(options.places.node_dir(self._node.name), self._group)).source

    def is_this(self, pid: int) -> bool:
        """Whether a process is the one that sits here."""
        return self.process is not None and self.process.alive and self.process.pid == pid

    @property
    def serving(self) -> bool:
        """For nemeses that look for a primary."""
        return self._world.serves(self._node, GroupId(self._group))

    def start_if_empty(self) -> None:
        """As the supervisor does."""
        if self.process is None or not self.process.alive:
            self._life += 1
            life = self._life
            self._world.after(self._world.random.uniform(*STARTED_S), lambda: self._start(life))

    def _start(self, life: int) -> None:
        if life != self._life or (self.process is not None and self.process.alive):
            return
        name = f"worker-{self._node.name}-{self._group}"
        process = self.process = Process(self._world, self._node, name, self._world.pid())
        options = self._world.settings.options("worker", self._node.name, name, self._group)

        def begin() -> None:
            worker = self.worker = Worker(process.loop, options)
            worker.stopped.add_done_callback(lambda done: self._ended(process, done.result()))
            worker.start()

        process.run(begin)

    def _ended(self, process: Process, status: int) -> None:
        self._world.note(f"{process.name} ended with {status}")
        self._world.coverage["worker_began_anew" if status == START_ANEW else "worker_ended"] += 1
        if status not in (0, START_ANEW):
            self._world.checkers.violation(f"{process.name} ended with status {status}")
        self._over()

    def replace(self, why: str) -> None:
        """Killed; a new process follows."""
        if self.process is not None and self.process.alive:
            self._world.note(f"{self.process.name} killed: {why}")
            self._world.coverage[f"worker_{why}"] += 1
            self._over()

    def _over(self) -> None:
        assert self.process is not None
        self.process.die()

        def reaped() -> None:
            self._world.worker_says(self._node, lambda logs, now: logs.gone(self._group, now))
            self.start_if_empty()

        self._world.after(self._world.random.uniform(*REAPED_S), reaped)

    def kill(self) -> None:
        """With the whole node; whoever boots that starts another."""
        self._life += 1
        if self.process is not None:
            self.process.die()

    def gossip_restarted(self) -> None:
        """The worker notices by itself."""


class GatewaySeat:
    """The gateway of one node, at one address for all its lives."""

    def __init__(self, world: WholeWorld, node: WholeNode) -> None:
        self._world, self._node = world, node
        self.name = f"gateway-{node.name}"
        self.process: Process | None = None
        self.gateway: Gateway | None = None
        self.connections: list[Connection] = []
        self._life = 0

    def start_if_empty(self) -> None:
        """As the supervisor does."""
        if self.process is None or not self.process.alive:
            self._life += 1
            life = self._life
            self._world.after(self._world.random.uniform(*STARTED_S), lambda: self._start(life))

    def _start(self, life: int) -> None:
        if life != self._life or (self.process is not None and self.process.alive):
            return
        process = self.process = Process(self._world, self._node, self.name, self._world.pid())
        options = self._world.settings.options("gateway", self._node.name, self.name, listen="127.0.0.1:9000")

        def begin() -> None:
            self.gateway = Gateway(process.loop, options)

        process.run(begin)

    def kill(self, why: str) -> None:
        """SIGKILL; its clients' connections are reset."""
        if self.process is None or not self.process.alive:
            return
        self._world.note(f"{self.name} killed: {why}")
        self._world.coverage[f"gateway_killed_{why}"] += 1
        clients = self.gateway.clients.values() if self.gateway is not None else ()
        if any(client.line is not None and client.line.pending for client in clients):
            self._world.coverage["gateway_deaths_with_requests"] += 1
        self.process.die()
        connections, self.connections = self.connections, []
        for connection in connections:
            connection.reset()
        self._world.after(0.2, self._restart)

    def _restart(self) -> None:
        if self._node.set is not None:
            self.start_if_empty()

    def dial(self, received: Callable[[bytes], None], lost: Callable[[], None]) -> Connection | None:
        """A client connects; None: refused."""
        process, gateway = self.process, self.gateway
        if process is None or not process.alive or gateway is None:
            return None
        connection = Connection(process, received, lost)
        self.connections.append(connection)
        protocol: Any = Client(gateway)
        connection.open(protocol)
        return connection
