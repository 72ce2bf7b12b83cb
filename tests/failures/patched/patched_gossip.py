"""A gossip process that a test can hurt from within; see tests/failures/tampering.py.

The shipped code runs; before it stand two points that do nothing until a file says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from connserver.process import ProcessOptions
from gossip.daemon import Daemon
from gossip.daemon import main as gossip_main
from gossip.records import Install, Record, Staged
from gossip.wal import encode_record
from gossip.wal_files import WalFiles

BURST_S = 0.06
"""Half of the suspicion timeout: what PUB drops comes in bursts, and is no silence."""


def drop_published(folder: Path, node: str) -> None:
    """While NODE.drop is there every second burst of what is published never leaves."""
    wanted, count = folder / f"{node}.drop", folder / f"{node}.dropped"
    shipped = Daemon.publish_log

    def publish_log(daemon: Daemon, payload: bytes) -> None:
        if wanted.exists() and int(time.monotonic() / BURST_S) % 2:
            with count.open("ab") as file:
                file.write(b".")
            return
        shipped(daemon, payload)

    Daemon.publish_log = publish_log  # type: ignore[method-assign]


def die_in_install(folder: Path, node: str) -> None:
    """Once NODE.install is there the next install that brings entries gets to the disk in part.

    What the log was before and after is kept beside it: folders NODE.before and NODE.after.
    """
    wanted = folder / f"{node}.install"
    append, append_only = WalFiles.append, WalFiles.append_only

    def look(files: WalFiles, records: tuple[Record, ...]) -> None:
        at = next((i for i, record in enumerate(records) if isinstance(record, Install)), None)
        if at is None or not wanted.exists() or not staged_for(records, at):
            return
        first = next(i for i, record in enumerate(records) if isinstance(record, Staged))
        if first:
            append(files, records[:first], False)
        keep(files, folder / f"{node}.before")
        half = len(encode_record(records[at], 0)) // 2
        whole = files._encode(records[first : at + 1])
        os.pwrite(files._descriptor, whole[: -half or None], files._size)
        keep(files, folder / f"{node}.after")
        wanted.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def looked_at(files: WalFiles, records: tuple[Record, ...], sync: bool) -> None:
        look(files, records)
        append(files, records, sync)

    def looked_at_only(files: WalFiles, records: tuple[Record, ...]) -> bool:
        look(files, records)
        return append_only(files, records)

    WalFiles.append = looked_at  # type: ignore[method-assign]
    WalFiles.append_only = looked_at_only  # type: ignore[method-assign]


def staged_for(records: tuple[Record, ...], at: int) -> bool:
    """Whether the install at this place brings entries."""
    install: Any = records[at]
    return any(isinstance(one, Staged) and one.group == install.group for one in records[:at])


def keep(files: WalFiles, folder: Path) -> None:
    """Copy the log as it is on the disk."""
    shutil.copytree(files.folder, folder, ignore=shutil.ignore_patterns("damaged-*", "reserve"))


def main(options: ProcessOptions) -> int:
    """As the gossip process's own."""
    folder = Path(os.environ["FAILURES_WRONG"])
    drop_published(folder, options.node)
    die_in_install(folder, options.node)
    return gossip_main(options)
