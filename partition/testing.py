"""`TestWorld`: a cluster in one object, for the tests of plugins.

The transactions, dispatch, sessions, rooms and exactly-once calls between partition groups are those
that the workers run; only the processes, sockets and the clock are missing. Time stands still until
`advance`. `crash_after` proves that a plugin gets through the death of a worker at any step:

    from partition.testing import TestWorld

    world = TestWorld(["plugins/world"])
    ann, bob = world.login("ann"), world.login("bob")
    world.put(ann, gold=10)
    world.crash_after(2)
    assert ann.call("trade.buy", seller=bob.oid, thing="sword", price=5)["status"] == 0
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

from connserver.errors import ClientError
from connserver.ids import format_oid, group_of, named_id, object_id, parse_oid, partition_of
from connserver.messages import Image, OutputKind, RequestKind
from connserver.model import Message, Value, pack, unpack
from connserver.plugin import Object, Plugin, Result
from connserver.plugin.context import Target
from partition.assembly import assemble
from partition.context import oid_of
from partition.dispatch import Dispatcher
from partition.effects import Background, Caller, Outcome
from partition.group import Group
from partition.loader import load_plugin
from partition.objects import Store
from partition.turn import Turn

TICK_S = 0.05
GATEWAY = 1
"""The number of the one gateway's boot."""
MOST_TURNS = 10_000
"""Turns after one event; more means that plugins call each other without end."""


class Client:
    """A logged-in client. Its requests have rising ids, so that each runs once however often it is sent."""

    def __init__(self, world: TestWorld, user: str, connection: int) -> None:
        self.user = user
        self.oid = format_oid(named_id("user", user))
        self.closed = ""
        self._world = world
        self.connection = connection
        self.token = ""
        self.last_event = 0
        self.unanswered: dict[int, Message] = {}
        self.replies: dict[int, Message] = {}
        self.received: list[Message] = []
        self._ids = count(1)

    def call(self, msg: str, /, **fields: Any) -> Message:
        """Send a request; the reply as a client sees it. TimeoutError if none came without time passing."""
        number = next(self._ids)
        self.unanswered[number] = {"msg": msg, "id": number, **_as_sent(fields)}
        self._world.ask(self, number)
        if number not in self.replies:
            raise TimeoutError(f"{msg} was not answered; its answer waits for something that takes time")
        return self.replies.pop(number)

    def events(self) -> list[Message]:
        """The events that came since this was last asked, in their order."""
        events, self.received = self.received, []
        return events


