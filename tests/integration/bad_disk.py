"""A disk of the test's own making under real gossip processes: what it refuses, forgets and damages.

The child runs the shipped code; before it, SHIM puts itself between that and the kernel. What is wrong is
decided by files in a folder, so that a test can begin and end it while the process runs.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gossip.wal import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from tests.integration import gossip_cluster
from tests.integration.gossip_cluster import DEADLINE_S, Child, Cluster

SEGMENT_BYTES = 32 << 10
TMPFS_BYTES = 40 << 20
SHIM = """
import ctypes, errno, json, os, shutil, sys
from pathlib import Path
from gossip import log_shell, wal_files

wrong, log = Path({wrong!r}), Path({state!r})
node = json.loads(sys.argv[1])["node"]
kept = wrong / f"{{node}}.kept"
kept.mkdir(exist_ok=True)
real_pwrite, real_fdatasync, real_fsync = os.pwrite, os.fdatasync, os.fsync

def raised(what):
    file = wrong / f"{{node}}.{{what}}"
    if file.exists():
        number = int(file.read_text())
        raise OSError(number, os.strerror(number))

def pwrite(descriptor, data, at):
    raised("write")
    return real_pwrite(descriptor, data, at)

def keep(descriptor):
    path = Path(os.readlink(f"/proc/self/fd/{{descriptor}}"))
    if path.suffix == ".wal":
        shutil.copyfile(path, kept / "beside")
        (kept / "beside").rename(kept / path.name)

def fdatasync(descriptor):
    raised("sync")
    real_fdatasync(descriptor)
    keep(descriptor)

def fsync(descriptor):
    raised("sync")
    real_fsync(descriptor)
    keep(descriptor)

os.pwrite, os.fdatasync, os.fsync = pwrite, fdatasync, fsync
wal_files.SEGMENT_BYTES = {segment}
if (wrong / f"{{node}}.boot").exists():
    log_shell.kernel_boot_id = (wrong / f"{{node}}.boot").read_text
if (wrong / f"{{node}}.tmpfs").exists():
    libc = ctypes.CDLL(None, use_errno=True)
    folder = log / node / "log"
    folder.mkdir(parents=True, exist_ok=True)
    def done(result):
        if result:
            raise OSError(ctypes.get_errno(), "cannot mount")
    done(libc.unshare(0x20000))
    done(libc.mount(b"none", b"/", None, 0x44000, None))
    done(libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size={tmpfs}"))
"""

Alerts = list[dict[str, Any]]


class Lying(NamedTuple):
    """Where a record lies: its segment, byte, body bytes, group and kind (see gossip/wal.py)."""

    path: Path
    at: int
    body: int
    group: int
    kind: int


class BadDisks:
    """The disks of a cluster's nodes."""

    def __init__(self, cluster: Cluster, patch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.wrong = cluster.folder / "wrong"
        self.wrong.mkdir()
        shim = SHIM.format(
            wrong=str(self.wrong),
            state=str(cluster.places.node_dir("n1").parent),
            segment=SEGMENT_BYTES,
            tmpfs=TMPFS_BYTES,
        )
        patch.setattr(gossip_cluster, "CHILD", shim + gossip_cluster.CHILD)

    def fail(self, node: str, what: str, number: int) -> None:
        """From now on `what` ("write" or "sync") of this node's log ends with this errno."""
        beside = self.wrong / "beside"
        beside.write_text(str(number))
        beside.rename(self.wrong / f"{node}.{what}")

    def mend(self, node: str, what: str) -> None:
        """It works again."""
        (self.wrong / f"{node}.{what}").unlink()

    def boot(self, node: str, boot_id: str) -> None:
        """The machine of this node has been started again."""
        (self.wrong / f"{node}.boot").write_text(boot_id)

    def use_tmpfs(self, node: str) -> None:
        """The log of this node lies on a small disk of its own, as long as its process lives."""
        (self.wrong / f"{node}.tmpfs").touch()

    def folder(self, node: str) -> Path:
        """Where a node's log lies."""
        return self.cluster.places.node_dir(node) / "log"

    def segments(self, node: str) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder(node).glob("*.wal"))

    def lose_unsynced(self, node: str) -> int:
        """The power fails: what was not synced is gone; how many bytes that were."""
        lost = 0
        for path in self.segments(node):
            kept = self.wrong / f"{node}.kept" / path.name
            lost += path.stat().st_size - (kept.stat().st_size if kept.exists() else 0)
            path.unlink()
            if kept.exists():
                shutil.copyfile(kept, path)
        return lost

    def refused(self, node: str, file: Path | None = None) -> str:
        """Start a node that cannot start; what it says of it. Its status is 1."""
        child = Child(self.cluster, node, file or self.cluster.file)
        try:
            assert child.process.wait(DEADLINE_S) == 1
            said = child.log.read_text()
        finally:
            child.close()
        lines = [line for line in said.splitlines() if line.strip()]
        assert len(lines) == 1 and "Traceback" not in said, said
        return lines[0]


def records(path: Path) -> list[Lying]:
    """The records of a sound segment, in their order."""
    data = path.read_bytes()
    found, at = [], SEGMENT_HEADER_BYTES
    while at < len(data):
        body = int.from_bytes(data[at : at + 4], "little")
        group = int.from_bytes(data[at + 8 : at + 12], "little")
        found.append(Lying(path, at, body, group, data[at + 20]))
        at += RECORD_HEADER_BYTES + body
    return found


def flip(path: Path, at: int) -> None:
    """One bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 4,)))


def fill(folder: Path) -> Path:
    """Leave no room on the disk of a folder; the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


def seen_by(child: Child, folder: Path) -> Path:
    """A folder as a process with its own mounts sees it."""
    return Path(f"/proc/{child.process.pid}/root{folder}")


def about_log(status: Any, node: str) -> list[str]:
    """What the alerts say about the log of a node."""
    return [
        row["text"]
        for row in status["alerts"]
        if row["about"] == f"node:{node}" and "Replicated log" in row["text"]
    ]


def everywhere_normal(status: Any) -> bool:
    """Every replica of every group takes part."""
    rows = [row["status"] for group in status["groups"] for row in group["members"]]
    return rows == ["normal"] * len(rows)


def may_mount() -> bool:
    """Whether this user may have mounts of its own."""
    return os.geteuid() == 0
