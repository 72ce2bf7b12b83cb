"""From a library's table to a `Plugin`: kinds become classes, methods Python functions with a signature.

Guards the rule that what a library declares is checked like what a Python plugin declares, by the same
code, and that whatever is wrong with it is told with the library's path. What the host read of the table
has sizes and bounds checked; names, types, values and words are checked here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeAlias

from connserver.errors import PluginLoadError, Refused
from connserver.limits import NATIVE_TYPE_LEVELS
from connserver.model import is_name
from connserver.plugin.declare import Place, Plugin
from connserver.plugin.objects import Object, transient
from connserver.plugin.references import Ref
from connserver.plugin.results import Result
from partition.context import RunContext
from partition.native.bridge import pack, unpack, unpack_map

Run: TypeAlias = Callable[[Any, int, bytes], Any]
"""(context, me, arguments) → None, the answer's bytes, a call's number, True for the result, or a refusal."""

FieldRow: TypeAlias = tuple[bytes, bytes, int, bytes, bool]
KindRow: TypeAlias = tuple[bytes, int, list[FieldRow]]
ArgumentRow: TypeAlias = tuple[bytes, bytes, bytes, bool]
MethodRow: TypeAlias = tuple[bytes, int, int, bytes, list[ArgumentRow], list[bytes], float, bytes, Run]
MigrationRow: TypeAlias = tuple[bytes, int, int, Run]
Table: TypeAlias = tuple[bytes, bytes, list[KindRow], list[MethodRow], list[MigrationRow]]
"""What the host tells of a library: name, version, kinds, methods, migrations; see connserver.h."""

TRANSIENT, INDEX, UNIQUE = 1, 2, 4
CLIENT, INTERNAL, EVERY, ON_JOIN, ON_LEAVE, ON_EXPIRE = range(1, 7)
CREATE, RESULT = 1, 2
NO_ARGUMENTS: Final = pack([])

TYPES: Final[dict[str, Any]] = {
    "text": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "bytes": bytes,
    "reference": Ref,
    "any": Any,
}


def make_plugin(table: Table, path: Path) -> Plugin:
    """The plugin that a library's table declares; PluginLoadError says what is wrong with it."""
    name, version, kinds, methods, migrations = table
    with _told(path):
        plugin = Plugin(_text(name, "its name"), version=_text(version, "its version"))
        plugin.place = Place(file=str(path), line=0)
        classes: dict[str, type[Object]] = {}
        for kind in kinds:
            _add_kind(plugin, kind, classes)
        for method in methods:
            _Method(plugin, method, classes, path).add()
        for migration in migrations:
            _add_migration(plugin, migration, path)
    return plugin


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What is refused here, or by the decorators of `Plugin`, is told of the library."""
    try:
        yield
    except PluginLoadError as error:
        # the decorators name the line that called them, which is one of this file
        words = str(error)
        reason = words.split(": ", 1)[1] if words.startswith(__file__) else words
        raise PluginLoadError(f"{path}: {reason}") from None
    except ValueError as error:
        raise PluginLoadError(f"{path}: {error}") from None


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is no text in UTF-8: {data[:40]!r}") from None


def read_type(words: str, levels: int = NATIVE_TYPE_LEVELS) -> Any:
    """The annotation that a type's words mean; ValueError if they mean none."""
    if levels == 0:
        raise ValueError(f"a type of more than {NATIVE_TYPE_LEVELS} levels")
    for before, wrap in (("list of ", _list_of), ("map of ", _map_of)):
        if words.startswith(before):
            return wrap(read_type(words.removeprefix(before), levels - 1))
    if words.endswith(" or null"):
        return read_type(words.removesuffix(" or null"), levels - 1) | None
    if words not in TYPES:
        raise ValueError(f"{words[:80]!r} is no type: {', '.join(TYPES)}, list of …, map of …, … or null")
    return TYPES[words]


def _list_of(item: Any) -> Any:
    return list[item]


def _map_of(item: Any) -> Any:
    return dict[str, item]


# --- kinds ----------------------------------------------------------------------------------------------


