"""`Plugin`: how a plugin says what it offers.

Decorators only note what was declared and where, and refuse at once what can never work. Whether
everything fits together is decided when the plugin is loaded, so that a plugin that cannot be loaded
changes nothing.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, overload

from connserver.errors import PluginLoadError
from connserver.model import is_name
from connserver.plugin.objects import Object

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type[Object])

Presence = Literal["on_join", "on_leave", "on_expire"]

OWN_PREFIXES = frozenset({"cs", "room", "session"})
"""First parts of names that belong to the built-in methods."""

_plugin_name = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z").match
_kind_name = re.compile(r"[a-z][a-z0-9_-]{0,47}\Z").match


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the plugin something was declared."""

    file: str
    line: int

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that says what is wrong here."""
        raise PluginLoadError(f"{self.file}:{self.line}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KindDeclaration:
    """`@plugin.kind`."""

    name: str
    cls: type[Object]
    schema: int
    index: tuple[str, ...]
    unique: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodDeclaration:
    """`@plugin.method`: a client may call it."""

    name: str
    function: Callable[..., Any]
    roles: frozenset[str]
    rate_hz: float
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class InternalDeclaration:
    """`@plugin.internal`: only calls, timers and background work of plugins get there."""

    name: str
    function: Callable[..., Any]
    create: bool
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryDeclaration:
    """`@plugin.every`."""

    name: str
    function: Callable[..., Any]
    period_s: float
    kind: type[Object] | None
    where: Mapping[str, Any]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationDeclaration:
    """`@plugin.migrate`: from the schema before `to`, or with `down` from the one after it."""

    kind: type[Object] | str
    to: int
    down: bool
    function: Callable[[dict[str, Any]], dict[str, Any]]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceDeclaration:
    """`@plugin.on_join` and its like."""

    hook: Presence
    name: str
    function: Callable[..., Any]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginDeclaration:
    """`@plugin.login`."""

    name: str
    function: Callable[..., Any]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundDeclaration:
    """`@plugin.background`: may block, runs outside the loop, has no context."""

    name: str
    function: Callable[..., Any]
    place: Place


class Plugin:
    """A plugin: make one per folder and declare everything on it."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.kinds: list[KindDeclaration] = []
        self.methods: list[MethodDeclaration] = []
        self.internals: list[InternalDeclaration] = []
        self.everies: list[EveryDeclaration] = []
        self.migrations: list[MigrationDeclaration] = []
        self.presences: list[PresenceDeclaration] = []
        self.backgrounds: list[BackgroundDeclaration] = []
        self.logins: list[LoginDeclaration] = []
        self.place = _caller()
        if not _plugin_name(name) or name in OWN_PREFIXES:
            self.place.refuse(f"{name!r} is no plugin name: at most 32 of a-z, 0-9, '_', '-', a letter first")
        if not version:
            self.place.refuse(f"plugin {name} needs a version")

    def kind(
        self, name: str, *, schema: int = 1, index: Iterable[str] = (), unique: Iterable[str] = ()
    ) -> Callable[[C], C]:
        """Declare a class as a kind of object. `schema` rises when fields change; see `migrate`.

        `index`: fields that `where` looks up. `unique`: fields of which no two objects of the kind in
        one partition have the same value (None does not count); the later gets `conflict`.
        """
        place = _caller()
        if not _kind_name(name) or name == "user":
            place.refuse(
                f"{name!r} is no kind name: at most 48 of a-z, 0-9, '_', '-', a letter first, not 'user'"
            )
        if schema < 1:
            place.refuse(f"kind {name}: schemas count from 1, not {schema}")

        def declare(cls: C) -> C:
            if not (isinstance(cls, type) and issubclass(cls, Object)):
                place.refuse(f"kind {name}: write class {getattr(cls, '__name__', 'X')}(Object)")
            self.kinds.append(
                KindDeclaration(
                    name=name,
                    cls=cls,
                    schema=schema,
                    index=_names(index),
                    unique=_names(unique),
                    place=place,
                )
            )
            return cls

        return declare

    def method(self, name: str, *, roles: Iterable[str] = (), rate_hz: float = 0.0) -> Callable[[F], F]:
        """Let clients call this as `msg:name`. `roles`: one of them is needed, if any are given.

        `rate_hz`: calls per second and session (with a quarter second's worth at once), 0 = no bound
        but the session's own.
        """
        place = _caller()
        if not is_name(name) or "." not in name or name.split(".")[0] in OWN_PREFIXES:
            place.refuse(
                f"{name!r} is no name for a plugin's method: write 'topic.action' "
                f"(the topics {', '.join(sorted(OWN_PREFIXES))} are taken)"
            )
        if rate_hz < 0:
            place.refuse(f"method {name}: rate_hz must not be negative")

        def declare(function: F) -> F:
            self.methods.append(
                MethodDeclaration(
                    name=name,
                    function=_plain(function, name),
                    roles=frozenset(_names(roles)),
                    rate_hz=float(rate_hz),
                    place=_place_of(function),
                )
            )
            return function

        return declare

    @overload
    def internal(self, function: F) -> F: ...
    @overload
    def internal(self, function: None = None, *, create: bool = False) -> Callable[[F], F]: ...
    def internal(self, function: F | None = None, *, create: bool = False) -> F | Callable[[F], F]:
        """A callback for `ctx.call`, `then`, timers and background work; no client can reach it.

        `create`: called on a named object that is not there yet (see `ctx.objects.named`), it makes
        it first, with its defaults.
        """

        def declare(function: F) -> F:
            name = f"{self.name}.{function.__name__}"
            self.internals.append(
                InternalDeclaration(
                    name=name, function=_plain(function, name), create=create, place=_place_of(function)
                )
            )
            return function

        return declare if function is None else declare(function)

    def every(
        self, *, hz: float, kind: type[Object] | None = None, where: Mapping[str, Any] | None = None
    ) -> Callable[[F], F]:
        """Run `hz` times a second in each partition that has objects of `kind` with the fields of `where`.

        Without `kind`: of any of this plugin's kinds, except the one of user objects if there are
        others (users are spread over all partitions). `where` takes indexed fields.
        """
        place = _caller()
        if not 0 < hz <= 1000:
            place.refuse(f"every: hz must be within 0..1000, not {hz}")
        if where and kind is None:
            place.refuse("every: `where` needs the `kind` whose fields it names")

        def declare(function: F) -> F:
            name = f"{self.name}.{function.__name__}"
            self.everies.append(
                EveryDeclaration(
                    name=name,
                    function=_plain(function, name),
                    period_s=1.0 / hz,
                    kind=kind,
                    where=dict(where or {}),
                    place=_place_of(function),
                )
            )
            return function

        return declare

    def migrate(self, kind: type[Object] | str, *, to: int, down: bool = False) -> Callable[[F], F]:
        """Declare how the fields of schema `to - 1` become those of `to`: a function of the map of fields.

        Objects migrate when they are read. `down`: from `to + 1`, the way back that a rollback needs.
        """
        place = _caller()
        if to < 1:
            place.refuse(f"migrate: schemas count from 1, not {to}")

        def declare(function: F) -> F:
            self.migrations.append(
                MigrationDeclaration(
                    kind=kind,
                    to=to,
                    down=down,
                    function=_plain(function, "migrate"),
                    place=_place_of(function),
                )
            )
            return function

        return declare

    def login(self, function: F) -> F:
        """Decide who is let in, where `[auth] provider = "plugin"`: `def check(ctx, user: str, token: str)`.

        It gets the fields of the `login` message by its argument names, `user` among them, and runs in
        the partition of that user, whose object may not be there yet. It returns `Login(roles=[…])`;
        None, or raising `Refused(code)`, is `unauthorized` for the client. One attached plugin has it.
        """
        name = f"{self.name}.{function.__name__}"
        self.logins.append(
            LoginDeclaration(name=name, function=_plain(function, name), place=_place_of(function))
        )
        return function

    def on_join(self, function: F) -> F:
        """Called on the user object when a session of the user has been opened."""
        return self._presence("on_join", function)

    def on_leave(self, function: F) -> F:
        """Called on the user object when a session ended by logout, or was closed by an operator."""
        return self._presence("on_leave", function)

    def on_expire(self, function: F) -> F:
        """Called on the user object when a lost session was not resumed within its window."""
        return self._presence("on_expire", function)

    def _presence(self, hook: Presence, function: F) -> F:
        name = f"{self.name}.{function.__name__}"
        self.presences.append(
            PresenceDeclaration(
                hook=hook, name=name, function=_plain(function, name), place=_place_of(function)
            )
        )
        return function

    def background(self, function: F) -> F:
        """A function for `ctx.background`: it may block, gets only its arguments and returns a value."""
        name = f"{self.name}.{function.__name__}"
        self.backgrounds.append(
            BackgroundDeclaration(name=name, function=_plain(function, name), place=_place_of(function))
        )
        return function


def _names(names: Iterable[str]) -> tuple[str, ...]:
    # a single text is an iterable of letters: the most likely slip
    return (names,) if isinstance(names, str) else tuple(names)


def _plain(function: F, name: str) -> F:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        _place_of(function).refuse(
            f"{name} is `async def`: callbacks are transactions and run to their end at once; give blocking "
            "or asynchronous work to ctx.background(…), whose result comes back as an internal call"
        )
    if inspect.isgeneratorfunction(function):
        _place_of(function).refuse(f"{name} contains `yield`: a callback returns its answer")
    if not inspect.isfunction(function):
        _caller().refuse(f"{name}: callbacks are functions, not a {type(function).__name__}")
    return function


def _place_of(function: Callable[..., Any]) -> Place:
    code = getattr(function, "__code__", None)
    if code is None:
        return _caller()
    return Place(file=code.co_filename, line=code.co_firstlineno)


def _caller() -> Place:
    """The nearest line outside this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return Place(file=frame.f_code.co_filename, line=frame.f_lineno)
