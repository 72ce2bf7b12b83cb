"""A real gateway process for tests, and a plain client of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from connserver.config import ClusterConfig, Overrides, load_cluster
from connserver.process import ProcessOptions
from gateway.routing import home_of_user
from tests.integration.fakes.fake_workers import FakeCluster

PATIENCE_S = 15.0
"""How long anything may take on a busy machine before a test gives up."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_cluster(folder: Path, *, groups: int = 2, more: str = "") -> ClusterConfig:
    """A cluster of one node in this folder."""
    file = folder / "cluster.toml"
    file.write_text(
        f'[cluster]\nname = "test"\npartition_groups = {groups}\n'
        f'[[nodes]]\nname = "n1"\ngateways = ["127.0.0.1:{free_port()}"]\n{more}\n'
    )
    return load_cluster(file, environ={}, flags=Overrides(state_dir=folder / "state"))


class GatewayProcess:
    """`python -P -m gateway`, with its lifeline and status pipes."""

    def __init__(self, config: ClusterConfig, log: Path, environ: dict[str, str] | None = None) -> None:
        lifeline, self._lifeline = os.pipe()
        self._status, status = os.pipe()
        endpoint = config.nodes[0].gateways[0]
        self.port = endpoint.port
        cluster_options = ProcessOptions(
            role="gateway",
            node="n1",
            name="gw-n1-0",
            config=config,
            places=None,  # type: ignore[arg-type]  # the child makes its own
            listen=str(endpoint),
            lifeline_fd=lifeline,
            status_fd=status,
        )
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway", *config.child_arguments()],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                pass_fds=(lifeline, status),
                env={**os.environ, **(environ or {})},
            )
        os.close(lifeline)
        os.close(status)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(cluster_options.as_document()).encode() + b"\n")
        self.process.stdin.close()
        self._said = b""

    def said(self, key: str) -> dict[str, Any]:
        """Wait for a status line with this key."""
        end = time.monotonic() + PATIENCE_S
        while True:
            while b"\n" in self._said:
                line, _, self._said = self._said.partition(b"\n")
                document: dict[str, Any] = json.loads(line)
                if key in document:
                    return document
            readable, _, _ = select.select([self._status], [], [], max(0.0, end - time.monotonic()))
            assert readable, f"no {key!r} from the gateway:\n{self.log.read_text()}"
            data = os.read(self._status, 4096)
            assert data, f"the gateway is gone:\n{self.log.read_text()}"
            self._said += data

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)

    def let_go(self) -> None:
        """End the lifeline, as a dying supervisor does."""
        os.close(self._lifeline)
        self._lifeline = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        os.close(self._status)
        if self._lifeline >= 0:
            os.close(self._lifeline)


@contextlib.contextmanager
def running(
    folder: Path, *, environ: dict[str, str] | None = None, **settings: Any
) -> Iterator[tuple[FakeCluster, GatewayProcess]]:
    """A fake cluster with all its workers, and a gateway that is ready."""
    config = write_cluster(folder, **settings)
    cluster = FakeCluster(config)
    try:
        for group in range(cluster.groups):
            cluster.start_worker(group)
        gateway = GatewayProcess(config, folder / "gateway.log", environ)
        try:
            gateway.said("ready")
            yield cluster, gateway
        finally:
            gateway.close()
    finally:
        cluster.close()


class Client:
    """One TCP connection; `read` returns one message's bytes without its end."""

    def __init__(self, port: int, end: bytes = b"\n") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._end = end
        self._data = b""

    def send(self, *messages: dict[str, Any]) -> None:
        self.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> bytes:
        while self._end not in self._data:
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError(self._data)
            self._data += data
        message, _, self._data = self._data.partition(self._end)
        return message

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.read())
        return message

    def ask(self, **message: Any) -> dict[str, Any]:
        self.send(message)
        return self.receive()

    def rest(self) -> bytes:
        """Everything until the gateway closes."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(65_536):
                self._data += data
        rest, self._data = self._data, b""
        return rest

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)


def group_of_user(user: str) -> int:
    return home_of_user(user, 2)[1]
