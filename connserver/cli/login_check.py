"""Says whether one of the plugins decides who may log in: a process of its own, started by `check`.

Its arguments are those of every child; what is wrong is its last line, and then its exit status is 1.
"""

from __future__ import annotations

import subprocess
import sys

from connserver.cli.plugin_check import problem_of
from connserver.config import ClusterConfig
from connserver.process import child_config, child_parser

CHECK_S = 30.0
"""Plugins that take longer to load would hold up every worker as well."""


def login_problem(config: ClusterConfig) -> str:
    """What is wrong with `[auth] provider = "plugin"`, or ""; plugins run in another process for it."""
    command = [sys.executable, "-P", "-m", "connserver.cli.login_check", *config.child_arguments()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S, check=False)
    except subprocess.TimeoutExpired:
        return f"loading the plugins took more than {CHECK_S:g} s"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"loading the plugins ended with status {done.returncode}"


if __name__ == "__main__":
    found = problem_of(child_config(child_parser().parse_args()))
    if found:
        sys.exit(found)
