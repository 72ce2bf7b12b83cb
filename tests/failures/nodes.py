"""A cluster of three nodes as on three machines: a supervisor, a folder and an address for each.

Guards two rules: what is done to a node reaches that node alone, for nodes share nothing but the network
and PostgreSQL; and whatever happens, `close` leaves no process, no namespace and no folder behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psutil

from connserver.cli.find import Admin
from connserver.config import ClusterConfig, Overrides, Places, load_cluster
from connserver.errors import ConnServerError
from tests.failures.database import Database
from tests.failures.network import Network, possible
from tests.failures.tampering import NODE, Tampering
from tests.integration.cluster import Mark, _die_with_the_tests, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
NODES: Final = ("n1", "n2", "n3")
GATEWAY_PORT: Final = 9_000
DEATH_WINDOW_S: Final = 60.0
_DEATH: Final = re.compile(r"^time=(\S+) .*event=process\.died name=(\S+)", re.MULTILINE)
START_S: Final = 60.0

CONFIGURATION: Final = """
[cluster]
name = "failures"
partition_groups = {groups}
insecure_network = true
[limits]
messages_per_s = 100000
bytes_per_s = 16777216
[auth]
allow_anonymous = true
resume_window_s = 3600
[storage]
dsn = "{dsn}"
[[plugins]]
path = "{plugin}"
{more}
"""


@dataclass
class Node:
    """One node: its supervisor and everything below it."""

    name: str
    address: str
    state: Path
    file: Path
    inside: list[str]
    program: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def folder(self) -> Path:
        """What the node keeps on its disk."""
        return self.state / "failures" / self.name

    def start(self) -> None:
        """Run `up` for this node without waiting for it."""
        assert self.process is None, f"{self.name} runs"
        given = ["--cluster", str(self.file), "--state-dir", str(self.state), "--node", self.name]
        command = [*self.inside, sys.executable, "-P", "-m", *self.program, *given, "up", "--json"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CS_")}
        own = {name: value.replace(NODE, self.name) for name, value in self.environment.items()}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=(self.state / "up.err").open("a"),
            text=True,
            env={**kept, "NO_COLOR": "1", **own},
            preexec_fn=_die_with_the_tests,
        )

    def wait_up(self, timeout_s: float = START_S) -> None:
        """Until `up` says that all is ready."""
        assert self.process is not None and self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        line = self.process.stdout.readline() if readable else ""
        assert line, f"{self.name} did not come up: {(self.state / 'up.err').read_text()[-2000:]}"
        json.loads(line)

    def everyone(self) -> list[Mark]:
        """The supervisor and all below it, the supervisor first."""
        found: list[Mark] = []
        if self.process is None:
            return found
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(Mark.of(process))
        return [mark for mark in found if mark.alive()]

    def pids(self) -> dict[str, int]:
        """Name → pid of the processes of the cluster that live, such as `w-n1-0`."""
        found = {}
        for mark in self.everyone():
            with contextlib.suppress(psutil.NoSuchProcess):
                name = psutil.Process(mark.pid).name()
                if name.startswith("cs:"):
                    found[name.removeprefix("cs:")] = mark.pid
        return found

    def bury(self) -> None:
        """Take notice of a supervisor that was killed, and wait until all below it is gone."""
        if self.process is None:
            return
        left = self.everyone()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        for mark in left:
            if mark.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(mark.pid, signal.SIGCONT)
        with contextlib.suppress(AssertionError):
            wait_for("the end of a node", lambda: not any(mark.alive() for mark in left), 8)
        for mark in left:
            if mark.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(mark.pid, signal.SIGKILL)

    def deaths(self) -> Counter[str]:
        """How often each process died in the last minute, as the living supervisor counts."""
        if self.process is None:
            return Counter()
        log = self.state / "failures" / "log" / "supervisor.log"
        since = max(time.time() - DEATH_WINDOW_S, psutil.Process(self.process.pid).create_time())
        rows = _DEATH.findall(log.read_text(errors="replace"))
        return Counter(name for at, name in rows if datetime.fromisoformat(at).timestamp() >= since)

    @contextlib.contextmanager
    def admin(self) -> Iterator[Admin]:
        """What commands on this node speak through."""
        config = self.config()
        with Admin(config, Places(config)) as admin:
            yield admin

    def config(self) -> ClusterConfig:
        """The configuration as this node reads it."""
        return load_cluster(self.file, environ={}, flags=Overrides(node=self.name, state_dir=self.state))


@dataclass
class World:
    """Three nodes, their network and their PostgreSQL."""

    folder: Path
    groups: int
    network: Network
    database: Database
    nodes: dict[str, Node]
    tampering: Tampering | None = None

    @property
    def gateways(self) -> list[tuple[str, int]]:
        """Where clients connect, in the order of the nodes."""
        return [(node.address, GATEWAY_PORT) for node in self.nodes.values()]

    def up(self, timeout_s: float = START_S) -> World:
        """Start every node that does not run, and wait for all groups."""
        started = [node for node in self.nodes.values() if node.process is None]
        for node in started:
            node.start()
        for node in started:
            node.wait_up(timeout_s)
        wait_for("all groups", self.in_full, timeout_s)
        return self

    def status(self, node: str = "") -> dict[str, Any] | None:
        """`status` with all details, of this node or of whichever answers; None if nobody does."""
        for name in (node,) if node else self.nodes:
            try:
                with self.nodes[name].admin() as admin:
                    found = admin.ask("status", verbose=True)
                assert isinstance(found, dict)
                return found
            except ConnServerError:
                continue
        return None

    def in_full(self) -> bool:
        """Every process is ready on every node, and every group has a primary that serves."""
        wanted = len(self.nodes) * (3 + self.groups)
        found = self.status()
        if found is None:
            return False
        rows = [row for row in found["processes"] if row["role"] != "storage"]
        ready = [row for row in rows if row["state"] == "ready"]
        served = [row for row in found["groups"] if row["primary"] and row["state"] == "ready"]
        return len(ready) == len(rows) >= wanted and len(served) == self.groups

    def primaries(self) -> dict[int, str]:
        """Group → node of its primary, as far as it is known now."""
        found = self.status()
        return {row["id"]: row["primary"] for row in found["groups"] if row["primary"]} if found else {}

    def views(self) -> dict[int, int]:
        """Group → view."""
        found = self.status()
        return {row["id"]: row["view"] for row in found["groups"]} if found else {}

    def commits(self) -> dict[int, int]:
        """Group → committed entries of its log; 0 for all while nobody answers."""
        found = self.status()
        return {row["id"]: row["commit"] for row in found["groups"]} if found else {0: 0}

    def pid(self, name: str) -> int:
        """The living process of this name, such as `w-n1-0`; 0 while there is none."""
        return self.nodes[name.split("-")[1]].pids().get(name, 0)

    def rest(self, deaths: int = 2) -> None:
        """Wait until no process has died more often in the last minute: at five it would be left down."""
        wait_for("a quiet minute", lambda: self._most_deaths() <= deaths, DEATH_WINDOW_S + 5)

    def _most_deaths(self) -> int:
        return max((count for node in self.nodes.values() for count in node.deaths().values()), default=0)

    def kill_all(self, everyone: list[Mark]) -> None:
        """SIGKILL of these, all that live on all nodes; nothing of them is left."""
        for mark in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(mark.pid, signal.SIGKILL)
        for node in self.nodes.values():
            node.bury()

    def close(self) -> None:
        """The end of everything."""
        self.network.mend_all()
        for node in self.nodes.values():
            node.bury()
        self.database.close()
        self.network.close()
        shutil.rmtree(self.folder)

    def quarrels(self) -> list[str]:
        """Errors in the nodes' logs: what an operator would have to read."""
        found = []
        for node in self.nodes.values():
            for log in sorted(node.state.glob("*/log/*.log")):
                lines = log.read_text(errors="replace").splitlines()
                found += [line for line in lines if "level=error" in line or line.startswith("Traceback")]
        return found


