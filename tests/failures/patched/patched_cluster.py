"""`cs-cluster` whose workers have a bug put in; see tests/failures/controls.py."""

from __future__ import annotations

from connserver.cli import main, up
from connserver.supervisor import shell

if __name__ == "__main__":
    up.PROGRAM = "patched_cluster"  # type: ignore[misc]
    shell.MODULES["worker"] = "patched_worker"
    main()
