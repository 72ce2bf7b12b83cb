"""Which request was running when a worker died, and whether it may run again.

Guards the group against a request that kills its worker. A death is in the log: whoever applies that
entry counts it into an object of the group, the same on every replica. A source that was running at
DEATHS deaths is quarantined by whoever is primary. Ticks are counted, and run nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgpack

from connserver.ids import object_id
from connserver.messages import Image
from connserver.running import Source
from partition.objects import Store

SUSPECT = "cs.suspect"

SUSPECT_LOCAL = 0x3_0000
"""Where, in a group's first partition, suspects are kept."""

SUSPECTS = 63
"""Most that are kept; a new one takes the place of the one that was suspected longest ago."""

DEATHS = 2
"""Deaths of a worker under one source before it is quarantined."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """What was running when workers died, how often, and the op that told of the last time."""

    source: Source
    deaths: int
    op: int

    @property
    def quarantined(self) -> bool:
        """Whether it must not run again."""
        return self.deaths >= DEATHS and self.source != (0, 0, 0)


def count(store: Store, first_partition: int, sources: Iterable[list[int]], op: int) -> list[Image]:
    """Count the deaths that entry `op` tells of into the store; the images, which belong to the entry."""
    images = []
    for source in sources:
        if len(source) != 3:
            raise ValueError(f"a source of {len(source)} numbers in entry {op}")
        known = _read(store)
        key = (source[0], source[1], source[2])
        oid = next((oid for oid, suspect in known.items() if suspect.source == key), None)
        deaths = known[oid].deaths + 1 if oid is not None else 1
        if oid is None:
            oid = _free(known, first_partition)
        fields = {"source": list(key), "deaths": deaths, "op": op}
        image = Image(oid, SUSPECT, 1, msgpack.packb(fields))
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
        boot, connection, sequence = kept["source"]
        found[image.oid] = Suspect((boot, connection, sequence), kept["deaths"], kept["op"])
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
