"""What is told of a log that is damaged or cannot be written: what happened, where, and what to do.

Guards one rule: whoever reads an alert or the last line of a process knows what to do next. Pure.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gossip.records import DurableNode

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk answers."""
PROBLEM_CHARS = 600
"""Of what was found, so much is told; an alert has room for a few lines."""


def damage_told(damage: list[str], node: DurableNode, aside: Path) -> str:
    """What was found damaged, what follows from it, and what to do; for an alert, without a final dot."""
    """What happened, where, and what to do, in words for an alert."""
    found = "; ".join(damage)
    if len(found) > PROBLEM_CHARS:
        found = found[:PROBLEM_CHARS] + " ..."
    which = "every group of this node recovers" if node.damaged else "these groups recover"
    return (
        f"{found}. Nothing of it is believed: {which} from the other replicas. What was there is kept in "
        f"{aside}: look at the disk and the kernel's log, and remove that folder once the groups are normal"
    )


def not_written(folder: Path, error: OSError) -> str:
    """The last words of a process whose log cannot be written, without a final dot."""
    words = f"the log in {folder} cannot be written: {failure(error)}"
    return f"{words}. Nothing that is not on disk was confirmed; the other nodes go on. {advice(error)}"


def failure(error: OSError) -> str:
    """What the kernel said, and of which file, if it says."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{os.strerror(error.errno) if error.errno else error}{where}"


def advice(error: OSError) -> str:
    """What a person can do about it; a sentence without its dot."""
    if error.errno in NO_ROOM:
        return "Make room on that disk, then start this node again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Let this user write there and see that the disk is not mounted read-only, then start again"
    return "Look at the disk and the kernel's log, then start this node again"
