"""Values on their way out of a callback: results, room fields, arguments of calls.

Guards two rules: what leaves a callback is a copy, so that nothing sent changes afterwards, and it is
of the canonical model, so that every encoding can carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from connserver.errors import ClientError
from connserver.limits import LARGEST_INTEGER, OUTGOING_LEVELS, OUTGOING_VALUES, Limits
from connserver.model import RESERVED, Message, Value, check_value, is_name
from connserver.plugin.objects import Object

_LIMITS = Limits()


def outgoing(value: Any) -> Value:
    """A copy of the value in the canonical model.

    References and objects become their 16 hex digits, tuples lists. ValueError names what no message
    can hold and where in the value it is.
    """
    if type(value) is str and value.isprintable():
        return value
    return _Copy().copy(value, OUTGOING_LEVELS, "")


def outgoing_fields(fields: Mapping[str, Any], what: str) -> Message:
    """The same for the fields of an event, a call or a reply."""
    copy = _Copy()
    out: Message = {}
    for name, value in fields.items():
        if type(name) is not str or not is_name(name):
            raise ValueError(f"{what}: {name!r} is no field name")
        out[name] = copy.copy(value, OUTGOING_LEVELS, name)
    return out


def unreserved(fields: Message, what: str) -> Message:
    """The fields, unless one has a name to which the protocol itself gives a meaning: ValueError."""
    taken = RESERVED.intersection(fields)
    if taken:
        raise ValueError(f"{what}: the name {min(taken)!r} is reserved for the protocol")
    return fields


class _Copy:
    """One copying: counts what it copies, so that no callback sends without bound."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = OUTGOING_VALUES

    def copy(self, value: Any, levels: int, place: str) -> Value:
        kind = type(value)
        if kind is str:
            if not value.isprintable():
                _checked(value, place)
            return value  # type: ignore[no-any-return]
        if kind is int:
            if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
                raise ValueError(f"{_at(place)}an integer beyond ±(2^53-1)")
            return value  # type: ignore[no-any-return]
        if value is None or kind is bool or kind is bytes:
            return value  # type: ignore[no-any-return]
        if kind is float:
            if not isfinite(value):
                raise ValueError(f"{_at(place)}a float that is not finite")
            return value  # type: ignore[no-any-return]
        if isinstance(value, (list, tuple, dict)):
            return self._container(value, levels, place)
        return self._other(value, levels, place)

    def _container(
        self, value: list[Any] | tuple[Any, ...] | dict[Any, Any], levels: int, place: str
    ) -> Value:
        self.left -= len(value)
        if self.left < 0:
            raise ValueError(f"{_at(place)}more than {OUTGOING_VALUES} values in one message")
        if levels == 0:
            raise ValueError(f"{_at(place)}more than {OUTGOING_LEVELS} levels of maps and lists")
        if not isinstance(value, dict):
            return [self.copy(item, levels - 1, f"{place}[{number}]") for number, item in enumerate(value)]
        out: Message = {}
        for name, item in value.items():
            if not isinstance(name, str) or not is_name(name):
                raise ValueError(f"{_at(place)}the name {name!r}; names are letters, digits, '_', '.', '-'")
            out[str(name)] = self.copy(item, levels - 1, f"{place}.{name}")
        return out

    def _other(self, value: Any, levels: int, place: str) -> Value:
        if isinstance(value, Object):
            return f"{value.oid:016x}"
        # subclasses of the model's types: references, members of enums
        if isinstance(value, str):
            return self.copy(str.__str__(value), levels, place)
        if isinstance(value, int):
            return self.copy(int.__int__(value), levels, place)
        if isinstance(value, float):
            return self.copy(float.__float__(value), levels, place)
        raise ValueError(f"{_at(place)}a {type(value).__name__}, which no message can hold")


def _checked(text: str, place: str) -> None:
    try:
        check_value(text, _LIMITS)
    except ClientError as error:
        raise ValueError(f"{place}: {error.reason}" if place else error.reason) from None


def _at(place: str) -> str:
    return f"{place} holds " if place else "this holds "
