"""How a message between processes becomes bytes: a version byte, then one msgpack array.

The array is `[tag, field, field, …]` in the order of the dataclass. Guards one rule: what comes in
is checked against the annotations before any code sees it, so that a wrong program on the other
end gives a WireError and never a surprise further in.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

from connserver.errors import WireError
from connserver.limits import WIRE_MESSAGE_BYTES

WIRE_VERSION = 1
_SMALL_BYTES = 16_384

C = TypeVar("C", bound=type)
Check = Callable[[Any], Any]

_tags: dict[type, int] = {}
_classes: dict[int, type] = {}
_values: dict[type, Callable[[Any], tuple[Any, ...]]] = {}
_readers: dict[type, Callable[[Any], Any]] = {}


def message(tag: int) -> Callable[[C], C]:
    """Give a frozen dataclass its tag on the wire; tags are never used again for another class."""

    def register(cls: C) -> C:
        assert tag not in _classes, f"tag {tag} is taken by {_classes[tag].__name__}"
        _tags[cls] = tag
        _classes[tag] = cls
        _values[cls] = _values_of([field.name for field in fields(cls)])
        return cls

    return register


def _values_of(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


def _plain(value: Any) -> Any:
    """What msgpack does not know by itself: records inside a message."""
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    raise TypeError(f"{type(value).__name__} cannot travel between processes")


_pack = msgpack.Packer().pack
"""One packer for all plain messages: making one for each costs more than the packing. It holds the
interpreter lock throughout, since it calls nothing of ours."""


def encode(record: Any) -> bytes:
    """The bytes of a registered message."""
    cls = type(record)
    body = (_tags[cls], *_values[cls](record))
    try:
        return b"\x01" + _pack(body)  # type: ignore[no-any-return]
    except TypeError:  # records within
        return b"\x01" + msgpack.packb(body, default=_plain)  # type: ignore[no-any-return]


def decode(data: bytes) -> Any:
    """The message in these bytes; WireError when it is of another version, shape or type."""
    if not data or data[0] != WIRE_VERSION:
        raise WireError(f"wire version {data[0] if data else 'none'}, expected {WIRE_VERSION}")
    if len(data) > WIRE_MESSAGE_BYTES:
        raise WireError(f"message of {len(data)} bytes, at most {WIRE_MESSAGE_BYTES} are read")
    try:
        # a copy costs less than a view, except of what is large anyway
        packed = data[1:] if len(data) < _SMALL_BYTES else memoryview(data)[1:]
        body = msgpack.unpackb(packed, use_list=True, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not msgpack: {error}") from None
    if not isinstance(body, list) or not body or not isinstance(body[0], int):
        raise WireError("not a tagged message")
    cls = _classes.get(body[0])
    if cls is None:
        raise WireError(f"unknown message tag {body[0]}")
    return _reader(cls)(body[1:])


def _reader(cls: type) -> Callable[[Any], Any]:
    reader = _readers.get(cls)
    if reader is None:
        reader = _readers[cls] = _record(cls)
    return reader


def _record(cls: type) -> Callable[[Any], Any]:
    hints = get_type_hints(cls)
    checks = tuple(_check(hints[field.name]) for field in fields(cls))
    count = len(checks)
    types_ = tuple(_plain_type(hints[field.name]) for field in fields(cls))
    deep = [(index, check) for index, check in enumerate(checks) if types_[index] in (list, dict)]

    def read(values: Any) -> Any:
        if type(values) is list and tuple(map(type, values)) == types_:
            # nearly every message: all fields at once, then what is within the lists and maps
            for index, check in deep:
                values[index] = check(values[index])
            return cls(*values)
        if not isinstance(values, list) or len(values) != count:
            raise WireError(f"{cls.__name__} takes {count} fields")
        return cls(*[check(value) for check, value in zip(checks, values, strict=True)])

    return read


def _plain_type(hint: Any) -> type | None:
    """The one type that values of this annotation have on the wire; None if there are several."""
    origin = get_origin(hint)
    if origin in (list, dict):
        return origin  # type: ignore[no-any-return]
    return hint if hint in (int, str, bytes, bool) else None


def _check(hint: Any) -> Check:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return _exactly(type(None))
    if hint is Any:
        return lambda value: value
    if hasattr(hint, "__supertype__"):
        return _check(hint.__supertype__)
    if origin is list:
        item = arguments[0]
        if item in (int, bytes, str):
            return _all_exactly(item)
        return _all_integers if item == list[int] else _sequence(_check(item))
    if origin is dict:
        return _mapping(_check(arguments[0]), _check(arguments[1]))
    if origin in (Union, types.UnionType):
        return _either([_check(argument) for argument in arguments])
    if is_dataclass(hint) and isinstance(hint, type):
        return _record(hint)
    return _exactly(hint)


def _exactly(wanted: type) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise WireError(f"expected {wanted.__name__}, got {type(value).__name__}")
        return value

    return check


def _all_exactly(wanted: type) -> Check:
    # the parallel arrays of the message path: one pass in C instead of a call per item
    def read(value: Any) -> Any:
        if type(value) is not list or not {wanted}.issuperset(map(type, value)):
            raise WireError(f"expected a list of {wanted.__name__}")
        return value

    return read


def _all_integers(value: Any) -> Any:
    # the targets of a batch: as above, for lists in a list
    if type(value) is not list or not {list}.issuperset(map(type, value)):
        raise WireError("expected a list of lists")
    if not {int}.issuperset(map(type, chain.from_iterable(value))):
        raise WireError("expected lists of int")
    return value


def _sequence(check: Check) -> Check:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise WireError(f"expected a list, got {type(value).__name__}")
        return [check(item) for item in value]

    return read


def _mapping(key: Check, item: Check) -> Check:
    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise WireError(f"expected a map, got {type(value).__name__}")
        return {key(name): item(content) for name, content in value.items()}

    return read


def _either(checks: list[Check]) -> Check:
    def read(value: Any) -> Any:
        for check in checks:
            try:
                return check(value)
            except WireError:
                continue
        raise WireError(f"{type(value).__name__} is none of the types allowed here")

    return read
