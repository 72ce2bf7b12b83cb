"""Getting what a replica lacks: FETCH and ENTRIES, transfers of a whole log, the atomic install.

Guards rule 3: what is here stays until its replacement is complete in memory, and becomes the log by
one Install record; an acked entry is never dropped before. And rule 11: a replica below the base of
the one it asks takes base and suffix together.
"""

from __future__ import annotations

from connserver.ids import GroupId
from gossip.protocol import Entries, Entry, Fetch, Outline, Status
from gossip.records import Append, Base, DurableGroup, Install, Staged, staged_crc
from gossip.replica_log import extended, meeting_point
from gossip.replica_state import Host
from gossip.worker_side import WorkerSide


class Transfer:
    """A log on its way here: ours up to prev_op (or a new base there), then `entries`."""

    __slots__ = ("asked_at", "entries", "jump", "log_view", "prev_op", "prev_view", "source", "target")

    def __init__(self, source: str, log_view: int, target: int) -> None:
        self.source = source
        self.log_view = log_view
        self.target = target
        self.prev_op = -1  # nothing has arrived
        self.prev_view = 0
        self.jump = False
        self.entries: list[Entry] = []
        self.asked_at = float("-inf")

    @property
    def head(self) -> int:
        """The last op in hand; -1 before anything arrived."""
        return self.prev_op + len(self.entries)

    @property
    def head_view(self) -> int:
        """Its view."""
        return self.entries[-1].view if self.entries else self.prev_view

    @property
    def complete(self) -> bool:
        """Whether all that was promised is in hand."""
        return self.prev_op >= 0 and self.head >= self.target


