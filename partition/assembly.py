"""From what plugins declared to the table that the dispatcher looks things up in.

Guards the rule that a plugin which does not fit is refused as a whole, beforehand, with file, line
and reason: names that are taken, fields that cannot be kept, methods that do not agree on what a
user object is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, get_origin

from connserver.errors import ClientError, PluginLoadError
from connserver.model import is_name
from connserver.plugin.declare import (
    EveryDeclaration,
    InternalDeclaration,
    KindDeclaration,
    LoginDeclaration,
    MethodDeclaration,
    Place,
    Plugin,
    PresenceDeclaration,
)
from connserver.plugin.objects import ContainerField, Object, Transient
from connserver.plugin.results import Login
from partition.arguments import read_signature, type_hints
from partition.fields import field_type
from partition.kinds import REQUIRED, USER, Field, Kind, Kinds, Migration
from partition.table import Every, Method, PluginTable

OWN_ATTRIBUTES = frozenset(name for name in dir(Object) if not name.startswith("_"))
"""What every object has; no field can be called so."""


def assemble(plugins: Iterable[Plugin], lenders: Iterable[Plugin] = ()) -> PluginTable:
    """The table of these plugins together; PluginLoadError if they do not fit.

    `lenders`: newer versions that ran before. Of these only the migrations down are taken, since an
    older version cannot know the way back from what came after it.
    """
    listed = list(plugins)
    table = PluginTable()
    kinds: dict[str, tuple[Kind, Place]] = {}
    for plugin in listed:
        if plugin.name in table.plugins:
            raise PluginLoadError(f"plugin {plugin.name} is attached twice")
        table.plugins[plugin.name] = plugin.version
        for declared in plugin.kinds:
            _add_kind(declared, plugin, kinds)
    for lender in lenders:
        _lend(lender, kinds)
    table.kinds = Kinds.of(kind for kind, _ in kinds.values())
    for plugin in listed:
        _Callbacks(plugin, table).add()
    _choose_user_kind(table, kinds)
    for plugin in listed:
        for tick in plugin.everies:
            _add_every(tick, plugin, table)
    return table


# --- kinds ---


def _add_kind(declared: KindDeclaration, plugin: Plugin, kinds: dict[str, tuple[Kind, Place]]) -> None:
    if declared.name in kinds:
        other, place = kinds[declared.name]
        declared.place.refuse(
            f"kind {declared.name} is declared already by plugin {other.plugin} ({place.file}:{place.line})"
        )
    cls = declared.cls
    if any(kind.cls is cls for kind, _ in kinds.values()):
        declared.place.refuse(f"class {cls.__name__} is declared as two kinds")
    _check_class(cls, declared)
    fields = _fields(cls, declared)
    for name in (*declared.index, *declared.unique):
        if name not in fields:
            declared.place.refuse(f"kind {declared.name}: the indexed {name!r} is none of its fields")
        if fields[name].transient or fields[name].type.container:
            declared.place.refuse(f"kind {declared.name}: {name!r} cannot be indexed; a kept plain value can")
    kind = Kind(
        name=declared.name,
        cls=cls,
        schema=declared.schema,
        plugin=plugin.name,
        fields=fields,
        index=declared.index,
        unique=declared.unique,
        up=_migrations(plugin, declared, down=False),
        down=_migrations(plugin, declared, down=True),
    )
    for one in fields.values():
        if one.type.container:
            default = _default(cls, one.name)
            setattr(cls, one.name, ContainerField(one.name, default, keeps_copy=one.transient))
    kinds[declared.name] = kind, declared.place


def _lend(lender: Plugin, kinds: dict[str, tuple[Kind, Place]]) -> None:
    """The ways down of another version, where the plugin has none of its own."""
    for declared in lender.kinds:
        found = kinds.get(declared.name)
        if found is not None and found[0].plugin == lender.name:
            found[0].down = {**_migrations(lender, declared, down=True), **found[0].down}


def _check_class(cls: type[Object], declared: KindDeclaration) -> None:
    for base in cls.__mro__[: cls.__mro__.index(Object)]:
        if "__slots__" in base.__dict__ or "__dataclass_fields__" in base.__dict__:
            declared.place.refuse(
                f"kind {declared.name}: annotations are enough; no __slots__ and no @dataclass"
            )
        for name in ("__init__", "__new__", "__setattr__", "__getattribute__", "__eq__"):
            if name in base.__dict__:
                declared.place.refuse(f"kind {declared.name} cannot have a {name} of its own")


def _fields(cls: type[Object], declared: KindDeclaration) -> dict[str, Field]:
    hints = type_hints(cls, f"kind {declared.name}", declared.place)
    fields: dict[str, Field] = {}
    for name, annotation in hints.items():
        if name in Object.__annotations__ or get_origin(annotation) is ClassVar or annotation is ClassVar:
            continue
        place = f"kind {declared.name}, field {name!r}"
        if name.startswith("_") or not is_name(name) or name in OWN_ATTRIBUTES:
            declared.place.refuse(f"{place}: this name is not possible; objects use it themselves")
        try:
            prepared = field_type(annotation)
        except TypeError as error:
            declared.place.refuse(f"{place}: {error}")
        default = _default(cls, name)
        transient = isinstance(default, Transient)
        if transient:
            default = default.default
        if default is not REQUIRED:
            try:
                prepared.check(default)
            except ValueError as error:
                declared.place.refuse(f"{place}: its default does not fit: {error}")
        fields[name] = Field(name, prepared, default, transient)
    return fields


def _default(cls: type[Object], name: str) -> Any:
    for base in cls.__mro__:
        if name in base.__dict__:
            found = base.__dict__[name]
            # a class that was part of a table before
            return found.default if isinstance(found, ContainerField) else found
    return REQUIRED


def _migrations(plugin: Plugin, declared: KindDeclaration, *, down: bool) -> dict[int, Migration]:
    found: dict[int, Migration] = {}
    for migration in plugin.migrations:
        if migration.down != down or migration.kind not in (declared.name, declared.cls):
            continue
        to = migration.to
        if to in found:
            migration.place.refuse(f"kind {declared.name} has two migrations to schema {to}")
        if to > declared.schema and not down:
            migration.place.refuse(
                f"kind {declared.name} is in schema {declared.schema}; a migration to {to} leads past it"
            )
        found[to] = migration.function
    return found


# --- callbacks ---


class _Callbacks:
    """Adds the callbacks of one plugin."""

    def __init__(self, plugin: Plugin, table: PluginTable) -> None:
        self._plugin = plugin
        self._table = table

    def add(self) -> None:
        for method in self._plugin.methods:
            self._add_method(method)
        for internal in self._plugin.internals:
            self._add_internal(internal)
        for presence in self._plugin.presences:
            self._add_presence(presence)
        for login in self._plugin.logins:
            self._add_login(login)
        for background in self._plugin.backgrounds:
            if background.name in self._table.backgrounds:
                background.place.refuse(f"two background functions are called {background.name}")
            self._table.backgrounds[background.name] = background.function
        known = {name for kind in self._plugin.kinds for name in (kind.name, kind.cls)}
        for migration in self._plugin.migrations:
            if migration.kind not in known:
                migration.place.refuse(
                    f"migrate: {migration.kind!r} is no kind of plugin {self._plugin.name}"
                )

    def _add_method(self, declared: MethodDeclaration) -> None:
        other = self._table.methods.get(declared.name)
        if other is not None:
            code = other.function.__code__
            declared.place.refuse(
                f"method {declared.name} is declared already by plugin {other.plugin} "
                f"({code.co_filename}:{code.co_firstlineno})"
            )
        self._table.methods[declared.name] = self._method(
            declared.name,
            declared.function,
            declared.place,
            internal=False,
            roles=declared.roles,
            rate_hz=declared.rate_hz,
        )

    def _add_internal(self, declared: InternalDeclaration) -> None:
        if declared.name in self._table.internals:
            declared.place.refuse(f"two internal methods are called {declared.name}")
        method = self._method(
            declared.name, declared.function, declared.place, internal=True, create=declared.create
        )
        cls = method.signature.me
        if declared.create:
            kind = self._table.kinds.by_class.get(cls) if cls else None
            if kind is None:
                declared.place.refuse(
                    f"{declared.name}: create=True needs `me` annotated with the kind to make"
                )
            _refuse_required(kind, declared.place, f"{declared.name} makes objects of kind {kind.name}")
        self._table.internals[declared.name] = method
        self._table.by_function[declared.function] = method

    def _add_presence(self, declared: PresenceDeclaration) -> None:
        method = self._method(declared.name, declared.function, declared.place, internal=False)
        if method.signature.parameters or method.signature.rest:
            declared.place.refuse(f"{declared.name}: a hook takes (ctx, me) and nothing else")
        self._table.hooks.setdefault(declared.hook, []).append(method)

    def _add_login(self, declared: LoginDeclaration) -> None:
        other = self._table.login
        if other is not None:
            declared.place.refuse(
                f"{declared.name}: one callback decides who may log in, and plugin {other.plugin} has "
                f"{other.name}"
            )
        signature = read_signature(declared.function, declared.name, declared.place, me=False, internal=False)
        if not signature.takes("user"):
            declared.place.refuse(f"{declared.name} has to take `user`, the name to be logged in")
        self._table.login = Method(
            name=declared.name,
            plugin=self._plugin.name,
            version=self._plugin.version,
            function=_answering_login(declared.function, declared.name),
            signature=signature,
        )

    def _method(
        self, name: str, function: Callable[..., Any], place: Place, *, internal: bool, **more: Any
    ) -> Method:
        signature = read_signature(function, name, place, me=True, internal=internal)
        if signature.me not in (None, Object) and signature.me not in self._table.kinds.by_class:
            assert signature.me is not None
            place.refuse(f"{name}: class {signature.me.__name__} is not declared with @plugin.kind")
        return Method(
            name=name,
            plugin=self._plugin.name,
            version=self._plugin.version,
            function=function,
            signature=signature,
            internal=internal,
            **more,
        )


def _answering_login(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same callback, whose answer is a map of roles; whatever is no Login lets nobody in."""

    def check(context: Any, *arguments: Any, **fields: Any) -> dict[str, Any]:
        answer = function(context, *arguments, **fields)
        if answer is None:
            raise ClientError("unauthorized", "the login is not accepted")
        if not isinstance(answer, Login):
            raise TypeError(f"{name} returned a {type(answer).__name__}: a Login or None is wanted")
        return {"roles": list(answer.roles)}

    return check


