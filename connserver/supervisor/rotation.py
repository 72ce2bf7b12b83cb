"""Keeps the log files of a host's processes from filling the disk: one old file each.

Guards one rule: the processes know nothing of it. They append, so a file can be copied and cut
under their hands; a line written between the two is lost, once per sixteen mebibytes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from connserver.limits import LOG_FILE_BYTES


def rotate(folder: Path, *, largest_bytes: int = LOG_FILE_BYTES) -> list[str]:
    """Move the content of every log file that is too large aside; the names of those."""
    moved = []
    for log in sorted(folder.glob("*.log")):
        if log.stat().st_size > largest_bytes:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)
            moved.append(log.stem)
    return moved
