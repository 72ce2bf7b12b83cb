"""What an operator does in order, as a fault: clients must notice even less of it than of a death."""

from __future__ import annotations

from tests.failures.faults import AGAIN_S, Fault
from tests.failures.nodes import World, until


class HandOver(Fault):
    """Nobody dies: the primary hands over in order, as `cs-cluster failover` asks it to."""

    name = "hand-over"

    def __init__(self) -> None:
        super().__init__()
        self._from = self._to = ""

    def prepare(self, world: World) -> None:
        self._from, self._to = self.primary(world), self.backup(world)
        self.groups = frozenset({self.target_group})

    def strike(self, world: World) -> None:
        with world.nodes[self._from].admin() as admin:
            admin.ask("failover", group=self.target_group, to=self._to)

    def bitten(self, world: World) -> str:
        leads = until("a new primary", lambda: self._moved(world), AGAIN_S)
        return "" if leads else f"{self._to} does not lead group {self.target_group}"

    def _moved(self, world: World) -> bool:
        return world.primaries().get(self.target_group) == self._to