class TestWorld:
    """A cluster of `partitions` partition groups with these plugins: folders, or Plugin objects.

    `incidents`: number → traceback of every callback that failed. `steps`: commits so far.
    """

    __test__ = False

    def __init__(
        self, plugins: Iterable[str | Path | Plugin], partitions: int = 2, *, seed: int = 1, now: float = 1e9
    ) -> None:
        found = [plugin if isinstance(plugin, Plugin) else load_plugin(Path(plugin)) for plugin in plugins]
        self.plugins = assemble(found)
        self.now = now
        self.steps = 0
        self.incidents: dict[str, str] = {}
        self.logged: list[tuple[str, str, dict[str, Any]]] = []
        self._seed = seed
        self._lives = count(1)
        self._secrets = count(1)
        self._crash_at: int | None = None
        self._works: list[tuple[int, Background, Caller]] = []
        self._clients: dict[int, Client] = {}
        self._groups = [self._start(number, partitions, Store()) for number in range(partitions)]

    # --- what a test does ---

    def login(self, user: str, roles: Iterable[str] = ()) -> Client:
        """Log a user in, at a connection of its own. ClientError if the login is refused."""
        client = Client(self, user, len(self._clients) + 1)
        self._clients[client.connection] = client
        body: Message = {
            "user": user,
            "roles": list(roles),
            "encoding": 3,
            "message": {"msg": "login", "id": 0},
        }
        self._home(client.oid).request(GATEWAY, client.connection, RequestKind.LOGIN, 1, pack(body), self.now)
        self._settle()
        answer = client.replies.pop(0)
        if answer["status"] != 0:
            raise ClientError(str(answer["error"]), str(answer["reason"]))
        return client

    def call(self, client: Client, msg: str, /, **fields: Any) -> Message:
        """The same as `client.call`."""
        return client.call(msg, **fields)

    def events(self, client: Client) -> list[Message]:
        """The same as `client.events`."""
        return client.events()

    def drop(self, client: Client) -> None:
        """The client's connection breaks; its session waits to be resumed, and expires if it is not."""
        self._home(client.oid).request(GATEWAY, client.connection, RequestKind.GONE, 0, b"", self.now)
        self._settle()

    def advance(self, seconds: float) -> None:
        """Let time pass: timers, `every`, room state and expiry happen."""
        shortest = min((every.period_s for every in self.plugins.everies.values()), default=TICK_S)
        step, until = min(TICK_S, shortest), self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(self.now + step, until)
            for group in list(self._groups):
                group.tick(self.now)
            self._settle()

    def crash_after(self, step: int) -> None:
        """The worker that makes the `step`th commit from now (1 = the next) dies right after it.

        Nothing of what the commit was to send has left. Another worker takes over with what was
        committed; requests that have no answer are sent again, as gateways do.
        """
        self._crash_at = self.steps + step

    def fields(self, target: Target | Client) -> dict[str, Any]:
        """All fields of an object, transient ones too; KeyError if there is none."""
        found = self._store(_oid(target)).live(_oid(target))
        if found is None:
            raise KeyError(f"there is no object {_oid(target):016x}")
        return dict(found.__dict__)

    def all(self, kind: type[Object] | str) -> dict[str, dict[str, Any]]:
        """The fields of all objects of a kind (its class or its name), by id."""
        name = kind if isinstance(kind, str) else self.plugins.kinds.of_class(kind).name
        found = [image.oid for group in self._groups for image in group.store.images(name)]
        return {format_oid(oid): self.fields(oid) for oid in found}

    def put(self, target: Target | Client, /, **fields: Any) -> None:
        """Change an object's fields as an operator; ClientError if they do not fit."""
        oid = _oid(target)
        image = self._store(oid).image(oid)
        if image is None:
            raise KeyError(f"there is no object {oid:016x}")
        kind = self.plugins.kinds.of_image(image)
        self._write(oid, lambda run: run.admin_put(oid, kind.name if kind else image.kind, _as_sent(fields)))

    def create(self, kind: type[Object] | str, /, *, near: Target | Client | int = 0, **fields: Any) -> str:
        """Make an object as an operator, in the partition of `near` (an object, or a partition's number)."""
        name = kind if isinstance(kind, str) else self.plugins.kinds.of_class(kind).name
        place = object_id(near, 0) if type(near) is int and near < 1 << 16 else _oid(near)
        outcome = self._write(place, lambda run: run.admin_put(None, name, _as_sent(fields), near=place))
        assert isinstance(outcome.result, dict)
        return str(outcome.result["oid"])

    def overwrite(self, target: Target | Client, kind: str, schema: int, fields: dict[str, Any]) -> None:
        """Put the stored form of an object, as an older version of a plugin may have left it."""
        oid = _oid(target)
        self._store(oid).put(Image(oid, kind, schema, pack(fields)))

    def check(self) -> None:
        """Everything is consistent and no callback has failed; AssertionError with the tracebacks."""
        for group in self._groups:
            group.check_invariants()
        assert not self.incidents, "\n\n".join(self.incidents.values())

    # --- the cluster around the groups ---

    def _start(self, number: int, groups: int, store: Store) -> Group:
        life = next(self._lives)
        dispatcher = Dispatcher(
            store,
            self.plugins,
            random=random.Random(f"{self._seed} {number} {life}"),
            on_incident=self.incidents.__setitem__,
            incident_prefix=f"t{life}",
            on_log=lambda level, plugin, text, facts: self.logged.append((level, text, facts)),
        )
        group = Group(
            group=number,
            groups=groups,
            store=store,
            dispatcher=dispatcher,
            secret=lambda: f"secret{next(self._secrets)}",
            resume_window_s=120,
            background=lambda work, caller: self._works.append((number, work, caller)),
        )
        group.at(self.now)
        group.load()
        return group

    def _home(self, oid: str) -> Group:
        return self._groups[group_of(partition_of(parse_oid(oid)), len(self._groups))]

    def _store(self, oid: int) -> Store:
        return self._groups[group_of(partition_of(oid), len(self._groups))].store

    def ask(self, client: Client, number: int) -> None:
        """Pass an unanswered request of a client on, and let everything happen that follows from it."""
        body = pack(client.unanswered[number])
        self._home(client.oid).request(
            GATEWAY, client.connection, RequestKind.CALL, number + 1, body, self.now
        )
        self._settle()

    def _write(self, oid: int, change: Callable[[Dispatcher], Outcome]) -> Outcome:
        group = self._groups[group_of(partition_of(oid), len(self._groups))]
        outcome = change(group.dispatcher)
        if outcome.error is not None:
            raise outcome.error
        group.apply(outcome, self.now)
        self._settle()
        return outcome

    def _settle(self) -> None:
        """Carry everything that groups, gateway and background have for each other, until nothing is left."""
        for _ in range(MOST_TURNS):
            moved = False
            for number in range(len(self._groups)):
                turn = self._groups[number].end_turn()
                moved = moved or not turn.empty
                self._turn(number, turn)
            works, self._works = self._works, []
            for number, work, caller in works:
                self._work(number, work, caller)
            if not moved and not works:
                break
        else:
            raise RuntimeError("plugins call each other without end")
        for group in self._groups:
            group.check_invariants()

    def _turn(self, number: int, turn: Turn) -> None:
        if turn.entry is not None:
            self.steps += 1
            if self.steps == self._crash_at:
                self._crash_at = None
                self._crash(number)
                return
        for batch in turn.outputs:
            rows = zip(batch.targets, batch.kinds, batch.answers, batch.bodies, strict=True)
            for targets, kind, _, body in rows:
                for connection in targets:
                    self._receive(self._clients[connection], OutputKind(kind), unpack(body))
        for target, parcel, body in turn.parcels:
            self._groups[target].parcel(number, parcel, body, self.now)
        for source, upto in turn.done:
            self._groups[source].parcels_done(number, upto)

    def _receive(self, client: Client, kind: OutputKind, message: Message) -> None:
        if kind is OutputKind.REPLY:
            number = message.get("id")
            if type(number) is int and (number == 0 or client.unanswered.pop(number, None) is not None):
                client.replies[number] = message
        elif kind is OutputKind.BOUND:
            client.token = str(message["resume"])
        elif kind is OutputKind.CLOSE:
            client.closed = str(message["reason"])
        else:
            n = message.get("n")
            if type(n) is int:
                if n <= client.last_event:
                    return
                client.last_event = n
            client.received.append(message)

    def _crash(self, number: int) -> None:
        """Replace a worker by one that has only what was committed, as bytes."""
        self._works = [work for work in self._works if work[0] != number]
        store = Store()
        kept = self._groups[number].store.images()
        store.load(Image(image.oid, image.kind, image.schema, image.data) for image in kept)
        fresh = self._groups[number] = self._start(number, len(self._groups), store)
        for client in self._clients.values():
            if client.token and not client.closed and self._home(client.oid) is fresh:
                self._rebind(fresh, client)
        for source, group in enumerate(self._groups):
            for target, parcel, body in list(group.outbox.waiting()):
                self._groups[target].parcel(source, parcel, body, self.now)

    def _rebind(self, group: Group, client: Client) -> None:
        body: Message = {
            "resume": client.token,
            "rebind": True,
            "encoding": 3,
            "n": client.last_event,
        }
        group.request(GATEWAY, client.connection, RequestKind.RESUME, 0, pack(body), self.now)
        for number, message in list(client.unanswered.items()):
            group.request(GATEWAY, client.connection, RequestKind.CALL, number + 1, pack(message), self.now)

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
            self._groups[number].background_done(work, caller, Result.of(value, error), self.now)


def _oid(target: Target | Client) -> int:
    return parse_oid(target.oid) if isinstance(target, Client) else oid_of(target)


def _as_sent(fields: dict[str, Any]) -> Message:
    """References and objects as the hex digits that a client sends."""
    return {
        name: f"{value.oid:016x}"
        if isinstance(value, Object)
        else value.oid
        if isinstance(value, Client)
        else str(value)
        if isinstance(value, str)
        else value
        for name, value in fields.items()
    }
