"""Loads the plugins in a process of its own and says what is wrong with them: for `cs-cluster dev`, and
for `check` where a plugin decides who may log in.

For `dev`, plugins in C++ whose sources are newer than their library are compiled first.

A plugin runs its own code when it is loaded, so this is not done in the supervisor. What is wrong is
the last line of the process's log, and its exit status is 1.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

from connserver.config import ClusterConfig
from connserver.errors import PluginLoadError
from connserver.native.build import build_plugin, is_stale
from connserver.process import ProcessOptions, run_spawned

# Named, not imported: this package imports none of the process packages.
load_plugins: Final = import_module("partition.loader").load_plugins
read_manifest: Final = import_module("partition.manifest").read_manifest


def problem_of(config: ClusterConfig) -> str:
    """Load all of them together, as a worker does; what is wrong, in a line, or ""."""
    try:
        table = load_plugins([plugin.path for plugin in config.plugins])
        if config.auth.provider == "plugin":
            table.require_login()
    except PluginLoadError as error:
        return shortened(str(error))
    return ""


def compile_problem_of(config: ClusterConfig) -> str:
    """Compile the plugins whose sources are newer than their library; what is wrong, in a line, or ""."""
    try:
        for plugin in config.plugins:
            manifest = read_manifest(plugin.path, built=False)
            if manifest.language == "c++" and is_stale(manifest.folder, manifest.entry):
                build_plugin(manifest.folder, manifest.entry)
    except PluginLoadError as error:
        return shortened(str(error))
    return ""


def main(options: ProcessOptions) -> int:
    """As a process of the supervisor's."""
    problem = compile_problem_of(options.config) or problem_of(options.config)
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


def shortened(words: str) -> str:
    """An error in one line: of a compiler's words, the first fault."""
    faults = [line for line in words.splitlines() if "error: " in line or "undefined reference" in line]
    return faults[0].strip() if faults else words.replace("\n", " ")


if __name__ == "__main__":
    run_spawned(main)
