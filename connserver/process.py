"""What a process of the cluster gets from its supervisor, and how the two notice each other.

Guards one rule: no process outlives its supervisor. A child holds the read end of the *lifeline*, a
pipe whose only writer is the supervisor; end of file on it means the supervisor is gone, however it
went, and is treated like SIGTERM. The other way, readiness is one line on the status pipe.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from connserver.config import ClusterConfig, Places

ENTRY_MODULES: Final = {"gossip": "gossip.daemon", "worker": "partition.worker", "gateway": "gateway.server"}
"""Where each role's `main(options) -> int` lives; named only, since this package imports none of them."""

START_ANEW: Final = 75
"""Exit status: the process asks to be started again at once; that is no failure."""

STATUS_REASON_CHARS: Final = 400
"""Longest reason in a status line, so that a line always fits into one atomic pipe write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """All that one process of the cluster is told. `role` is "gossip", "worker", "gateway" or "storage"."""

    role: str
    node: str
    name: str
    config: ClusterConfig
    places: Places
    group: int = -1
    listen: str = ""
    lifeline_fd: int = -1
    status_fd: int = -1
    storage_dsn: str = ""

    def as_document(self) -> dict[str, Any]:
        """What `from_document` needs besides the configuration; holds the DSN, so it goes by pipe only."""
        names = ("role", "node", "name", "group", "listen", "lifeline_fd", "status_fd", "storage_dsn")
        return {name: getattr(self, name) for name in names}


def from_document(document: dict[str, Any], config: ClusterConfig) -> ProcessOptions:
    """The options of a child, from the supervisor's document and the configuration it read itself."""
    from connserver.config import Places

    return ProcessOptions(config=config, places=Places(config), **document)


class Lifeline:
    """A child's tie to its supervisor: calls `on_stop(reason)` exactly once, in the loop.

    The reasons are SIGTERM, SIGINT and the end of the supervisor. Needs the main thread.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: ProcessOptions, on_stop: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._options = options
        self._on_stop = on_stop
        self._said: dict[str, Any] = {}
        self._stopping = False
        self._closed = False
        loop.add_signal_handler(signal.SIGTERM, self._stop, "asked to stop (SIGTERM)")
        loop.add_signal_handler(signal.SIGINT, self._stop, "asked to stop (SIGINT)")
        if options.lifeline_fd >= 0:
            loop.add_reader(options.lifeline_fd, self._lifeline_readable)

    def ready(self, endpoint: str = "") -> None:
        """Tell the supervisor that this process serves, at `endpoint` if it has one."""
        self._say({"ready": True, "endpoint": endpoint})

    def waiting(self, reason: str) -> None:
        """Tell the supervisor what this process waits for before it can be ready; shown by `up`."""
        self._say({"waiting": reason[:STATUS_REASON_CHARS]})

    def close(self) -> None:
        """Let go of signals and pipes; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_signal_handler(signal.SIGTERM)
        self._loop.remove_signal_handler(signal.SIGINT)
        if self._options.lifeline_fd >= 0:
            self._loop.remove_reader(self._options.lifeline_fd)
        if self._options.status_fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._options.status_fd)

    def _say(self, line: dict[str, Any]) -> None:
        if self._closed or self._options.status_fd < 0 or line == self._said:
            return
        self._said = line
        # A supervisor that is gone is noticed by the lifeline, not here.
        with contextlib.suppress(OSError):
            os.write(self._options.status_fd, json.dumps(line).encode() + b"\n")

    def _lifeline_readable(self) -> None:
        try:
            gone = not os.read(self._options.lifeline_fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            self._loop.remove_reader(self._options.lifeline_fd)
            self._stop("the supervisor is gone")

    def _stop(self, reason: str) -> None:
        if not self._stopping and not self._closed:
            self._stopping = True
            self._on_stop(reason)


def run(options: ProcessOptions, main: Callable[[ProcessOptions], int]) -> int:
    """Run a role's main with telemetry set up; the exit status for the process."""
    from connserver import telemetry

    log = options.config.log
    telemetry.configure(
        role=options.role, node=options.node, name=options.name, format=log.format, level=log.level
    )
    return main(options)


def child_parser() -> argparse.ArgumentParser:
    """Reads `ClusterConfig.child_arguments()`; a program may add arguments of its own."""
    parser = argparse.ArgumentParser(description="Started by cs-cluster up, not by hand.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--log-level")
    parser.add_argument("--log-format")
    return parser


def child_config(given: argparse.Namespace) -> ClusterConfig:
    """The configuration that the arguments of `child_parser` name."""
    from connserver.config import Overrides, load_cluster

    flags = Overrides(state_dir=given.state_dir, log_level=given.log_level, log_format=given.log_format)
    return load_cluster(given.config, flags=flags)


def run_spawned(main: Callable[[ProcessOptions], int]) -> NoReturn:
    """The body of `python -P -m gateway …` and its like, used where processes cannot be forked.

    The options come as one JSON line on standard input, because a DSN on a command line can be read
    by every user of the machine.
    """
    parser = child_parser()
    given = parser.parse_args()
    line = sys.stdin.buffer.readline()
    if not line:
        parser.error("no options on standard input: this program is started by `cs-cluster up`")
    sys.exit(run(from_document(json.loads(line), child_config(given)), main))
