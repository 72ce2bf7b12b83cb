"""Clusters for tests, started as a user starts them, each with its own folder, ports and end.

`cluster` is one per test module: three nodes, four partition groups, the plugins of this repository.
Whatever a test does, the supervisor is stopped by its pid and nothing of it is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from connserver.supervisor.forkserver import PR_SET_PDEATHSIG, process_control

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "integration" / "fakes"
START_S = 60.0
"""For a cluster to be ready on a machine that has other things to do."""
STOP_S = 50.0

T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float = 10.0) -> T:
    """The first true value of `look`; AssertionError naming `what` if none comes in time."""
    until = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class Mark:
    """A process, told apart from a later one of the same pid."""

    pid: int
    created: float

    @classmethod
    def of(cls, process: psutil.Process) -> Mark:
        return cls(process.pid, process.create_time())

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass
class Cluster:
    """A cluster's folder and, between `up` and `down`, its processes."""

    folder: Path
    ports: list[int]
    program: tuple[str, ...] = ("connserver.cli",)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    table: list[dict[str, Any]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "cluster.toml"

    @property
    def command(self) -> list[str]:
        given = ["--cluster", str(self.file), "--state-dir", str(self.folder / "state")]
        return [sys.executable, "-P", "-m", *self.program, *given]

    @property
    def gateways(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", port) for port in self.ports]

    @property
    def log_dir(self) -> Path:
        (folder,) = (self.folder / "state").glob("*/log")
        return folder

    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CS_")}
        return {**kept, "NO_COLOR": "1", **self.environment}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run `up` without waiting for anything."""
        self.process = subprocess.Popen(
            [*self.command, "up", *arguments],
            stdout=subprocess.PIPE,
            stderr=(self.folder / "up.err").open("a"),
            text=True,
            env=self.environ(),
            preexec_fn=_die_with_the_tests,
        )
        return self.process

    def up(self, *arguments: str, timeout_s: float = START_S) -> Cluster:
        """Run `up` and wait until it says that all is ready."""
        process = self.start("--json", *arguments)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], timeout_s)
        line = process.stdout.readline() if readable else ""
        if not line:
            self.kill()
        assert line, f"up did not become ready: {self.errors()}"
        self.table = json.loads(line)["processes"]
        return self

    def errors(self) -> str:
        """What `up` wrote on standard error."""
        return (self.folder / "up.err").read_text()

    def down(self, number: int = signal.SIGTERM) -> int:
        """Stop the supervisor by its pid, in order; its exit status."""
        assert self.process is not None
        below = self.below()
        self.process.send_signal(number)
        try:
            status = self.process.wait(STOP_S)
        finally:
            self.kill()
        left = [mark for mark in below if mark.alive()]
        assert not left, f"left after a stop in order: {left}"
        return status

    def kill(self) -> None:
        """End what is left, if anything is."""
        if self.process is not None:
            below = self.below()
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None
            wait_for("the end of all processes", lambda: not any(mark.alive() for mark in below))

    def below(self) -> list[Mark]:
        """All processes that the supervisor and its own have made and that are alive."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            assert self.process is not None
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(Mark.of(process))
        return found

    def named(self) -> dict[str, int]:
        """Process name → pid of what the fork server has made."""
        found = {}
        for mark in self.below():
            with contextlib.suppress(psutil.NoSuchProcess):
                name = psutil.Process(mark.pid).name()
                if name.startswith("cs:"):
                    found[name.removeprefix("cs:")] = mark.pid
        return found

    def cli(
        self, *arguments: str, given: str = "", timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command about this cluster."""
        return subprocess.run(
            [*self.command, *arguments],
            input=given,
            capture_output=True,
            text=True,
            env=self.environ(),
            timeout=timeout_s,
            check=False,
        )

    def ask(self, *arguments: str) -> Any:
        """What a command says with --json."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def status(self) -> dict[str, Any]:
        """`cs-cluster status --json`."""
        answer = self.ask("status")
        assert isinstance(answer, dict)
        return answer

    def pid(self, name: str) -> int:
        """The pid of a process, as `status` has it."""
        return next(int(row["pid"]) for row in self.status()["processes"] if row["name"] == name)

    def serves(self) -> bool:
        """Whether a client's call is carried out now."""
        return self.cli("send", '{"msg":"room.join","room":"lobby"}').returncode == 0


def configuration(
    ports: list[int], *, groups: int, plugins: list[Path], more: str = "", gateways: int = 1
) -> str:
    """A cluster.toml with a node per so many ports, and a gateway on it per port."""
    nodes = [
        f'[[nodes]]\nname = "n{number}"\ngateways = {json.dumps([f"127.0.0.1:{port}" for port in own])}\n'
        for number, own in enumerate(zip(*[iter(ports)] * gateways, strict=True), start=1)
    ]
    attached = [f'[[plugins]]\npath = "{path}"\n' for path in plugins]
    head = f'[cluster]\nname = "test"\npartition_groups = {groups}\n'
    return "\n".join([head, *nodes, *attached, more])


def _die_with_the_tests() -> None:
    # Also when the tests are killed, and their fixtures with them.
    process_control(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def new_cluster(
    *,
    nodes: int = 3,
    groups: int = 4,
    plugins: list[Path] | None = None,
    more: str = "",
    gateways: int = 1,
) -> Iterator[Cluster]:
    """A cluster that is not started yet; stopped, if it was, and removed at the end."""
    # Not pytest's own folder: that is private, and root's PostgreSQL runs under another account.
    folder = Path(tempfile.mkdtemp(prefix="cs-test-"))
    folder.chmod(0o711)
    ports = free_ports(nodes * gateways)
    attached = shipped_plugins() if plugins is None else plugins
    text = configuration(ports, groups=groups, plugins=attached, more=more, gateways=gateways)
    made = Cluster(folder, ports)
    made.file.write_text(text)
    try:
        yield made
    finally:
        made.kill()
        if any(held(lock) for lock in folder.glob("state/*/lock")):
            made.cli("down")
        shutil.rmtree(folder)


def held(lock: Path) -> bool:
    """Whether a supervisor holds this lock: one that runs in the background."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def shipped_plugins() -> list[Path]:
    """The sample plugins of this repository that need no compiler."""
    found = sorted(path.parent for path in (ROOT / "plugins").glob("*/plugin.toml"))
    return [path for path in found if 'language = "c++"' not in (path / "plugin.toml").read_text()]


@contextlib.contextmanager
def new_fake_cluster(*, nodes: int = 1, groups: int = 2, forking: bool = True) -> Iterator[Cluster]:
    """The supervisor and the fork server as they are, over processes that do nothing."""
    with new_cluster(nodes=nodes, groups=groups, plugins=[]) as made:
        made.program = ("fake_cluster",)
        made.environment = {"PYTHONPATH": str(FAKES), "FAKE_FORKING": str(int(forking))}
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A running cluster of three nodes and four groups; the module's own."""
    with new_cluster() as made:
        made.up()
        yield made
        assert made.down() == 0


@pytest.fixture
def fake_cluster() -> Iterator[Cluster]:
    """A supervisor over processes that do nothing, not started yet."""
    with new_fake_cluster() as made:
        yield made
