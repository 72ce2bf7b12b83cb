"""Who is primary: suspicion, votes, joins, and the log with which a view begins.

Guards rule 1 (a majority), rule 2 (never back to a lower view) and rule 7 (suspicion may be wrong).
A replica alone never leaves a view by suspicion; votes expire, so that two hiccups far apart are not
a majority. A view is adopted only from votes, JOIN_VIEW or VIEW.
"""

from __future__ import annotations

from connserver.ids import GroupId
from gossip.protocol import (
    NEVER_INSTALLED,
    NO_BARRIER,
    ExitView,
    GetView,
    JoinView,
    Status,
    View,
)
from gossip.records import DurableGroup, Promise
from gossip.repair import Repair
from gossip.replica_state import Host

VOTES_PER_SUSPICION = 3
"""How often a vote is repeated before it would expire."""
MOST_PATIENCE = 8
"""View changes that fail in a row although their primaries-elect were at work (on slow disks, say) wait
up to this many suspicion timeouts. One that is dead or recovering costs one."""


class ViewChange(Repair):
    """The layer that changes views."""

    def __init__(self, group: GroupId, host: Host, durable: DurableGroup, now: float) -> None:
        super().__init__(group, host, durable, now)
        self.joins: dict[str, JoinView] = {}
        self.voted_at = float("-inf")
        self.joined_at = float("-inf")
        self.patience = 1

    # --- suspicion and votes ---

    def suspicious(self) -> bool:
        """Whether this replica would rather be in another view."""
        limit = self.host.timing.suspicion
        if self.status is Status.NORMAL and self.is_primary:
            return self.resigned or self.unheard()
        if self.view_write or self.install_write:
            return False  # it is our own disk that is slow
        return self.now - self.heard_at > limit * self.patience

    def unheard(self) -> bool:
        """Whether a primary has had no word from either peer for a suspicion timeout."""
        return self.now - self.last_contact() > self.host.timing.suspicion

    def last_contact(self) -> float:
        """When a primary last heard what makes it and the speaker a majority; the only one always does."""
        return max((peer.contact_at for peer in self.peers.values()), default=float("inf"))

    def suspicion_at(self) -> float:
        """When a NORMAL replica that hears nothing more will be suspicious; past if it is."""
        if self.resigned:
            return self.now
        heard = self.last_contact() if self.is_primary else self.heard_at
        return heard + self.host.timing.suspicion

    def vote_if_suspicious(self) -> None:
        """Say so, to all, again and again while it lasts."""
        silent = self.leads and self.unheard()
        if silent != self.silent:
            self.silent = silent
            self.mark()
        if not self.suspicious():
            return
        period = self.host.timing.suspicion / VOTES_PER_SUSPICION
        if self.now - self.voted_at >= period:
            self._vote()
            self._look_aside()
        self.count_votes()

    def _vote(self) -> None:
        self.voted_at = self.now
        self.host.publish(ExitView(self.group, self.era, self.view))

    def _look_aside(self) -> None:
        """Cut off from the primary alone: the third replica may have what we miss."""
        if self.status is Status.NORMAL and not self.is_primary:
            for name in self.peers:
                if name != self.primary_of(self.view):
                    self.fetch(name)

    def on_exit_view(self, sender: str, message: ExitView) -> None:
        """A vote. One from a higher view is joined at once: its sender cannot come back to ours."""
        peer = self.peers[sender]
        peer.vote_view = message.view
        peer.vote_until = self.now + self.host.timing.suspicion
        if message.view > self.view:
            self.host.count("higher_votes_joined")
            self._vote()
        elif message.view == self.view and sender == self.primary_of(self.view):
            self.heard_at = float("-inf")  # the primary itself gives the view up
            self.wake()
            self.vote_if_suspicious()
        elif message.view < self.view and not self.suspicious():
            self.tell_higher(sender)
        self.count_votes()

    def live_votes(self) -> list[int]:
        """The views of the votes that count now, ours among them."""
        votes = [peer.vote_view for peer in self.peers.values() if self.now <= peer.vote_until]
        if self.now - self.voted_at <= self.host.timing.suspicion and self._vote_stands():
            votes.append(self.view)
        return votes

    def _vote_stands(self) -> bool:
        return self.suspicious() or any(
            peer.vote_view > self.view and self.now <= peer.vote_until for peer in self.peers.values()
        )

    def count_votes(self) -> None:
        """A majority leaves the view; votes at different views combine above the highest."""
        votes = self.live_votes()
        if len(votes) >= self.majority:
            self.leave_for(max(*votes, self.view) + 1)

    # --- leaving and joining ---

    def leave_for(self, view: int) -> None:
        """Promise never to act below `view`; join it as soon as the promise is written."""
        assert view > self.view
        self.revoke()
        self.host.count("views_left")
        stuck = self.status is Status.VIEW_CHANGE and self.forming_seen
        patience = min(2 * self.patience, MOST_PATIENCE) if stuck else 1
        self.forget_view()
        self.patience = patience
        self.view = view
        self.status = Status.VIEW_CHANGE
        self.view_write = self.write(Promise(self.group, view))
        self.mark()

    def forget_view(self) -> None:
        """What was heard and begun in a view means nothing in the next."""
        self.patience = 1
        self.forming_seen = False
        self.transfer = None
        self.view_write = 0
        self.install_write = 0  # an install under way stays our log; the view it was for is over
        self.joins = {}
        self.resigned = self.silent = False
        self.barrier_seen = NO_BARRIER
        self.ack_due = False
        self.heard_at = self.now
        self.voted_at = float("-inf")
        for peer in self.peers.values():
            peer.match = -1
            peer.ready = False
            peer.last_ok = None
            peer.vote_until = float("-inf")

    def view_is_durable(self) -> None:
        """The promise is written: say what we have."""
        if self.status is Status.VIEW_CHANGE:
            self._join()

    def _join(self) -> None:
        self.joined_at = self.now
        primary = self.primary_of(self.view)
        if primary == self.me:
            self.form_view()
        elif self.transfer is None and not self.install_write:
            outline = self.log.outline(self.commit)
            self.send(primary, JoinView(self.group, self.era, self.view, self.log_view, outline))

    def on_join_view(self, sender: str, message: JoinView) -> None:
        """To the primary-elect; a primary that is NORMAL already answers with the outcome."""
        if message.view < self.view:
            self.tell_higher(sender)
            return
        if self.primary_of(message.view) != self.me:
            return
        if message.view > self.view:
            self.leave_for(message.view)
        if self.status is Status.NORMAL:
            self.peers[sender].contact_at = self.now
            self.send_view(sender)
            return
        self.joins[sender] = message
        self.form_view()

    def form_view(self) -> None:
        """With the joins of a majority, ours among them: take the best of their logs."""
        if self.view_write or self.install_write or self.status is not Status.VIEW_CHANGE:
            return
        if len(self.joins) + 1 < self.majority:
            return
        self.forming_seen = True
        winner, log_view, head = self.winner()
        if log_view == NEVER_INSTALLED:  # a majority that holds no log of this era cannot know what it is
            names = " and ".join([self.me, *self.joins])
            self.alert(
                f"{names} hold no log of era {self.era}: start the replica that does, or see `recover`"
            )
            return
        if winner == self.me:
            self.install(self.view, self.log.head, self.log.head_view, [], jump=False)
        elif self.transfer is None or self.transfer.source != winner:
            self.begin_transfer(winner, log_view, head)

    def winner(self) -> tuple[str, int, int]:
        """Of those joined, the greatest (log_view, head): node, log_view, head."""
        best = (self.log_view, self.log.head, self.me)
        for name, join in self.joins.items():
            best = max(best, (join.log_view, join.outline.head, name), key=lambda c: self.rank(c[0], c[1]))
        return best[2], best[0], best[1]

    @staticmethod
    def rank(log_view: int, head: int) -> tuple[int, int]:
        """A log good in a later view beats a longer one."""
        return (log_view, head)

    # --- the outcome ---

    def install_is_durable(self) -> None:
        """The log of this view is ours: take part in it."""
        self.alerted = ""
        if self.status is Status.NORMAL:
            self.ack_due = True  # a base jump within the view
        elif self.is_primary:
            self.become_primary()
        else:
            self.status = Status.NORMAL
            self.patience = 1
            self.heard_at = self.now
            self.ack_due = True
            self.host.count("views_followed")
        self.mark()

    def become_primary(self) -> None:
        """The view begins. Nothing is executed before all of the log has committed in it."""
        self.status = Status.NORMAL
        self.patience = 1
        self.resigned = self.silent = False
        self.inherited = self.sent_op = self.log.head
        for join in self.joins.values():
            self.set_commit(min(join.outline.commit, self.log.head))
        self.barrier_sent = self.barrier
        for peer in self.peers.values():
            peer.contact_at = self.now
            self.send_view(peer.name)
        self.back_off()
        self.beat_due = True
        self.host.count("views_begun")
        self.mark()

    def send_view(self, node: str) -> None:
        """Any NORMAL replica may say how its view began; its own head is never too little."""
        self.send(node, View(self.group, self.era, self.view, self.inherited, self.commit))

    def on_get_view(self, sender: str, message: GetView) -> None:
        """Answered by a NORMAL replica, along with what the asker lacks."""
        if self.status is not Status.NORMAL or self.install_write or self.view_write:
            return
        self.send_view(sender)
        self.send(sender, self.entries_for(message.outline))

    def on_view(self, sender: str, message: View) -> None:
        """A view has begun: get its log, then be NORMAL in it."""
        if message.view < self.view:
            self.tell_higher(sender)
            return
        if self.primary_of(message.view) == self.me:
            return  # we never began it: another life of ours did
        if message.view > self.view:
            self.leave_for(message.view)
        if self.status is not Status.VIEW_CHANGE or self.install_write:
            return
        self.heard_at = self.now
        if self.transfer is None:
            self.begin_transfer(sender, message.view, message.inherited)

    def tick_view_change(self) -> None:
        """Joins and fetches are repeated until resolved."""
        timing = self.host.timing
        transfer = self.transfer
        if transfer is not None:
            if self.now - self.peers[transfer.source].asked_at >= 2 * timing.heartbeat:
                self._retry(transfer.log_view == self.view)
        elif not self.view_write and self.now - self.joined_at >= 2 * timing.heartbeat:
            self._join()

    def _retry(self, any_source: bool) -> None:
        transfer = self.transfer
        assert transfer is not None
        if any_source:  # the view has begun: whoever is NORMAL in it will do
            names = list(self.peers)
            transfer.source = names[(names.index(transfer.source) + 1) % len(names)]
        self._fetch_now(transfer.source)