class Repair(WorkerSide):
    """The layer that makes logs equal."""

    def __init__(self, group: GroupId, host: Host, durable: DurableGroup, now: float) -> None:
        super().__init__(group, host, durable, now)
        self.transfer: Transfer | None = None
        self.forming_seen = False  # whether the primary-elect of this view was seen at work on it

    # --- the one who has ---

    def on_fetch(self, sender: str, message: Fetch) -> None:
        """Serve a replica of the same view: one that is NORMAL, or the primary-elect we joined."""
        elect = self.status is Status.VIEW_CHANGE and sender == self.primary_of(self.view)
        if elect:
            self.heard_at = self.now  # it is alive and works on the view
            self.forming_seen = True
        if self.install_write or self.view_write or not (elect or self.status is Status.NORMAL):
            return
        self.peers[sender].contact_at = self.now
        self.send(sender, self.entries_for(message.outline))

    def entries_for(self, outline: Outline) -> Entries:
        """What follows the point where the outlined log and ours part, or our base if they never met."""
        meeting = meeting_point(self.log, outline)
        prev = self.log.base if meeting is None else meeting
        prev_view = self.log.view_at(prev)
        assert prev_view is not None
        entries = self.log.after(prev, self.log.head, self.host.timing.chunk_bytes)
        return Entries(
            self.group, self.era, self.view, self.log_view,
            prev, prev_view, entries, meeting is None, self.log.head, self.commit,
        )  # fmt: skip

    # --- the one who lacks ---

    def fetch(self, source: str) -> None:
        """Ask, at most once per heartbeat and peer."""
        peer = self.peers[source]
        if self.now - peer.asked_at >= self.host.timing.heartbeat:
            self._fetch_now(source)

    def _fetch_now(self, source: str) -> None:
        self.peers[source].asked_at = self.now
        self.send(source, Fetch(self.group, self.era, self.view, self._outline()))

    def _outline(self) -> Outline:
        transfer = self.transfer
        outline = self.log.outline(self.commit)
        if transfer is None or transfer.prev_op < 0:
            return outline
        if transfer.jump:
            op, view = transfer.prev_op, transfer.prev_view
            outline = Outline(op, view, op, view, (), op)
        return extended(outline, transfer.prev_op, transfer.prev_view, transfer.entries)

    def begin_transfer(self, source: str, log_view: int, target: int) -> None:
        """Get the log of `source`, good in `log_view`, at least up to `target`."""
        self.transfer = Transfer(source, log_view, target)
        self._fetch_now(source)

    def on_entries(self, sender: str, message: Entries) -> None:
        """Repair our log, or add to the transfer under way. A full disk takes none."""
        if self.takes_no_entries and message.entries:
            return
        transfer = self.transfer
        if transfer is None:
            if self.status is Status.NORMAL and message.log_view == self.view and not self.install_write:
                self._repair(sender, message)
            return
        frozen = transfer.log_view < self.view  # the log of a joined replica: only that one has it
        if message.log_view != transfer.log_view or (frozen and sender != transfer.source):
            return
        if not self.stage(transfer, message):
            return
        self.heard_at = self.now
        if transfer.complete:
            self.install_transfer(transfer, message.commit)
        else:
            self._fetch_now(sender)

    def _repair(self, sender: str, message: Entries) -> None:
        if message.jump:
            if message.prev_op > self.log.head:
                self.install(self.view, message.prev_op, message.prev_view, list(message.entries), jump=True)
        elif self.append_matching(message.prev_op, message.prev_view, message.entries):
            if message.entries and self.log.head < message.head:
                self._fetch_now(sender)
            self.ack_due = True
            self.mark()
        self.set_commit(min(message.commit, self.log.head))

    def append_matching(self, prev_op: int, prev_view: int, entries: tuple[Entry, ...]) -> bool:
        """Append what is new if the sender's log and ours agree where it begins; False: they do not."""
        if not self.prev_matches(prev_op, prev_view, entries):
            return False
        for entry in entries[max(0, self.log.head - prev_op) :]:
            self.append(Append(self.group, entry))
        return True

    def prev_matches(self, prev_op: int, prev_view: int, entries: tuple[Entry, ...]) -> bool:
        """Whether our log holds the sender's at prev_op and at the last op that both have."""
        if prev_op > self.log.head:
            return False
        if prev_op >= self.log.base and self.log.view_at(prev_op) != prev_view:
            return False
        last = min(self.log.head, prev_op + len(entries))
        if last < self.log.base:
            return True  # all of it is below our base: nothing new
        known = entries[last - prev_op - 1].view if last > prev_op else prev_view
        return self.log.view_at(last) == known

    def stage(self, transfer: Transfer, message: Entries) -> bool:
        """Add to a transfer; False if this message does not continue it."""
        if transfer.prev_op < 0:
            if message.jump:
                if message.prev_op < self.commit:
                    return False
            elif self.log.view_at(message.prev_op) != message.prev_view or message.prev_op < self.commit:
                return False
            transfer.prev_op, transfer.prev_view = message.prev_op, message.prev_view
            transfer.jump = message.jump
        elif (message.prev_op, message.prev_view) != (transfer.head, transfer.head_view):
            if message.prev_op > transfer.head or message.jump:
                self.transfer = Transfer(transfer.source, transfer.log_view, transfer.target)
            return False
        transfer.entries.extend(message.entries)
        return True

    # --- the new log takes effect ---

    def install_transfer(self, transfer: Transfer, commit: int) -> None:
        """All of it is in hand."""
        self.install(
            self.view,
            transfer.prev_op,
            transfer.prev_view,
            transfer.entries,
            transfer.jump,
        )
        self.set_commit(min(commit, self.log.head))

    def install(self, log_view: int, prev_op: int, prev_view: int, entries: list[Entry], jump: bool) -> None:
        """Replace everything above prev_op (with `jump`: everything) in one step, in memory and on disk."""
        assert prev_op >= self.commit, f"group {self.group}: an install would drop committed ops"
        if jump:
            self.host.count("base_jumps")
        elif self.log.head > prev_op:
            self.host.count("tails_replaced")
        for entry in entries:
            self.write(Staged(self.group, entry))
        head = prev_op + len(entries)
        crc = staged_crc(entries)
        number = self.write(Install(self.group, log_view, prev_op, prev_view, head, jump, crc))
        if jump:
            self.log.reset(prev_op, prev_view)
            self.archived_op = max(self.archived_op, prev_op)
        else:
            self.log.cut_after(prev_op)
        for entry in entries:
            self.log.append(entry)
        if self.status is not Status.NORMAL:
            self.inherited = head  # what the view began with, or a little more: never too little
        self.log_view = log_view
        self.durable_head = -1
        self.writing.clear()
        self.written_bytes = self.appended_bytes
        self.note_write(number, sum(len(entry.payload) for entry in entries))
        self.install_write = number
        self.transfer = None
        self.sent_op = head
        self.commit = max(self.commit, self.log.base)
        self.host.count("installs")
        self.mark()

    # --- truncation ---

    def archived(self, op: int, now: float) -> None:
        """The archive holds everything up to `op`: forget it, but for a tail."""
        self.now = now
        if op > self.archived_op:
            self.archived_op = op
            self.truncate()
            self.mark()

    def truncate(self) -> None:
        """Move the base up, in steps of a quarter of the tail so that it stays rare."""
        if self.status is not Status.NORMAL or self.install_write:
            return
        tail = self.host.timing.tail_entries
        op = min(self.archived_op, self.commit, self.durable_head) - tail
        if op <= self.log.base or op - self.log.base < tail // 4:
            return
        self.log.truncate(op)
        self.write(Base(self.group, op, self.log.base_view))
        self.host.count("truncations")
