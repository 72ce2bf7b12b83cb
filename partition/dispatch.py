"""Dispatch: one call in, one Outcome out.

Guards the contract of callbacks: a call is one transaction over one partition, nothing happens of
one that raised, a client only reaches what was declared for clients and within its roles, and no
exception of a plugin gets further than here. What an Outcome holds is already in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from connserver.errors import ClientError
from connserver.ids import format_oid, partition_of
from connserver.limits import SLOW_CALLBACK_MS
from connserver.model import Message, Value
from connserver.plugin.declare import Presence
from connserver.plugin.objects import Object
from connserver.plugin.results import Reply, Result
from connserver.plugin.values import outgoing, outgoing_fields, unreserved
from partition import administration
from partition.arguments import NAME_ARGUMENT
from partition.context import OnLog, RunContext, World, id_of_named
from partition.deadline import HandlerTimeout
from partition.effects import Caller, Outcome
from partition.incidents import Incidents
from partition.objects import Store
from partition.rates import Rates
from partition.table import Every, Method, PluginTable
from partition.transaction import Transaction

NOBODY = Caller(user=0, session=0, name="", roles=frozenset())
"""The cluster itself."""


@dataclass(frozen=True, slots=True)
class Running:
    """The callback that is being executed, for whoever watches over the worker. `me` 0: none."""

    method: Method
    me: int
    session: int
    partition: int
    started: float

    @property
    def plugin(self) -> str:
        """The name of the plugin whose callback it is."""
        return self.method.plugin


@dataclass(slots=True)
class Beat:
    """Where the clock of an Every stands."""

    due: float = 0.0
    ran: float = field(default=float("-inf"))


class Dispatcher:
    """Executes the callbacks of a group, one at a time.

    `on_incident(number, traceback)`: a plugin failed. `on_slow(method, milliseconds)`: a callback took
    longer than SLOW_CALLBACK_MS by `clock`. `running`: what is being executed now, if anything.
    """

    def __init__(
        self,
        store: Store,
        plugins: PluginTable,
        *,
        random: Random,
        on_incident: Callable[[str, str], None],
        incident_prefix: str = "n1",
        clock: Callable[[], float] = time.perf_counter,
        on_slow: Callable[[Method, float], None] = lambda method, milliseconds: None,
        on_log: OnLog = lambda level, plugin, text, facts: None,
    ) -> None:
        self.store = store
        self.random = random
        self._context: RunContext | None = None
        self._started = 0.0
        self._clock = clock
        self._on_slow = on_slow
        self._on_log = on_log
        self._incidents = Incidents(incident_prefix, random.getrandbits(32), on_incident)
        self._rates = Rates()
        self._beats: dict[str, Beat] = {}
        self.use(plugins)

    def use(self, plugins: PluginTable) -> None:
        """From the next call on, these plugins; PluginLoadError if stored objects cannot be read by them."""
        plugins.refuse_unreadable(self.store)
        self.plugins = plugins
        self._world = World(plugins, self.random, self._on_log)
        self.store.bind(plugins.kinds)
        self._beats = {name: self._beats.get(name, Beat()) for name in plugins.everies}

    @property
    def running(self) -> Running | None:
        """What is being executed now, if anything; may be asked from another thread."""
        context = self._context
        if context is None:
            return None
        return Running(
            context.method, context.me or 0, context.session, context.transaction.partition, self._started
        )

    # --- calls ---

    def call(self, method: str, fields: Message, *, me: int, caller: Caller, now: float) -> Outcome:
        """A client's call: `fields` without `msg` and `id`."""
        found = self.plugins.methods.get(method)
        if found is None:
            return Outcome(error=ClientError("unknown_method", f"there is no method {method}"))
        if found.roles and found.roles.isdisjoint(caller.roles):
            wanted = " or ".join(sorted(found.roles))
            return Outcome(error=ClientError("forbidden", f"{method} needs the role {wanted}"))
        if found.rate_hz:
            early = self._rates.take(caller.session, method, found.rate_hz, now)
            if early is not None:
                return Outcome(error=early)
        try:
            positional, keywords = found.signature.bind(fields)
        except ClientError as error:
            return Outcome(error=error)
        return self._run(found, partition_of(me), me, caller, now, positional, keywords)

    def internal(
        self,
        method: str,
        arguments: Message,
        *,
        me: int,
        caller: Caller,
        now: float,
        result: Result | None = None,
    ) -> Outcome:
        """A call of a plugin: its callee, its `then` (with `result`), a timer, background work."""
        found = self.plugins.internals.get(method)
        if found is None:
            reason = f"there is no internal method {method}: no attached plugin has it"
            return Outcome(error=ClientError("unknown_method", reason), unfinished=True)
        try:
            positional, keywords = found.signature.bind_internal(arguments, result)
        except ClientError as error:
            return Outcome(error=error, unfinished=True)
        named = arguments.get(NAME_ARGUMENT) if found.create else None
        return self._run(
            found, partition_of(me), me, caller, now, positional, keywords, named=str(named or "")
        )

    def presence(self, hook: Presence, me: int, caller: Caller, now: float) -> Outcome:
        """A user has come or gone: the hooks of all plugins, each its own transaction.

        Never an error: a hook that fails is an incident, and the user comes or goes nevertheless.
        """
        together = Outcome()
        for method in self.plugins.hooks.get(hook, ()):
            outcome = self._run(method, partition_of(me), me, caller, now, [], {})
            together.images += outcome.images
            together.effects += outcome.effects
        return together

    def login(self, oid: int, fields: Message, now: float) -> Outcome:
        """Ask the plugin whether this user may log in: `{"roles": […]}`, or the error for the client.

        `fields`: those of the message, with the `user` whose object (there or not) has this id.
        """
        method = self.plugins.login
        if method is None:
            return Outcome(error=ClientError("unauthorized", "no attached plugin decides who may log in"))
        try:
            positional, keywords = method.signature.bind(fields)
        except ClientError as error:
            return Outcome(error=error)
        outcome = self._run(method, partition_of(oid), None, NOBODY, now, positional, keywords)
        said = outcome.error
        if said is not None and said.error == "refused":
            outcome.error = ClientError("unauthorized", said.reason, code=said.code)
        return outcome

    # --- by the clock ---

    def due(self, now: float) -> list[tuple[str, list[int], float]]:
        """What is to run now: (name, partitions, seconds since it last ran). Missed ticks are skipped."""
        found = []
        for name, every in self.plugins.everies.items():
            beat = self._beats[name]
            if beat.ran <= now < beat.due:
                continue
            passed = now - beat.ran
            behind = not 0 <= now - beat.due < every.period_s
            beat.due = (now if behind else beat.due) + every.period_s
            dt = passed if 0 < passed < float("inf") else every.period_s
            beat.ran = now
            partitions = every.partitions(self.store)
            if partitions:
                found.append((name, partitions, dt))
        return found

    def every(self, name: str, partition: int, dt: float, now: float) -> Outcome:
        """One tick in one partition."""
        every: Every = self.plugins.everies[name]
        return self._run(every.method, partition, None, NOBODY, now, [], {}, dt=dt)

    # --- users and operators ---

    def open_user(self, oid: int, name: str) -> Outcome:
        """Make the user object if it is not there; `conflict` if another name has its id."""
        known = self.user_name(oid)
        if known is not None:
            return Outcome(error=None if known == name else _id_taken(oid, name))
        return administration.create(self.store, self.plugins, self.plugins.kind_of_user(), oid, name, {})

    def user_name(self, oid: int) -> str | None:
        """The name of a user object, or of another named one; None if there is no such object."""
        return administration.name_of(self.store, oid)

    def admin_get(self, oid: int) -> Message:
        """An object for the operator; ClientError `not_found`."""
        return administration.get(self.store, oid)

    def admin_list(self, kind: str, after: int, limit: int) -> Message:
        """Objects with ids above `after`, in pages: `{objects, next}`."""
        return administration.listed(self.store, kind, after, limit)

    def admin_put(
        self, oid: int | None, kind: str, fields: Mapping[str, Value], near: int | None = None
    ) -> Outcome:
        """Change an object's fields, or make it (without `oid`: in the partition of `near`)."""
        return administration.put(self.store, self.plugins, oid, kind, fields, near)

    def admin_delete(self, oid: int) -> Outcome:
        """Remove an object of a plugin's kind."""
        return administration.delete(self.store, self.plugins, oid)

    # --- execution ---

    def _run(
        self,
        method: Method,
        partition: int,
        me: int | None,
        caller: Caller,
        now: float,
        positional: list[Any],
        keywords: dict[str, Any],
        *,
        dt: float = 0.0,
        named: str = "",
    ) -> Outcome:
        assert self._context is None, "callbacks run one at a time"
        transaction = Transaction(self.store, self.plugins.kinds, partition)
        context = RunContext(self._world, transaction, method, caller, me, now, dt)
        started = self._started = self._clock()
        try:
            targets = () if me is None else (self._target(method, transaction, me, named),)
            self._context = context
            value = method.function(context, *targets, *positional, **keywords)
            # from here on it is our own code, which the time limit must not interrupt
            self._context = None
            result, error, deferred = (None, None, False) if value is None else _answer(value, context)
            images, changed = transaction.finish()
            return Outcome(
                result=result,
                error=error,
                deferred=deferred,
                images=images,
                effects=context.effects,
                transient_only=changed and not images,
            )
        except BaseException as error:
            self._context = None
            # whatever a plugin raises, SystemExit too, ends its call and nothing else
            transaction.roll_back()
            if isinstance(error, KeyboardInterrupt):
                raise
            unfinished = not isinstance(error, ClientError)
            return Outcome(error=self._failure(method, error, started), unfinished=unfinished)
        finally:
            context.closed = True
            elapsed_ms = (self._clock() - started) * 1000
            if elapsed_ms >= SLOW_CALLBACK_MS:
                self._on_slow(method, elapsed_ms)

    def _failure(self, method: Method, error: BaseException, started: float) -> ClientError:
        """What the client is told; the operator gets all of it, unless the plugin refused."""
        if isinstance(error, ClientError):
            return self._presentable(method, error)
        told = self._incidents.report(method, error)
        if isinstance(error, HandlerTimeout):
            took_ms = (self._clock() - started) * 1000
            reason = f"{method.name} ran for {took_ms:.0f} ms and was ended; nothing of it happened"
            return ClientError("timeout", reason, incident=told.incident)
        return told

    def _target(self, method: Method, transaction: Transaction, me: int, named: str) -> Object:
        cls = method.signature.me
        assert cls is not None
        target = transaction.get(me)
        if target is None:
            if not named:
                raise ClientError("not_found", f"there is no object {format_oid(me)}")
            kind = self.plugins.kinds.of_class(cls)
            if id_of_named(kind, self.plugins, named) != me:
                raise ClientError("not_found", f"{format_oid(me)} is not the id of {kind.name} {named}")
            target = transaction.create(kind, {}, me, named)
        if not isinstance(target, cls):
            kinds = self.plugins.kinds
            raise ClientError("not_found", f"{format_oid(me)} is no {kinds.of_class(cls).name}")
        if named and target.named != named:
            raise _id_taken(me, named)
        return target

    def _presentable(self, method: Method, error: ClientError) -> ClientError:
        """The error as it can be sent: of the model, and without what it was raised in."""
        try:
            outgoing([error.reason, error.code])
        except ValueError as fault:
            return self._incidents.report(method, fault)
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error


def _answer(value: Any, context: RunContext) -> tuple[Message | None, ClientError | None, bool]:
    """(result, error, deferred) for what a callback returned; ValueError for what cannot be an answer."""
    if isinstance(value, Reply):
        context.defer(value)
        return None, None, True
    if isinstance(value, Result):
        if not value.ok:
            return None, value.failure(), False
        value = value.value
        if value is None:
            return None, None, False
    if isinstance(value, Mapping):
        return unreserved(outgoing_fields(value, "the answer"), "the answer"), None, False
    return {"result": outgoing(value)}, None, False


def _id_taken(oid: int, name: str) -> ClientError:
    return ClientError("conflict", f"the name {name!r} cannot be used: its id {format_oid(oid)} is taken")
