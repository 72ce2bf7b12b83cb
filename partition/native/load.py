"""Loading a library: looked at, copied, compared with what is there, and only then run.

Guards two rules. What was checked is what is loaded: the dynamic linker gets a copy in memory, so that a
library can be built anew while it runs, and two versions under one path are two libraries. And nothing is
merged silently: see `partition.native.collisions`. A library stays until its process ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connserver.errors import PluginLoadError
from connserver.limits import NATIVE_LIBRARY_BYTES
from connserver.native.build import host_library
from connserver.plugin.declare import Plugin
from connserver.telemetry import get_logger
from partition.native.bridge import OPERATIONS
from partition.native.collisions import Loaded, compare
from partition.native.dependencies import mapped_files, needed_files
from partition.native.elf import Elf, read_elf
from partition.native.table import Table, make_plugin

if TYPE_CHECKING:
    from partition.manifest import Manifest

log = get_logger(__name__)

Open = Callable[[bytes, tuple[Callable[..., Any], ...]], Table]

_loaded: list[Loaded] = []
"""Every library of a plugin in this process."""
_brought: set[str] = set()
"""Sonames of what they brought along."""
_kept: list[Any] = []
"""What has to stay because libraries use it: the host, their copies, their dependencies."""
_open: Open | None = None


def load_library(manifest: Manifest) -> Plugin:
    """The plugin in the library that a manifest names; PluginLoadError, and then none of it is used."""
    path = manifest.folder / manifest.entry
    title = f"{manifest.name} {manifest.version} ({path})"
    try:
        open_library = _host()
        data = _read(path)
        elf = read_elf(data, platform.machine())
        _refuse_collisions(elf, title, path.parent)
        table = open_library(_copy(path.name, data), OPERATIONS)
    except ValueError as error:
        raise PluginLoadError(f"plugin {manifest.name}: {path}: {error}") from None
    except OSError as error:
        # the dynamic linker's sentences name the missing library or symbol
        raise PluginLoadError(f"plugin {manifest.name}: {path}: {error.strerror or error}") from None
    _loaded.append(Loaded(title, elf))
    return make_plugin(table, path)


def _host() -> Open:
    """The host's function that loads a library, loaded itself when it is first needed."""
    global _open
    if _open is None:
        host = ctypes.PyDLL(os.fspath(host_library()))
        host.connserver_host.restype = ctypes.py_object
        _kept.append(host)
        _open = host.connserver_host()
    return _open


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(NATIVE_LIBRARY_BYTES + 1)
    if len(data) > NATIVE_LIBRARY_BYTES:
        raise ValueError(f"it is larger than {NATIVE_LIBRARY_BYTES} bytes")
    return data


def _refuse_collisions(elf: Elf, title: str, folder: Path) -> None:
    """Look at what would be merged; ValueError for what must not be. Then load what it brings along."""
    needed = needed_files(elf, folder)
    own = [file for file in needed.values() if file is not None]
    # looking through all libraries of the process takes a moment, and most plugins bring nothing
    mapped = mapped_files() if own or _brought.intersection(needed) else {}
    program = ctypes.CDLL(None)
    report = compare(
        elf,
        _loaded,
        needed=needed,
        mapped=mapped,
        brought=_brought,
        in_program=lambda name: hasattr(program, name),
    )
    for note in report.notes:
        log.warning("plugin.shared_symbols", library=title, note=note)
    if report.refusals:
        raise ValueError("; ".join(report.refusals))
    for soname, file in needed.items():
        if file is not None:
            # under its own path, so that $ORIGIN means in it what it says; the library finds it by its soname
            _kept.append(ctypes.CDLL(file.path, mode=os.RTLD_NOW | os.RTLD_LOCAL))
            _brought.add(soname)


def _copy(name: str, data: bytes) -> bytes:
    """A copy in memory that nobody can change any more: its path for the dynamic linker."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    # kept open: the linker takes a path that it has seen for the library that it has loaded from there
    _kept.append(descriptor)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return b"/proc/self/fd/%d" % descriptor
