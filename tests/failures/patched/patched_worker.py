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

    if hasattr(CommitQueue, "ready"):  # else it is so already: the archive alone is the log
        CommitQueue.ready = ready  # type: ignore[method-assign]


def no_dedup() -> None:
    """No request is known, and none is too old."""
    Sessions.known = Sessions.too_old = lambda *_: False  # type: ignore[method-assign]


def local_reads() -> None:
    """Every barrier counts as passed before it is asked for."""
    real = CommitQueue.submit

    def submit(queue: Any, turn: Any, *payload: bytes) -> int:
        op = real(queue, turn, *payload)
        queue._passed = queue._asked = queue._needed = queue._needed if hasattr(queue, "_needed") else 0
        return op

    CommitQueue.submit = submit  # type: ignore[method-assign]


BUGS = {"async-acks": async_acks, "no-dedup": no_dedup, "local-reads": local_reads}


def main(options: ProcessOptions) -> int:
    """As the worker's own."""
    BUGS[os.environ["FAILURES_CONTROL"]]()
    return worker_main(options)
