"""What a callback takes, read from its signature once, and how a call's fields become arguments.

Guards the rule that a wrong argument is the caller's error and is named: a client gets
`bad_argument`, a plugin that calls another method is told at the call. A callback only ever sees
values of the annotated types.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from connserver.conversion import converter, type_name
from connserver.errors import ClientError
from connserver.ids import ObjectId, format_oid, named_id
from connserver.model import RESERVED, Message, Value, is_name, shown
from connserver.plugin.declare import Place
from connserver.plugin.objects import UNCHANGEABLE, Object, copied
from connserver.plugin.references import Ref
from connserver.plugin.results import Result
from connserver.plugin.values import outgoing

RESULT = "result"
"""The argument in which a `then` gets how the call ended."""

NAME_ARGUMENT = "cs.name"
"""Travels with a call that may have to create the named object it is for; no argument is called so."""

_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a callback. `default` is `_MISSING` for one that has to be given."""

    name: str
    type: str
    convert: Callable[[Any], Any]
    default: Any
    keyword: bool

    @property
    def required(self) -> bool:
        """Whether a call without it is refused."""
        return self.default is _MISSING

    def describe(self) -> Message:
        """Name and type for the built-in `methods`."""
        told: Message = {"name": self.name, "type": self.type, "required": self.required}
        if not self.required:
            try:
                told["default"] = outgoing(self.default)
            except ValueError:
                pass
        return told


