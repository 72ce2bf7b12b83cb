"""Loads the plugins in a process of its own and says what is wrong with them: for `cs-cluster dev`, and
for `check` where a plugin decides who may log in.

A plugin runs its own code when it is loaded, so this is not done in the supervisor. What is wrong is
the last line of the process's log, and its exit status is 1.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

from connserver.config import ClusterConfig
from connserver.errors import PluginLoadError
from connserver.process import ProcessOptions, run_spawned

# Named, not imported: this package imports none of the process packages.
load_plugins: Final = import_module("partition.loader").load_plugins


def problem_of(config: ClusterConfig) -> str:
    """Load all of them together, as a worker does; what is wrong, in a line, or ""."""
    try:
        table = load_plugins([plugin.path for plugin in config.plugins])
        if config.auth.provider == "plugin":
            table.require_login()
    except PluginLoadError as error:
        return str(error).replace("\n", " ")
    return ""


def main(options: ProcessOptions) -> int:
    """As a process of the supervisor's."""
    problem = problem_of(options.config)
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    run_spawned(main)
