"""The context of one call: collects what the callback asks for, as effects in their order.

Guards two rules. Nothing leaves before the call has ended well: everything asked for is an effect of
the outcome. What a callback hands over is copied and checked here, where the mistake was made, and
not where it would be found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar, cast

from connserver.ids import ObjectId, named_id
from connserver.limits import (
    CALLBACK_EFFECTS,
    LARGEST_INTEGER,
    USER_NAME_CHARS,
)
from connserver.model import Message, is_name
from connserver.plugin.context import Bot, Callback, Context, Log, Objects, Room, Target, Timer
from connserver.plugin.objects import Object
from connserver.plugin.references import Ref
from connserver.plugin.results import Reply
from connserver.plugin.values import outgoing, outgoing_fields, unreserved
from partition.arguments import NAME_ARGUMENT, travelling
from partition.context_rooms import RunBot, RunRoom, place_of, room_name
from partition.effects import (
    Background,
    Call,
    Caller,
    Effect,
    Look,
    SetTimer,
    Tell,
)
from partition.kinds import USER, Kind
from partition.references import oid_of
from partition.table import Method, PluginTable
from partition.transaction import Transaction

K = TypeVar("K", bound=Object)

OnLog = Callable[[str, str, str, dict[str, Any]], None]
"""(level, plugin, text, facts)."""


@dataclass(frozen=True, slots=True)
class World:
    """What all calls of a dispatcher share."""

    plugins: PluginTable
    random: Random
    on_log: OnLog


class RunContext(Context):
    """`ctx` of a running callback."""

    __slots__ = (
        "_caller",
        "_replies",
        "_world",
        "closed",
        "dt",
        "effects",
        "me",
        "method",
        "now",
        "transaction",
    )

    def __init__(
        self,
        world: World,
        transaction: Transaction,
        method: Method,
        caller: Caller,
        me: int | None,
        now: float,
        dt: float,
    ) -> None:
        self._world = world
        self.method = method
        self._caller = caller
        self.closed = False
        self._replies: list[tuple[Reply, int]] | None = None
        self.transaction = transaction
        self.effects: list[Effect] = []
        self.me = me
        self.now = now
        self.dt = dt

    # --- what the callback reads ---

    @property
    def objects(self) -> Objects:
        self.require_open()
        return RunObjects(self)

    @property
    def log(self) -> Log:
        return RunLog(self._world.on_log, self.method.plugin)

    @property
    def partition(self) -> int:
        return self.transaction.partition

    @property
    def random(self) -> Random:
        return self._world.random

    @property
    def user(self) -> Ref[Object] | None:
        caller = self._caller
        return Ref(caller.user, caller.name) if caller.user else None

    @property
    def user_name(self) -> str:
        return self._caller.name

    @property
    def roles(self) -> frozenset[str]:
        return self._caller.roles

    @property
    def session(self) -> int:
        return self._caller.session

    @property
    def plugins(self) -> PluginTable:
        """The table in which callbacks are looked up."""
        return self._world.plugins

    # --- what the callback asks for ---

    def room(self, name: str) -> Room:
        return RunRoom(self, room_name(name))

    def bot(self, name: str) -> Bot:
        if not isinstance(name, str) or not 0 < len(name) <= USER_NAME_CHARS or not name.isprintable():
            raise ValueError(f"{name!r} is no name of a bot: 1 to {USER_NAME_CHARS} printable characters")
        return RunBot(self, str(outgoing(name)))

    def view(self, center: tuple[float, float] | None, radius: float = 0.0) -> None:
        session = self._caller.session
        if not session:
            raise ValueError("no session calls here, so there is no view to set")
        view = None
        if center is not None:
            if not 0 <= radius <= LARGEST_INTEGER:
                raise ValueError(f"{radius!r} is no radius: a number from 0 on is wanted")
            view = (*place_of(center), float(radius))
        self.add(Look(session=session, view=view))

    def tell(self, user: Target, msg: str, /, **fields: Any) -> None:
        if not is_name(msg):
            raise ValueError(f"{msg!r} cannot be the name of an event")
        what = f"the event {msg}"
        self.add(
            Tell(user=oid_of(user), message={"msg": msg, **unreserved(outgoing_fields(fields, what), what)})
        )

    def call(
        self, target: Target, callback: Callback, /, *, then: Callback | None = None, **arguments: Any
    ) -> Reply:
        callee = self.plugins.internal_of(callback)
        if callee.signature.wants_result:
            raise TypeError(f"{callee.name} takes the result of a call: it can only be a `then`")
        following = self._following(then)
        packed = self._arguments(callee, following, arguments)
        if callee.create and isinstance(target, Ref) and target.named:
            packed[NAME_ARGUMENT] = target.named
        if self._replies is None:
            self._replies = []
        reply = Reply(len(self._replies))
        self._replies.append((reply, len(self.effects)))
        self.add(
            Call(
                target=oid_of(target),
                origin=self.me or 0,
                method=callee.name,
                arguments=packed,
                then=following.name if following else "",
                deferred=False,
            )
        )
        return reply

    def timer(self, name: str, on: Target | None = None) -> Timer:
        if not isinstance(name, str) or not is_name(name):
            raise ValueError(f"{name!r} cannot be the name of a timer")
        if on is None and self.me is None:
            raise ValueError("this callback has no `me`: say on which object the timer is, on=…")
        oid = cast(int, self.me) if on is None else oid_of(on)
        if self.transaction.get(oid) is None:
            raise ValueError(f"there is no object {oid:016x} for the timer {name!r}")
        return RunTimer(self, oid, name)

    def background(self, function: Callback, /, *, then: Callback | None = None, **arguments: Any) -> None:
        name = self.plugins.background_of(function)
        following = self._following(then)
        packed = {key: travelling(key, value) for key, value in arguments.items()}
        self.add(
            Background(
                oid=self.me or 0, function=name, arguments=packed, then=following.name if following else ""
            )
        )

    def _following(self, then: Callback | None) -> Method | None:
        if then is None:
            return None
        if self.me is None:
            raise ValueError("this callback has no `me` on which `then` could run")
        following = self.plugins.internal_of(then)
        if not following.signature.wants_result:
            raise TypeError(f"{following.name} cannot be a `then`: it has no argument `result`")
        return following

    def _arguments(self, callee: Method, following: Method | None, arguments: Mapping[str, Any]) -> Message:
        packed = {name: travelling(name, value) for name, value in arguments.items()}
        ends = [callee, following] if following else [callee]
        for name in packed:
            if not any(end.signature.takes(name) for end in ends):
                raise TypeError(f"{' and '.join(end.name for end in ends)}: no argument {name!r} is declared")
        for end in ends:
            end.signature.check_call(packed)
        return packed

    # --- for the objects around it ---

    def add(self, effect: Effect) -> None:
        """One more thing to do when the call has ended well."""
        self.require_open()
        if len(self.effects) >= CALLBACK_EFFECTS:
            raise ValueError(f"one call may ask for {CALLBACK_EFFECTS} sends, calls and timers, not more")
        self.effects.append(effect)

    def require_open(self) -> None:
        """RuntimeError if the call is over."""
        if self.closed:
            raise RuntimeError(
                "this context belongs to a call that has ended; use the one of the present call"
            )

    def reply_of(self, number: int) -> Reply:
        """The Reply of the call that was made as the `number`th, from 0; ValueError if there was none."""
        replies = self._replies or []
        if number >= len(replies):
            raise ValueError(f"it answers with its call {number}, and made {len(replies)}")
        return replies[number][0]

    def defer(self, reply: Reply) -> None:
        """The callback returned this Reply: the call that it stands for answers the client."""
        for made, position in self._replies or ():
            if made is reply:
                self.effects[position] = replace(cast(Call, self.effects[position]), deferred=True)
                return
        raise ValueError("the Reply that was returned is of another call")


class RunObjects(Objects):
    """`ctx.objects`."""

    __slots__ = ("_context", "_plugins", "_transaction")

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._transaction = context.transaction
        self._plugins = context.plugins

    def get(self, target: Target, kind: type[Any] | None = None) -> Any:
        self._context.require_open()
        found = self._transaction.get(oid_of(target))
        return found if kind is None or isinstance(found, kind) else None

    def create(self, kind: type[K], /, *, near: Target | None = None, **fields: Any) -> K:
        self._context.require_open()
        if near is not None and oid_of(near) >> 48 != self._transaction.partition:
            self._transaction.get(oid_of(near))
        return cast(K, self._transaction.create(self._kind(kind), _values(fields)))

    def create_named(self, kind: type[K], name: str, /, **fields: Any) -> K:
        self._context.require_open()
        of = self._kind(kind)
        return cast(K, self._transaction.create(of, _values(fields), self._named_id(of, name), name))

    def delete(self, target: Target, /) -> None:
        self._context.require_open()
        self._transaction.delete(oid_of(target))

    def where(self, kind: type[K], /, **fields: Any) -> list[K]:
        self._context.require_open()
        return cast("list[K]", self._transaction.where(self._kind(kind), fields))

    def named(self, kind: type[K], name: str, /) -> Ref[K]:
        return Ref(self._named_id(self._kind(kind), name), name)

    def user(self, name: str, /) -> Ref[Any]:
        return Ref(named_id(USER, name), name)

    def _kind(self, cls: type[Object]) -> Kind:
        return self._plugins.kinds.of_class(cls)

    def _named_id(self, kind: Kind, name: str) -> ObjectId:
        return id_of_named(kind, self._plugins, name)


def id_of_named(kind: Kind, plugins: PluginTable, name: str) -> ObjectId:
    """The id of the object of this kind and name; user objects have theirs whatever their kind is called."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is no name of an object")
    return named_id(USER if kind.name == plugins.user_kind else kind.name, name)


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.ref if isinstance(value, Object) else value for name, value in fields.items()}