def _add_kind(plugin: Plugin, row: KindRow, classes: dict[str, type[Object]]) -> None:
    name = _text(row[0], "the name of a kind")
    annotations: dict[str, Any] = {}
    body: dict[str, Any] = {"__module__": __name__, "__annotations__": annotations}
    indexed, unique = [], []
    for field_name, type_words, flags, default, given in row[2]:
        field = _text(field_name, f"kind {name}: the name of a field")
        what = f"kind {name}, field {field!r}"
        if not field.isidentifier() or field in annotations:
            raise ValueError(f"{what}: no name for a field, or the name of two")
        if flags & ~(TRANSIENT | INDEX | UNIQUE):
            raise ValueError(f"{what}: its flags {flags:#x} are not all known")
        annotations[field] = _typed(type_words, what)
        if given:
            value = _default(annotations[field], default, what)
            body[field] = transient(value) if flags & TRANSIENT else value
        elif flags & TRANSIENT:
            raise ValueError(f"{what}: a transient field needs a default")
        if flags & INDEX:
            indexed.append(field)
        if flags & UNIQUE:
            unique.append(field)
    cls = type(name or "kind", (Object,), body)
    plugin.kind(name, schema=row[1], index=indexed, unique=unique)(cls)
    plugin.kinds[-1] = replace(plugin.kinds[-1], place=plugin.place)
    classes[name] = cls


def _typed(words: bytes, what: str) -> Any:
    try:
        return read_type(_text(words, "its type"))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _default(annotation: Any, data: bytes, what: str) -> Any:
    try:
        value = unpack(data)
        return Ref(value) if annotation is Ref else value
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what}: its default: {error}") from None


# --- methods --------------------------------------------------------------------------------------------


