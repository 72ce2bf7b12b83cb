"""What a replica is made of, and the few moves that every rule is built from.

The replica is one class in six layers, each a file that uses only those below it:

    replica_state   state, sending, writing down, commit            (this file)
    worker_side     grants, delivery to the worker, handoff         rules 4, 5, 6
    repair          FETCH / ENTRIES, the atomic install             rules 3, 11
    view_change     suspicion, votes, joins, the outcome            rules 1, 2, 7
    recovery        blank and damaged disks, bootstrap, eras        rules 8, 9
    replica         the entry points and the primary's stream

It guards rule 2's first half: what a send promises is written before. Sends that depend on a write
are made when `written` reports it, never queued with it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from connserver.ids import GroupId
from gossip.protocol import (
    NO_BARRIER,
    NO_GRANT,
    Alert,
    Barrier,
    Effect,
    GetView,
    Grant,
    Higher,
    Message,
    Placement,
    PrepareOk,
    Status,
)
from gossip.records import Append, DurableGroup, Phase, Record
from gossip.replica_log import ReplicaLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Periods and bounds of the protocol. None of them matters for safety."""

    heartbeat_ms: int = 20
    suspicion_ms: int = 120
    tick_ms: int = 10
    handoff_ms: int = 2_000
    """A planned handoff that takes longer than this is called off."""
    pass_backoff_most_ms: int = 5_000
    """A primary without a worker passes primacy on; when that goes in circles, more and more slowly."""
    tail_entries: int = 4_096
    """Entries kept below archived_op, so that a short absence is repaired from memory."""
    chunk_bytes: int = 1 << 20
    """Payload in one PREPARE, ENTRIES or Deliver: well below the largest message, above any turn."""
    log_bytes: int = 1 << 30
    """Payload of a group's log; above it writes are refused as `overloaded`."""
    unwritten_bytes: int = 64 << 20
    """Payload of a group handed to the WAL and not yet written: seconds of a disk that hangs."""
    waiting_barriers: int = 8_192
    """Read barriers of one group under way; a turn needs one, so this is seconds of silence."""

    @property
    def heartbeat(self) -> float:
        """In seconds."""
        return self.heartbeat_ms / 1000

    @property
    def suspicion(self) -> float:
        """In seconds."""
        return self.suspicion_ms / 1000


class Host(Protocol):
    """What a replica shares with the other replicas of its node (see replica_set)."""

    node: str
    incarnation: int
    timing: Timing

    def write(self, record: Record, sync: bool = False) -> int:
        """Put a record into this turn's write; the number that `written` will report for it."""

    def send(self, node: str, message: Message) -> None:
        """Put a message into this turn's bundle for a node."""

    def publish(self, message: Message) -> None:
        """Put a message into this turn's bundle for all nodes."""

    def effect(self, effect: Effect) -> None:
        """Something for the shell, in order."""

    def mark(self, group: GroupId) -> None:
        """Something happened to this group; flush it at the end of the turn."""

    def mark_again(self, group: GroupId) -> None:
        """Flush it, though nothing happened but what always does."""

    def count(self, what: str) -> None:
        """A counter for metrics, `status` and the simulator's coverage."""

    def recorded(self, node: str) -> int:
        """The incarnation written down for a peer."""

    def learn_incarnation(self, recorded: int) -> bool:
        """Whether ours is known and above what peers recorded earlier; raises it if not."""

    def next_grant(self, index: int) -> Grant:
        """A grant never given before."""

    def nonce(self) -> int:
        """64 random bits."""


class Peer:
    """What a replica knows about one of the others."""

    __slots__ = (
        "asked_at",
        "contact_at",
        "higher_at",
        "last_ok",
        "match",
        "name",
        "ready",
        "vote_until",
        "vote_view",
    )

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.match = -1
        self.ready = False
        self.last_ok: PrepareOk | None = None
        self.contact_at = now
        self.asked_at = self.higher_at = float("-inf")
        self.vote_view = -1
        self.vote_until = float("-inf")


