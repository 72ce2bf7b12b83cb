"""From plain TOML values to the dataclasses of a schema, collecting every fault on the way.

Guards one rule: nothing is read by half in silence. A key that is unknown, of the wrong type or out
of range is reported with its place, and the section goes on with the default, so that one run of
`check` shows everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from os.path import normpath
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from connserver.config.positions import Where
from connserver.config.schema import (
    LIMIT_RANGES,
    OTHER_LIMIT,
    ClusterConfig,
    Endpoint,
    Form,
    OneOf,
    Range,
)
from connserver.limits import Limits

Section = TypeVar("Section")

TYPE_WORDS = {bool: "true or false", int: "a whole number", str: "a text in quotes"}
SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault before it has a line: where in the document, and what is wrong."""

    where: Where
    message: str


class Unusable(Exception):
    """A value that a key does not accept; `at` leads from the key to the culprit in a list."""

    def __init__(self, message: str, at: Where = ()) -> None:
        super().__init__(message)
        self.at = at


@dataclass(slots=True)
class Reader:
    """Reads the sections of one file; relative paths in it begin at `base`."""

    base: Path
    whole: bool = True
    """False if lines of the file could not be read: what is missing may have stood there."""
    problems: list[Problem] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)
    """Sections and keys (`auth.provider`) whose value is not what the file meant to say."""

    def report(self, where: Where, message: str) -> None:
        """Note a fault."""
        self.problems.append(Problem(where, message))
        self.faulty.add(".".join([part for part in where if isinstance(part, str)][:2]))

    def document(self, values: dict[str, Any]) -> dict[str, Any]:
        """Read all sections of a cluster.toml: the arguments of a ClusterConfig."""
        hints = get_type_hints(ClusterConfig)
        sections = {name: hint for name, hint in hints.items() if name not in ("file", "local")}
        self._unknown(values, sections, (), "section")
        out: dict[str, Any] = {}
        for name in sections.keys() & values.keys():
            hint, value = sections[name], values[name]
            if get_origin(hint) is tuple:
                out[name] = self._tables(get_args(hint)[0], value, name)
            elif isinstance(value, dict):
                out[name] = self.section(hint, value, (name,))
            else:
                self.report((name,), f"{name} is a section: write [{name}] and its keys below it")
        return out

    def _tables(self, cls: type[Any], value: Any, name: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.report((name,), f"{name} is a list of sections: write [[{name}]] once for each")
            return ()
        if not value and name == "nodes":
            self.report((name,), "a cluster needs a node: write [[nodes]] and its name")
        return tuple(self.section(cls, item, (name, index)) for index, item in enumerate(value))

    def section(
        self, cls: type[Section], values: dict[str, Any], where: Where, also: tuple[str, ...] = ()
    ) -> Section:
        """Read one section; a key that is unusable has its default, or an empty value if it has none.

        `also` names keys that may stand there and are read by someone else.
        """
        hints = section_hints(cls)
        self._unknown(values, (*hints, *also), where, "key")
        arguments: dict[str, Any] = {}
        for item in fields(cls):  # type: ignore[arg-type]
            required = item.default is MISSING and item.default_factory is MISSING
            if item.name in values:
                try:
                    arguments[item.name] = self._value(hints[item.name], values[item.name])
                    continue
                except Unusable as unusable:
                    self.report((*where, item.name, *unusable.at), f"{item.name}: {unusable}")
            elif required and self.whole:
                self.report((*where, item.name), f"{item.name} is missing in this [[{where[0]}]]")
            if required:
                arguments[item.name] = Path() if hints[item.name] is Path else ""
        return cls(**arguments)

    def _unknown(self, values: Iterable[str], known: Iterable[str], where: Where, noun: str) -> None:
        names = list(known)
        for key in values:
            if key not in names:
                self.report((*where, key), f"unknown {noun} {key!r}{did_you_mean(key, names)}")
                # A misspelt key leaves its neighbour at the default, which the file did not mean.
                section = str(where[0]) + "." if where else ""
                self.faulty.update(section + name for name in nearest(key, names))

    def _value(self, hint: Any, value: Any) -> Any:
        """Convert a value to what an annotation says, or raise Unusable."""
        rules: tuple[Any, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *extra = get_args(hint)
            rules = tuple(extra)
        origin = get_origin(hint)
        if origin in (Union, UnionType):
            return self._union(get_args(hint), value)
        if origin is Literal:
            return _choice(get_args(hint), value)
        if origin is tuple:
            return self._list(get_args(hint)[0], value)
        if hint is Path:
            return self._path(value)
        if hint is Endpoint:
            return _endpoint(value)
        if type(value) is not hint:  # bool is an int to isinstance, and true is no number
            raise Unusable(f"{shown(value)} is not {TYPE_WORDS[hint]}")
        for rule in rules:
            _obey(rule, value)
        return value

    def _union(self, options: tuple[Any, ...], value: Any) -> Any:
        """`Path | None`, or a word beside a list: the value's own type decides."""
        wants_list = isinstance(value, list)
        options = tuple(option for option in options if option is not NoneType)
        if len(options) == 1:
            return self._value(options[0], value)
        for option in options:
            if (get_origin(option) is tuple) == wants_list:
                return self._value(option, value)
        words = [" or ".join(map(repr, get_args(item))) for item in options if get_origin(item) is Literal]
        raise Unusable(f"{shown(value)} is neither {' nor '.join([*words, 'a list'])}")

    def _list(self, hint: Any, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Unusable(f"{shown(value)} is not a list: write [{shown(value)}]")
        out = []
        for index, item in enumerate(value):
            try:
                out.append(self._value(hint, item))
            except Unusable as unusable:
                raise Unusable(str(unusable), (index, *unusable.at)) from None
            if item in value[:index]:
                raise Unusable(f"{shown(item)} is there twice", (index,))
        return tuple(out)

    def _path(self, value: Any) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise Unusable(f"{shown(value)} is not a path in quotes")
        return absolute(self.base, value)


def absolute(base: Path, written: str) -> Path:
    """A path as written in a file of folder `base`; `~` is the user's home."""
    try:
        path = Path(written).expanduser()
    except RuntimeError as error:
        raise Unusable(f"{written!r}: {error}") from None
    return Path(normpath(base / path))  # not resolve(): a mounted file may be a link into a moving folder


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` if a known word is near, else the known words."""
    names = sorted(known)
    near = nearest(word, names, cutoff)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"


def nearest(word: str, known: list[str], cutoff: float = 0.6) -> list[str]:
    """The known word that a misspelt one most likely was, or none."""
    from difflib import get_close_matches

    return get_close_matches(word, known, n=1, cutoff=cutoff)


def shown(value: Any) -> str:
    """A value as TOML would write it, cut to a readable length."""
    text = (
        str(value).lower()
        if isinstance(value, bool)
        else f'"{value}"'
        if isinstance(value, str)
        else str(value)
    )
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def section_hints(cls: type[Any]) -> dict[str, Any]:
    """The annotations of a section's keys, with their bounds."""
    hints = get_type_hints(cls, include_extras=True)
    if cls is Limits:
        return {name: Annotated[hint, LIMIT_RANGES.get(name, OTHER_LIMIT)] for name, hint in hints.items()}
    return hints


def _endpoint(value: Any) -> Endpoint:
    if not isinstance(value, str):
        raise Unusable(f"{shown(value)} is not an endpoint in quotes, such as '127.0.0.1:9000'")
    try:
        return Endpoint.parse(value)
    except ValueError as error:
        raise Unusable(str(error)) from None


def _choice(options: tuple[str, ...], value: Any) -> str:
    for option in options:
        if option == value:
            return option
    raise Unusable(f"{shown(value)} is not one of {', '.join(map(repr, options))}")


def _obey(rule: Any, value: Any) -> None:
    rules: dict[type[Any], Callable[[Any, Any], None]] = {Range: _in_range, Form: _in_form, OneOf: _in_values}
    rules[type(rule)](rule, value)


def _in_range(rule: Range, value: int) -> None:
    if not rule.low <= value <= rule.high:
        raise Unusable(f"{value} is not within {rule.low} and {rule.high}")


def _in_form(rule: Form, value: str) -> None:
    if not rule.accepts(value):
        raise Unusable(f"{shown(value)} is not {rule.words}")


def _in_values(rule: OneOf, value: str) -> None:
    if value not in rule.values:
        raise Unusable(f"{shown(value)} is not one of {', '.join(rule.values)}")
