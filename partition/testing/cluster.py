"""The partition groups of a `TestWorld`, and all that lies between them in a cluster.

Plays the parts of log, gateway, streams and background threads: what a group's turn holds is carried
on when it has committed, and a worker that dies is replaced by one that has only what was committed,
as bytes. Guards the rule that every commit is a place where a worker can die.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from connserver.errors import ClientError
from connserver.ids import group_of, parse_oid, partition_of
from connserver.messages import Image, OutputBatch, OutputKind, RequestKind
from connserver.model import Message, Value, pack, unpack
from connserver.plugin import Result
from partition.dispatch import Dispatcher
from partition.effects import Background, Caller, Outcome
from partition.group import Group
from partition.objects import Store
from partition.table import PluginTable
from partition.testing.client import Client
from partition.testing.steps import Causes, NotingDispatcher, Step
from partition.turn import Turn

MOST_TURNS = 10_000
"""Turns after one event; more means that plugins call each other without end."""

LOGIN = 0
"""The id of a client's login; those of its calls count from 1."""

MESSAGE_PACK = 3
"""The encoding of every client here; it makes no difference to a plugin."""


@dataclass(frozen=True, slots=True)
class Crash:
    """When the next worker dies: right after the commit for which `at` holds; `gateway`: that dies too."""

    at: Callable[[Step], bool]
    gateway: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a world keeps, so that the same can be tried again from here."""

    plugins: PluginTable
    now: float
    lives: int
    secrets: int
    gateway: int
    connections: int
    steps: int
    images: list[list[Image]]
    transients: list[list[tuple[int, dict[str, Any]]]]
    clients: list[tuple[Client, dict[str, Any]]]


class Cluster:
    """Groups, their clients and the time. `steps`: the commits so far; `crashed`: the last fatal one."""

    def __init__(self, plugins: PluginTable, partitions: int, seed: int, now: float) -> None:
        self.plugins = plugins
        self.now = now
        self.steps: list[Step] = []
        self.crash: Crash | None = None
        self.crashed: Step | None = None
        self.incidents: dict[str, str] = {}
        self.logged: list[tuple[str, str, dict[str, Any]]] = []
        self.clients: dict[int, Client] = {}
        self._seed = seed
        self._lives = 0
        self._secrets = 0
        self._gateway = 1
        self._connections = 0
        self._works: list[tuple[int, Background, Caller]] = []
        self._causes = [Causes.none() for _ in range(partitions)]
        self.groups: list[Group] = []
        for number in range(partitions):
            self.groups.append(self._start(number, partitions, Store()))

    def _start(self, number: int, groups: int, store: Store) -> Group:
        self._lives += 1
        self._causes[number] = Causes.none()
        dispatcher = NotingDispatcher(
            self._causes[number],
            store,
            self.plugins,
            random=random.Random(f"{self._seed} {number} {self._lives}"),
            on_incident=self.incidents.__setitem__,
            incident_prefix=f"t{self._lives}",
            on_log=lambda level, plugin, text, facts: self.logged.append((level, text, facts)),
        )
        group = Group(
            group=number,
            groups=groups,
            store=store,
            dispatcher=dispatcher,
            secret=self._secret,
            resume_window_s=120,
            background=lambda work, caller: self._works.append((number, work, caller)),
            login_by_plugin=self.plugins.login is not None,
        )
        group.at(self.now)
        group.load()
        return group

    def _secret(self) -> str:
        self._secrets += 1
        return f"secret{self._secrets}"

    # --- where things are ---

    def group_of(self, oid: int | str) -> int:
        """The number of the group in which an object lives."""
        number = parse_oid(oid) if isinstance(oid, str) else oid
        return group_of(partition_of(number), len(self.groups))

    def store(self, oid: int) -> Store:
        """The objects of that group."""
        return self.groups[self.group_of(oid)].store

    # --- what clients and operators do ---

    def login(self, user: str, roles: list[str], proof: Message | None = None) -> tuple[Client, Message]:
        """Open a session at a new connection of the gateway: the client, and the answer."""
        self._connections += 1
        client = self.clients[self._connections] = Client(self, user, roles, self._connections)
        client.proof = proof or {}
        client.unanswered[LOGIN] = {"msg": "login", "id": LOGIN}
        self._repeat(client)
        self.settle()
        return client, client.replies.pop(LOGIN)

    def ask(self, client: Client, number: int) -> None:
        """Pass an unanswered request of a client on, and let everything happen that follows from it."""
        message = client.unanswered[number]
        if not client.connected:
            return
        self._send(client, RequestKind.CALL, number + 1, message, str(message["msg"]))
        self.settle()

    def drop(self, client: Client) -> None:
        """The gateway tells that a client's connection has broken."""
        client.connected = False
        self._send(client, RequestKind.GONE, 0, None, "connection lost")
        self.settle()

    def resume(self, client: Client) -> None:
        """A client takes its session up at another connection, and asks again what was not answered."""
        self._resume(client)
        self.settle()

    def _send(
        self, client: Client, kind: RequestKind, sequence: int, body: Message | None, cause: str
    ) -> None:
        number = self.group_of(client.oid)
        self._causes[number].others.append(cause)
        data = pack(body) if body is not None else b""
        self.groups[number].request(self._gateway, client.connection, kind, sequence, data, self.now)

    def write(self, oid: int, change: Callable[[Dispatcher], Outcome]) -> Outcome:
        """An operator's change; ClientError if it is refused."""
        number = self.group_of(oid)
        outcome = change(self.groups[number].dispatcher)
        if outcome.error is not None:
            raise outcome.error
        self._causes[number].others.append("operator")
        self.groups[number].apply(outcome, self.now)
        self.settle()
        return outcome

    def tick(self) -> None:
        """What happens by time, at every group."""
        for number, group in enumerate(list(self.groups)):
            self._causes[number].others.append("tick")
            group.tick(self.now)
        self.settle()

    def use(self, plugins: PluginTable) -> None:
        """From now on these plugins; PluginLoadError, with nothing changed, if they cannot read an object."""
        for group in self.groups:
            plugins.refuse_unreadable(group.store)
        self.plugins = plugins
        for group in self.groups:
            group.use(plugins)

    # --- what happens in between ---

    def settle(self) -> None:
        """Carry everything that groups, gateway and background have for each other, until nothing is left."""
        for _ in range(MOST_TURNS):
            moved = False
            for number in range(len(self.groups)):
                turn = self.groups[number].end_turn()
                moved = moved or not turn.empty
                self._carry(number, turn)
            works, self._works = self._works, []
            for number, work, caller in works:
                self._work(number, work, caller)
            if not moved and not works:
                break
        else:
            raise RuntimeError("plugins call each other without end")
        for group in self.groups:
            group.check_invariants()

    def _carry(self, number: int, turn: Turn) -> None:
        causes = self._causes[number].take()
        if turn.entry is not None:
            step = Step(len(self.steps) + 1, number, causes)
            self.steps.append(step)
            crash = self.crash
            if crash is not None and crash.at(step):
                self.crash, self.crashed = None, step
                self._crash(number, [] if crash.gateway else turn.entry.outputs)
                if crash.gateway:
                    self._gateway_dies()
                return
        self._deliver(turn.outputs)
        for target, parcel, body in turn.parcels:
            self._parcel(number, target, parcel, body)
        for source, upto in turn.done:
            self.groups[source].parcels_done(number, upto)

    def _deliver(self, outputs: list[OutputBatch]) -> None:
        for batch in outputs:
            if batch.gateway != self._gateway:
                continue
            rows = zip(batch.targets, batch.kinds, batch.bodies, strict=True)
            for targets, kind, body in rows:
                for connection in targets:
                    client = self.clients.get(connection)
                    if client is not None and client.connected:
                        client._receive(OutputKind(kind), unpack(body))

    def _parcel(self, source: int, target: int, parcel: int, body: bytes) -> None:
        self._causes[target].others.append(str(msgpack.unpackb(body, strict_map_key=False)["op"]))
        self.groups[target].parcel(source, parcel, body, self.now)

    def _work(self, number: int, work: Background, caller: Caller) -> None:
        value: Value = None
        error: ClientError | None = None
        try:
            value = self.plugins.backgrounds[work.function](**work.arguments)
        except ClientError as refusal:
            error = refusal
        except Exception as failure:
            error = ClientError("plugin_error", f"{work.function} failed", incident=repr(failure))
        if work.then:
            self.groups[number].background_done(work, caller, Result.of(value, error), self.now)

    # --- deaths ---

    def _crash(self, number: int, outputs: list[OutputBatch]) -> None:
        """Replace a worker by one that has only what was committed; `outputs` are kept by its backups."""
        self._works = [work for work in self._works if work[0] != number]
        self._replace(number, self.groups[number].store.images())
        self._deliver(outputs)
        for client in list(self.clients.values()):
            if client.token and client.connected and self.group_of(client.oid) == number:
                self._rebind(client)
        for source, group in enumerate(self.groups):
            for target, parcel, body in list(group.outbox.waiting()):
                self._parcel(source, target, parcel, body)

    def _replace(self, number: int, images: Any) -> None:
        store = Store()
        store.load(Image(image.oid, image.kind, image.schema, image.data) for image in images)
        self.groups[number] = self._start(number, len(self.groups), store)

    def _rebind(self, client: Client) -> None:
        """The gateway tells the new worker whose connection this is, and repeats what is unanswered."""
        body: Message = {
            "resume": client.token,
            "rebind": True,
            "encoding": MESSAGE_PACK,
            "n": client.last_event,
        }
        self._send(client, RequestKind.RESUME, 0, body, "rebind")
        self._repeat(client)

    def _repeat(self, client: Client) -> None:
        for number, message in list(client.unanswered.items()):
            kind, body = RequestKind.CALL, message
            if number == LOGIN:
                roles: list[Value] = [*client.roles]
                kind = RequestKind.LOGIN
                body = {"user": client.user, "roles": roles, "encoding": MESSAGE_PACK, "message": message}
                body["proof"] = client.proof
            self._send(client, kind, number + 1, body, str(message["msg"]))

    def _gateway_dies(self) -> None:
        """The clients find another gateway and resume there; what the first one had is lost."""
        former, self._gateway = self._gateway, self._gateway + 1
        for number, group in enumerate(self.groups):
            self._causes[number].others.append("gateway lost")
            group.gateway_gone(former, self.now)
        for client in list(self.clients.values()):
            if client.token and client.connected:
                self._resume(client)
            elif client.connected:
                self._reconnect(client)
                self._repeat(client)

    def _reconnect(self, client: Client) -> None:
        del self.clients[client.connection]
        self._connections += 1
        client.connection, client.connected = self._connections, True
        self.clients[client.connection] = client

    def _resume(self, client: Client) -> None:
        self._reconnect(client)
        body: Message = {
            "resume": client.token,
            "encoding": MESSAGE_PACK,
            "n": client.last_event,
            "rooms": [{"room": room, "seq": seq} for room, seq in client.rooms.items()],
            "message": {"msg": "session.resume"},
        }
        self._send(client, RequestKind.RESUME, 1, body, "session.resume")
        self._repeat(client)

    # --- trying again from the same place ---

    def checkpoint(self) -> Checkpoint:
        """All that is kept, as it is now."""
        return Checkpoint(
            plugins=self.plugins,
            now=self.now,
            lives=self._lives,
            secrets=self._secrets,
            gateway=self._gateway,
            connections=self._connections,
            steps=len(self.steps),
            images=[list(group.store.images()) for group in self.groups],
            transients=[list(group.store.transients()) for group in self.groups],
            clients=[(client, client._kept()) for client in self.clients.values()],
        )

    def restore(self, kept: Checkpoint) -> None:
        """Be as at the checkpoint, with every worker started anew; transient fields are as they were."""
        self.plugins = kept.plugins
        self.now, self._lives, self._secrets = kept.now, kept.lives, kept.secrets
        self._gateway, self._connections = kept.gateway, kept.connections
        del self.steps[kept.steps :]
        self.crash = self.crashed = None
        self._works.clear()
        for number, images in enumerate(kept.images):
            self._replace(number, images)
            for oid, values in kept.transients[number]:
                self.groups[number].store.restore_transients(oid, values)
        self.clients = {}
        for client, knew in kept.clients:
            client._restore(knew)
            self.clients[client.connection] = client