@contextlib.contextmanager
def tampered_world(**given: Any) -> Iterator[World]:
    """As `new_world`, of nodes that can be hurt from within."""
    tampering = Tampering()
    try:
        with new_world(**given, **tampering.given()) as world:
            yield world
    finally:
        tampering.close()


@contextlib.contextmanager
def new_world(
    *,
    groups: int = 4,
    program: Iterable[str] = ("connserver.cli",),
    environment: dict[str, str] | None = None,
    more: str = "",
    plugin: Path = HERE / "plugin",
    tampering: Tampering | None = None,
) -> Iterator[World]:
    """A world that is not up yet; ended and removed afterwards."""
    # Not pytest's own folder: that is private, and root's PostgreSQL runs under another account.
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    folder.chmod(0o711)
    network = Network(NODES, cuttable=possible())
    if tampering is not None:
        tampering.begin(NODES)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(network.close)
        database = Database(folder / "pg")
        file = folder / "cluster.toml"
        file.write_text(_configuration(network, database.dsn, groups, plugin, more))
        nodes = {}
        for name in NODES:
            (state := folder / name).mkdir(mode=0o711)
            nodes[name] = Node(
                name,
                network.address(name),
                state,
                file,
                network.inside(name),
                tuple(program),
                environment or {},
            )
        world = World(folder, groups, network, database, nodes, tampering)
        stack.pop_all()
        try:
            yield world
        finally:
            world.close()


def _configuration(network: Network, dsn: str, groups: int, plugin: Path, more: str) -> str:
    head = CONFIGURATION.format(groups=groups, dsn=dsn, plugin=plugin, more=more)
    rows = [
        f'[[nodes]]\nname = "{name}"\nhost = "{network.address(name)}"\n'
        f'gateways = ["{network.address(name)}:{GATEWAY_PORT}"]\n'
        for name in network.nodes
    ]
    return head + "\n".join(rows)


def until(what: str, look: Any, timeout_s: float) -> bool:
    """Wait for a true value; whether it came in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.02)
    return False
