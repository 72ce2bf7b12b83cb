"""Which request was running when a worker died, and whether it may run again.

Guards the group against a request that kills its worker: before each call its source is noted in a
small shared memory file, which survives the process. Whoever starts next finds it. A source that
was running at two deaths is quarantined.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<QQQQ")
_ROW = struct.Struct("<QQQHH")
_ROWS = 63
_SIZE = 4096
_ROWS_FROM = 64

DEATHS = 2
"""Deaths of a worker under one source before it is quarantined."""

Source = tuple[int, int, int]
"""(gateway boot, connection, sequence); (0, group + 1, number) for a parcel; zeros for a tick."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """What was running when workers died, and how often."""

    source: Source
    deaths: int

    @property
    def quarantined(self) -> bool:
        """Whether it must not run again."""
        return self.deaths >= DEATHS


class Suspects:
    """The note of one worker. Opening it draws the conclusion from how the last one ended."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._pack = _HEADER.pack_into
        self._rows = self._read()
        self.last_death = self._conclude()
        self.any = bool(self._rows)

    def enter(self, boot: int, connection: int, sequence: int) -> None:
        """A call of this source begins."""
        self._pack(self._memory, 0, 1, boot, connection, sequence)

    def leave(self) -> None:
        """Nothing runs any more."""
        self._pack(self._memory, 0, 0, 0, 0, 0)

    def get(self, boot: int, connection: int, sequence: int) -> Suspect | None:
        """What is known against a source."""
        return self._rows.get((boot, connection, sequence))

    def all(self) -> list[Suspect]:
        """Everything known, for `status`."""
        return list(self._rows.values())

    def close(self) -> None:
        """Orderly end: nothing was running."""
        self.leave()
        self._memory.close()

    def _conclude(self) -> Suspect | None:
        running, *source_fields = _HEADER.unpack_from(self._memory, 0)
        boot, connection, sequence = source_fields
        self.leave()
        if not running:
            return None
        source = (boot, connection, sequence)
        known = self._rows.pop(source, None)
        suspect = self._rows[source] = Suspect(source, known.deaths + 1 if known else 1)
        while len(self._rows) > _ROWS:
            del self._rows[next(iter(self._rows))]
        self._write()
        return suspect

    def _read(self) -> dict[Source, Suspect]:
        rows: dict[Source, Suspect] = {}
        for index in range(_ROWS):
            *fields, deaths, _ = _ROW.unpack_from(self._memory, _ROWS_FROM + index * _ROW.size)
            if deaths:
                source = (fields[0], fields[1], fields[2])
                rows[source] = Suspect(source, deaths)
        return rows

    def _write(self) -> None:
        rows = list(self._rows.values())
        for index in range(_ROWS):
            row = rows[index] if index < len(rows) else None
            fields = (*row.source, row.deaths, 0) if row else (0, 0, 0, 0, 0)
            _ROW.pack_into(self._memory, _ROWS_FROM + index * _ROW.size, *fields)
