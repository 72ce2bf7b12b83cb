"""Loads the plugins in a process of its own and says what is wrong with them: for `cs-cluster dev`.

A plugin runs its own code when it is loaded, so this is not done in the supervisor. What is wrong is
the last line of the process's log, and its exit status is 1.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

from connserver.errors import PluginLoadError
from connserver.process import ProcessOptions, run_spawned

# Named, not imported: this package imports none of the process packages.
load_plugins: Final = import_module("partition.loader").load_plugins


def main(options: ProcessOptions) -> int:
    """Load all of them together, as a worker does."""
    try:
        load_plugins([plugin.path for plugin in options.config.plugins])
    except PluginLoadError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_spawned(main)
