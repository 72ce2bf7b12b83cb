"""Turning what a client sent into what a callback's annotation asks for.

Guards one rule: every value of the model survives every encoding. Where the encoding has types
(JSON, msgpack) a value arrives as it is and is only checked; where it has none (classic, XML) its
leaves arrive as text, and the annotation says what they are:

* boolean: `true` or `1`, `false` or `0`. Integer: decimal digits with an optional sign. Float: decimal,
  with an optional exponent. Bytes: base64 with padding. Object id: 16 hex digits or `partition:local`.
* Empty text is the empty list, map or bytes where one is wanted, and null where null is allowed and
  nothing else takes it. (Classic and XML also have marks for null and empty, which arrive as such.)
* One value where a list is wanted is a list of that one, and repeated XML elements are a list only
  there: a client that repeats elements must not break when there happens to be one.
* A float without a fraction is an integer where one is wanted, because several client languages have
  only one kind of number; an integer is a float where one is wanted. Nothing is ever rounded.
* `A | B` keeps a value that is of one of the types as it is, then tries them in the order written.

What does not fit raises ValueError with a sentence naming what was wanted.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, Final, TypeAlias

from connserver.ids import ObjectId, parse_oid
from connserver.limits import LARGEST_INTEGER
from connserver.model import Siblings, Value, shown

Converter: TypeAlias = Callable[[Value], Value]

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}\Z")
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\Z")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


def convert(value: Value, annotation: Any) -> Value:
    """The value as `annotation` wants it; ValueError says what was wanted instead.

    Annotations: str, int, float, bool, bytes, None, Any, ObjectId, list[T], dict[str, T],
    tuple[A, B] (which gives a list, the model having no tuples), a TypedDict, Literal and A | B.
    TypeError for any other.
    """
    return _kind(annotation).convert(value)


def converter(annotation: Any) -> Converter:
    """The same as a function of the value alone, prepared once per annotation."""
    return _kind(annotation).convert


def type_name(annotation: Any) -> str:
    """What the annotation asks for in words a client's author reads: "list of integer"."""
    return _kind(annotation).name


def from_text(text: str, annotation: Any) -> Value:
    """A leaf of classic or XML as the annotation wants it: `convert` for text alone."""
    return _kind(annotation).convert(text)


def to_text(value: Value) -> str:
    """A leaf as classic and XML write it; null is empty text, and neither list nor map is a leaf."""
    write = _WRITERS.get(type(value))
    if write is None:
        raise TypeError(f"{shown(value)} is no leaf and has no text form")
    return write(value)


