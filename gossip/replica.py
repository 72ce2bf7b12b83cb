"""One replica of one partition group: the entry points, and the primary's stream.

`ReplicaSet` calls `handle`, `written`, `tick` and `flush`, and the worker's requests of
`worker_side`. All is decided here and in the layers below (see replica_state for their order);
nothing is sent, written or timed except through the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from connserver.ids import GroupId
from gossip.protocol import (
    Entries,
    Entry,
    ExitView,
    Fetch,
    Form,
    FormOk,
    GetView,
    Higher,
    JoinView,
    Message,
    Placement,
    Prepare,
    PrepareOk,
    Recover,
    RecoverResponse,
    Status,
    View,
)
from gossip.records import DurableGroup
from gossip.recovery import Recovery
from gossip.repair import Transfer
from gossip.replica_state import Host

TAKING_PART = (Status.NORMAL, Status.VIEW_CHANGE)
NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One of the others, as seen from here."""

    node: str
    match: int
    ready: bool
    silent_ms: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """For `status` and metrics."""

    group: GroupId
    era: int
    view: int
    log_view: int
    status: Status
    primary: str
    head: int
    commit: int
    base: int
    archived_op: int
    log_bytes: int
    worker_ready: bool
    grant: int
    placement: Placement
    peers: tuple[PeerStatus, ...]
    problem: str


