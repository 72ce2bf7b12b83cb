"""The whole cluster in one seed: shipped gossip logs, workers and gateways, and clients on their sockets.

Of each process the shipped code runs, shells included: `gossip.replication` over the same disks and the
same network as in the world of the core, `partition.worker.Worker`, `gateway.server.Gateway`. What is
modelled is the rest of the gossip process: who speaks for a group, and the routes, which every node
publishes as it knows them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

from connserver.codec import decode
from connserver.ids import GroupId
from connserver.messages import Committed, Role
from gossip.protocol import Effect, Publish, SendTo, Status
from gossip.records import DurableNode
from gossip.replica_set import ReplicaSet
from gossip.replica_state import Timing
from gossip.replication import Granted, PublishLog, Replication, SendLog, Tell, WriteLog
from tests.simulation.checkers import Violation
from tests.simulation.machines import Node
from tests.simulation.whole.archiver import Archive
from tests.simulation.whole.checkers import WholeCheckers
from tests.simulation.whole.gossip import Gossip
from tests.simulation.whole.processes import Process
from tests.simulation.whole.seats import GatewaySeat, Seat
from tests.simulation.whole.settings import GROUPS, PLUGIN, Settings
from tests.simulation.whole.wires import Frames, Wires
from tests.simulation.workers import KeptReplies
from tests.simulation.world import World

WHOLE_TIMING = Timing(tail_entries=12, chunk_bytes=60_000, log_bytes=1 << 22, handoff_ms=400)
RATES = (0.95, 1.05)
"""How fast clocks run. Wilder ones are left to the world of the core: here what is due in a second is too."""
MACHINE_OF_ALL = ("node", "all", "power_loss", "disk_loss", "bit_flip", "after_early_barrier")
"""Why a node was killed, where that takes its gateways along."""


@dataclass(slots=True)
class WholeNode(Node):
    """A machine with a gossip process, a worker per group and a gateway."""

    replication: Replication | None = None
    gossip: Gossip | None = None
    gateway: GatewaySeat | None = None
    seats: dict[int, Seat] = field(default_factory=dict)


class WholeWorld(World):
    """Three nodes, each with a replica of every group."""

    archive: Archive  # type: ignore[assignment]

    def __init__(
        self, seed: int, trace: bool = False, groups: int = GROUPS, plugins: tuple[Path, ...] = (PLUGIN,)
    ) -> None:
        self._pids = 100
        super().__init__(seed, groups, KeptReplies, trace)
        self.timing = WHOLE_TIMING
        self.operated = False
        self.wires = Wires(self)
        self.settings = Settings(self.random, groups, plugins)
        self.archive = Archive(self)
        self.judge = WholeCheckers(self)
        self.checkers = self.judge
        self.gateways = [node.gateway for node in self.whole_nodes if node.gateway is not None]
        self.wires.heard = self._heard

    @staticmethod
    def draw_alone(random: Random) -> bool:
        """There are always three."""
        random.random()
        return False

    @property
    def whole_nodes(self) -> list[WholeNode]:
        """All nodes, as what they are here."""
        return cast(list[WholeNode], list(self.nodes.values()))

    def make_node(self, name: str) -> WholeNode:
        """A machine of this world."""
        node = WholeNode(name, self.random.uniform(*RATES), self.random.uniform(0, 1000))
        node.gateway = GatewaySeat(self, node)
        return node

    def pid(self) -> int:
        """A fresh process id."""
        self._pids += 1
        return self._pids

    # --- gossip processes ---

    def start(self, node: Node, state: DurableNode) -> None:
        """The gossip process begins; workers and the gateway that are not there are started."""
        assert isinstance(node, WholeNode)
        now, boot = self.clock(node), self.random.getrandbits(62)
        dice = Random(self.random.getrandbits(64))
        node.replication = Replication(
            node.name, boot, state, self.timing, dice, lambda group: node.seats[group].source, now
        )
        node.set = node.replication.set
        node.replication.place({int(group): placement for group, placement in self.placements.items()}, now)
        node.statuses = {}
        node.gossip = Gossip(self, node)
        self._tick(node, node.life)
        for group in self.placements:
            seat = node.seats.setdefault(int(group), Seat(self, node, group))
            node.workers[group] = cast(Any, seat)
            seat.start_if_empty()
        assert node.gateway is not None
        node.gateway.start_if_empty()

    def kill(self, node: Node, why: str, workers: bool = True) -> None:
        """SIGKILL of the gossip process, by default of the whole node."""
        assert isinstance(node, WholeNode)
        if node.set is None:
            return
        gossip, node.gossip, node.replication = node.gossip, None, None
        super().kill(node, why, workers)
        assert gossip is not None and node.gateway is not None
        gossip.process.die()
        if workers and why in MACHINE_OF_ALL:
            node.gateway.kill("with_its_node")

    def beat(self, node: Node) -> Callable[[ReplicaSet, float], None]:
        """What happens in the gossip process every `tick_ms`."""
        assert isinstance(node, WholeNode) and node.replication is not None
        replication = node.replication
        return lambda replicas, now: replication.tick(now)

    def flush(self, node: Node, now: float) -> list[Effect]:
        """What this turn added up to; what is for workers and routes is done here."""
        assert isinstance(node, WholeNode) and node.replication is not None and node.gossip is not None
        effects: list[Effect] = []
        for effect in node.replication.drain(now):
            match effect:
                case WriteLog(write):
                    effects.append(write)
                case PublishLog(messages):
                    effects.append(Publish(messages))
                case SendLog(name, messages):
                    effects.append(SendTo(name, messages))
                case Tell(identity, message):
                    self._watch(node, message)
                    node.gossip.tell(identity, message)
                case Granted(group, grant):
                    node.gossip.granted(group, grant)
        return effects

    def _watch(self, node: WholeNode, message: Any) -> None:
        assert node.set is not None
        if isinstance(message, Committed):
            for group, replica in node.set.replicas.items():
                if replica.grant == message.grant:
                    self.checkers.committing_primary(group, replica.era, replica.view, node.name)
        elif isinstance(message, Role) and message.grant:
            self.judge.role(node.name, message)

    def worker_says(self, node: WholeNode, action: Callable[[Replication, float], None]) -> None:
        """Something came from a worker to this node's gossip process."""
        replication = node.replication
        if replication is not None:
            self.turn(node, node.life, lambda replicas, now: action(replication, now))

    # --- looking in ---

    def _heard(self, source: Process, target: Process, frames: Frames) -> None:
        """Every message between processes, as it is sent."""
        if source.name.startswith("worker") and not target.name.startswith("gossip"):
            self.judge.sent(source, target, decode(frames[-1]))

    def heal(self) -> None:
        """No more faults; whoever is stopped goes on."""
        self.archive.down = False
        self.wires.choke = self.wires.loss = 0.0
        super().heal()

    def until_equal(self, within_s: float) -> None:
        """Let time pass until all replicas and workers are equal; Violation if they are not by then."""
        end = self.now + within_s
        while self.now < end:
            if all(node.set is not None for node in self.nodes.values()):
                with suppress(Violation):
                    self.judge.check_converged()
                    return
            self.run_until(self.now + 0.05)
        self.judge.check_converged()

    def end(self) -> None:
        """Nothing happens any more."""
        for node in self.whole_nodes:
            for process in [seat.process for seat in node.seats.values()]:
                if process is not None:
                    process.alive = False
            for seat in (node.gateway, node.gossip):
                if seat is not None and seat.process is not None:
                    seat.process.alive = False

    def serves(self, node: Node, group: GroupId) -> bool:
        """Whether the worker of this group may execute on this node, as far as its gossip process knows."""
        replica = node.set.replicas[group] if node.set is not None else None
        return replica is not None and bool(replica.grant) and replica.status is Status.NORMAL
