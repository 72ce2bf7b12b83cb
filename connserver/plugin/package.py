"""A plugin's folder as one piece of bytes with a digest: what travels, is kept and is staged.

Guards two rules. The digest is of names and contents alone, so that the same files are the same
version on every node and in every life. And a package is hostile until it is unpacked: its names lead
nowhere outside, its sizes are bounded before anything is written.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import msgpack

from connserver.errors import PluginLoadError
from connserver.limits import PLUGIN_BYTES, PLUGIN_FILES, PLUGIN_PACKED_BYTES

LEFT_OUT = frozenset({"__pycache__", "node_modules"})
"""Folders that are no part of a plugin, like everything whose name begins with a dot."""
DIGEST_BYTES = 16
SHOWN_DIGEST = 8
"""So many digits of a digest are shown: enough to tell versions apart."""
NAME_CHARS = 255

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Package:
    """`data`: the compressed files; `digest`: 32 hex digits."""

    digest: str
    data: bytes


def pack(folder: Path) -> Package:
    """The package of a folder; PluginLoadError if something in it cannot be part of one."""
    files: dict[str, bytes] = {}
    size = 0
    try:
        for path in _walk(folder):
            if len(files) == PLUGIN_FILES:
                raise _refused(folder, f"it has more than {PLUGIN_FILES} files")
            size += path.stat().st_size
            if size > PLUGIN_BYTES:
                raise _refused(folder, f"its files have more than {PLUGIN_BYTES} bytes")
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    except OSError as error:
        raise PluginLoadError(f"{error.filename}: cannot be read: {error.strerror}") from None
    data = zlib.compress(msgpack.packb(sorted(files.items())), 6)
    if len(data) > PLUGIN_PACKED_BYTES:
        raise _refused(folder, f"it is packed in {len(data)} bytes, and at most {PLUGIN_PACKED_BYTES} travel")
    return Package(digest_of(files), data)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in LEFT_OUT:
            continue
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise PluginLoadError(
                f"{path}: only files and folders are part of a plugin; replace it by a copy"
            )


def _refused(folder: Path, reason: str) -> PluginLoadError:
    return PluginLoadError(f"{folder}: {reason}; keep what is no code elsewhere")


def unpack(data: bytes) -> Files:
    """The files of a package by name; PluginLoadError for what is none."""
    if len(data) > PLUGIN_PACKED_BYTES:
        raise PluginLoadError(f"a package of {len(data)} bytes: at most {PLUGIN_PACKED_BYTES} are taken")
    engine = zlib.decompressobj()
    try:
        content = engine.decompress(data, PLUGIN_BYTES + PLUGIN_FILES * NAME_CHARS * 4)
        if not engine.eof:
            raise PluginLoadError(f"a package is cut off, or its files have more than {PLUGIN_BYTES} bytes")
        files = msgpack.unpackb(content)
    except (zlib.error, ValueError, msgpack.UnpackException) as error:
        raise PluginLoadError(f"a package cannot be read: {error}") from None
    if not isinstance(files, list) or len(files) > PLUGIN_FILES:
        raise PluginLoadError(f"a package holds no list of at most {PLUGIN_FILES} files")
    found: dict[str, bytes] = {}
    for row in files:
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], bytes) and _is_inside(row[0])):
            raise PluginLoadError("a package holds something that is no file of a plugin")
        found[row[0]] = row[1]
    if len(found) != len(files):
        raise PluginLoadError("a package holds two files of one name")
    return found


def _is_inside(name: object) -> bool:
    """Whether this is the plain name of a file below a folder, as `pack` gives them."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS or "\0" in name or "\\" in name:
        return False
    path = PurePosixPath(name)
    if path.is_absolute() or path.as_posix() != name:
        return False
    return not any(part.startswith(".") or part in LEFT_OUT for part in path.parts)


def digest_of(files: Files) -> str:
    """The digest of names and contents, in any order."""
    total = blake2b(digest_size=DIGEST_BYTES)
    for name, content in sorted(files.items()):
        for part in (name.encode(), content):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
    return total.hexdigest()