class Replica(Recovery):
    """A replica as its node sees it."""

    def __init__(self, group: GroupId, host: Host, durable: DurableGroup, now: float) -> None:
        super().__init__(group, host, durable, now)
        self._prepared: Prepare | None = None  # what was said last: said again, it is the same object,
        self._acked: PrepareOk | None = None  # which the codec and the other side recognise
        self._heartbeat: Prepare | None = None  # taken in, in this view: again, it says only "alive"

    # --- messages ---

    def handle(self, sender: str, message: Message, now: float) -> bool:
        """Take in one message of a peer whose incarnation has been checked.

        True if it was heard before and says only that its sender is alive (see `quiet`).
        """
        self.now = now
        if sender not in self.peers:
            return False
        if message.view == self.view and message.era == self.era and self.status is Status.NORMAL:
            if type(message) is Prepare:  # the stream, before anything that is rare
                if message == self._heartbeat:
                    self.alive(sender, message, now)
                    self.ack_due = True
                    self.host.mark_again(self.group)
                    return True
                self.on_prepare(sender, message)
                return False
            if type(message) is PrepareOk:
                if message == self.peers[sender].last_ok and not self.wants_successor:
                    self.alive(sender, message, now)
                    return True
                self.on_prepare_ok(sender, message)
                return False
        self._handle_rare(sender, message)
        return False

    def alive(self, sender: str, message: Message, at: float) -> None:
        """What was said before was said again."""
        if type(message) is PrepareOk:
            peer = self.peers[sender]
            peer.contact_at = max(peer.contact_at, at)
            peer.vote_until = NEVER
        else:
            self.heard_at = max(self.heard_at, at)

    def _handle_rare(self, sender: str, message: Message) -> None:
        match message:
            case Recover():
                self.on_recover(sender, message)
            case RecoverResponse():
                self.on_recover_response(sender, message)
            case Form():
                self.on_form(sender, message)
            case FormOk():
                self.on_form_ok(sender, message)
            case _:
                self._handle_in_era(sender, message)

    def _handle_in_era(self, sender: str, message: Message) -> None:
        if message.era != self.era:
            if message.era < self.era:
                self.tell_higher(sender)
            elif self.era:
                self.era_is_over(message.era)
            return
        if self.status is Status.FORMING and type(message) is not Higher:
            self.opened_by(sender)  # (Higher also announces an era that is not open yet)
        if self.status in TAKING_PART:
            self._handle_in_group(sender, message)
        elif self.status is Status.RECOVERING and type(message) is Entries and message.view == self.view:
            self.on_entries(sender, message)

    def _handle_in_group(self, sender: str, message: Message) -> None:
        match message:
            case ExitView():
                self.on_exit_view(sender, message)
            case JoinView():
                self.on_join_view(sender, message)
            case View():
                self.on_view(sender, message)
            case GetView():
                if message.view > self.view:
                    self.ask_view(sender)
                else:
                    self.on_get_view(sender, message)
            case _ if message.view > self.view:
                self.ask_view(sender)
            case _ if message.view < self.view:
                self.on_lower_view(sender, message)
            case Fetch():
                self.on_fetch(sender, message)
            case Entries():
                self.on_entries(sender, message)
            case Prepare() if sender == self.primary_of(self.view):
                self.heard_at = self.now  # the view we are joining has begun
            case _:
                pass

    def on_lower_view(self, sender: str, message: Message) -> None:
        """Rule 2: nothing of a lower view is acted upon; its sender learns of the higher one."""
        if type(message) is not Higher and type(message) is not Entries:
            self.tell_higher(sender)

    # --- the primary's stream ---

    def on_prepare(self, sender: str, message: Prepare) -> None:
        """Append what follows our log, or ask for what is missing; acked at the end of the turn."""
        if sender != self.primary_of(message.view) or self.install_write:
            return
        self.heard_at = self.now
        self.peers[sender].vote_until = NEVER
        if message.barrier > self.barrier_seen:
            self.barrier_seen = message.barrier
        self.ack_due = True
        self.mark()
        if self.takes_no_entries and message.prev_op + len(message.entries) > self.log.head:
            return
        if not self.append_matching(message.prev_op, message.prev_view, message.entries):
            self.fetch(sender)
            return
        if message.commit > self.commit:
            self.set_commit(min(message.commit, self.log.head))
        if message.archived > self.archived_op:
            self.archived_op = message.archived
        self.truncate()
        if not message.entries and self.commit >= message.commit:
            self._heartbeat = message

    def on_prepare_ok(self, sender: str, message: PrepareOk) -> None:
        """A backup has this much on disk, in this view."""
        if not self.leads:
            return
        peer = self.peers[sender]
        peer.contact_at = self.now
        peer.vote_until = NEVER
        peer.ready = message.ready
        if message != peer.last_ok:
            self.mark()  # what was quiet before is news when it is said again
        peer.last_ok = message
        if self.barriers and message.barrier[0] == self.host.incarnation:
            self.pass_barriers(message.barrier[1])
        if peer.match < message.head <= self.log.head:
            peer.match = message.head
            self.advance_commit()
        if self.wants_successor:
            self.mark()

    def advance_commit(self) -> None:
        """Committed is what a majority has on disk, acked in this view."""
        heads = sorted([self.durable_head, *(peer.match for peer in self.peers.values())])
        self.set_commit(heads[-self.majority])

    # --- the shell's reports ---

    def written(self, upto: int, now: float) -> None:
        """Everything up to write number `upto` is on disk, as the durability mode understands it."""
        self.now = now
        before = self.durable_head
        while self.writing and self.writing[0][0] <= upto:
            _, self.durable_head, self.written_bytes = self.writing.popleft()
        if 0 < self.view_write <= upto:
            self.view_write = 0
            self.view_is_durable()
        if 0 < self.form_write <= upto:
            self.form_write = 0
        if 0 < self.open_write <= upto:
            self.open_write = 0
            self.open_group()
        if 0 < self.install_write <= upto:
            self.install_write = 0
            if self.status is Status.RECOVERING:
                self.finish_recovery()
            else:
                self.install_is_durable()
        if self.durable_head != before and self.status is Status.NORMAL:
            if self.leads:
                self.advance_commit()
            else:
                self.ack_due = True
                self.mark()

    def forget_view(self) -> None:
        """What was heard in a view means nothing in the next."""
        self._heartbeat = None
        self.idle_until = NEVER
        super().forget_view()

    def install_transfer(self, transfer: Transfer, commit: int) -> None:
        """A recovering replica promises the view in the same write."""
        if self.status is Status.RECOVERING:
            self.promise_recovered_view()
        super().install_transfer(transfer, commit)

    def tick(self, now: float) -> None:
        """Time passes. Called every tick_ms, but not before `idle_until`: that much is known by then."""
        self.now = now
        match self.status:
            case Status.NORMAL:
                if self.is_primary or now - self.heard_at > self.host.timing.suspicion:
                    self.vote_if_suspicious()
                if self.is_primary and self.wants_successor:
                    self.call_off_handoff()
                    self.mark()
                else:
                    self.idle_until = self.suspicion_at()
            case Status.VIEW_CHANGE:
                self.tick_view_change()
                self.vote_if_suspicious()
            case _:
                self.tick_recovery()

    def late(self, seconds: float, now: float) -> None:
        """Our own loop was late by this much: nobody else is to blame for the silence (rule 7)."""
        self.now = now
        self.heard_at = min(self.now, self.heard_at + seconds)
        for peer in self.peers.values():
            peer.contact_at = min(self.now, peer.contact_at + seconds)

    def peer_restarted(self, node: str) -> None:
        """A new incarnation of a peer: what the old one acked may be gone with its disk."""
        peer = self.peers.get(node)
        if peer:
            peer.match = -1
            peer.ready = False
            peer.last_ok = None
            peer.vote_until = NEVER
            self.joins.pop(node, None)
            self.formed.discard(node)
            self.mark()

    # --- the end of a turn ---

    def beat(self) -> None:
        """A heartbeat is due."""
        if self.leads and self.peers and not self.silent:
            self.beat_due = True
            self.host.mark_again(self.group)

    def flush(self, now: float) -> None:
        """Send and deliver what this turn added up to."""
        self.now = now
        if self.status is Status.NORMAL:
            if not self.leads:
                if self.ack_due:
                    self._ack()
            elif not self._passed_on():
                self._publish_stream()
        if self.worker_op is not None:
            self.flush_worker()

    def _passed_on(self) -> bool:
        """Whether primacy is somebody else's from here on."""
        if not self.wants_successor:
            return False
        successor = self.successor()
        if successor is None:
            return False
        self.host.count("handoffs")
        self.leave_for(self.next_view_of(successor.name))
        return True

    def _publish_stream(self) -> None:
        if self.silent or not (
            self.beat_due or self.sent_op < self.log.head or self.barrier > self.barrier_sent
        ):
            return
        self.beat_due = False
        self.barrier_sent = self.barrier
        if not self.peers:
            self.sent_op = self.log.head
            self.pass_barriers(self.barrier)  # nobody else could have become primary
            return
        while True:
            prev = self.sent_op
            entries = self.log.after(prev, self.log.head, self.host.timing.chunk_bytes)
            self.sent_op = prev + len(entries)
            self.host.publish(self._prepare(prev, entries))
            if self.sent_op == self.log.head:
                return

    def _prepare(self, prev: int, entries: tuple[Entry, ...]) -> Prepare:
        prev_view = self.log.view_at(prev)
        assert prev_view is not None
        message = Prepare(
            self.group, self.era, self.view, prev, prev_view, entries,
            self.commit, (self.host.incarnation, self.barrier), self.archived_op,
        )  # fmt: skip
        if message == self._prepared:  # the same object again: the codec knows its bytes
            return self._prepared
        self._prepared = message
        return message

    def _ack(self) -> None:
        self.ack_due = False
        if self.durable_head < 0 or self.is_primary:
            return
        message = PrepareOk(
            self.group, self.era, self.view, self.durable_head, self.barrier_seen, self.worker_ready
        )
        if self._acked is None or message != self._acked:
            self._acked = message
        self.send(self.primary_of(self.view), self._acked)

    # --- looking in ---

    def describe(self) -> ReplicaStatus:
        """For `status`."""
        peers = tuple(
            PeerStatus(peer.name, peer.match, peer.ready, int((self.now - peer.contact_at) * 1000))
            for peer in self.peers.values()
        )
        return ReplicaStatus(
            self.group, self.era, self.view, self.log_view, self.status,
            self.primary_of(self.view) if self.status in TAKING_PART else "",
            self.log.head, self.commit, self.log.base, self.archived_op, self.log.payload_bytes,
            self.worker_ready, self.grant, self.placement, peers, self.problem,
        )  # fmt: skip

    def check_invariants(self) -> None:
        """What must hold between any two events."""
        self.log.check_invariants()
        assert self.log.base <= self.commit <= self.log.head
        assert self.log.base <= max(self.archived_op, self.commit)
        assert self.log_view <= self.view or self.status is Status.RECOVERING
        assert self.durable_head <= self.log.head
        assert self.log.head_view <= max(self.log_view, 0), "an entry of a view that was not installed"
        if self.status is Status.NORMAL:
            assert self.log_view == self.view and not self.view_write
        if self.grant:
            assert self.leads and self.worker_op is not None
            assert self.commit >= self.inherited, "granted before the inherited entries committed"
        if self.leads:
            assert self.sent_op <= self.log.head
        if self.worker_op is not None and self.grant:
            assert max(self.worker_op, self.worker_state) <= self.commit