_WRITERS: Final[dict[type, Callable[[Any], str]]] = {
    str: lambda text: text,
    bool: lambda truth: "true" if truth else "false",
    int: int.__repr__,
    float: float.__repr__,
    bytes: lambda data: b64encode(data).decode(),
    type(None): lambda null: "",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """An annotation, prepared. `native` are the types whose values it takes as they are."""

    name: str
    convert: Converter
    native: frozenset[type]


def _wanted(what: str, value: Value) -> ValueError:
    return ValueError(f"{what} is wanted, not {shown(value)}")


def _text(value: Value) -> Value:
    if type(value) is str:
        return value
    raise _wanted("text", value)


def _integer(value: Value) -> Value:
    kind = type(value)
    if kind is int:
        return value
    number: int | None = None
    if kind is str and _INTEGER.match(typing.cast(str, value)):
        number = int(typing.cast(str, value))
    elif kind is float and typing.cast(float, value).is_integer():
        number = int(typing.cast(float, value))
    if number is None:
        raise _wanted("an integer", value)
    if not -LARGEST_INTEGER <= number <= LARGEST_INTEGER:
        raise ValueError("an integer within ±(2^53-1) is wanted")
    return number


def _float(value: Value) -> Value:
    kind = type(value)
    if kind is float:
        return value
    if kind is int:
        return float(typing.cast(int, value))
    if kind is str and _FLOAT.match(typing.cast(str, value)):
        number = float(typing.cast(str, value))
        if isfinite(number):
            return number
    raise _wanted("a number", value)


def _boolean(value: Value) -> Value:
    if type(value) is bool:
        return value
    if type(value) is str and value in _BOOLEANS:
        return _BOOLEANS[value]
    raise _wanted("true or false", value)


def _bytes(value: Value) -> Value:
    if type(value) is bytes:
        return value
    if type(value) is str:
        try:
            return b64decode(value, validate=True)
        except ValueError:
            pass
    raise _wanted("base64", value)


def _null(value: Value) -> Value:
    if value is None or (type(value) is str and not value):
        return None
    raise _wanted("null", value)


def _object_id(value: Value) -> Value:
    if type(value) is str:
        return parse_oid(value)
    raise _wanted("an object id (16 hex digits)", value)


def _anything(value: Value) -> Value:
    _refuse_siblings(value)
    return value


def _refuse_siblings(value: Value) -> None:
    if isinstance(value, dict):
        for name, member in value.items():
            if type(member) is Siblings:
                raise ValueError(f"the element {name!r} is given {len(member)} times")
            _refuse_siblings(member)
    elif isinstance(value, list):
        if type(value) is Siblings:
            raise ValueError(f"an element is given {len(value)} times")
        for item in value:
            _refuse_siblings(item)


_ANYTHING = _Kind("anything", _anything, frozenset({type(None), bool, int, float, str, bytes, list, dict}))

_SIMPLE: Final[dict[Any, _Kind]] = {
    str: _Kind("text", _text, frozenset({str})),
    int: _Kind("integer", _integer, frozenset({int})),
    float: _Kind("number", _float, frozenset({float})),
    bool: _Kind("boolean", _boolean, frozenset({bool})),
    bytes: _Kind("base64", _bytes, frozenset({bytes})),
    None: _Kind("null", _null, frozenset({type(None)})),
    type(None): _Kind("null", _null, frozenset({type(None)})),
    ObjectId: _Kind("object id", _object_id, frozenset()),
}


@lru_cache(maxsize=4096, typed=True)
def _kind(annotation: Any) -> _Kind:
    """Prepare an annotation. Annotations come from plugins, never from clients."""
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if annotation is Any or annotation is object or annotation is inspect.Parameter.empty:
        return _ANYTHING
    if annotation == Value or annotation == "Value" or annotation == typing.ForwardRef("Value"):
        return _ANYTHING
    if isinstance(annotation, typing.NewType):
        return _kind(annotation.__supertype__)
    if typing.is_typeddict(annotation):
        return _record_kind(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is typing.Union or origin is types.UnionType:
        return _union_kind(arguments)
    if origin is typing.Literal:
        return _literal_kind(arguments)
    if annotation is list or origin is list:
        return _list_kind(_kind(arguments[0]) if arguments else _ANYTHING)
    if annotation is dict or (origin is dict and arguments[0] is str):
        return _map_kind(_kind(arguments[1]) if arguments else _ANYTHING)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _list_kind(_kind(arguments[0]))
    if origin is tuple:
        return _tuple_kind([_kind(argument) for argument in arguments])
    raise TypeError(f"{annotation!r} is no annotation that a client's value can be converted to")


def _items(value: Value) -> list[Value] | None:
    """The items where a list is wanted; None where no list can be made of the value."""
    kind = type(value)
    if kind is list or kind is Siblings:
        return typing.cast("list[Value]", value)
    if kind is str:
        return [value] if value else []
    return [value] if kind is dict else None


def _list_kind(item: _Kind) -> _Kind:
    name = f"list of {item.name}"

    def to_list(value: Value) -> Value:
        items = _items(value)
        if items is None:
            raise _wanted(f"a {name}", value)
        out: list[Value] = []
        for position, one in enumerate(items):
            try:
                out.append(item.convert(one))
            except ValueError as error:
                raise ValueError(f"in item {position}, {error}") from None
        return out

    return _Kind(name, to_list, frozenset({list}))


def _tuple_kind(kinds: list[_Kind]) -> _Kind:
    name = f"list of ({', '.join(kind.name for kind in kinds)})"

    def to_list(value: Value) -> Value:
        items = _items(value)
        if items is None or len(items) != len(kinds):
            raise _wanted(f"a {name}", value)
        out: list[Value] = []
        for position, (kind, one) in enumerate(zip(kinds, items, strict=True)):
            try:
                out.append(kind.convert(one))
            except ValueError as error:
                raise ValueError(f"in item {position}, {error}") from None
        return out

    return _Kind(name, to_list, frozenset({list}))


def _members(value: Value, name: str) -> dict[str, Value]:
    """The members where a map is wanted."""
    if isinstance(value, dict):
        return value
    if type(value) is str and not value:
        return {}
    raise _wanted(f"a {name}", value)


def _map_kind(item: _Kind) -> _Kind:
    name = f"map of {item.name}"

    def to_map(value: Value) -> Value:
        out: dict[str, Value] = {}
        for key, one in _members(value, name).items():
            try:
                out[key] = item.convert(one)
            except ValueError as error:
                raise ValueError(f"in {key!r}, {error}") from None
        return out

    return _Kind(name, to_map, frozenset({dict}))


def _record_kind(record: Any) -> _Kind:
    kinds: dict[str, _Kind] = {}
    required = set(record.__required_keys__)
    # Written as text (PEP 563), NotRequired is not yet known to the class: it shows in the hints only.
    for key, hint in typing.get_type_hints(record, include_extras=True).items():
        marker = typing.get_origin(hint)
        if marker is typing.NotRequired:
            required.discard(key)
        elif marker is typing.Required:
            required.add(key)
        is_marked = marker is typing.NotRequired or marker is typing.Required
        kinds[key] = _kind(typing.get_args(hint)[0] if is_marked else hint)
    name = "map of " + ", ".join(f"{key}: {kind.name}" for key, kind in kinds.items())

    def to_map(value: Value) -> Value:
        members = _members(value, name)
        missing = required - members.keys()
        if missing:
            raise ValueError(f"{min(missing)!r} is missing; a {name} is wanted")
        out: dict[str, Value] = {}
        for key, one in members.items():
            if key not in kinds:
                raise ValueError(f"{key!r} is unknown; a {name} is wanted")
            try:
                out[key] = kinds[key].convert(one)
            except ValueError as error:
                raise ValueError(f"in {key!r}, {error}") from None
        return out

    return _Kind(name, to_map, frozenset({dict}))


def _union_kind(arguments: tuple[Any, ...]) -> _Kind:
    kinds = [_kind(argument) for argument in arguments]
    kinds.sort(key=lambda kind: kind.convert is _null)  # null last: empty text is the others' empty first
    name = " or ".join(kind.name for kind in kinds)
    native = frozenset[type]().union(*(kind.native for kind in kinds))

    def to_first(value: Value) -> Value:
        first = [kind for kind in kinds if type(value) in kind.native]
        failure: ValueError | None = None
        for kind in first + [kind for kind in kinds if kind not in first]:
            try:
                return kind.convert(value)
            except ValueError as error:
                failure = failure or error
        if first and failure:
            raise failure
        raise _wanted(name, value)

    return _Kind(name, to_first, native)


def _literal_kind(options: tuple[Any, ...]) -> _Kind:
    name = "one of " + ", ".join(repr(option) for option in options)
    option_types: list[Any] = [type(option) for option in options]
    kinds = [_kind(option_type) for option_type in option_types]

    def to_option(value: Value) -> Value:
        for option, kind in zip(options, kinds, strict=True):
            try:
                found = kind.convert(value)
            except ValueError:
                continue
            if type(found) is type(option) and found == option:
                return found
        raise _wanted(name, value)

    return _Kind(name, to_option, frozenset(option_types))
