"""All replicas of one node: incarnations, and one write and one publish per turn.

A pure machine around pure machines. It guards the incarnation rule (a lower one is dropped, a higher
one is on disk before anything it says is heeded) and the cost of a turn: whatever the number of active
groups, `flush` gives one Write, one Publish and one SendTo per peer.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random

from connserver.ids import GroupId
from gossip.protocol import (
    UNASKED,
    Effect,
    Grant,
    Message,
    Placement,
    Prepare,
    Publish,
    Recover,
    RecoverResponse,
    SendTo,
    Write,
    new_grant,
)
from gossip.quiet import Quiet
from gossip.records import (
    UNKNOWN_PLACEMENT,
    Boot,
    Damaged,
    DurableGroup,
    DurableNode,
    Lost,
    NodeIncarnation,
    PeerIncarnation,
    Phase,
    Record,
)
from gossip.replica import Replica, ReplicaStatus
from gossip.replica_state import Timing

INCARNATION_STRIDE = 4_096
"""A recovered disk goes on at the next multiple: above every start of its old life that no peer has
heard of yet, whose delayed messages would otherwise pass for ours."""
HELD_BUNDLES = 256
"""Bundles of a peer kept while its new incarnation is being written; the rest is repaired."""
FLUSH_PASSES = 8
"""Flushing a group may mark it again, a few times at most."""


def _is_exempt(message: Message) -> bool:
    """Heard in any incarnation: with these a node finds out about its own, and nothing else comes of them."""
    return type(message) is Recover or (type(message) is RecoverResponse and message.nonce == UNASKED)


class ReplicaSet:
    """The replicas of one node; what a gossip process runs."""

    def __init__(self, node: str, restored: DurableNode, timing: Timing, random: Random, now: float) -> None:
        self.node = node
        self.timing = timing
        self.replicas: dict[GroupId, Replica] = {}
        self.counters: Counter[str] = Counter()
        self._random = random
        self._now = now
        self._restored = restored
        self._last_tick = self._last_beat = now
        self._grants = 0

        self._records: list[Record] = []
        self._sync = False
        self._next_write = 1
        self._write_groups: deque[tuple[int, frozenset[GroupId]]] = deque()
        self._published: list[Message] = []
        self._sent: dict[str, list[Message]] = {}
        self._effects: list[Effect] = []
        self._marked: dict[GroupId, None] = {}
        self._touched: set[GroupId] = set()
        self._quiet = Quiet(self._alive)
        self._settled_at = now
        self._heard_again: list[tuple[str, tuple[Message, ...]]] = []  # in this turn
        self._beating = False
        self._beat: tuple[Message, ...] = ()  # all heartbeats, while no group is touched

        self._heard = dict(restored.peer_incarnations)  # the highest heard of
        self._recorded = dict(restored.peer_incarnations)  # the highest on disk
        self._recording: dict[str, int] = {}  # peer: the write that records it
        self._held: dict[str, list[tuple[int, tuple[Message, ...]]]] = {}

        self.incarnation = restored.incarnation + 1 if restored.incarnation else 0
        self._known = restored.incarnation > 0
        self._raising = 0
        self._raised = 0
        self._starting = self.write(NodeIncarnation(self.incarnation)) if self.incarnation else 0
        for group, durable in restored.groups.items():
            if durable.placement != UNKNOWN_PLACEMENT:
                self.replicas[group] = Replica(group, self, durable, now)

    def add_group(self, group: GroupId, placement: Placement, now: float) -> None:
        """Hold this group. `placement` is only a proposal: one on disk or at the peers wins."""
        self._now = now
        if group in self.replicas:
            return
        durable = DurableGroup(placement)
        if self._restored.damaged or group in self._restored.groups:
            durable.phase = Phase.LOST  # it was here, and is not new because its records are gone
            self.write(Lost(group, durable.era, placement), sync=True)
        self.replicas[group] = Replica(group, self, durable, now)

    # --- what replicas share (see replica_state.Host) ---

    def write(self, record: Record, sync: bool = False) -> int:
        """Into this turn's Write."""
        self._records.append(record)
        self._sync |= sync
        return self._next_write

    def send(self, node: str, message: Message) -> None:
        """Into this turn's SendTo."""
        self._sent.setdefault(node, []).append(message)

    def publish(self, message: Message) -> None:
        """Into this turn's Publish."""
        self._published.append(message)

    def effect(self, effect: Effect) -> None:
        """Handed to the shell in order."""
        self._effects.append(effect)

    def mark(self, group: GroupId) -> None:
        """Flush this group; what was quiet about it is not any more."""
        self._marked[group] = None
        self._touched.add(group)
        self._beat = ()
        self._quiet.disturb(group)

    def mark_again(self, group: GroupId) -> None:
        """Flush this group for its heartbeat or the ack of one."""
        self._marked[group] = None

    def count(self, what: str) -> None:
        """For metrics and coverage."""
        self.counters[what] += 1

    def recorded(self, node: str) -> int:
        """What is on disk about a peer's incarnation."""
        return self._recorded.get(node, 0)

    def learn_incarnation(self, recorded: int) -> bool:
        """False while ours is not known to be above all that peers recorded; then it is raised."""
        if self._known and recorded <= self.incarnation:
            return True
        if not self._raising:
            highest = max(recorded, self.incarnation)
            self._raised = (highest // INCARNATION_STRIDE + 1) * INCARNATION_STRIDE
            self._raising = self.write(NodeIncarnation(self._raised), sync=True)
            self.count("incarnations_raised")
        return False

    def next_grant(self, index: int) -> Grant:
        """Never given before, by any node."""
        self._grants += 1
        return new_grant(self.incarnation, self._grants, index)

    def nonce(self) -> int:
        """Random, so that an answer to an earlier life cannot fit."""
        return self._random.getrandbits(63)

    # --- from peers ---

    def receive(self, sender: str, incarnation: int, messages: tuple[Message, ...], now: float) -> None:
        """One bundle of a peer. Its sender was checked by the shell."""
        self._now = now
        if self._starting:
            return  # nothing is answered in an incarnation that the disk does not know yet
        heard = self._heard.get(sender, 0)
        if incarnation == heard and sender not in self._recording:
            quiet = self._quiet.heard(sender, messages, now)
            if quiet is not None:
                self.count("quiet_bundles")
                if quiet.acks:
                    self._sent.setdefault(sender, []).extend(quiet.acks)
                return
        if incarnation < heard:
            self.count("old_incarnation_dropped")
            self._tell_recorded(sender, messages)
            messages = tuple(message for message in messages if _is_exempt(message))
        elif incarnation > heard:
            self._heard[sender] = incarnation
            self._recording[sender] = self.write(PeerIncarnation(sender, incarnation))
            self._held[sender] = []
        if sender in self._recording and incarnation >= heard:
            held = self._held[sender]
            if len(held) < HELD_BUNDLES:
                held.append((incarnation, messages))
            return
        self._dispatch(sender, messages)

    def _tell_recorded(self, sender: str, messages: tuple[Message, ...]) -> None:
        """A life that is over does not mind; one that is too low, and alive, has to raise itself."""
        for message in messages:
            replica = self.replicas.get(message.group)
            if replica is not None and not _is_exempt(message):
                replica.tell_recorded(sender, self._now)
                return

    def _dispatch(self, sender: str, messages: tuple[Message, ...]) -> None:
        replicas = self.replicas
        now = self._now
        again = True
        for message in messages:
            replica = replicas.get(message.group)
            if replica is not None and not replica.handle(sender, message, now):
                again = False
        if again and messages:
            self._heard_again.append((sender, messages))

    def _alive(self, sender: str, message: Message, at: float) -> None:
        replica = self.replicas.get(message.group)
        if replica is not None:
            replica.alive(sender, message, at)

    # --- from the shell ---

    def written(self, upto: int, now: float) -> None:
        """The Write with this number, and all before it, are on disk."""
        self._now = now
        if self._starting <= upto:
            self._starting = 0
        if 0 < self._raising <= upto:
            self._raising = 0
            self.incarnation, self._known = self._raised, True
            for replica in self.replicas.values():
                replica.asked_round_at = float("-inf")
        for sender, number in list(self._recording.items()):
            if number <= upto:
                self._release(sender)
        while self._write_groups and self._write_groups[0][0] <= upto:
            for group in sorted(self._write_groups.popleft()[1]):
                self.replicas[group].written(upto, now)

    def _release(self, sender: str) -> None:
        del self._recording[sender]
        self._recorded[sender] = self._heard[sender]
        for replica in self.replicas.values():
            replica.peer_restarted(sender)
        for incarnation, messages in self._held.pop(sender):
            if incarnation == self._heard[sender]:
                self._dispatch(sender, messages)

    def tick(self, now: float) -> None:
        """Every `timing.tick_ms`."""
        late = now - self._last_tick - 2 * self.timing.tick_ms / 1000
        self._last_tick = self._now = now
        if self._starting:
            return
        due = [replica for replica in self.replicas.values() if late > 0 or now >= replica.idle_until]
        if due:
            self._quiet.settle()
        for replica in due:
            if late > 0:
                replica.late(late, now)
            replica.tick(now)
        if now - self._last_beat >= self.timing.heartbeat * 0.99:
            self._last_beat = now
            self._published.extend(self._beat)
            if not self._beat:
                self._beating = True
                for replica in self.replicas.values():
                    replica.beat()

    def flush(self, now: float) -> list[Effect]:
        """Everything this turn added up to, in the order in which to do it."""
        self._now = now
        for _ in range(FLUSH_PASSES):
            if not self._marked:
                break
            marked, self._marked = self._marked, {}
            for group in marked:
                self.replicas[group].flush(now)
        else:
            raise AssertionError(f"groups {list(self._marked)} mark themselves for ever")
        self._remember_quiet()
        effects: list[Effect] = []
        if self._records:
            effects.append(self._take_write())
        if self._published:
            effects.append(Publish(tuple(self._published)))
            self._published = []
        if self._sent:
            effects.extend(SendTo(node, tuple(messages)) for node, messages in self._sent.items())
            self._sent = {}
        effects.extend(self._effects)
        self._effects = []
        return effects

    def _take_write(self) -> Write:
        groups = frozenset(
            record.group
            for record in self._records
            if not isinstance(record, NodeIncarnation | PeerIncarnation | Boot | Damaged)
        )
        write = Write(tuple(self._records), self._next_write, self._sync)
        self._write_groups.append((self._next_write, groups))
        self._records, self._sync = [], False
        self._next_write += 1
        return write

    def _remember_quiet(self) -> None:
        """A turn of nothing but heartbeats, or of acks to them, can be repeated as a whole."""
        uneventful = not self._records and not self._effects
        if self._beating:
            if uneventful and not self._sent and all(type(m) is Prepare for m in self._published):
                self._beat = tuple(self._published)
            self._beating = False
        elif uneventful and not self._published:
            for sender, messages in self._heard_again if len(self._heard_again) == 1 else ():
                if set(self._sent) <= {sender}:
                    self._quiet.arm(sender, messages, tuple(self._sent.get(sender, ())), self._now)
        self._heard_again.clear()

    # --- from workers and the operator ---

    def attach(self, group: GroupId, after: int, now: float, state: int | None = None) -> None:
        """A worker is ready and is delivered what follows op `after`.

        Its state is that after op `state` (by default `after`, never below it), with nothing uncommitted
        in it. It belongs to the era of the replica: who attaches has to look. After Rebase, or Role
        BACKUP to one that was PRIMARY, it is not attached any more.
        """
        self._now = now
        self.replicas[group].attach(after, after if state is None else state, now)

    def detach(self, group: GroupId, now: float, last_words: tuple[bytes, ...] = ()) -> None:
        """The worker is dead and reaped; `last_words` are committed if its replica is still primary."""
        self._now = now
        self.replicas[group].detach(now, last_words)

    def submit(
        self, group: GroupId, grant: Grant, first_op: int, payloads: tuple[bytes, ...], now: float
    ) -> None:
        """What the worker executed, from `first_op` on. Answered by Committed or Refused."""
        self._now = now
        self.replicas[group].submit(grant, first_op, payloads, now)

    def request_barrier(self, group: GroupId, grant: Grant, token: int, now: float) -> None:
        """Answered by BarrierPassed, Refused, or by the loss of the grant."""
        self._now = now
        self.replicas[group].request_barrier(grant, token, now)

    def archived(self, group: GroupId, op: int, now: float) -> None:
        """The archive holds everything of this group up to `op`."""
        self._now = now
        self.replicas[group].archived(op, now)

    def resign(self, group: GroupId, target: str | None, now: float) -> str:
        """Planned handoff; returns why not, or an empty string."""
        self._now = now
        return self.replicas[group].resign(target, now)

    def drained(self, group: GroupId, grant: Grant, now: float) -> None:
        """The worker told DRAINING has nothing left to submit."""
        self._now = now
        self.replicas[group].drained(grant, now)

    def begin_era(
        self, group: GroupId, now: float, base: int | None = None, above: tuple[int, int] = (0, 0)
    ) -> str:
        """`recover`: begin a new history of the group here. Returns why not, or an empty string.

        Without `base` from the log that this replica holds, its uncommitted end included. With `base`,
        an op that the archive holds, from an empty log behind it; what this replica had is gone then.
        Whoever is behind joins by itself, and what others hold of older eras is void: begin on the
        replica with the greatest (era, log_view, head). `above`: the greatest era and view known anywhere
        else (of other replicas, of the archive): no two histories have one number, and the archive takes
        nothing from a lower view.
        """
        self._now = now
        return self.replicas[group].begin_era(now, base, above)

    def holds_archived(self, group: GroupId, view: int, op: int) -> bool:
        """Whether what the archive has, up to `op` by a primary of `view`, surely is part of the log here.

        Of archive and log of one era. If not, an era that keeps this log would not fit the archive.
        """
        return self.replicas[group].holds_archived(view, op)

    def set_disk_full(self, full: bool, now: float) -> None:
        """The disk has no room but for view records; or has room again."""
        self._now = now
        for replica in self.replicas.values():
            replica.set_disk_full(full, now)

    # --- looking in ---

    def take_touched(self) -> set[GroupId]:
        """The groups to which something has happened since the last call; time alone touches none."""
        touched, self._touched = self._touched, set()
        return touched

    def status(self, group: GroupId) -> ReplicaStatus:
        """For the operator, as of the last turn."""
        if self._settled_at != self._now:
            self._settled_at = self._now
            self._quiet.settle()
        replica = self.replicas[group]
        replica.now = self._now
        return replica.describe()

    def check_invariants(self) -> None:
        """Of every replica."""
        for replica in self.replicas.values():
            replica.check_invariants()
