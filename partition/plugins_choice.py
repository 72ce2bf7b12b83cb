"""The choice of a group: which version of which plugins it runs, as a part of its replicated state.

Guards the rule that code is state: the choice and the code it names are objects of the group, written
in the entry from which on they count, so that every replica, every restart and every later primary
runs the same. A change is worked out here as a whole, on a copy, before anything is touched. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgpack

from connserver.errors import PluginLoadError
from connserver.ids import ObjectId, object_id
from connserver.limits import PLUGIN_CODE_SLOTS, PLUGIN_PART_BYTES
from partition.ledger import Fields, Ledger

CHOICE = "cs.plugins"
CODE = "cs.plugin-code"

CHOICE_LOCAL = 0x4_0000
CODE_LOCAL = 0x5_0000
"""Where, in a group's first partition, the choice and the code are kept."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a plugin. `digest` names its code, `folder` is where that once came from."""

    version: str
    digest: str
    folder: str

    def fields(self) -> Fields:
        """As it is stored."""
        return {"version": self.version, "digest": self.digest, "folder": self.folder}


@dataclass(frozen=True, slots=True)
class Row:
    """One attached plugin. `previous`: what `rollback` goes back to; `lender`: a newer version that ran
    before, whose way down objects may still need. `timeout_ms`: for its callbacks."""

    name: str
    chosen: Version
    timeout_ms: int
    previous: Version | None = None
    lender: Version | None = None

    @property
    def versions(self) -> tuple[Version, ...]:
        """Everything of which the code is kept."""
        return tuple(one for one in (self.chosen, self.previous, self.lender) if one is not None)

    def fields(self) -> Fields:
        """As it is stored."""
        return {
            "name": self.name,
            "timeout_ms": self.timeout_ms,
            "chosen": self.chosen.fields(),
            "previous": self.previous.fields() if self.previous else None,
            "lender": self.lender.fields() if self.lender else None,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """All attached plugins in their order. `revision` rises with each change; 0: none was made yet."""

    revision: int = 0
    rows: tuple[Row, ...] = ()

    def row(self, name: str) -> Row | None:
        """The attached plugin of this name."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def digests(self) -> set[str]:
        """Code that is kept."""
        return {version.digest for row in self.rows for version in row.versions}

    # --- changes: each a new choice, or PluginLoadError ---

    def attached(self, name: str, version: Version, timeout_ms: int) -> Choice:
        """With one more plugin."""
        there = self.row(name)
        if there is not None:
            raise PluginLoadError(
                f"plugin {name} {there.chosen.version} is attached already; "
                f"`cs-cluster plugin reload {name} PATH` takes another version"
            )
        return self._with((*self.rows, Row(name, version, timeout_ms)))

    def detached(self, name: str) -> Choice:
        """Without a plugin; its objects stay."""
        self._needed(name)
        return self._with(tuple(row for row in self.rows if row.name != name))

    def reloaded(self, name: str, version: Version, timeout_ms: int | None = None) -> Choice:
        """With another version of an attached plugin; the present one is kept for `rollback`."""
        row = self._needed(name)
        if version.digest == row.chosen.digest and timeout_ms in (None, row.timeout_ms):
            raise PluginLoadError(
                f"plugin {name} {version.version} runs in just this form ({version.digest[:8]}) already"
            )
        previous = row.chosen if version.digest != row.chosen.digest else row.previous
        new = replace(row, chosen=version, previous=previous, timeout_ms=timeout_ms or row.timeout_ms)
        return self._replaced(new)

    def rolled_back(self, name: str) -> Choice:
        """With the version that ran before; the present one is kept, to go forward and for its ways down."""
        row = self._needed(name)
        if row.previous is None:
            raise PluginLoadError(f"plugin {name} has no version to go back to: it was never reloaded")
        new = replace(row, chosen=row.previous, previous=row.chosen, lender=row.chosen)
        return self._replaced(new)

    def _needed(self, name: str) -> Row:
        row = self.row(name)
        if row is None:
            there = ", ".join(row.name for row in self.rows) or "none is"
            raise PluginLoadError(f"plugin {name} is not attached; attached: {there}")
        return row

    def _replaced(self, new: Row) -> Choice:
        return self._with(tuple(new if row.name == new.name else row for row in self.rows))

    def _with(self, rows: tuple[Row, ...]) -> Choice:
        return Choice(self.revision + 1, rows)

    # --- as it is stored ---

    def fields(self) -> Fields:
        """The object's fields."""
        return {"revision": self.revision, "rows": [row.fields() for row in self.rows]}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Choice:
        """Read back what `fields` wrote."""
        return cls(fields["revision"], tuple(_row(row) for row in fields["rows"]))

    def check_invariants(self) -> None:
        """Called by the tests."""
        names = [row.name for row in self.rows]
        assert len(names) == len(set(names)) and self.revision >= 0
        for row in self.rows:
            assert row.previous is None or row.previous.digest != row.chosen.digest, row


def _row(fields: Mapping[str, Any]) -> Row:
    chosen = _version(fields["chosen"])
    assert chosen is not None
    return Row(
        fields["name"], chosen, fields["timeout_ms"], _version(fields["previous"]), _version(fields["lender"])
    )


def _version(fields: Mapping[str, Any] | None) -> Version | None:
    return Version(fields["version"], fields["digest"], fields["folder"]) if fields else None


# --- in the group's state ---


class Objects(Protocol):
    """The part of a store that is read here."""

    def image(self, oid: int) -> Any: ...
    def images(self, kind: str = "") -> Any: ...


def choice_oid(first_partition: int) -> ObjectId:
    """Where the choice of a group lies."""
    return object_id(first_partition, CHOICE_LOCAL)


def read_choice(store: Objects, first_partition: int) -> Choice | None:
    """The choice of a group; None if it has none yet."""
    image = store.image(choice_oid(first_partition))
    if image is None or image.kind != CHOICE or image.data is None:
        return None
    return Choice.of(msgpack.unpackb(image.data))


def read_code(store: Objects) -> dict[str, bytes]:
    """All code that is kept, as packages by digest."""
    parts: dict[str, dict[int, bytes]] = {}
    wanted: dict[str, int] = {}
    for image in store.images(CODE):
        kept = msgpack.unpackb(image.data)
        wanted[kept["digest"]] = kept["parts"]
        parts.setdefault(kept["digest"], {})[kept["part"]] = kept["data"]
    return {
        digest: b"".join(found[number] for number in range(wanted[digest]))
        for digest, found in parts.items()
        if len(found) == wanted[digest]
    }


def write_choice(ledger: Ledger, first_partition: int, choice: Choice, code: Mapping[str, bytes]) -> None:
    """Keep a choice in this turn, with the code that is new, and forget code that no row names."""
    kept: dict[int, str] = {}
    for oid, fields in list(ledger.of_kind(CODE)):
        if fields["digest"] in choice.digests:
            kept[oid] = fields["digest"]
        else:
            ledger.delete(oid, CODE)
    slots = (object_id(first_partition, CODE_LOCAL + slot) for slot in range(PLUGIN_CODE_SLOTS))
    free = (oid for oid in slots if oid not in kept)
    for digest in sorted(choice.digests - set(kept.values())):
        data = code[digest]
        parts = [data[at : at + PLUGIN_PART_BYTES] for at in range(0, len(data), PLUGIN_PART_BYTES)]
        for number, part in enumerate(parts):
            fields = {"digest": digest, "part": number, "parts": len(parts), "data": part}
            ledger.write(next(free), CODE, fields)
    ledger.write(choice_oid(first_partition), CHOICE, choice.fields())
