"""Loading plugins: a folder with a `plugin.toml` and code becomes part of a table.

Guards two rules. A plugin that cannot be loaded changes nothing, and the error says file, line and
reason. Two plugins, or two versions of one, never share a module: each loading imports the folder
as a package with a name of its own, so that `from . import rules` finds the plugin's own file.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from connserver.errors import PluginLoadError
from connserver.plugin.declare import Plugin
from partition.assembly import assemble
from partition.manifest import CLASSIC, NATIVE, PYTHON, Manifest, read_manifest
from partition.table import PluginTable

__all__ = ["Manifest", "import_plugin", "load_manifest", "load_plugin", "load_plugins", "read_manifest"]

PACKAGE = "connserver_plugin"
HOSTS = {NATIVE: ("partition.native", "load_library"), CLASSIC: ("partition.classic", "load_module")}
"""Who loads what is not Python: a module and its function, from a Manifest to a Plugin."""

_numbers = count(1)


def load_plugins(folders: Iterable[Path]) -> PluginTable:
    """The table of the plugins in these folders; PluginLoadError, and then nothing was changed."""
    manifests = [read_manifest(Path(folder)) for folder in folders]
    names = {manifest.name for manifest in manifests}
    for manifest in manifests:
        for needed in manifest.needs:
            if needed not in names:
                manifest.refuse(f"plugin {manifest.name} needs plugin {needed}, which is not attached")
    before = set(sys.modules)
    try:
        return assemble([load_manifest(manifest) for manifest in manifests])
    except BaseException:
        for name in set(sys.modules) - before:
            if name.startswith(PACKAGE):
                del sys.modules[name]
        raise


def load_plugin(folder: Path) -> Plugin:
    """What the plugin in this folder declares, whatever it is written in; PluginLoadError."""
    return load_manifest(read_manifest(Path(folder)))


def load_manifest(manifest: Manifest) -> Plugin:
    """The same for a manifest that was read already."""
    if manifest.language == PYTHON:
        return import_plugin(manifest)
    module, function = HOSTS[manifest.language]
    try:
        # only who has such a plugin pays for its host, or needs to have it installed
        host = importlib.import_module(module)
    except ImportError as error:
        manifest.refuse(f"plugins with language = {manifest.language!r} cannot be attached here: {error}")
    plugin: Plugin = getattr(host, function)(manifest)
    _check_names(plugin, manifest)
    return plugin


def import_plugin(manifest: Manifest) -> Plugin:
    """Run the entry of a plugin under a module name of its own; PluginLoadError if that fails."""
    return _plugin_of(import_module(manifest), manifest)


def import_module(manifest: Manifest) -> ModuleType:
    """The same for the module itself, whatever is in it."""
    package = f"{PACKAGE}_{next(_numbers)}_{manifest.name.replace('-', '_')}"
    holder = ModuleType(package)
    holder.__path__ = [str(manifest.folder)]
    sys.modules[package] = holder
    importlib.invalidate_caches()
    # a source file saved twice within a second would be taken for its compiled former self
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        return importlib.import_module(f"{package}.{Path(manifest.entry).stem}")
    except PluginLoadError as error:
        raise PluginLoadError(f"plugin {manifest.name}: {error}") from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginLoadError(_import_failure(manifest, error)) from None
    finally:
        sys.dont_write_bytecode = writes


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
        manifest.refuse(
            f"{manifest.entry} makes {len(found)} plugins; one is wanted: "
            f'plugin = Plugin("{manifest.name}", version="{manifest.version}")'
        )
    plugin: Plugin = next(iter(found.values()))
    _check_names(plugin, manifest)
    return plugin


def _check_names(plugin: Plugin, manifest: Manifest) -> None:
    if (plugin.name, plugin.version) != (manifest.name, manifest.version):
        manifest.refuse(
            f"it names {manifest.name} {manifest.version}, but {plugin.place.file}:{plugin.place.line} makes "
            f"{plugin.name} {plugin.version}"
        )
