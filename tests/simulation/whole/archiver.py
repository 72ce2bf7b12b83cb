"""PostgreSQL for the whole world: the shipped archive machine over rows that the shipped fence guards.

In place of the thread there are events, in place of the statements the same rules over a dictionary.
A COMMIT that is on its way needs no living worker. Guards the end of every checker's trust: what the
archive has at an op is the committed state at that op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connserver.errors import StorageError
from connserver.messages import Image
from partition.archive_machine import ArchiveMachine
from partition.archive_outcomes import ArchiveStatus, Close, Finish, GroupRow, Open, Outcome, Write
from tests.simulation.whole.processes import Process

if TYPE_CHECKING:
    from tests.simulation.whole.world import WholeWorld

STATEMENT_S = (0.001, 0.02)
SLOW = 0.1
SLOW_S = (0.3, 2.0)


@dataclass(slots=True)
class Row:
    """A group's row, and its objects."""

    era: int = 1
    view: int = 0
    archived_op: int = 0
    objects: dict[int, Image] = field(default_factory=dict)


class Archive:
    """The database."""

    def __init__(self, world: WholeWorld) -> None:
        self._world = world
        self.rows: dict[int, Row] = {group: Row() for group in world.placements}
        self.down = False

    def write(self, group: int, era: int, order: Write) -> Row | int | None:
        """One transaction: None if it committed, the row if it was fenced, an op if the row had receded."""
        row = self.rows[group]
        if not (row.era == era and row.view <= order.view and row.archived_op <= order.op):
            self._world.coverage["archive_fenced"] += 1
            return row
        if row.archived_op < order.expected_op:
            return row.archived_op
        objects = {} if order.whole else dict(row.objects)
        for oid, (_, image) in order.images.items():
            if image.data is None:
                objects.pop(oid, None)
            else:
                objects[oid] = image
        row.view, row.archived_op, row.objects = order.view, order.op, objects
        self._world.coverage["archived"] += 1
        self._world.judge.archived(group, order.op, objects)
        return None


class SimulatedArchiver:
    """`partition.archive.Archiver` without its thread."""

    def __init__(
        self,
        dsn: str,
        group: int,
        *,
        era: int,
        view: int,
        archived_op: int,
        on_outcome: Callable[[Outcome], None],
        archive_interval_ms: int = 200,
    ) -> None:
        process = Process.current
        assert process is not None
        self._process = process
        self._world: Any = process.world
        self._group = group
        self._on_outcome = on_outcome
        self._machine = ArchiveMachine(
            era=era, view=view, archived_op=archived_op, interval_ms=archive_interval_ms
        )
        self._version = 0

    def start(self) -> None:
        """Nothing is done before `promote`."""

    def add(self, op: int, images: Sequence[Image]) -> None:
        """See Archiver."""
        self._machine.add(op, images, self._process.clock())
        self._look()

    def readd_all(self, op: int, images: Sequence[Image]) -> None:
        """See Archiver."""
        self._machine.readd_all(op, images, self._process.clock())
        self._look()

    def promote(self, view: int) -> None:
        """See Archiver."""
        self._machine.promote(view, self._process.clock())
        self._look()

    def demote(self) -> None:
        """See Archiver."""
        self._machine.demote()
        self._look()

    def archived_elsewhere(self, op: int) -> None:
        """See Archiver."""
        self._machine.archived_elsewhere(op)

    def status(self) -> ArchiveStatus:
        """See Archiver."""
        return self._machine.status(self._process.clock())

    @property
    def archived_op(self) -> int:
        """See Archiver."""
        return self._machine.archived

    @property
    def lag_ops(self) -> int:
        """See Archiver."""
        return max(0, self._machine.head - self._machine.archived)

    def stop(self, flush_timeout_s: float = 5.0) -> ArchiveStatus:
        """At once: whoever wants the rest archived has others that have it."""
        self._machine.stop(self._process.clock())
        self._look()
        return self.status()

    # --- in place of the thread ---

    def _look(self, seconds: float = 1e-4) -> None:
        """What was to be looked at later is looked at now."""
        self._version += 1
        version = self._version
        self._world.after(seconds, lambda: self._next() if version == self._version else None)

    def _next(self) -> None:
        if not self._process.alive:
            return
        machine, now = self._machine, self._process.clock()
        reports, machine.reports = machine.reports, []
        for report in reports:
            self._process.run(lambda report=report: self._on_outcome(report))  # type: ignore[misc]
        action = machine.decide(now)
        machine.check_invariants()
        if isinstance(action, Open | Write):
            slow = self._world.random.random() < SLOW
            delay = self._world.random.uniform(*(SLOW_S if slow else STATEMENT_S))
            self._world.after(delay, lambda: self._perform(action))
            return
        if isinstance(action, Finish):
            return
        if isinstance(action, Close):
            self._look()
            return
        wakes_at = machine.wakes_at()
        if wakes_at is not None:
            self._look(max(1e-4, wakes_at - now))

    def _perform(self, action: Open | Write) -> None:
        archive, machine, now = self._world.archive, self._machine, self._process.clock()
        lost = self._world.random.random() < 0.02
        if archive.down:
            machine.failed("PostgreSQL is down", now)
        elif isinstance(action, Open):
            row = archive.rows[self._group]
            machine.opened(GroupRow(row.era, row.view, row.archived_op), now)
        else:
            result = archive.write(self._group, machine.era, action)
            if not self._process.alive:
                return
            if lost:
                machine.failed("the answer to COMMIT was lost", now)
            elif result is None:
                machine.written()
            elif isinstance(result, Row):
                machine.refused(GroupRow(result.era, result.view, result.archived_op), now)
            else:
                machine.receded(result)
        self._look()


class Snapshot:
    """`archive_sql.Snapshot`: one moment."""

    def __init__(self, row: Row) -> None:
        self.era, self.view, self.archived_op = row.era, row.view, row.archived_op
        self._objects = list(row.objects.values())

    def batches(self) -> Iterator[list[Image]]:
        """All objects."""
        yield self._objects


@contextmanager
def open_snapshot(dsn: str, group: int) -> Iterator[Snapshot]:
    """A snapshot of the group; StorageError while PostgreSQL is down."""
    assert Process.current is not None
    world: Any = Process.current.world
    if world.archive.down:
        raise StorageError("PostgreSQL is down")
    yield Snapshot(world.archive.rows[group])