def _choose_user_kind(table: PluginTable, kinds: dict[str, tuple[Kind, Place]]) -> None:
    """The one kind that client methods and hooks name for `me`."""
    chosen: tuple[Kind, Method] | None = None
    hooks = [method for methods in table.hooks.values() for method in methods]
    for method in [*table.methods.values(), *hooks]:
        cls = method.signature.me
        if cls is None or cls is Object:
            continue
        kind = table.kinds.of_class(cls)
        if chosen is not None and chosen[0] is not kind:
            first, by = chosen
            raise PluginLoadError(
                f"user objects can have one kind: {by.name} of plugin {by.plugin} takes a {first.name}, "
                f"{method.name} of plugin {method.plugin} a {kind.name}; annotate `me` as Object in one"
            )
        chosen = kind, method
    if chosen is None:
        table.kinds.user = USER
        return
    kind, by = chosen
    _refuse_required(kind, kinds[kind.name][1], f"user objects are of kind {kind.name} and made at login")
    table.kinds.user = kind.name


def _refuse_required(kind: Kind, place: Place, why: str) -> None:
    for one in kind.fields.values():
        if one.default is REQUIRED:
            place.refuse(f"{why}: its field {one.name!r} needs a default")


def _add_every(declared: EveryDeclaration, plugin: Plugin, table: PluginTable) -> None:
    if declared.name in table.everies:
        declared.place.refuse(f"two callbacks of every are called {declared.name}")
    signature = read_signature(declared.function, declared.name, declared.place, me=False, internal=False)
    if signature.parameters or signature.rest:
        declared.place.refuse(f"{declared.name}: a callback of every takes (ctx) and nothing else")
    if declared.kind is not None:
        if declared.kind not in table.kinds.by_class:
            declared.place.refuse(f"{declared.name}: {declared.kind.__name__} is no declared kind")
        kinds: tuple[Kind, ...] = (table.kinds.of_class(declared.kind),)
    else:
        own = [table.kinds.by_name[kind.name] for kind in plugin.kinds]
        kinds = tuple(kind for kind in own if kind.name != table.kinds.user) or tuple(own)
        if not kinds:
            declared.place.refuse(
                f"{declared.name}: the plugin has no kinds; every runs where there are objects"
            )
    for name in declared.where:
        if name not in (*kinds[0].index, *kinds[0].unique):
            declared.place.refuse(f"{declared.name}: {name!r} is no indexed field of kind {kinds[0].name}")
    method = Method(
        name=declared.name,
        plugin=plugin.name,
        version=plugin.version,
        function=declared.function,
        signature=signature,
    )
    table.everies[declared.name] = Every(
        name=declared.name, method=method, period_s=declared.period_s, kinds=kinds, where=declared.where
    )
