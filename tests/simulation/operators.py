"""The operator of the simulated cluster: reads what `status` says, and runs `recover` when it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connserver.ids import GroupId
from gossip.protocol import NEVER_INSTALLED, Status
from gossip.replica import ReplicaStatus

if TYPE_CHECKING:
    from tests.simulation.world import World

PERIOD_S = 0.25
GIVE_UP = 0.15
"""How readily a node that does not answer is given up: its log may be the better one."""
WITH_A_LOG = (Status.NORMAL, Status.VIEW_CHANGE, Status.FORMING)


class Operator:
    """Looks again and again, to the end of the run: nothing else heals two lost disks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._later()

    def _later(self) -> None:
        self.world.after(PERIOD_S * self.world.random.uniform(0.5, 1.5), self._look)

    def _look(self) -> None:
        if not self.world.archive.down:
            for group in self.world.placements:
                self._look_at(group)
        self._later()

    def _statuses(self, group: GroupId) -> dict[str, ReplicaStatus]:
        world = self.world
        return {
            node.name: node.set.status(group)
            for node in world.nodes.values()
            if node.set is not None and node.paused_until <= world.now
        }

    def _look_at(self, group: GroupId) -> None:
        world = self.world
        found = self._statuses(group)
        row = world.archive.rows[group]
        unfinished = bool(found) and row.era > max(status.era for status in found.values())
        if not unfinished and not any("`recover`" in status.problem for status in found.values()):
            return
        if len(found) < len(world.nodes) and world.random.random() > GIVE_UP:
            return
        best = max(found, key=lambda name: self._rank(found[name]))
        node = world.nodes[best]
        assert node.set is not None
        above = (
            max(row.era, *(status.era for status in found.values())),
            max(row.view, *(status.view for status in found.values())),
        )
        holds = row.era == found[best].era and node.set.holds_archived(group, row.view, row.archived_op)
        keeps = self._rank(found[best])[0] and holds
        world.begin_era(node, group, None if keeps else row.archived_op, above)

    @staticmethod
    def _rank(status: ReplicaStatus) -> tuple[bool, int, int, int]:
        holds = status.status in WITH_A_LOG and status.log_view != NEVER_INSTALLED
        return (holds, status.era, status.log_view, status.head)