class RunTimer(Timer):
    """`ctx.timer(name)`."""

    __slots__ = ("_context", "_name", "_oid")

    def __init__(self, context: RunContext, oid: int, name: str) -> None:
        self._context = context
        self._oid = oid
        self._name = name

    def set(
        self,
        callback: Callback,
        /,
        *,
        after_s: float | None = None,
        at: float | None = None,
        **arguments: Any,
    ) -> None:
        if (after_s is None) == (at is None):
            raise ValueError("a timer is set with either after_s=… or at=…")
        due = self._context.now + max(0.0, float(after_s)) if after_s is not None else float(cast(float, at))
        method = self._context.plugins.internal_of(callback)
        packed = {name: travelling(name, value) for name, value in arguments.items()}
        for name in packed:
            if not method.signature.takes(name):
                raise TypeError(f"{method.name}: no argument {name!r} is declared")
        method.signature.check_call(packed)
        self._context.add(
            SetTimer(oid=self._oid, name=self._name, method=method.name, due=due, arguments=packed)
        )

    def cancel(self) -> None:
        self._context.add(
            SetTimer(oid=self._oid, name=self._name, method="", due=0.0, arguments={}, cancel=True)
        )


class RunLog(Log):
    """`ctx.log`."""

    __slots__ = ("_on_log", "_plugin")

    def __init__(self, on_log: OnLog, plugin: str) -> None:
        self._on_log = on_log
        self._plugin = plugin

    def debug(self, text: str, /, **facts: Any) -> None:
        self._on_log("debug", self._plugin, text, facts)

    def info(self, text: str, /, **facts: Any) -> None:
        self._on_log("info", self._plugin, text, facts)

    def warning(self, text: str, /, **facts: Any) -> None:
        self._on_log("warning", self._plugin, text, facts)

    def error(self, text: str, /, **facts: Any) -> None:
        self._on_log("error", self._plugin, text, facts)
