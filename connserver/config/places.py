"""Where a cluster keeps its files and its sockets on this machine.

Guards two rules: one folder per cluster name below `state_dir`, open to its owner only; and a unix
socket's path is short enough for the kernel (108 bytes with its end), else it lies in a folder under
/tmp whose owner is checked, since anyone may have made that one.
"""

from __future__ import annotations

import os
import stat
from hashlib import blake2b
from pathlib import Path
from typing import Final

from connserver.config.checks import is_one_machine
from connserver.config.schema import ClusterConfig
from connserver.errors import ConfigError, Fault

SOCKET_PATH_BYTES: Final = 100
"""The kernel takes 108, ZeroMQ and PostgreSQL add to it: below this all of them are content."""
FALLBACK_DIR: Final = Path("/tmp")


class Places:
    """Folders and endpoints of one cluster on this host; folders are made when asked for."""

    def __init__(self, config: ClusterConfig, *, fallback_dir: Path = FALLBACK_DIR) -> None:
        self._config = config
        self._fallback_dir = fallback_dir
        self._cluster_dir = config.local.state_dir / config.cluster.name
        self._run_dir: Path | None = None

    @property
    def cluster_dir(self) -> Path:
        """Everything this host keeps of the cluster."""
        # Passable, not listable: started by root, the embedded PostgreSQL is an account of its own.
        _make(self._config.local.state_dir, 0o711)
        return _make(self._cluster_dir, 0o711)

    @property
    def log_dir(self) -> Path:
        """One log file per process."""
        return _make(self.cluster_dir / "log", 0o700)

    @property
    def storage_dir(self) -> Path:
        """The embedded PostgreSQL's state."""
        return _make(self.cluster_dir / "storage", 0o711)

    @property
    def lock_file(self) -> Path:
        """Locked by the supervisor for as long as it lives: one per cluster folder."""
        return self.cluster_dir / "lock"

    def node_dir(self, node: str) -> Path:
        """A node's own files, its WAL first of all."""
        return _make(self.cluster_dir / node, 0o700)

    def log_file(self, process: str) -> Path:
        """The log of one process, such as `w-n1-0`."""
        return self.log_dir / f"{process}.log"

    def run_dir(self) -> Path:
        """The folder of this cluster's unix sockets; ConfigError if it belongs to someone else."""
        if self._run_dir is None:
            beside = self._cluster_dir / "run"
            if len(os.fsencode(beside / self._longest_socket())) < SOCKET_PATH_BYTES:
                self._run_dir = _own(self.cluster_dir / "run")
            else:
                name = blake2b(os.fsencode(self._cluster_dir), digest_size=8).hexdigest()
                self._run_dir = _own(self._fallback_dir / f"connserver-{os.geteuid()}-{name}")
        return self._run_dir

    def gossip_endpoint(self, node: str) -> str:
        """Where a node's workers and gateways find its gossip."""
        return self._socket(f"g-{node}")

    def publish_endpoint(self, node: str) -> str:
        """Where a gossip publishes to the others."""
        if self._one_machine:
            return self._socket(f"p-{node}")
        return self._tcp(node, self._config.node(node).gossip_port)

    def peer_endpoint(self, node: str) -> str:
        """Where a gossip takes acknowledgements and requests of the others."""
        if self._one_machine:
            return self._socket(f"r-{node}")
        return self._tcp(node, self._config.node(node).gossip_port + 1)

    def worker_endpoint(self, node: str, group: int) -> str:
        """Where a worker takes requests; over TCP a wildcard port, told to the gossip once bound."""
        return self._socket(f"w-{node}-{group}") if self._one_machine else self._tcp(node, "*")

    @property
    def _one_machine(self) -> bool:
        return is_one_machine(self._config.nodes)

    def _longest_socket(self) -> str:
        name = max((node.name for node in self._config.nodes), key=len)
        return f"w-{name}-{self._config.cluster.partition_groups - 1}.sock"

    def _socket(self, name: str) -> str:
        return f"ipc://{self.run_dir()}/{name}.sock"

    def _tcp(self, node: str, port: int | str) -> str:
        host = self._config.node(node).host
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _make(path: Path, mode: int) -> Path:
    """Make a folder if it is not there; one that is keeps its mode."""
    try:
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)  # mkdir's own mode is cut by the umask
    except OSError as error:
        fault = Fault(
            str(path), 0, f"this folder cannot be made: {error.strerror}; choose another with --state-dir"
        )
        raise ConfigError([fault]) from error
    return path


def _own(path: Path) -> Path:
    """Make or take a folder of our own for sockets: no link, nobody else's, closed to others."""
    # A link that someone else laid there is a folder to is_dir(), not to lstat().
    _make(path, 0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        fault = Fault(
            str(path),
            0,
            "this folder for sockets belongs to another user; remove it, or choose a shorter --state-dir",
        )
        raise ConfigError([fault])
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path
