"""What goes wrong in the whole world besides what goes wrong in that of the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.nemeses import Nemesis

if TYPE_CHECKING:
    from tests.simulation.whole.bots import Bot
    from tests.simulation.whole.processes import Process
    from tests.simulation.whole.world import WholeWorld


class WholeNemesis(Nemesis):
    """Gateways die and stop, single workers stop, connections break, clients go away."""

    def __init__(self, world: WholeWorld, bots: list[Bot]) -> None:
        self.whole, self.bots = world, bots
        super().__init__(world)
        world.faults.strike_on_early_barrier = 0.0
        world.wires.choke = world.random.choice((0.0, 0.0, 0.01))
        world.wires.loss = world.random.choice((0.0, 0.0, 0.1))
        ours = self._ours()
        self.chosen += world.random.sample(ours, world.random.randint(2, len(ours)))

    def _ours(self) -> tuple[Callable[[], None], ...]:
        return (
            self._kill_gateway, self._pause_gateway, self._pause_worker, self._break_connections,
            self._drop_clients, self._kill_worker, self._handoff, self._stall_connections,
        )  # fmt: skip

    def _kill_gateway(self) -> None:
        self.world.random.choice(self.whole.gateways).kill("alone")

    def _stop(self, process: Process | None, what: str, seconds: float) -> None:
        if process is not None and process.alive:
            self.world.note(f"{process.name} stopped for {seconds:.3f}")
            self.world.coverage[f"{what}_stopped"] += 1
            process.pause(seconds)

    def _pause_gateway(self) -> None:
        gateway = self.world.random.choice(self.whole.gateways)
        self._stop(gateway.process, "gateways", self.world.random.choice((0.1, 0.5, 2.0, 6.0)))

    def _pause_worker(self) -> None:
        node = self.world.random.choice(self.whole.whole_nodes)
        if node.seats:
            seat = self.world.random.choice(list(node.seats.values()))
            self._stop(seat.process, "workers", self.world.random.choice((0.05, 0.3, 1.5)))

    def _break_connections(self) -> None:
        self.whole.wires.break_some(self.world.random.choice((0.1, 0.5, 1.0)))

    def _stall_connections(self) -> None:
        self.whole.wires.stall_some(
            self.world.random.choice((0.1, 0.5, 1.0)), self.world.random.choice((0.05, 0.5, 2.0))
        )

    def _drop_clients(self) -> None:
        for bot in self.bots:
            if self.world.random.random() < 0.5 and bot.online:
                self.world.coverage["clients_gone"] += 1
                bot.drop()
