"""What shipped shells ask of the operating system, answered by the world.

Guards two rules: a run depends on its seed alone, so clocks, random numbers, process ids, sockets,
threads and PostgreSQL are the world's; and nothing else is replaced. What decides is shipped.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import random
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from connserver import driver, running, sockets
from connserver.config import ClusterConfig
from connserver.ids import group_range
from connserver.plugin.package import Package, digest_of, pack, unpack
from partition import holding, loading, plugins_desk, promotion, worker
from partition.clock import SteadyClock
from partition.loader import load_plugins
from partition.manifest import read_manifest
from partition.plugins_choice import Choice
from partition.plugins_desk import PluginDesk
from partition.plugins_loading import PluginShelf, Repertoire, patience_of
from partition.plugins_stage import Stage, Staged
from partition.table import PluginTable
from tests.simulation.whole.archiver import SimulatedArchiver, open_snapshot
from tests.simulation.whole.processes import Process
from tests.simulation.whole.wires import Context

if TYPE_CHECKING:
    from tests.simulation.whole.world import WholeWorld


class Page(bytearray):
    """Memory that is shared with whoever knows its path."""

    def size(self) -> int:
        """Its descriptor is always there."""
        return len(self)

    def close(self) -> None:
        """It stays: whoever asks for the path again gets it."""


class Untimed:
    """Stands in for `partition.deadline.Deadline`: no callback of the simulation runs for long."""

    def __init__(self, limit_s: float, overdue: Callable[[], bool]) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Incidents:
    """Stands in for the file of incidents."""

    def __init__(self, folder: Path, node: str) -> None:
        self._node = node

    def record(self, incident: str, text: str) -> None:
        """Only that it happened is noted; a defect of ours shows as one that is not the plugin's."""
        process = Process.current
        assert process is not None
        process.world.note(f"{process.name} incident {text.strip().splitlines()[-1]}")
        if "slipped" not in text:
            process.world.checkers.violation(f"an incident that no plugin made:\n{text}")

    def opened(self, text: str) -> str:
        """What is quarantined is noted; the workers of this world are killed whatever they run."""
        process = Process.current
        assert process is not None
        process.world.note(f"{process.name} incident {text.strip().splitlines()[0]}")
        return "x"

    def failed(self, what: str, failure: BaseException) -> str:
        """As above."""
        self.record("x", f"{what}\n{failure!r}")
        return "x"


class Lines(logging.Handler):
    """Log lines of the processes become lines of the trace."""

    def emit(self, record: logging.LogRecord) -> None:
        process = Process.current
        if process is not None and process.world.lines is not None:
            fields = record.__dict__.get("connserver_fields", {})
            process.world.lines.append(
                f"{process.world.now:9.4f} {process.name} | {record.getMessage()} {fields}"
            )


@cache
def _table(folders: tuple[Path, ...]) -> PluginTable:
    return load_plugins(folders)


@cache
def _package(folder: Path) -> Package:
    return pack(folder)


@cache
def _staged(data: bytes, source: str) -> Staged:
    return Staged(read_manifest(Path(source)), digest_of(unpack(data)), source)


class Shelf(PluginShelf):
    """Stands in for a worker's copies: loaded once, since a table holds nothing that changes."""

    def stage(self, data: bytes, source: str) -> Staged:
        """Where it came from is where it is."""
        return _staged(data, source)

    def load(self, choice: Choice, code: Mapping[str, bytes]) -> Repertoire:
        """As the state says, so that a choice which was lost or mixed up shows."""
        table = _table(tuple(Path(row.chosen.folder) for row in choice.rows))
        return Repertoire(choice, table, patience_of(choice, {}))

    def tidy(self, digests: Set[str]) -> None:
        """There is nothing to remove."""


def desk_of(config: ClusterConfig, node_dir: Path, group: int) -> PluginDesk:
    """A worker's desk with such a shelf."""
    configured = [(one.path, one.handler_timeout_ms) for one in config.plugins if one.in_group(group)]
    first_partition = group_range(group, config.cluster.partition_groups)[0]
    return PluginDesk(first_partition, Shelf(Stage(node_dir), {}), configured)


def _now(read: Callable[[Process], float], otherwise: Callable[[], float]) -> Callable[[], float]:
    def clock() -> float:
        process = Process.current
        return read(process) if process is not None else otherwise()

    return clock


def clocked(owner: Any, clocks: dict[Any, Any]) -> tuple[Any, ...]:
    """The defaults of a constructor with the world's clocks among them."""
    defaults = owner.__init__.__defaults__
    assert any(default in clocks for default in defaults if callable(default)), owner
    return tuple(clocks.get(value, value) if callable(value) else value for value in defaults)


@contextmanager
def surroundings(world: WholeWorld) -> Iterator[None]:
    """Everything that runs inside lives in this world."""
    monotonic = _now(lambda process: process.clock(), time.monotonic)
    wall = _now(lambda process: process.wall(), time.time)
    pages: dict[Path, Page] = {}
    dice = world.random

    def bits(count: int) -> int:
        return dice.getrandbits(count)

    def process_id() -> int:
        assert Process.current is not None
        return Process.current.pid

    def context() -> Context:
        assert Process.current is not None
        return Context(world.wires, Process.current)

    def fresh_random() -> random.Random:
        return random.Random(dice.getrandbits(64))

    clocks = {time.time: wall, time.monotonic: monotonic}
    patches: list[tuple[Any, str, Any]] = [
        (time, "time", wall),
        (time, "monotonic", monotonic),
        (time, "perf_counter", monotonic),
        (driver.Flush.__init__, "__defaults__", clocked(driver.Flush, clocks)),
        (SteadyClock.__init__, "__defaults__", clocked(SteadyClock, clocks)),
        (secrets, "randbits", bits),
        (secrets, "token_hex", lambda size: dice.getrandbits(8 * size).to_bytes(size, "big").hex()),
        (os, "urandom", lambda size: dice.getrandbits(8 * size).to_bytes(size, "big")),
        (os, "getpid", process_id),
        (gc, "freeze", lambda: None),
        (gc, "set_threshold", lambda *numbers: None),
        (faulthandler, "dump_traceback_later", lambda *arguments, **named: None),
        (sockets, "context", context),
        (running, "_map", lambda path, flags: pages.setdefault(path, Page(4096))),
        (promotion, "random", SimpleNamespace(Random=fresh_random)),
        (promotion, "Deadline", Untimed),
        (worker, "IncidentFile", Incidents),
        (worker, "plugin_desk", desk_of),
        (plugins_desk, "pack", _package),
        (holding, "Archiver", SimulatedArchiver),
        (loading, "open_snapshot", open_snapshot),
    ]
    root = logging.getLogger()
    lines = Lines()
    with ExitStack() as stack:
        # what a process had begun when it was killed
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for target, attribute, value in patches:
            stack.enter_context(patch.object(target, attribute, value))
        if world.lines is not None:
            level = root.level
            root.addHandler(lines)
            root.setLevel(logging.INFO)
            stack.callback(root.setLevel, level)
            stack.callback(root.removeHandler, lines)
        else:
            disabled = logging.root.manager.disable
            logging.disable(logging.CRITICAL)
            stack.callback(logging.disable, disabled)
        yield
