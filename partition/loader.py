"""Loading plugins: a folder with a `plugin.toml` and Python code becomes part of a table.

Guards two rules. A plugin that cannot be loaded changes nothing, and the error says file, line and
reason. Two plugins, or two versions of one, never share a module: each loading imports the folder
as a package with a name of its own, so that `from . import rules` finds the plugin's own file.
"""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from connserver.errors import PluginLoadError
from connserver.limits import PLUGIN_FILE_BYTES
from connserver.plugin.declare import Plugin
from partition.assembly import assemble
from partition.table import PluginTable

MANIFEST = "plugin.toml"
KEYS = frozenset({"name", "version", "language", "entry", "needs", "description"})
PACKAGE = "connserver_plugin"

_numbers = count(1)
_entry = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.py\Z").match


@dataclass(frozen=True, slots=True)
class Manifest:
    """What plugin.toml says. `needs`: plugins that have to be attached too."""

    folder: Path
    name: str
    version: str
    language: str
    entry: str
    needs: tuple[str, ...]


def load_plugins(folders: Iterable[Path]) -> PluginTable:
    """The table of the plugins in these folders; PluginLoadError, and then nothing was changed."""
    manifests = [read_manifest(Path(folder)) for folder in folders]
    names = {manifest.name for manifest in manifests}
    for manifest in manifests:
        for needed in manifest.needs:
            if needed not in names:
                raise _error(
                    manifest.folder, f"plugin {manifest.name} needs plugin {needed}, which is not attached"
                )
    before = set(sys.modules)
    try:
        return assemble([import_plugin(manifest) for manifest in manifests])
    except BaseException:
        for name in set(sys.modules) - before:
            if name.startswith(PACKAGE):
                del sys.modules[name]
        raise


def read_manifest(folder: Path) -> Manifest:
    """Read and check plugin.toml; PluginLoadError says what is wrong with it."""
    file = folder / MANIFEST
    try:
        if file.stat().st_size > PLUGIN_FILE_BYTES:
            raise _error(folder, f"it is larger than {PLUGIN_FILE_BYTES} bytes")
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PluginLoadError(f"{file}: cannot be read: {error.strerror}; is {folder} a plugin?") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _error(folder, str(error)) from None
    unknown = sorted(set(content) - KEYS)
    if unknown:
        raise _error(folder, f"{unknown[0]!r} is not known; a plugin has {', '.join(sorted(KEYS))}")
    for key in ("name", "version", "language", "entry"):
        if not isinstance(content.get(key), str) or not content[key]:
            raise _error(folder, f'{key} = "…" is missing')
    needs = content.get("needs", [])
    if not isinstance(needs, list) or not all(isinstance(name, str) for name in needs):
        raise _error(folder, 'needs is a list of plugin names: needs = ["chat"]')
    manifest = Manifest(
        folder.resolve(),
        content["name"],
        content["version"],
        content["language"],
        content["entry"],
        tuple(needs),
    )
    _check_language(manifest)
    return manifest


def _check_language(manifest: Manifest) -> None:
    if manifest.language == "c++":
        raise _error(manifest.folder, "plugins in C++ cannot be attached to this version; Python plugins can")
    if manifest.language != "python":
        raise _error(manifest.folder, f'language = {manifest.language!r} is not known; write "python"')
    if not _entry(manifest.entry):
        raise _error(
            manifest.folder, f"entry = {manifest.entry!r}: the name of a Python file in the folder is wanted"
        )
    if not (manifest.folder / manifest.entry).is_file():
        raise _error(manifest.folder, f"entry = {manifest.entry!r}: there is no such file in the folder")


def import_plugin(manifest: Manifest) -> Plugin:
    """Run the entry of a plugin under a module name of its own; PluginLoadError if that fails."""
    package = f"{PACKAGE}_{next(_numbers)}_{manifest.name.replace('-', '_')}"
    holder = ModuleType(package)
    holder.__path__ = [str(manifest.folder)]
    sys.modules[package] = holder
    importlib.invalidate_caches()
    # a source file saved twice within a second would be taken for its compiled former self
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        module = importlib.import_module(f"{package}.{Path(manifest.entry).stem}")
    except PluginLoadError as error:
        raise PluginLoadError(f"plugin {manifest.name}: {error}") from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginLoadError(_import_failure(manifest, error)) from None
    finally:
        sys.dont_write_bytecode = writes
    return _plugin_of(module, manifest)


def _import_failure(manifest: Manifest, error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}"
    file, line = manifest.folder / manifest.entry, 0
    if isinstance(error, SyntaxError) and error.filename:
        file, line, reason = Path(error.filename), error.lineno or 0, f"SyntaxError: {error.msg}"
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).is_relative_to(manifest.folder):
                file, line = Path(frame.filename), frame.lineno or 0
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and (manifest.folder / f"{error.name}.py").exists()
    ):
        reason += f"; files of the plugin are imported as `from . import {error.name}`"
    return f"plugin {manifest.name}: {file}:{line}: {reason}"


def _plugin_of(module: ModuleType, manifest: Manifest) -> Plugin:
    found: dict[int, Any] = {id(value): value for value in vars(module).values() if isinstance(value, Plugin)}
    if len(found) != 1:
        raise _error(
            manifest.folder,
            f"{manifest.entry} makes {len(found)} plugins; one is wanted: "
            f'plugin = Plugin("{manifest.name}", version="{manifest.version}")',
        )
    plugin: Plugin = next(iter(found.values()))
    if (plugin.name, plugin.version) != (manifest.name, manifest.version):
        raise _error(
            manifest.folder,
            f"it names {manifest.name} {manifest.version}, but {plugin.place.file}:{plugin.place.line} makes "
            f"{plugin.name} {plugin.version}",
        )
    return plugin


def _error(folder: Path, reason: str) -> PluginLoadError:
    return PluginLoadError(f"{folder / MANIFEST}: {reason}")
