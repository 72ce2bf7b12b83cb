"""`TestWorld`: what the test of a plugin does with a cluster.

Guards the rule that a test is the same every time: the clock is virtual, chance is seeded, and a
worker dies where the test says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from connserver.errors import ClientError
from connserver.ids import format_oid, named_id, object_id, parse_oid
from connserver.messages import Image
from connserver.model import Message, pack
from connserver.plugin import Object, Plugin
from connserver.plugin.context import Target
from partition.assembly import assemble
from partition.loader import load_plugin
from partition.references import oid_of
from partition.table import PluginTable
from partition.testing.client import Client, as_sent
from partition.testing.cluster import Cluster, Crash
from partition.testing.steps import Step

TICK_S = 0.05

Source = str | Path | Plugin
"""A plugin's folder, or the Plugin itself."""


class TestWorld:
    """A cluster of `partitions` partition groups (one partition range each) with these plugins.

    Users, rooms and named objects are spread over the groups by their names; `client.group` says
    where somebody lives.
    """

    __test__ = False

    def __init__(
        self, plugins: Iterable[Source], partitions: int = 2, *, seed: int = 1, now: float = 1e9
    ) -> None:
        if partitions < 1:
            raise ValueError(f"a world has at least one partition group, not {partitions}")
        self._cluster = Cluster(_table(plugins), partitions, seed, now)

    # --- what can be read ---

    @property
    def now(self) -> float:
        """Unix seconds, by the world's own clock."""
        return self._cluster.now

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every commit so far."""
        return tuple(self._cluster.steps)

    @property
    def crashed(self) -> Step | None:
        """The commit after which a worker died last; None if none did."""
        return self._cluster.crashed

    @property
    def incidents(self) -> dict[str, str]:
        """Number → traceback of every callback that failed."""
        return self._cluster.incidents

    @property
    def logged(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What plugins wrote to the log: (level, text, facts)."""
        return self._cluster.logged

    # --- clients ---

    def login(
        self, user: str, roles: Iterable[str] = (), *, apart_from: Client | None = None, **proof: Any
    ) -> Client:
        """Log a user in, at a connection of its own. ClientError if the login is refused.

        `apart_from`: in another partition group than this client. Where a user lives depends on the
        name, so if `user` lives there too, it is `user-2`, `user-3` … that is logged in: see `.user`.
        `proof`: more fields of the message, for a plugin with a `@plugin.login`, whose roles then count.
        """
        if apart_from is not None:
            user = self._apart(user, apart_from)
        client, answer = self._cluster.login(user, list(roles), as_sent(proof))
        if answer["status"] != 0:
            raise ClientError(str(answer["error"]), str(answer["reason"]))
        return client

    def _apart(self, user: str, client: Client) -> str:
        if len(self._cluster.groups) == 1:
            raise ValueError("a world of one partition group has no place apart; make it with partitions=2")
        names = (user if number == 1 else f"{user}-{number}" for number in count(1))
        return next(
            name for name in names if self._cluster.group_of(int(named_id("user", name))) != client.group
        )

    def call(self, client: Client, msg: str, /, **fields: Any) -> Message:
        """The same as `client.call`."""
        return client.call(msg, **fields)

    def events(self, client: Client) -> list[Message]:
        """The same as `client.events`."""
        return client.events()

    def drop(self, client: Client) -> None:
        """The client's connection breaks; its session waits for `resume`, and expires after two minutes."""
        self._cluster.drop(client)

    def resume(self, client: Client) -> None:
        """The client is back, at another connection, and gets what it missed.

        ClientError `session_expired` if it was away for too long: it has to log in again.
        """
        self._cluster.resume(client)
        if client.closed:
            raise ClientError(client.closed, "the session is over; log in again")

    # --- time and deaths ---

    def advance(self, seconds: float) -> None:
        """Let time pass: timers, `every`, room state and expiry happen."""
        cluster = self._cluster
        shortest = min((every.period_s for every in cluster.plugins.everies.values()), default=TICK_S)
        step, until = min(TICK_S, shortest), cluster.now + seconds
        while cluster.now < until - 1e-9:
            cluster.now = min(cluster.now + step, until)
            cluster.tick()

    def crash_after(self, step: int | str, *, gateway: bool = False) -> None:
        """The worker that makes the `step`th commit from now (1 = the next) dies right after it.

        A text means the next commit that holds changes of this callback ("trade.buy",
        "world.hand_over") or is caused by this ("login", "room.send", …); `steps` has the names.

        Nothing of what the commit was to send has left yet. Another worker takes over with what was
        committed, sends it, and gets the requests again that have no answer. With `gateway` the
        gateway dies at the same moment, as with a whole node: what was to be sent is lost with it,
        and the clients resume through another.
        """
        if isinstance(step, str):
            self._cluster.crash = Crash(lambda seen: step in seen.causes, gateway)
            return
        if step < 1:
            raise ValueError(f"commits count from 1, the next one; there is no step {step}")
        last = len(self._cluster.steps) + step
        self._cluster.crash = Crash(lambda seen: seen.number == last, gateway)

    def steps_of(self, action: Callable[[], object], *, gateway: bool = False) -> Iterator[Step]:
        """Do the same once for each commit it makes, with the death of a worker right after that commit.

        Each time the world begins as it is now: all objects, transient fields, sessions and clients; only
        rates and the latest values in rooms begin anew. What the loop's body sees is the world after
        `action` with that death in it. `number` counts the commits of `action` from 1. After the loop
        the world stays as the last death left it. `gateway`: see `crash_after`.
        """
        cluster = self._cluster
        start = cluster.checkpoint()
        cluster.restore(start)
        action()
        found = [
            Step(number, step.group, step.causes)
            for number, step in enumerate(cluster.steps[start.steps :], start=1)
        ]
        for step in found:
            cluster.restore(start)
            self.crash_after(step.number, gateway=gateway)
            try:
                action()
            except BaseException as error:
                error.add_note(f"after a crash at {step}")
                raise
            if cluster.crash is not None:
                raise RuntimeError(f"the action made fewer commits than before: there was no {step}")
            yield step

    # --- objects and plugins ---

    def fields(self, target: Target | Client) -> dict[str, Any]:
        """All fields of an object, transient ones too; KeyError if there is none."""
        found = self._cluster.store(_oid(target)).live(_oid(target))
        if found is None:
            raise KeyError(f"there is no object {_oid(target):016x}")
        return dict(found.__dict__)

    def all(self, kind: type[Object] | str) -> dict[str, dict[str, Any]]:
        """The fields of all objects of a kind (its class or its name), by id."""
        name = self._kind(kind)
        found = [image.oid for group in self._cluster.groups for image in group.store.images(name)]
        return {format_oid(oid): self.fields(oid) for oid in found}

    def put(self, target: Target | Client, /, **fields: Any) -> None:
        """Change an object's fields as an operator; ClientError if they do not fit."""
        oid = _oid(target)
        image = self._cluster.store(oid).image(oid)
        if image is None:
            raise KeyError(f"there is no object {oid:016x}")
        kind = self._cluster.plugins.kinds.of_image(image)
        name = kind.name if kind else image.kind
        self._cluster.write(oid, lambda run: run.admin_put(oid, name, as_sent(fields)))

    def create(self, kind: type[Object] | str, /, *, near: Target | Client | int = 0, **fields: Any) -> str:
        """Make an object as an operator, in the partition of `near` (an object, or a partition's number)."""
        name = self._kind(kind)
        place = object_id(near, 0) if type(near) is int and near < 1 << 16 else _oid(near)
        outcome = self._cluster.write(
            place, lambda run: run.admin_put(None, name, as_sent(fields), near=place)
        )
        assert isinstance(outcome.result, dict)
        return str(outcome.result["oid"])

    def overwrite(self, target: Target | Client, kind: str, schema: int, fields: dict[str, Any]) -> None:
        """Put the stored form of an object, as an older version of a plugin may have left it."""
        oid = _oid(target)
        self._cluster.store(oid).put(Image(oid, kind, schema, pack(fields)))

    def schemas(self, kind: type[Object] | str) -> set[int]:
        """In which schemas the objects of a kind are stored; they migrate when they are next written."""
        name = self._kind(kind)
        return {image.schema for group in self._cluster.groups for image in group.store.images(name)}

    def use(self, plugins: Iterable[Source]) -> None:
        """From the next call on these plugins, as a reload does; all of them, also what stays the same.

        PluginLoadError if they do not fit together or a stored object cannot be read by them; then
        nothing has changed.
        """
        self._cluster.use(_table(plugins))

    def check(self) -> None:
        """Everything is consistent and no callback has failed; AssertionError with the tracebacks."""
        for group in self._cluster.groups:
            group.check_invariants()
        assert not self.incidents, "\n\n".join(self.incidents.values())

    def _kind(self, kind: type[Object] | str) -> str:
        return kind if isinstance(kind, str) else self._cluster.plugins.kinds.of_class(kind).name


def _table(plugins: Iterable[Source]) -> PluginTable:
    return assemble(plugin if isinstance(plugin, Plugin) else load_plugin(Path(plugin)) for plugin in plugins)


def _oid(target: Target | Client) -> int:
    return parse_oid(target.oid) if isinstance(target, Client) else oid_of(target)
