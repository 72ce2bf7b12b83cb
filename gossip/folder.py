"""The small files of a node that have to survive: its incarnation and the placement.

Guards one rule: a file is there whole or not at all. It is written beside, synced, renamed, and the
folder synced; each carries a checksum, and one that does not fit it is damage, never "absent":
a node that forgot its incarnation could grant the same right twice, one that forgot the placement
could place groups where their data is not.
"""

from __future__ import annotations

import fcntl
import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

from connserver.errors import ClusterError
from connserver.limits import INCARNATION_LIMIT
from gossip.placement import Placement, from_rows

INCARNATION_FILE = "incarnation"
PLACEMENT_FILE = "placement"
LOCK_FILE = "gossip.lock"
LARGEST_FILE_BYTES = 1 << 20
"""A placement of the largest cluster is a twentieth of this."""


class Damaged(Exception):
    """A file is there and its content is not what was written."""


class NodeFolder:
    """A node's folder, locked for the life of this object's process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ClusterError(
                f"{path}: another gossip process of this node is running; stop the cluster that uses "
                "this folder (cs-cluster down), or choose another with --state-dir"
            ) from None

    def close(self) -> None:
        """Give the folder free."""
        os.close(self._lock)

    def next_incarnation(self) -> int:
        """Count one start: the number after the highest this node ever had, on the disk already."""
        path = self.path / INCARNATION_FILE
        try:
            document = _read(path)
            last = document["incarnation"] if document else 0
            if not isinstance(last, int) or not 0 <= last < INCARNATION_LIMIT - 1:
                raise Damaged(f"{last!r} is no incarnation")
        except (Damaged, KeyError, TypeError) as error:
            raise ClusterError(
                f"{path} is damaged ({error}), and without it this node could repeat a right it gave "
                "before: restore it from a backup, or, if other nodes run, remove it: they remember"
            ) from None
        self.keep_incarnation(last + 1)
        return last + 1

    def keep_incarnation(self, incarnation: int) -> None:
        """Write down a raised incarnation, before anyone hears of it. OSError: it is not kept."""
        _write(self.path / INCARNATION_FILE, {"incarnation": incarnation})

    def placement(self) -> Placement | None:
        """The placement that was kept, None if there never was one; Damaged if it cannot be read."""
        document = _read(self.path / PLACEMENT_FILE)
        if document is None:
            return None
        try:
            return from_rows(str(document["cluster"]), document["groups"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(str(error)) from None

    def keep_placement(self, placement: Placement) -> None:
        """Write down the placement, before anything is served by it. OSError: it is not kept."""
        document = {"format": 1, "cluster": placement.cluster, "groups": placement.rows()}
        _write(self.path / PLACEMENT_FILE, document)


def _write(path: Path, document: dict[str, Any]) -> None:
    line = json.dumps(document, separators=(",", ":")).encode()
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(line + b"\n" + _checksum(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    line, _, rest = content.partition(b"\n")
    if rest != _checksum(line) + b"\n":
        raise Damaged("its checksum does not fit")
    try:
        document = json.loads(line)
    except ValueError:
        raise Damaged("it is no JSON") from None
    if not isinstance(document, dict):
        raise Damaged("it is no JSON object")
    return document


def _checksum(line: bytes) -> bytes:
    return blake2b(line, digest_size=16, person=b"connserver").hexdigest().encode()
