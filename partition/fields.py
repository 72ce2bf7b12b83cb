"""What the annotation of a kind's field allows, and how a stored value becomes the field's again.

Guards the rule that an object holds only what its annotations say and what the canonical model can
carry: checked when a call ends, over the fields that it changed. Nothing is converted: a plugin that
writes text into a number is told so.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

from connserver.errors import ClientError
from connserver.limits import LARGEST_INTEGER, OBJECT_BYTES
from connserver.model import MOST_LEVELS, is_name, measure, shown
from connserver.plugin.references import Ref

Check: TypeAlias = Callable[[Any], None]
"""Raises ValueError that says what is wanted."""

Revive: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class FieldType:
    """An annotation, prepared. `revive` None: a stored value is the field's value as it is.

    `container`: values may be lists or maps, which change in place.
    """

    name: str
    check: Check
    revive: Revive | None = None
    container: bool = False


def field_type(annotation: Any) -> FieldType:
    """Prepare an annotation; TypeError says why no object can keep such values and what to write."""
    simple = _SIMPLE.get(annotation) if annotation.__hash__ else None
    if simple is not None:
        return simple
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Ref or origin is Ref:
        return _REFERENCE
    if origin is typing.Union or origin is types.UnionType:
        return _either([field_type(argument) for argument in arguments])
    if origin is typing.Literal:
        return _literal(arguments)
    if annotation is list or origin is list:
        return _list_of(field_type(arguments[0]) if arguments else _ANYTHING)
    if annotation is dict:
        return _map_of(_ANYTHING)
    if origin is dict and arguments[0] is str:
        return _map_of(field_type(arguments[1]))
    if typing.is_typeddict(annotation):
        return _record(annotation)
    raise TypeError(f"{_shown_type(annotation)} cannot be kept; {_advice(annotation, origin)}")


def _advice(annotation: Any, origin: Any) -> str:
    if annotation is dict or origin is dict:
        return "the keys of a map are text"
    if annotation in (tuple, set, frozenset) or origin in (tuple, set, frozenset):
        return "write list[…]"
    if isinstance(annotation, type) and hasattr(annotation, "oid"):
        return f"an object keeps the id of another: write Ref[{annotation.__name__}]"
    return "fields are str, int, float, bool, bytes, None, Ref, list[…], dict[str, …], TypedDict or Literal"


def _shown_type(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _wanted(what: str, value: object) -> ValueError:
    return ValueError(f"{what} is wanted, not {shown(value)}")


def _text(value: Any) -> None:
    if type(value) is not str and type(value) is not Ref:
        raise _wanted("text", value)
    if not value.isprintable():
        _in_model([str(value)])


def _integer(value: Any) -> None:
    if type(value) is not int:
        raise _wanted("an integer", value)
    if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
        raise ValueError("an integer within ±(2^53-1) is wanted")


def _number(value: Any) -> None:
    if type(value) is int:
        _integer(value)
    elif type(value) is not float:
        raise _wanted("a number", value)
    elif not isfinite(value):
        raise ValueError("a finite number is wanted")


def _boolean(value: Any) -> None:
    if type(value) is not bool:
        raise _wanted("True or False", value)


def _bytes(value: Any) -> None:
    if type(value) is not bytes:
        raise _wanted("bytes", value)


def _null(value: Any) -> None:
    if value is not None:
        raise _wanted("None", value)


def _reference(value: Any) -> None:
    if type(value) is not Ref:
        raise _wanted("a Ref", value)


def _anything(value: Any) -> None:
    _in_model([str(value) if type(value) is Ref else value])


def _in_model(container: list[Any]) -> None:
    try:
        measure(container, MOST_LEVELS, OBJECT_BYTES)
    except ClientError as error:
        raise ValueError(error.reason) from None


_REFERENCE = FieldType("Ref", _reference, Ref)
_ANYTHING = FieldType("any value", _anything, container=True)

_SIMPLE: dict[Any, FieldType] = {
    str: FieldType("text", _text),
    int: FieldType("integer", _integer),
    float: FieldType("number", _number),
    bool: FieldType("boolean", _boolean),
    bytes: FieldType("bytes", _bytes),
    None: FieldType("None", _null),
    type(None): FieldType("None", _null),
    Any: _ANYTHING,
    object: _ANYTHING,
}


def _list_of(item: FieldType) -> FieldType:
    item_check, item_revive = item.check, item.revive

    def check(value: Any) -> None:
        if type(value) is not list:
            raise _wanted(f"a list of {item.name}", value)
        for position, one in enumerate(value):
            try:
                item_check(one)
            except ValueError as error:
                raise ValueError(f"in item {position}, {error}") from None

    def revive(value: Any) -> Any:
        assert item_revive is not None
        return [item_revive(one) for one in value]

    return FieldType(f"list of {item.name}", check, revive if item_revive else None, True)


def _map_of(item: FieldType) -> FieldType:
    item_check, item_revive = item.check, item.revive

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise _wanted(f"a map of {item.name}", value)
        for name, one in value.items():
            _check_name(name)
            try:
                item_check(one)
            except ValueError as error:
                raise ValueError(f"in {name!r}, {error}") from None

    def revive(value: Any) -> Any:
        assert item_revive is not None
        return {name: item_revive(one) for name, one in value.items()}

    return FieldType(f"map of {item.name}", check, revive if item_revive else None, True)


def _check_name(name: Any) -> None:
    if type(name) is not str or not is_name(name):
        raise ValueError(
            f"{name!r} is no name for a member of a map: at most 64 letters, digits, '_', '.', '-', "
            "a letter or '_' first; keep other keys as values in a list of maps"
        )


def _record(record: Any) -> FieldType:
    members = {name: field_type(hint) for name, hint in typing.get_type_hints(record).items()}
    required: frozenset[str] = record.__required_keys__
    revived = {name: member.revive for name, member in members.items() if member.revive}

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise _wanted(f"a {record.__name__}", value)
        for name in sorted(required.difference(value)):
            raise ValueError(f"{name!r} is missing in the {record.__name__}")
        for name, one in value.items():
            if name not in members:
                raise ValueError(f"{name!r} is no member of {record.__name__}")
            try:
                members[name].check(one)
            except ValueError as error:
                raise ValueError(f"in {name!r}, {error}") from None

    def revive(value: Any) -> Any:
        return {name: revived[name](one) if name in revived else one for name, one in value.items()}

    for name in members:
        if not is_name(name):
            raise TypeError(f"{name!r} in {record.__name__} is no field name")
    return FieldType(record.__name__, check, revive if revived else None, True)


def _either(options: list[FieldType]) -> FieldType:
    name = " or ".join(option.name for option in options)

    def check(value: Any) -> None:
        for option in options:
            try:
                return option.check(value)
            except ValueError:
                continue
        raise _wanted(name, value)

    def revive(value: Any) -> Any:
        # text and references are both stored as text: the first option that fits says which it is
        for option in options:
            try:
                revived = option.revive(value) if option.revive else value
                option.check(revived)
            except (ValueError, TypeError, AttributeError):
                continue
            return revived
        return value

    needs = any(option.revive for option in options)
    return FieldType(name, check, revive if needs else None, any(option.container for option in options))


def _literal(choices: tuple[Any, ...]) -> FieldType:
    if not all(type(choice) in (str, int, bool, bytes, type(None)) for choice in choices):
        raise TypeError(f"Literal{list(choices)} cannot be kept; choose among text, integers and booleans")
    name = "one of " + ", ".join(map(repr, choices))

    def check(value: Any) -> None:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise _wanted(name, value)

    return FieldType(name, check)