class ReplicaState:
    """The state of one replica of one group. Durable: era, view, log_view, the log and its base."""

    def __init__(self, group: GroupId, host: Host, durable: DurableGroup, now: float) -> None:
        self.group = group
        self.host = host
        self.me = host.node
        self.now = now
        self.era = durable.era
        self.view = durable.view
        self.log_view = durable.log_view
        self.seeded = durable.seeded
        self.coordinator = durable.coordinator
        self.log = ReplicaLog(durable.base, durable.base_view)
        for entry in durable.dense_entries() or []:
            self.log.append(entry)
        self.placement: Placement = durable.placement
        self.peers = {name: Peer(name, now) for name in self.placement if name != self.me}
        self.status = self._status_of(durable)

        self.commit = self.log.base
        self.archived_op = self.log.base
        self.inherited = self.log.head
        self.durable_head = self.log.head  # of log_view; -1 while an install is being written
        self.writing: deque[tuple[int, int, int]] = deque()  # (write number, head and bytes by then)
        self.appended_bytes = self.written_bytes = 0
        self.view_write = 0  # the write that makes `view` durable; 0: it is
        self.install_write = 0
        self.form_write = 0  # of a bootstrap record; before it is done nobody hears of its era

        # A primary that restarts must not go on in its view: it may have published entries that its
        # disk never saw, and would give their ops to others.
        self.resigned = self.is_primary
        self.silent = False
        self.sent_op = self.log.head
        self.heard_at = now
        self.barrier = 0
        self.barrier_sent = 0
        self.barriers: deque[tuple[int, int]] = deque()  # (number, the worker's token)
        self.barrier_seen: Barrier = NO_BARRIER
        self.beat_due = False
        self.ack_due = False
        self.disk_full = False
        self.idle_until = float("-inf")  # before this no tick can matter
        self.worker_op: int | None = None  # up to here it has, or was delivered, all entries
        self.worker_state = 0  # its state is that after this op, or after worker_op if that is higher
        self.alerted = ""
        self.grant: Grant = NO_GRANT

    @staticmethod
    def _status_of(durable: DurableGroup) -> Status:
        match durable.phase:
            case Phase.BLANK:
                return Status.BLANK
            case Phase.FORMING:
                return Status.FORMING
            case Phase.LOST:
                return Status.RECOVERING
            case Phase.OPEN:
                return Status.NORMAL if durable.log_view == durable.view else Status.VIEW_CHANGE

    # --- who is who ---

    def primary_of(self, view: int) -> str:
        """The node that is primary in a view."""
        return self.placement[view % len(self.placement)]

    @property
    def is_primary(self) -> bool:
        """Whether the current view is this node's."""
        return self.primary_of(self.view) == self.me

    @property
    def majority(self) -> int:
        """How many replicas, this one among them, decide: two of three, or the only one."""
        return len(self.placement) // 2 + 1

    @property
    def leads(self) -> bool:
        """NORMAL, primary, and neither restarted in this view nor waiting for its own install."""
        return self.status is Status.NORMAL and self.is_primary and not self.resigned

    def next_view_of(self, node: str, above: int = 0) -> int:
        """The lowest view above ours (and `above`) whose primary is `node`."""
        view = max(self.view, above) + 1
        while self.primary_of(view) != node:
            view += 1
        return view

    def adopt_placement(self, placement: Placement) -> None:
        """Take a placement that peers have stored instead of the one computed here."""
        self.placement = placement
        self.peers = {n: self.peers.get(n) or Peer(n, self.now) for n in placement if n != self.me}

    # --- sending and writing ---

    def send(self, node: str, message: Message) -> None:
        """To one node, at the end of the turn."""
        self.host.send(node, message)

    def write(self, record: Record, sync: bool = False) -> int:
        """Into this turn's write."""
        return self.host.write(record, sync)

    def append(self, record: Append) -> None:
        """Add an entry to the log in memory and, in the same order, on disk."""
        self.log.append(record.entry)
        self.note_write(self.write(record), len(record.entry.payload))

    def note_write(self, number: int, size: int) -> None:
        """Once this write is done the head of now is on disk."""
        self.appended_bytes += size
        if self.writing and self.writing[-1][0] == number:
            self.writing.pop()
        self.writing.append((number, self.log.head, self.appended_bytes))

    @property
    def takes_no_entries(self) -> bool:
        """The disk is full, or so far behind that more would only pile up in memory."""
        behind = self.appended_bytes - self.written_bytes > self.host.timing.unwritten_bytes
        return self.disk_full or behind

    def mark(self) -> None:
        """Ask for a flush at the end of the turn."""
        self.host.mark(self.group)

    def wake(self) -> None:
        """Something changed that ticks have to follow."""
        self.idle_until = float("-inf")
        self.mark()

    def alert(self, text: str) -> None:
        """Once per cause."""
        if text != self.alerted:
            self.alerted = text
            self.host.effect(Alert(self.group, text))

    def set_commit(self, op: int) -> None:
        """Commit never falls."""
        if op > self.commit:
            assert op <= self.log.head, (op, self.log.head)
            self.commit = op
            self.mark()

    def tell_higher(self, node: str) -> None:
        """Answer a lower view or era, at most once per heartbeat."""
        if self.form_write or not self.may_answer(node):
            return
        self.send(node, Higher(self.group, self.era, self.view))

    def may_answer(self, node: str) -> bool:
        """Whether it is time to tell a peer again that it is behind."""
        peer = self.peers[node]
        if self.now - peer.higher_at < self.host.timing.heartbeat:
            return False
        peer.higher_at = self.now
        return True

    def ask_view(self, node: str) -> None:
        """A peer is in a higher view: ask for its outcome, at most once per heartbeat."""
        peer = self.peers[node]
        if self.now - peer.asked_at >= self.host.timing.heartbeat:
            peer.asked_at = self.now
            self.send(node, GetView(self.group, self.era, self.view, self.log.outline(self.commit)))
