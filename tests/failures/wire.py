"""Two encodings by hand: JSON lines and classic, as a client without our library writes them.

Guards one rule: nothing of the product's codecs is used, so a mistake in them is not read back by the
same mistake. Only what the tests say is covered: flat values, and one list of maps in a resume.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

JSON: Final = "json"
CLASSIC: Final = "classic"
BOTH: Final = (JSON, CLASSIC)
TERMINATORS: Final = {JSON: b"\n", CLASSIC: b"\0"}
NUMBERS: Final = frozenset({"id", "status", "value", "seq", "k", "n", "given", "taken", "code", "to"})
"""Fields that are whole numbers also where an encoding has no types."""

Fields = dict[str, Any]


def frame(encoding: str, fields: Mapping[str, Any]) -> bytes:
    """One message with its end."""
    if encoding == JSON:
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    return "".join(f"{name}:{value}\n" for name, value in _flat(fields)).encode() + b"\0"


def _flat(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in fields.items():
        if isinstance(value, list):
            for index, entry in enumerate(value):
                found += [(f"{name}.{index}.{inner}", one) for inner, one in entry.items()]
        else:
            found.append((name, value))
    return found


def fields(encoding: str, payload: bytes) -> Fields:
    """What a message without its end says; ValueError for what is none."""
    if encoding == JSON:
        found = json.loads(payload)
        if not isinstance(found, dict):
            raise ValueError(f"no map: {payload!r}")
        return found
    pairs = [line.partition(":") for line in payload.decode().splitlines() if line]
    return {name: _value(name, value) for name, _, value in pairs}


def _value(name: str, text: str) -> Any:
    digits = text.removeprefix("-")
    return int(text) if name in NUMBERS and digits.isascii() and digits.isdigit() else text


class Cutter:
    """Cuts the bytes of one direction of a connection into messages; empty ones are left out."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._rest = b""

    def feed(self, data: bytes) -> list[Fields]:
        """The messages that these bytes complete, in order."""
        *whole, self._rest = (self._rest + data).split(TERMINATORS[self.encoding])
        return [fields(self.encoding, payload) for payload in whole if payload.strip()]