class _Method:
    """Adds one method of a library to its plugin."""

    def __init__(self, plugin: Plugin, row: MethodRow, classes: dict[str, type[Object]], path: Path) -> None:
        self._plugin = plugin
        self._path = path
        name, self._sort, self._flags, kind, self._arguments, roles, self._hz, self._where, self._run = row
        self._name = _text(name, "the name of a method")
        self._roles = [_text(role, f"{self._name}: a role") for role in roles]
        self._kind = _text(kind, f"{self._name}: the kind of `me`")
        if self._kind and self._kind not in classes:
            raise ValueError(f"{self._name}: {self._kind!r} is no kind that the library declares")
        self._me = classes.get(self._kind, Object)
        if not isfinite(self._hz):
            raise ValueError(f"{self._name}: its rate is not finite")
        if self._sort not in range(CLIENT, ON_EXPIRE + 1):
            raise ValueError(f"{self._name}: {self._sort} is no sort of method")
        self._refuse_flags()

    def _refuse_flags(self) -> None:
        known = CREATE | RESULT if self._sort == INTERNAL else 0
        if self._flags & ~known:
            raise ValueError(f"{self._name}: its flags {self._flags:#x} are not all possible here")
        if self._roles and self._sort != CLIENT:
            raise ValueError(f"{self._name}: only clients have roles")
        if (self._where and self._sort != EVERY) or (self._hz and self._sort not in (CLIENT, EVERY)):
            raise ValueError(f"{self._name}: it has a rate or a `where`, and no use for it")

    def add(self) -> None:
        """Declare it with the decorator that a Python plugin would use."""
        plugin = self._plugin
        if self._sort != CLIENT and not (is_name(self._name) and self._name.isidentifier()):
            raise ValueError(f"{self._name!r} is no name of a function; only clients' methods have a dot")
        if self._sort == CLIENT:
            plugin.method(self._name, roles=self._roles, rate_hz=self._hz)(self._called())
        elif self._sort == INTERNAL:
            plugin.internal(create=bool(self._flags & CREATE))(self._called())
        elif self._sort == EVERY:
            where = unpack_map(self._where, f"{self._name}: `where`")
            plugin.every(hz=self._hz, kind=self._me if self._kind else None, where=where)(self._ticking())
        else:
            hooks = {ON_JOIN: plugin.on_join, ON_LEAVE: plugin.on_leave, ON_EXPIRE: plugin.on_expire}
            hooks[self._sort](self._called())

    def _called(self) -> Callable[..., Any]:
        run = self._run

        def following(ctx: Any, me: Any, *given: Any, result: Result) -> Any:
            return _ended(run(ctx, me._oid, pack([*given, _told_result(result)])), ctx, result)

        def plain(ctx: Any, me: Any) -> Any:
            end = run(ctx, me._oid, NO_ARGUMENTS)
            return None if end is None else _ended(end, ctx, None)

        def taking(ctx: Any, me: Any, *given: Any) -> Any:
            end = run(ctx, me._oid, pack(given))
            return None if end is None else _ended(end, ctx, None)

        if self._flags & RESULT:
            return self._dressed(following)
        return self._dressed(taking if self._arguments else plain)

    def _ticking(self) -> Callable[..., Any]:
        run = self._run

        def every(ctx: Any) -> Any:
            return _ended(run(ctx, 0, NO_ARGUMENTS), ctx, None)

        return self._dressed(every, me=False)

    def _dressed(self, function: Any, *, me: bool = True) -> Callable[..., Any]:
        """The function under its own name, at the library's path, with the signature that was declared."""
        usual = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter("ctx", usual)]
        annotations: dict[str, Any] = {}
        if me:
            parameters.append(inspect.Parameter("me", usual, annotation=self._me))
            annotations["me"] = self._me
        elif self._arguments:
            raise ValueError(f"{self._name}: a callback of every takes no arguments")
        for row in self._arguments:
            parameter = self._parameter(row)
            if parameter.name in annotations or parameter.name == "ctx":
                raise ValueError(f"{self._name}: two arguments are called {parameter.name!r}")
            annotations[parameter.name] = parameter.annotation
            parameters.append(parameter)
        if self._flags & RESULT:
            parameters.append(inspect.Parameter("result", inspect.Parameter.KEYWORD_ONLY, annotation=Result))
        try:
            function.__signature__ = inspect.Signature(parameters)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from None
        function.__annotations__ = annotations
        function.__name__ = function.__qualname__ = self._name
        # what a traceback and a refusal at load name
        function.__code__ = function.__code__.replace(co_filename=str(self._path), co_name=self._name)
        return function  # type: ignore[no-any-return]

    def _parameter(self, row: ArgumentRow) -> inspect.Parameter:
        name = _text(row[0], f"{self._name}: the name of an argument")
        what = f"{self._name}, argument {name!r}"
        if not is_name(name) or not name.isidentifier():
            raise ValueError(f"{what}: no name for an argument")
        annotation = _typed(row[1], what)
        return inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=_default(annotation, row[2], what) if row[3] else inspect.Parameter.empty,
            annotation=annotation,
        )


def _told_result(result: Result) -> dict[str, Any]:
    return {
        "ok": result.ok,
        "value": result.value,
        "error": result.error,
        "reason": result.reason,
        "code": result.code,
    }


def _ended(end: Any, ctx: RunContext, result: Result | None) -> Any:
    """What a Python callback would have returned or raised."""
    if end is None:
        return None
    if type(end) is bytes:
        return unpack_map(end, "the answer")
    if end is True:
        if result is None:
            raise ValueError("it answers with the result of a call, and is no `then`")
        return result
    if type(end) is tuple:
        raise Refused(*end)
    return ctx.reply_of(end)


# --- migrations -----------------------------------------------------------------------------------------


def _add_migration(plugin: Plugin, row: MigrationRow, path: Path) -> None:
    kind, to, down, run = _text(row[0], "the kind of a migration"), row[1], row[2], row[3]

    def migrate(fields: dict[str, Any]) -> dict[str, Any]:
        changed = run(None, 0, pack([fields]))
        if type(changed) is bytes:
            changed = unpack_map(changed, f"the migration of kind {kind}")
        else:
            raise PluginLoadError(f"{path}: the migration of kind {kind} to schema {to} gave no fields")
        return changed

    if down not in (0, 1):
        raise ValueError(f"the migration of kind {kind}: `down` is {down}, and can be 0 or 1")
    migrate.__code__ = migrate.__code__.replace(co_filename=str(path), co_name=f"migrate {kind} to {to}")
    plugin.migrate(kind, to=to, down=bool(down))(migrate)
