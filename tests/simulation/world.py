"""The simulated cluster: virtual time, a network that misbehaves, disks that tear, nodes that die.

Everything runs the shipped core (`gossip.replica_set`) and the shipped WAL bytes (`gossip.wal`). One
seed gives one trace: the only randomness is `World.random`, no set is iterated, no clock is read.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from random import Random

from connserver.ids import GroupId
from gossip.protocol import (
    Alert,
    BarrierPassed,
    Committed,
    Deliver,
    Effect,
    Message,
    Publish,
    Rebase,
    Refused,
    Role,
    SendTo,
    Status,
    Write,
)
from gossip.records import Append, Base, DurableNode, Install, Promise
from gossip.replica_set import ReplicaSet
from gossip.replica_state import Timing
from gossip.wal import lose_everything, restore, segment_header, survivors
from gossip.wire import decode_bundle, encode_bundle
from tests.simulation.archive import Archive
from tests.simulation.checkers import Checkers
from tests.simulation.machines import Faults, Node, describe
from tests.simulation.workers import SessionLogic, Worker

TIMING = Timing(tail_entries=12, chunk_bytes=600, log_bytes=1 << 20, handoff_ms=400)
WIRE_SHARE = 16
"""One bundle in this many really becomes bytes and back."""
ALONE = 0.05
"""The share of worlds with one node."""
OPERATED = 0.25
"""The share of worlds where more disks may be lost than the design survives, and somebody runs `recover`."""


MACHINE_DEATHS = ("power_loss", "all")
"""Why a node was killed, where that takes its machine along."""


class World:
    """Nodes, links, time, and the trace."""

    def __init__(
        self, seed: int, groups: int, logic: Callable[[], SessionLogic], trace: bool = False
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.alone = self.draw_alone(self.random)
        self.power = self.random.random() < 0.3
        self.operated = self.alone or self.random.random() < OPERATED
        self.now = 0.0
        self.faults = Faults()
        self.coverage: Counter[str] = Counter()
        self.logic = logic
        self.timing = TIMING
        names = ("n1",) if self.alone else ("n1", "n2", "n3")
        self.placements = {
            GroupId(g): tuple(names[(g + at) % len(names)] for at in range(len(names))) for g in range(groups)
        }
        self.nodes = {name: self.make_node(name) for name in names}
        self.archive = Archive(self)
        self.checkers = Checkers(self)
        self.cuts: dict[tuple[str, str], bool] = {}
        self.lines: list[str] | None = [] if trace else None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._hash = blake2b(digest_size=8)

    @staticmethod
    def draw_alone(random: Random) -> bool:
        """Whether there is one node."""
        return random.random() < ALONE

    # --- time ---

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it then."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + seconds, self._count, action))

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let virtual time pass."""
        while self._heap and self._heap[0][0] <= end and not done():
            self.now, _, action = heapq.heappop(self._heap)
            action()
        if not done():
            self.now = max(self.now, end)

    def note(self, text: str) -> None:
        """One line of the trace."""
        line = f"{self.now:9.4f} {text}"
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    @property
    def trace_hash(self) -> str:
        """The same for the same seed."""
        return self._hash.hexdigest()

    # --- nodes ---

    def clock(self, node: Node) -> float:
        """What this node's clock shows."""
        return node.offset + self.now * node.rate

    def make_node(self, name: str) -> Node:
        """A machine of this world."""
        return Node(name, self.random.uniform(0.7, 1.4), self.random.uniform(0, 1000))

    def boot(self, node: Node) -> None:
        """Start the gossip process from what is on disk."""
        if node.set is not None:
            return
        state = self._read_disk(node)
        node.life += 1
        self.note(f"{node.name} boots, incarnation {state.incarnation} damaged {state.damaged}")
        self.start(node, state)

    def _read_disk(self, node: Node) -> DurableNode:
        disk = node.disk
        restored = restore([(1, disk.data)] if disk.data else [])
        state = restored.node
        if restored.damage:
            self.coverage["damaged_disks"] += 1
        if disk.disorderly:
            self.coverage["disorderly_boots"] += 1
            lose_everything(state)
        if restored.damage or disk.disorderly or not disk.data or not restored.last_good_bytes:
            disk.sequence = 1
            disk.data = segment_header(1) + disk.encode(tuple(survivors(state)))
        else:
            disk.data = disk.data[: restored.last_good_bytes]
            disk.sequence = restored.next_sequence
        disk.disorderly = False
        return state

    def start(self, node: Node, state: DurableNode) -> None:
        """The gossip process begins with what its disk says; workers without a process get one."""
        now = self.clock(node)
        node.set = ReplicaSet(node.name, state, self.timing, Random(self.random.getrandbits(64)), now)
        for group, placement in self.placements.items():
            node.set.add_group(group, placement, now)
        node.statuses = {}
        self._tick(node, node.life)
        for group in self.placements:
            worker = node.workers.get(group)
            if worker is None:
                node.workers[group] = Worker(self, node, group)
            else:
                worker.gossip_restarted()

    def kill(self, node: Node, why: str, workers: bool = True) -> None:
        """SIGKILL of the gossip process, by default of the whole node."""
        if node.set is None:
            return
        self.note(f"{node.name} killed: {why}")
        self.coverage[f"killed_{why}"] += 1
        self._collect(node)
        if node.disk.crash(self.random, self.power and why in MACHINE_DEATHS):
            self.coverage["torn_writes"] += 1
        node.set = None
        node.life += 1
        node.inbox.clear()
        node.paused_until = 0.0
        if workers:
            for worker in node.workers.values():
                worker.kill()
            node.workers.clear()
        delay = self.random.choice((0.02, 0.1, 0.3, 1.0))
        self.after(delay, lambda: self.boot(node))

    def lose_disk(self, node: Node) -> None:
        """The disk is replaced by a blank one."""
        self.kill(node, "disk_loss")
        node.disk.data = b""
        node.lost_disk = node.blank = True

    def lose_power(self, node: Node) -> None:
        """The machine goes down: in `process` mode its disk is not believed afterwards."""
        self.kill(node, "power_loss")
        if not self.power:
            node.disk.disorderly = node.lost_disk = True

    def damage_disk(self, node: Node) -> None:
        """A bit flips in what lies on the disk."""
        self.kill(node, "bit_flip")
        data = bytearray(node.disk.data)
        if len(data) > 200:
            data[self.random.randrange(60, len(data) - 100)] ^= 1 << self.random.randrange(8)
            node.disk.data = bytes(data)
            node.lost_disk = True

    def _collect(self, node: Node) -> None:
        assert node.set is not None
        self.coverage.update(node.set.counters)
        node.set.counters.clear()

    def collect(self) -> None:
        """Add what living nodes counted."""
        for node in self.nodes.values():
            if node.set is not None:
                self._collect(node)

    def _tick(self, node: Node, life: int) -> None:
        if node.life != life or node.set is None:
            return
        self.turn(node, life, self.beat(node))
        pause = self.timing.tick_ms / 1000 / node.rate
        self.after(pause * self.random.uniform(1.0, 1.05), lambda: self._tick(node, life))

    def beat(self, node: Node) -> Callable[[ReplicaSet, float], None]:
        """What happens in the gossip process every `tick_ms`."""
        return lambda replicas, now: replicas.tick(now)

    def flush(self, node: Node, now: float) -> list[Effect]:
        """What this turn of the gossip process added up to."""
        assert node.set is not None
        return node.set.flush(now)

    def turn(self, node: Node, life: int, action: Callable[[ReplicaSet, float], None]) -> None:
        """One event in a gossip process, and its effects. Waits while the process is stopped."""
        if node.life != life or node.set is None:
            return
        if node.paused_until > self.now:
            if len(node.inbox) < 3_000:
                node.inbox.append(lambda: self.turn(node, life, action))
            return
        now = self.clock(node)
        action(node.set, now)
        effects = self.flush(node, now)
        node.set.check_invariants()
        self.checkers.after_turn(node)
        self._watch_statuses(node)
        if node.life == life:
            self._perform(node, life, effects)

    def pause(self, node: Node, seconds: float) -> None:
        """SIGSTOP and SIGCONT."""
        if node.set is None or node.paused_until > self.now:
            return
        self.note(f"{node.name} stopped for {seconds:.3f}")
        self.coverage["pauses"] += 1
        node.paused_until = self.now + seconds
        life = node.life

        def wake() -> None:
            if node.life == life:
                waiting, node.inbox = node.inbox, []
                for action in waiting:
                    action()

        self.after(seconds, wake)

    # --- effects ---

    def _perform(self, node: Node, life: int, effects: list[Effect]) -> None:
        for effect in effects:
            if node.life != life:
                return
            match effect:
                case Write():
                    self._write(node, life, effect)
                case Publish(messages):
                    for other in self.nodes.values():
                        if other is not node:
                            self._send(node, other, messages)
                case SendTo(name, messages):
                    self._send(node, self.nodes[name], messages)
                case Alert(group, text):
                    self.note(f"{node.name} g{group} ALERT {text}")
                    self.coverage["alerts"] += 1
                case Committed() | Deliver() | Role() | Refused() | BarrierPassed() | Rebase():
                    self._to_worker(node, effect)

    def _to_worker(
        self, node: Node, effect: Committed | Deliver | Role | Refused | BarrierPassed | Rebase
    ) -> None:
        assert node.set is not None
        if isinstance(effect, Committed):
            replica = node.set.replicas[effect.group]
            self.checkers.committing_primary(effect.group, replica.era, replica.view, node.name)
        worker = node.workers.get(effect.group)
        if worker is not None:
            worker.hear(effect)
        replica = node.set.replicas[effect.group]
        if isinstance(effect, BarrierPassed) and replica.commit < replica.log.head:
            self.coverage["early_barriers"] += 1
            if self.random.random() < self.faults.strike_on_early_barrier:
                self.after(0.001, lambda: self._strike(node))

    def _strike(self, primary: Node) -> None:
        """A barrier passed before what was read had committed: let that never commit."""
        for other in self.nodes.values():
            if other is not primary:
                self.cuts[(primary.name, other.name)] = self.cuts[(other.name, primary.name)] = True
                self.kill(other, "after_early_barrier")
        self.after(1.0, self.cuts.clear)

    def _write(self, node: Node, life: int, write: Write) -> None:
        data = node.disk.encode(write.records)
        node.disk.waiting.append((write.upto, data))
        slow = self.random.random() < self.faults.slow
        delay = self.random.uniform(0.0002, 0.001) + (self.random.uniform(0.01, 0.15) if slow else 0)
        node.stalled_until = max(node.stalled_until, self.now) + delay
        why = self._crash_cause(node, write)
        if why is not None:
            self.after(delay * self.random.random(), lambda: self._crash(node, life, why))
        self.after(node.stalled_until - self.now, lambda: self._written(node, life, write.upto))

    def _crash(self, node: Node, life: int, why: str) -> None:
        if node.life == life:
            self.kill(node, why)

    def _crash_cause(self, node: Node, write: Write) -> str | None:
        faults, kinds = self.faults, {type(record) for record in write.records}
        assert node.set is not None
        recovering = any(r.status is Status.RECOVERING for r in node.set.replicas.values())
        for kind, chance, why in (
            (Install, faults.crash_in_recovery if recovering else faults.crash_on_install, "in_install"),
            (Promise, faults.crash_on_promise, "entering_view_change"),
            (Base, faults.crash_on_base, "in_truncation"),
            (Append, faults.crash_on_append, "in_append"),
        ):
            if kind in kinds and self.random.random() < chance:
                return "in_recovery" if recovering and kind is Install else why
        return None

    def _written(self, node: Node, life: int, upto: int) -> None:
        if node.life != life:
            return
        while node.disk.waiting and node.disk.waiting[0][0] <= upto:
            node.disk.data += node.disk.waiting.pop(0)[1]
        if self.random.random() < self.faults.crash_before_send:
            self.kill(node, "between_write_and_send")
            return
        self.turn(node, life, lambda s, now: s.written(upto, now))

    def _watch_statuses(self, node: Node) -> None:
        assert node.set is not None
        for group, replica in node.set.replicas.items():
            if node.statuses.get(group) is not replica.status:
                node.statuses[group] = replica.status
                self.note(
                    f"{node.name} g{group} {replica.status.value} v{replica.view} head {replica.log.head}"
                )
        if node.lost_disk and all(s is Status.NORMAL for s in node.statuses.values()):
            node.lost_disk = False
        if node.blank and all(s is not Status.BLANK for s in node.statuses.values()):
            node.blank = False

    # --- network ---

    def _send(self, source: Node, target: Node, messages: tuple[Message, ...]) -> None:
        assert source.set is not None
        if self.cuts.get((source.name, target.name)):
            return
        incarnation = source.set.incarnation
        if self.random.random() * WIRE_SHARE < 1:
            bundle = decode_bundle(encode_bundle(source.name, incarnation, messages))
            assert (bundle.sender, bundle.incarnation, bundle.messages) == (
                source.name,
                incarnation,
                messages,
            )
        copies = 2 if self.random.random() < self.faults.duplication else 1
        for _ in range(copies):
            if self.random.random() < self.faults.loss:
                self.coverage["messages_lost"] += 1
                continue
            delay = self.random.uniform(0.0001, 0.001)
            if self.random.random() < self.faults.loss / 2:
                delay += self.random.choice((0.01, 0.1, 0.5, 2.0))
            self.after(delay, lambda: self._arrive(source.name, target, incarnation, messages))

    def _arrive(self, sender: str, target: Node, incarnation: int, messages: tuple[Message, ...]) -> None:
        if target.set is None or self.cuts.get((sender, target.name)):
            return
        self.note(f"{sender}>{target.name} {len(messages)}")
        if self.lines is not None:
            self.lines[-1] += " " + " ".join(describe(message) for message in messages)
        self.turn(target, target.life, lambda s, now: s.receive(sender, incarnation, messages, now))

    def begin_era(self, node: Node, group: GroupId, base: int | None, above: tuple[int, int]) -> None:
        """The operator's `recover`: the archive is fenced first, then a replica begins."""
        row = self.archive.rows[group]

        def begin(replicas: ReplicaSet, now: float) -> None:
            reason = replicas.begin_era(group, now, base, above)
            self.note(f"{node.name} g{group} recover from {base}: {reason or 'begun'}")
            if not reason:
                replica = replicas.replicas[group]
                self.archive.raise_era(group, replica.era)
                lost = self.checkers.era_begun(group, replica.era, replica.log, row.archived_op)
                self.coverage["eras_from_archive" if base is not None else "eras_from_log"] += 1
                self.coverage["eras_that_lost"] += lost > 0

        self.turn(node, node.life, begin)

    def heal(self) -> None:
        """No more faults; the dead come back."""
        self.note("healed")
        self.faults = Faults()
        self.cuts.clear()
        for node in self.nodes.values():
            self.boot(node)
