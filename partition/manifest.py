"""What a plugin says of itself before any of its code runs: plugin.toml, read and checked.

Guards the rule that a folder is understood or refused by its manifest alone: name, version, language
and entry are plain, the entry lies inside the folder, and whatever is wrong is named with the file.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from connserver.errors import PluginLoadError
from connserver.limits import PLUGIN_FILE_BYTES

MANIFEST = "plugin.toml"
KEYS = frozenset({"name", "version", "language", "entry", "needs", "description"})
PYTHON, NATIVE, CLASSIC = "python", "c++", "classic"

VERSION_CHARS = 64

_name = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z").match
_python_file = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.py\Z").match
_path_inside = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*\Z").match

ENTRIES = {
    PYTHON: (_python_file, "the name of a Python file in the folder"),
    NATIVE: (_path_inside, "the name of a shared library in the folder"),
    CLASSIC: (_python_file, "the name of a Python file in the folder"),
}
"""What the entry of each language looks like, and how that is called."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What plugin.toml says. `needs`: plugins that have to be attached too."""

    folder: Path
    name: str
    version: str
    language: str
    entry: str
    needs: tuple[str, ...]

    def refuse(self, reason: str) -> NoReturn:
        """Raise the PluginLoadError that names this plugin.toml."""
        raise _error(self.folder, reason)


def read_manifest(folder: Path, *, built: bool = True) -> Manifest:
    """Read and check plugin.toml; PluginLoadError says what is wrong with it.

    `built`: the entry has to be there; who is about to compile it says no.
    """
    content = _read(folder)
    unknown = sorted(set(content) - KEYS)
    if unknown:
        raise _error(folder, f"{unknown[0]!r} is not known; a plugin has {', '.join(sorted(KEYS))}")
    for key in ("name", "version", "language", "entry"):
        if not isinstance(content.get(key), str) or not content[key]:
            raise _error(folder, f'{key} = "…" is missing')
    needs = content.get("needs", [])
    if not isinstance(needs, list) or not all(isinstance(name, str) for name in needs):
        raise _error(folder, 'needs is a list of plugin names: needs = ["chat"]')
    name, version, language, entry = (str(content[key]) for key in ("name", "version", "language", "entry"))
    if not _name(name):
        raise _error(folder, f"name = {name!r}: at most 32 of a-z, 0-9, '_', '-', a letter first")
    if len(version) > VERSION_CHARS or not version.isprintable():
        raise _error(folder, f"version: at most {VERSION_CHARS} printable characters are wanted")
    manifest = Manifest(folder.resolve(), name, version, language, entry, tuple(needs))
    _check_entry(manifest, built)
    return manifest


def _read(folder: Path) -> dict[str, object]:
    file = folder / MANIFEST
    try:
        if file.stat().st_size > PLUGIN_FILE_BYTES:
            raise _error(folder, f"it is larger than {PLUGIN_FILE_BYTES} bytes")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PluginLoadError(f"{file}: cannot be read: {error.strerror}; is {folder} a plugin?") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _error(folder, str(error)) from None


def _check_entry(manifest: Manifest, built: bool) -> None:
    if manifest.language not in ENTRIES:
        known = ", ".join(f'"{language}"' for language in ENTRIES)
        manifest.refuse(f"language = {manifest.language!r} is not known; it is one of {known}")
    fits, wanted = ENTRIES[manifest.language]
    if not fits(manifest.entry):
        manifest.refuse(f"entry = {manifest.entry!r}: {wanted} is wanted")
    if built and not (manifest.folder / manifest.entry).is_file():
        advice = (
            f"; make it: cs-cluster plugin build {manifest.folder}" if manifest.language == NATIVE else ""
        )
        manifest.refuse(f"entry = {manifest.entry!r}: there is no such file in the folder{advice}")


def _error(folder: Path, reason: str) -> PluginLoadError:
    return PluginLoadError(f"{folder / MANIFEST}: {reason}")
