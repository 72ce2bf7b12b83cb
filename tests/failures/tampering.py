"""What is wrong inside the processes of a node: its wall clock, what it publishes, where it dies.

Guards one rule: the product has no switch for any of it. A cluster with tampering runs another program,
`patched/patched_cluster.py`, and a small library before libc, `patched/clock.c`; both do nothing until a
file in a folder of the test's own says so.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gossip.records import DurableGroup
from gossip.wal import restore
from tests.failures.controls import PATCHED

NODE: Final = "{node}"
"""In a value of a cluster's environment: the name of the node."""
COMPILER: Final = shutil.which("cc")
PAGE_BYTES: Final = 4096
_SEEN: Final = struct.Struct("<iI")
_OFFSET: Final = struct.Struct("<q")


class Tampering:
    """The folder in which files say what is wrong. `close` removes it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cf-wrong-"))
        self.folder.chmod(0o711)
        self._shim = self.folder / "clock.so"
        if COMPILER:
            command = [
                COMPILER,
                "-shared",
                "-fPIC",
                "-O2",
                "-o",
                str(self._shim),
                str(PATCHED / "clock.c"),
                "-ldl",
            ]
            subprocess.run(command, check=True, timeout=60)

    def begin(self, nodes: tuple[str, ...]) -> None:
        """Make the pages of the nodes' clocks."""
        for node in nodes:
            self._page(node).write_bytes(bytes(PAGE_BYTES))

    def given(self) -> dict[str, Any]:
        """Arguments of `new_world` for a cluster that can be tampered with."""
        environment = {"PYTHONPATH": str(PATCHED), "FAILURES_WRONG": str(self.folder)}
        if COMPILER:
            environment |= {"LD_PRELOAD": str(self._shim), "FAILURES_CLOCK": str(self._page(NODE))}
        return {"program": ("patched_cluster",), "environment": environment, "tampering": self}

    def close(self) -> None:
        """Nothing is left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- the clock ---

    def set_clock(self, node: str, by_s: float) -> None:
        """The wall clock of this node is so much ahead from now on (0: right again)."""
        with self._page(node).open("r+b") as file, mmap.mmap(file.fileno(), PAGE_BYTES) as page:
            page[: _OFFSET.size] = _OFFSET.pack(round(by_s * 1e9))

    def misled(self, node: str) -> frozenset[int]:
        """The pids that were told a wrong time since the node was begun."""
        rows = self._page(node).read_bytes()[_OFFSET.size : _OFFSET.size + 62 * _SEEN.size]
        return frozenset(pid for pid, asked in _SEEN.iter_unpack(rows) if pid and asked)

    def _page(self, node: str) -> Path:
        return self.folder / f"{node}.clock"

    # --- what is published ---

    def drop(self, node: str, *, on: bool) -> None:
        """Every second burst that this node publishes is lost."""
        if on:
            (self.folder / f"{node}.drop").touch()
        else:
            (self.folder / f"{node}.drop").unlink(missing_ok=True)

    def dropped(self, node: str) -> int:
        """How many messages were."""
        file = self.folder / f"{node}.dropped"
        return file.stat().st_size if file.exists() else 0

    # --- an install ---

    def die_in_install(self, node: str, *, on: bool) -> None:
        """The gossip process of this node dies in the midst of writing its next install."""
        for name in ("before", "after"):
            shutil.rmtree(self.folder / f"{node}.{name}", ignore_errors=True)
        if on:
            (self.folder / f"{node}.install").touch()
        else:
            (self.folder / f"{node}.install").unlink(missing_ok=True)

    def died_in_install(self, node: str) -> bool:
        """Whether it has."""
        return (self.folder / f"{node}.after").exists()

    def logs_around(self, node: str) -> tuple[Mapping[int, DurableGroup], Mapping[int, DurableGroup]]:
        """The groups as a restart finds them in what was on the disk before the install, and after."""
        before, after = (read_log(self.folder / f"{node}.{name}") for name in ("before", "after"))
        return before, after


def read_log(folder: Path) -> dict[int, DurableGroup]:
    """The groups as a restart would find them in a log's folder, read by the shipped code."""
    paths = sorted(folder.glob("????????????.wal"))
    found = restore([(int(path.stem), path.read_bytes()) for path in paths])
    assert not found.damage, found.damage
    return {int(group): durable for group, durable in found.node.groups.items()}
