"""A model of PostgreSQL as the archive: the shipped fencing order, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connserver.ids import GroupId

if TYPE_CHECKING:
    from tests.simulation.world import World

Objects = dict[str, Any]


@dataclass(slots=True)
class Row:
    """A group in the archive."""

    era: int = 1
    view: int = 0
    archived_op: int = 0
    objects: Objects = field(default_factory=dict)


class Archive:
    """PostgreSQL: one transaction at a time, the fencing UPDATE first."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows: dict[GroupId, Row] = {group: Row() for group in world.placements}
        self.down = False

    def commit(self, group: GroupId, era: int, view: int, op: int, images: Objects) -> bool:
        """UPDATE … WHERE era = :e AND view <= :v AND archived_op <= :op, then the upserts."""
        row = self.rows[group]
        if not self.fence(row, era, view, op):
            self._world.coverage["archive_fenced"] += 1
            return False
        row.view, row.archived_op = view, op
        row.objects = {**row.objects, **images}
        self._world.checkers.archived(group, op, row.objects)
        return True

    @staticmethod
    def fence(row: Row, era: int, view: int, op: int) -> bool:
        """The WHERE clause."""
        return row.era == era and row.view <= view and row.archived_op <= op

    def raise_era(self, group: GroupId, era: int) -> None:
        """What `recover` does first: from now on nothing of an older era gets in."""
        assert era > self.rows[group].era
        self.rows[group].era = era
