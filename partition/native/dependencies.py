"""Which files a library's dependencies are, and which the process has already.

Guards the rule that a dependency is named before it is loaded: the dynamic linker takes any library of the
right soname that is there, whatever file it came from. What a library finds in search folders of its own
(DT_RUNPATH, DT_RPATH, with $ORIGIN) is its own; everything else is the system's.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partition.native.collisions import File
from partition.native.elf import Elf, read_elf

MAPS: Final = Path("/proc/self/maps")
MOST_OWN: Final = 256
"""Libraries that one plugin may bring along."""


def read_file(path: Path) -> tuple[Elf, File]:
    """A library's dynamic section and identity; ValueError or OSError if it cannot be read."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size == 0:
            raise ValueError("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            elf = read_elf(memory, platform.machine())
    return elf, File(os.path.realpath(path), (status.st_dev, status.st_ino))


def needed_files(elf: Elf, folder: Path) -> dict[str, File | None]:
    """Soname → the file of its own that a library and those of its own need; None: the system's.

    In an order in which they can be loaded: each after what it needs itself.
    """
    found: dict[str, File | None] = {}
    _add_needed(elf, folder, found)
    return found


def _add_needed(elf: Elf, folder: Path, found: dict[str, File | None]) -> None:
    for soname in elf.needed:
        if soname in found:
            continue
        own = _search(soname, elf.search, folder)
        found[soname] = None
        if own is None:
            continue
        if len(found) > MOST_OWN:
            raise ValueError(f"it needs more than {MOST_OWN} libraries")
        inner, file = read_file(own)
        _add_needed(inner, own.parent, found)
        del found[soname]
        found[soname] = file


def _search(soname: str, search: tuple[str, ...], folder: Path) -> Path | None:
    for place in search:
        place = place.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", os.fspath(folder))
        path = Path(place) / soname
        if Path(place).is_absolute() and path.is_file():
            return path
    return None


def mapped_files() -> dict[str, File]:
    """Soname → file of every library in this process."""
    found: dict[str, File] = {}
    for path in sorted(_mapped_paths()):
        with contextlib.suppress(OSError, ValueError):
            elf, file = read_file(path)
            found.setdefault(elf.soname or path.name, file)
    return found


def _mapped_paths() -> Iterator[Path]:
    seen = set()
    for line in MAPS.read_text(errors="surrogateescape").splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5].startswith("/") and ".so" in parts[5] and parts[5] not in seen:
            seen.add(parts[5])
            yield Path(parts[5])