@dataclass(frozen=True, slots=True)
class Signature:
    """What a callback takes besides `ctx` and `me`.

    `me`: the class of the target (`Object` = any kind), None for callbacks without one. `rest`: takes
    `**fields`. `wants_result`: is a `then`.
    """

    label: str
    me: type[Object] | None
    parameters: tuple[Parameter, ...]
    rest: bool
    wants_result: bool
    own: frozenset[str]

    def bind(self, fields: Mapping[str, Value]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments for a client's fields; ClientError `bad_argument` names the wrong one."""
        positional, keywords, used = self._taken(fields)
        if used != len(fields):
            self._rest_of(fields, keywords)
        return positional, keywords

    def bind_internal(
        self, arguments: Mapping[str, Value], result: Result | None
    ) -> tuple[list[Any], dict[str, Any]]:
        """The same for a call of a plugin; what is not declared here belongs to the other end of it."""
        positional, keywords, _ = self._taken(arguments)
        if self.wants_result:
            if result is None:
                raise ClientError(
                    "bad_argument", f"{self.label} takes the result of a call: use it as `then`"
                )
            keywords[RESULT] = result
        return positional, keywords

    def _taken(self, fields: Mapping[str, Value]) -> tuple[list[Any], dict[str, Any], int]:
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        used = 0
        for parameter in self.parameters:
            value = fields.get(parameter.name, _MISSING)
            if value is _MISSING:
                value = parameter.default
                if value is _MISSING:
                    raise ClientError(
                        "bad_argument", f"{parameter.name}: {self.label} needs it ({parameter.type})"
                    )
                if type(value) not in UNCHANGEABLE:
                    value = copied(value)
            else:
                used += 1
                try:
                    value = parameter.convert(value)
                except ValueError as error:
                    raise ClientError("bad_argument", f"{parameter.name}: {error}") from None
            if parameter.keyword:
                keywords[parameter.name] = value
            else:
                positional.append(value)
        return positional, keywords, used

    def _rest_of(self, fields: Mapping[str, Value], keywords: dict[str, Any]) -> None:
        known = {parameter.name for parameter in self.parameters}
        for name, value in fields.items():
            if name in known:
                continue
            if not self.rest:
                takes = ", ".join(sorted(known)) or "no arguments"
                raise ClientError("bad_argument", f"{name}: {self.label} takes {takes}")
            if name in RESERVED or name in self.own:
                raise ClientError("bad_argument", f"{name}: this name is the protocol's own")
            try:
                keywords[name] = _any_value(value)
            except ValueError as error:
                raise ClientError("bad_argument", f"{name}: {error}") from None

    def check_call(self, arguments: Message) -> None:
        """Try the arguments of an internal call at the caller; TypeError says what is wrong."""
        for parameter in self.parameters:
            if parameter.name not in arguments:
                if parameter.required:
                    raise TypeError(f"{self.label} needs the argument {parameter.name!r} ({parameter.type})")
                continue
            try:
                parameter.convert(arguments[parameter.name])
            except ValueError as error:
                raise TypeError(f"{self.label}, argument {parameter.name!r}: {error}") from None

    def takes(self, name: str) -> bool:
        """Whether an argument of this name is declared."""
        return any(parameter.name == name for parameter in self.parameters)


_any_value = converter(Any)


def read_signature(
    function: Callable[..., Any], label: str, place: Place, *, me: bool, internal: bool
) -> Signature:
    """Inspect a callback; PluginLoadError with file and line for what cannot be called."""
    hints = type_hints(function, label, place)
    declared = list(inspect.signature(function).parameters.values())
    leading = 2 if me else 1
    names = "(ctx, me, …)" if me else "(ctx)"
    for parameter in declared[:leading]:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            place.refuse(f"{label} has to begin with {names}")
    if len(declared) < leading:
        place.refuse(f"{label} has to begin with {names}")
    rest, parameters = False, []
    wants_result = False
    for parameter in declared[leading:]:
        if parameter.kind is parameter.VAR_KEYWORD and not internal:
            rest = True
        elif parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            place.refuse(f"{label}: {parameter} is not possible here; arguments are given by name")
        elif internal and parameter.name == RESULT:
            wants_result = True
        else:
            _check_name(parameter.name, label, place, internal)
            # what follows `result`, which is passed by name, has to be passed by name too
            parameters.append(_parameter(parameter, hints, label, place, wants_result))
    own = frozenset(parameter.name for parameter in declared[:leading])
    cls = _me_class(declared[1].name, hints, label, place) if me else None
    return Signature(label, cls, tuple(parameters), rest, wants_result, own)


def type_hints(function: Callable[..., Any], label: str, place: Place) -> dict[str, Any]:
    """The annotations, evaluated; PluginLoadError if one cannot be."""
    try:
        return typing.get_type_hints(function)
    except Exception as error:
        place.refuse(f"{label}: an annotation cannot be read: {error}")


def _me_class(name: str, hints: dict[str, Any], label: str, place: Place) -> type[Object]:
    cls = hints.get(name, Object)
    if not (isinstance(cls, type) and issubclass(cls, Object)):
        place.refuse(f"{label}: {name} is the target object: annotate it with a class of objects")
    return cls


def _check_name(name: str, label: str, place: Place, internal: bool) -> None:
    if not is_name(name):
        place.refuse(f"{label}: {name!r} cannot be the name of a field")
    if not internal and name in RESERVED:
        place.refuse(f"{label}: the name {name!r} is reserved for the protocol; choose another")
    if internal and name == "then":
        place.refuse(f"{label}: an argument called 'then' cannot be given to ctx.call; choose another name")


def _parameter(
    parameter: inspect.Parameter, hints: dict[str, Any], label: str, place: Place, after_result: bool
) -> Parameter:
    annotation = hints.get(parameter.name, Any)
    try:
        convert, name = argument_type(annotation)
    except TypeError as error:
        place.refuse(f"{label}, argument {parameter.name!r}: {error}")
    keyword = after_result or parameter.kind is parameter.KEYWORD_ONLY
    default = _MISSING if parameter.default is parameter.empty else parameter.default
    return Parameter(parameter.name, name, convert, default, keyword)


def argument_type(annotation: Any) -> tuple[Callable[[Any], Any], str]:
    """How a value of a message becomes an argument, and the type's name for clients; TypeError if never."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Object):
        raise TypeError(f"objects do not travel: write Ref[{annotation.__name__}]")
    if annotation is Ref or origin is Ref:
        return _reference, "object id"
    if not _mentions_reference(annotation):
        return converter(annotation), type_name(annotation)
    if origin in (typing.Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
        convert, name = argument_type(inner[0] if inner[1] is type(None) else inner[1])
        return _or_null(convert), f"{name} or null"
    if origin is list:
        convert, name = argument_type(inner[0])
        return _each(convert, converter(list[Any])), f"list of {name}"
    if origin is dict and inner[0] is str:
        convert, name = argument_type(inner[1])
        return _each_member(convert, converter(dict[str, Any])), f"map of {name}"
    raise TypeError(
        f"{annotation} is not possible; write Ref[…], Ref[…] | None, list[Ref[…]] or dict[str, Ref[…]]"
    )


def _mentions_reference(annotation: Any) -> bool:
    if annotation is Ref or typing.get_origin(annotation) is Ref:
        return True
    return any(_mentions_reference(inner) for inner in typing.get_args(annotation))


def _reference(value: Value) -> Ref[Object]:
    if isinstance(value, Ref):
        return value
    if type(value) is not str:
        raise ValueError(f"an object id (16 hex digits) is wanted, not {shown(value)}")
    if value.startswith("user:"):
        return Ref(named_id("user", value[5:]), value[5:])
    return Ref(value)


def _or_null(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value == "" else convert(value)


def _each(convert: Callable[[Any], Any], to_list: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: [convert(item) for item in to_list(value)]


def _each_member(convert: Callable[[Any], Any], to_map: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: {name: convert(item) for name, item in to_map(value).items()}


def travelling(name: str, value: Any) -> Value:
    """An argument as it goes into a call: a copy in the model, ids as text."""
    if type(value) is int and value > 1 << 53:
        # an ObjectId is a plain number at run time
        return format_oid(ObjectId(value))
    try:
        return outgoing(value)
    except ValueError as error:
        raise TypeError(f"argument {name!r}: {error}") from None
