"""`cs-cluster` with processes that do nothing: for tests of the supervisor alone."""

from __future__ import annotations

import os

from connserver.cli import main, up
from connserver.supervisor import shell

if __name__ == "__main__":
    up.PROGRAM = "fake_cluster"  # type: ignore[misc]
    shell.MODULES.clear()
    shell.MODULES.update(dict.fromkeys(("storage", "gossip", "worker", "gateway"), "fake_role"))
    if os.environ["FAKE_FORKING"] == "0":
        shell.can_fork = lambda: False
    main()
