"""`cs-cluster` with a bug put into its workers (see tests/failures/controls.py), or with gossip processes
that can be hurt from within (see tests/failures/tampering.py)."""

from __future__ import annotations

import os

from connserver.cli import main, up
from connserver.supervisor import shell

if __name__ == "__main__":
    up.PROGRAM = "patched_cluster"  # type: ignore[misc]
    if "FAILURES_CONTROL" in os.environ:
        shell.MODULES["worker"] = "patched_worker"
    if "FAILURES_WRONG" in os.environ:
        shell.MODULES["gossip"] = "patched_gossip"
    main()
