"""Where a worker can die between two effects: found in the source, so that none is forgotten.

A failpoint is a call in `partition/` by which something is committed, sent, confirmed, applied or kept.
`Failpoints` sees each of them as it is about to happen, and kills there. Guards the list: one that is in the
code and is never reached is reported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import partition
from connserver.stream import Duplex
from partition.backup import Backup
from partition.commit import CommitQueue
from partition.courier_service import CourierService
from partition.couriers import Courier
from partition.gossip_link import GrantedLog
from partition.intake import Intake
from partition.outbox import Outbox
from partition.peers import Peers
from partition.retained import Retained
from partition.serving import Serving
from tests.simulation.whole.archiver import SimulatedArchiver
from tests.simulation.whole.processes import Process

FOLDER = Path(partition.__file__).parent

CALLS = (
    ("_log", "submit"), ("_log", "ask_barrier"), ("queue", "submit"), ("queue", "committed"),
    ("queue", "barrier_passed"), ("_peers", "outputs"), ("_peers", "parcels_done"), ("_peers", "may_tell"),
    ("_retained", "add"), ("retained", "add"), ("_archive", "add"), ("outbox", "confirmed"),
    ("outbox", "met"), ("outbox", "begins"), ("_outbox", "accept"), ("_outbox", "send"),
    ("_intake", "requests"), ("_intake", "parcels"), ("serving", "committed"), ("serving", "barrier_passed"),
    ("couriers", "send"), ("courier", "send"), ("duplex", "post"), ("_duplex", "post"), ("self", "_done"),
    ("backup", "deliver"),
)  # fmt: skip
"""What is called on what, in the source."""

EFFECTS: tuple[tuple[type, str], ...] = (
    (GrantedLog, "submit"), (GrantedLog, "ask_barrier"), (CommitQueue, "submit"), (CommitQueue, "committed"),
    (CommitQueue, "barrier_passed"), (Peers, "outputs"), (Peers, "parcels_done"), (Peers, "may_tell"),
    (Retained, "add"), (SimulatedArchiver, "add"), (Outbox, "confirmed"), (Outbox, "met"),
    (Outbox, "begins"), (Outbox, "accept"), (Outbox, "send"), (Intake, "requests"), (Intake, "parcels"),
    (Serving, "committed"), (Serving, "barrier_passed"), (CourierService, "send"), (Courier, "send"),
    (Duplex, "post"), (Serving, "parcels_done"), (Serving, "parcels_met"), (Backup, "deliver"),
)  # fmt: skip
"""Where those calls arrive."""


class Killed(BaseException):
    """The process has just died: nothing after this is executed."""


def in_the_source() -> dict[tuple[str, int], str]:
    """Every failpoint: (file, line) and its name, "module.function: receiver.method"."""
    found: dict[tuple[str, int], str] = {}
    for file in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function, call in _calls(tree, ""):
            assert isinstance(call.func, ast.Attribute)
            receiver = _last_name(call.func.value)
            if (receiver, call.func.attr) in CALLS:
                name = f"{file.stem}.{function}: {receiver}.{call.func.attr}"
                for line in range(call.lineno, call.func.end_lineno + 1 if call.func.end_lineno else 0):
                    found[str(file), line] = name
    return found


def _calls(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        inside = child.name if isinstance(child, ast.FunctionDef) else function
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            yield function, child
        yield from _calls(child, inside)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class Failpoints:
    """Sees effects in their order. `kill_at`: the number of the one before which its process dies."""

    def __init__(self, kill_at: int = 0, kill: Callable[[Process], None] = lambda process: None) -> None:
        self.hits: list[tuple[str, str]] = []
        """(process, failpoint), since this was armed."""
        self.armed = False
        self._kill_at, self._kill = kill_at, kill
        self._kill_before = ""
        self._known = in_the_source()

    def kill_before(self, name: str, kill: Callable[[Process], None]) -> None:
        """Whoever reaches this failpoint next dies there."""
        self.armed, self._kill_before, self._kill = True, name, kill

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this lasts."""
        with ExitStack() as stack:
            for owner, name in EFFECTS:
                stack.enter_context(patch.object(owner, name, self._watched(getattr(owner, name))))
            yield

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(this: Any, *arguments: Any, **named: Any) -> Any:
            frame = sys._getframe(1)
            name = self._known.get((frame.f_code.co_filename, frame.f_lineno))
            if name is not None and self.armed:
                self._hit(name)
            return original(this, *arguments, **named)

        return watched

    def _hit(self, name: str) -> None:
        process = Process.current
        assert process is not None
        self.hits.append((process.name, name))
        if len(self.hits) == self._kill_at or name == self._kill_before:
            self._kill_before = ""
            self._kill(process)
            raise Killed
