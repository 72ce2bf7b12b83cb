"""Where in a TOML file a key stands, and which of its lines are no TOML.

Guards one rule: a fault always has a line. Values come from `tomllib`, the standard's own parser;
lines come from a tree-sitter tree of the same text. The tree costs 40 ms to load, so it is made
only when there is a fault to place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tree_sitter import Node

SYNTAX_FAULTS: Final = 20
"""Broken lines looked for in one file; whoever has more reads the first twenty first."""

Where = tuple[str | int, ...]
"""A place in a document: keys and list indices from the outside in."""

_AT = re.compile(r"(.*?) \(at (?:line (\d+), column \d+|end of document)\)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Syntax:
    """A line that is no TOML."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What `read_toml` could make of a text.

    `values` is None where nothing can be said about the rest; with faults and values both, the
    values are those of the lines that were fine.
    """

    values: dict[str, Any] | None
    faults: tuple[Syntax, ...] = ()


def read_toml(text: str) -> Reading:
    """Parse a text; with broken lines, find as many of them as can be told apart."""
    try:
        return Reading(tomllib.loads(text))
    except RecursionError:
        return Reading(None, (Syntax(1, "the values are nested too deeply"),))
    except tomllib.TOMLDecodeError as error:
        return _read_around(text, error)


def _read_around(text: str, error: tomllib.TOMLDecodeError) -> Reading:
    """Blank each broken line that stands alone and go on, so that all of them are reported."""
    lines = text.replace("\r\n", "\n").split("\n")
    faults: dict[int, str] = {}
    while True:
        line, message = _split(error, lines)
        if line in faults or len(faults) >= SYNTAX_FAULTS:
            return Reading(None, _sorted(faults))
        faults[line] = message
        if message.startswith("Unclosed") or not _stands_alone(lines[line - 1]):
            return Reading(None, _sorted(faults))
        lines[line - 1] = ""
        try:
            return Reading(tomllib.loads("\n".join(lines)), _sorted(faults))
        except tomllib.TOMLDecodeError as next_error:
            error = next_error


def _stands_alone(line: str) -> bool:
    """Whether the lines after this one mean the same without it: no header, nothing left open."""
    opened = sum(line.count(char) for char in "[{") - sum(line.count(char) for char in "]}")
    return not line.lstrip().startswith("[") and opened == 0 and '"""' not in line and "'''" not in line


def _split(error: tomllib.TOMLDecodeError, lines: list[str]) -> tuple[int, str]:
    """The line and the message of a parser's error."""
    match = _AT.match(str(error))
    if match is None:
        return 1, str(error)
    if match[2]:
        return min(int(match[2]), len(lines)), match[1]
    # A string that is never closed is noticed at the end only; it begins where a line alone says so too.
    for number in range(len(lines), 0, -1):
        if lines[number - 1].strip() and _complaint(lines[number - 1]) == str(error):
            return number, f"{match[1]}, and that to the end of the file"
    return len(lines), f"{match[1]} at the end of the file"


def _complaint(line: str) -> str:
    try:
        tomllib.loads(line)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return str(error)
    return ""


def _sorted(faults: dict[int, str]) -> tuple[Syntax, ...]:
    return tuple(Syntax(line, f"this is no TOML: {faults[line]}") for line in sorted(faults))


class Positions:
    """The line of every key and list item of one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def line(self, where: Where) -> int:
        """The line of a place, or of the nearest place around it that has one; 1 for the whole."""
        while where:
            if where in self._lines:
                return self._lines[where]
            where = where[:-1]
        return 1

    @cached_property
    def _root(self) -> Node:
        from tree_sitter import Language, Parser
        from tree_sitter_toml import language

        return Parser(Language(language())).parse(self._text.encode()).root_node

    @cached_property
    def _lines(self) -> dict[Where, int]:
        lines: dict[Where, int] = {}
        counts: dict[Where, int] = {}
        for node in self._root.children:
            if node.type == "pair":
                _note_pair(lines, (), node)
            elif node.type in ("table", "table_array_element"):
                _note_table(lines, counts, node)
        return lines


def _note_table(lines: dict[Where, int], counts: dict[Where, int], node: Node) -> None:
    """Note a `[table]` or the next element of a `[[table]]`, and the pairs below it."""
    keys = _keys(node)
    if not keys:
        return
    where: Where = ()
    for number, key in enumerate(keys):
        where = (*where, key)
        lines.setdefault(where, _line(node))
        if number == len(keys) - 1 and node.type == "table_array_element":
            counts[where] = counts.get(where, 0) + 1
        if where in counts:
            where = (*where, counts[where] - 1)
    lines.setdefault(where, _line(node))
    for child in node.children:
        if child.type == "pair":
            _note_pair(lines, where, child)


def _note_pair(lines: dict[Where, int], where: Where, pair: Node) -> None:
    for key in _keys(pair):
        where = (*where, key)
        lines.setdefault(where, _line(pair))
    if pair.named_children:
        _note_value(lines, where, pair.named_children[-1])


def _note_value(lines: dict[Where, int], where: Where, value: Node) -> None:
    if value.type == "inline_table":
        for child in value.named_children:
            if child.type == "pair":
                _note_pair(lines, where, child)
    elif value.type == "array":
        items = (child for child in value.named_children if child.type not in ("comment", "ERROR"))
        for index, item in enumerate(items):
            lines.setdefault((*where, index), _line(item))
            _note_value(lines, (*where, index), item)


def _keys(node: Node) -> list[str]:
    """The parts of a key; the parser of the standard reads them, so quoting is its business."""
    written = next((child for child in node.children if child.type.endswith("_key")), None)
    if written is None or written.text is None:
        return []
    try:
        return list(_descend(tomllib.loads(f"{written.text.decode()} = 0")))
    except tomllib.TOMLDecodeError:
        return []


def _descend(table: dict[str, Any]) -> Iterator[str]:
    while isinstance(table, dict):
        key, table = next(iter(table.items()))
        yield key


def _line(node: Node) -> int:
    return node.start_point[0] + 1
