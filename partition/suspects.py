"""Which request was running when a worker died, and whether it may run again.

Guards the group against what kills its worker: a request, another group's call, a timer, a callback that
runs by the clock. A death is in the log: whoever applies that entry counts it into an object of the
group, the same on every replica. A source that was running at DEATHS deaths is quarantined by whoever is
primary, who also notes what it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from connserver.ids import ObjectId, object_id
from connserver.messages import Image
from connserver.running import Source
from partition.ledger import Ledger
from partition.objects import Store

SUSPECT = "cs.suspect"

SUSPECT_LOCAL = 0x3_0000
"""Where, in a group's first partition, suspects are kept."""

SUSPECTS = 63
"""Most that are kept; a new one takes the place of the one that was suspected longest ago."""

DEATHS = 2
"""Deaths of a worker under one source before it is quarantined."""

NOT_A_CALL: Source = (0, 0, 0)
"""Work of the clock that is no plugin's: counted, and run nevertheless."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """What was running when workers died, how often, and the op that told of the last time.

    `method` and the rest are empty until it was met again and turned away.
    """

    oid: int
    source: Source
    deaths: int
    op: int
    method: str = ""
    plugin: str = ""
    version: str = ""
    incident: str = ""

    @property
    def quarantined(self) -> bool:
        """Whether it must not run again."""
        return self.deaths >= DEATHS and self.source != NOT_A_CALL

    def fields(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "source": list(self.source),
            "deaths": self.deaths,
            "op": self.op,
            "method": self.method,
            "plugin": self.plugin,
            "version": self.version,
            "incident": self.incident,
        }

    def describe(self) -> dict[str, Any]:
        """For `status`."""
        names = ("method", "plugin", "version", "incident", "deaths")
        return {name: getattr(self, name) for name in names}


def count(store: Store, first_partition: int, sources: Iterable[list[int]], op: int) -> list[Image]:
    """Count the deaths that entry `op` tells of into the store; the images, which belong to the entry."""
    images = []
    for source in sources:
        if len(source) != 3:
            raise ValueError(f"a source of {len(source)} numbers in entry {op}")
        known = _read(store)
        key = (source[0], source[1], source[2])
        former = next((suspect for suspect in known.values() if suspect.source == key), None)
        if former is None:
            former = Suspect(_free(known, first_partition), key, 0, op)
        counted = replace(former, deaths=former.deaths + 1, op=op)
        image = Image(counted.oid, SUSPECT, 1, msgpack.packb(counted.fields()))
        store.put(image)
        images.append(image)
    return images


def _free(known: dict[int, Suspect], first_partition: int) -> int:
    for slot in range(SUSPECTS):
        oid = object_id(first_partition, SUSPECT_LOCAL + slot)
        if oid not in known:
            return oid
    return min(known, key=lambda oid: (known[oid].op, oid))


def _read(store: Store) -> dict[int, Suspect]:
    found = {}
    for image in store.images(SUSPECT):
        assert image.data is not None
        kept = msgpack.unpackb(image.data)
        boot, connection, sequence = kept.pop("source")
        found[image.oid] = Suspect(image.oid, (boot, connection, sequence), **kept)
    return found


class Suspects:
    """What is known when a worker becomes primary; none can be added while it is."""

    def __init__(self, store: Store) -> None:
        self._by_source = {suspect.source: suspect for suspect in _read(store).values()}
        self.any = bool(self._by_source)

    def get(self, boot: int, connection: int, sequence: int) -> Suspect | None:
        """What is known against a source."""
        return self._by_source.get((boot, connection, sequence))

    def all(self) -> list[Suspect]:
        """Everything known, for `status`."""
        return list(self._by_source.values())

    def named(self) -> list[Suspect]:
        """What was turned away, the last one first."""
        met = [suspect for suspect in self._by_source.values() if suspect.method]
        return sorted(met, key=lambda suspect: -suspect.op)

    def met(self, suspect: Suspect, ledger: Ledger) -> None:
        """Keep what a suspect was, in this turn."""
        self._by_source[suspect.source] = suspect
        ledger.write(ObjectId(suspect.oid), SUSPECT, suspect.fields())

    def release(self, incident: str, ledger: Ledger) -> list[Suspect]:
        """Forget what was quarantined under this incident, in this turn: it may run again."""
        found = [suspect for suspect in self._by_source.values() if incident and suspect.incident == incident]
        for suspect in found:
            del self._by_source[suspect.source]
            ledger.delete(ObjectId(suspect.oid), SUSPECT)
        self.any = bool(self._by_source)
        return found
