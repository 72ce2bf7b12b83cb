"""A worker with the bug that FAILURES_CONTROL names; see tests/failures/controls.py."""

from __future__ import annotations

import os
from typing import Any

from connserver.process import ProcessOptions
from partition.commit import CommitQueue
from partition.sessions import Sessions
from partition.worker import main as worker_main


def async_acks() -> None:
    """All that is held counts as committed."""

    def ready(queue: Any) -> list[Any]:
        released = [(held.op, held.turn) for held in queue._held]
        queue._held.clear()
        return released

    _replace("ready", ready)


def no_dedup() -> None:
    """No request is known, and none is too old."""
    Sessions.known = Sessions.too_old = lambda *_: False  # type: ignore[method-assign]


def local_reads() -> None:
    """No turn waits for a barrier."""

    def ready(queue: Any) -> list[Any]:
        released = []
        while queue._held and queue._held[0].op <= queue.commit:
            held = queue._held.popleft()
            released.append((held.op, held.turn))
        return released

    _replace("ready", ready)


def _replace(name: str, function: Any) -> None:
    setattr(CommitQueue, name, function)


BUGS = {"async-acks": async_acks, "no-dedup": no_dedup, "local-reads": local_reads}


def main(options: ProcessOptions) -> int:
    """As the worker's own."""
    BUGS[os.environ["FAILURES_CONTROL"]]()
    return worker_main(options)
