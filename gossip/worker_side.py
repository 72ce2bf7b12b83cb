"""A replica and its worker: grants, delivery of committed entries, passing primacy on.

Guards rule 4 (nothing is executed before every inherited entry is committed and applied), rule 5
(grants) and the order on which both rest: a worker hears Deliver, Committed and Role in the order in
which they are made, so a Role(PRIMARY) comes after everything the worker must have applied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from connserver.ids import GroupId
from gossip.protocol import (
    NO_GRANT,
    Alert,
    BarrierPassed,
    Committed,
    Deliver,
    Entry,
    Grant,
    Rebase,
    Refusal,
    Refused,
    Role,
    Status,
    WorkerRole,
    entry_crc,
)
from gossip.records import Append, DurableGroup
from gossip.replica_state import Host, Peer, ReplicaState


@dataclass(frozen=True, slots=True)
class Handoff:
    """A resignation under way. `target` None: whoever is ready."""

    target: str | None
    until: float
    drained: bool


class WorkerSide(ReplicaState):
    """The layer between the log and the worker that executes for it."""

    def __init__(self, group: GroupId, host: Host, durable: DurableGroup, now: float) -> None:
        super().__init__(group, host, durable, now)
        self.handoff: Handoff | None = None
        self.pass_at = now
        self.pass_backoff = host.timing.suspicion
        self.attached_at = now

    # --- the worker comes and goes ---

    def attach(self, after: int, state: int, now: float) -> None:
        """A worker is ready; its state is that after op `state` and holds nothing uncommitted.

        It is delivered what follows `after` (at most `state`). Both may be above the commit that is
        known here, and above the head: a snapshot can be newer than a replica that was away.
        """
        assert after <= state, (after, state)
        self.now = now
        self.forget_worker()
        self.worker_op, self.worker_state = after, state
        self.attached_at = now
        self.host.effect(Role(self.group, NO_GRANT, WorkerRole.BACKUP, self.era, self.view))
        self.ack_due = True  # says `ready`
        self.mark()

    def detach(self, now: float, last_words: tuple[bytes, ...] = ()) -> None:
        """The worker is gone and reaped. Its primary may still commit what must be known of the death."""
        self.now = now
        if self.grant and self.leads:
            for payload in last_words:
                self._append_own(payload)
        self.forget_worker()
        self.ack_due = True
        self.pass_at = now
        self.wake()

    def forget_worker(self) -> None:
        """What the one before asked for answers nothing that the next one asks."""
        self.grant = NO_GRANT
        self.worker_op = None
        self.barriers.clear()
        if self.handoff:
            self.handoff = replace(self.handoff, drained=True)

    def revoke(self) -> None:
        """The view is over: whatever the worker executed beyond the commit never happened."""
        self.handoff = None
        self.barriers.clear()
        if self.grant:
            self.grant = NO_GRANT
            self.worker_op = None
            self.host.effect(Role(self.group, NO_GRANT, WorkerRole.BACKUP, self.era, self.view))

    def dismiss_worker(self) -> None:
        """The log that the worker followed is void: whatever its state, it begins anew from a snapshot."""
        attached = self.worker_op is not None
        self.revoke()
        if attached:
            self.worker_op = None
            self.host.effect(Rebase(self.group, self.log.base))

    # --- the worker's work ---

    def submit(self, grant: Grant, first_op: int, payloads: tuple[bytes, ...], now: float) -> None:
        """Append what the worker executed. Ops that are there already are skipped."""
        self.now = now
        refusal = self.refusal(grant, first_op)
        if refusal:
            self.host.effect(Refused(self.group, grant, first_op, refusal, self.log.head))
            return
        for payload in payloads[self.log.head + 1 - first_op :]:
            self._append_own(payload)

    def refusal(self, grant: Grant, first_op: int) -> Refusal | None:
        """Why a SUBMIT cannot be taken; None: it can."""
        if not grant or grant != self.grant or not self.leads:
            return Refusal.STALE_GRANT
        if first_op > self.log.head + 1:
            return Refusal.GAP
        if self.takes_no_entries or self.log.payload_bytes > self.host.timing.log_bytes:
            return Refusal.OVERLOADED
        return None

    def _append_own(self, payload: bytes) -> None:
        op = self.log.head + 1
        self.append(Append(self.group, Entry(op, self.view, entry_crc(op, payload), payload)))
        self.mark()

    def request_barrier(self, grant: Grant, token: int, now: float) -> None:
        """Say when a barrier published from now on has been acked; all of a turn share one."""
        self.now = now
        if not grant or grant != self.grant or not self.leads:
            self.host.effect(Refused(self.group, grant, 0, Refusal.STALE_GRANT, self.log.head))
        elif len(self.barriers) >= self.host.timing.waiting_barriers:
            self.host.effect(Refused(self.group, grant, 0, Refusal.OVERLOADED, self.log.head))
        else:
            if self.barrier == self.barrier_sent:
                self.barrier += 1
            self.barriers.append((self.barrier, token))
            self.mark()

    def pass_barriers(self, number: int) -> None:
        """A backup acked this barrier in this view."""
        while self.barriers and self.barriers[0][0] <= number:
            self.host.effect(BarrierPassed(self.group, self.grant, self.barriers.popleft()[1]))

    # --- at the end of a turn ---

    def flush_worker(self) -> None:
        """Tell the worker what has committed; grant it the right to execute when it may."""
        if self.worker_op is None:
            return
        if self.grant:
            if self.commit > self.worker_op:
                self.worker_op = self.commit
                self.host.effect(Committed(self.group, self.commit))
            return
        if self.worker_op < self.log.base:
            self.worker_op = None
            self.host.effect(Rebase(self.group, self.log.base))
            return
        while self.worker_op < self.commit:
            entries = self.log.after(self.worker_op, self.commit, self.host.timing.chunk_bytes)
            self.worker_op = entries[-1].op
            self.host.effect(Deliver(self.group, entries))
        if self.may_grant():
            self.grant = self.host.next_grant(self.placement.index(self.me))
            self.pass_backoff = self.host.timing.suspicion
            self.host.effect(Role(self.group, self.grant, WorkerRole.PRIMARY, self.era, self.view))
            self.host.count("grants")

    def may_grant(self) -> bool:
        """Rule 4: the primary of an undisputed log, all of it committed and applied.

        With a full disk only when nobody could take over for a while: then reads go on, writes are refused.
        """
        return (
            self.leads
            and self.handoff is None
            and (not self.disk_full or not self.peers or self.now >= self.pass_at)
            and self.commit == self.log.head
            and self.worker_op == self.commit
            and self.worker_state <= self.commit
        )

    @property
    def archive_problem(self) -> str:
        """What is wrong when a worker's snapshot holds more than all that was ever committed.

        Judged by a primary that hears its peers and has committed all of its log, and not at once:
        one that was deposed without knowing it knows less than the archive, which is no problem.
        """
        settled = self.leads and not self.silent and self.commit == self.log.head
        if self.worker_op is None or not settled or self.worker_state <= self.commit:
            return ""
        if self.now - self.attached_at <= self.host.timing.suspicion:
            return ""
        return (
            f"the archive is ahead of the log: a worker's state is that of op {self.worker_state}, "
            f"and the log ends at op {self.log.head}; see `recover`"
        )

    @property
    def problem(self) -> str:
        """What keeps this replica from its work and goes away only when somebody does something."""
        return self.alerted or self.archive_problem

    # --- passing primacy on ---

    def resign(self, target: str | None, now: float) -> str:
        """Begin a planned handoff; returns why not, or an empty string."""
        self.now = now
        if not self.leads:
            return f"group {self.group}: {self.me} is not its primary (view {self.view}, {self.status.value})"
        if not self.peers:
            return f"group {self.group}: {self.me} holds its only replica"
        if target is not None and target not in self.peers:
            others = ", ".join(self.peers)
            return f"group {self.group}: {target} is not another replica of it; those are {others}"
        until = now + self.host.timing.handoff_ms / 1000
        self.handoff = Handoff(target, until, drained=not self.grant)
        if self.grant:
            self.host.effect(Role(self.group, self.grant, WorkerRole.DRAINING, self.era, self.view))
        self.wake()
        return ""

    def drained(self, grant: Grant, now: float) -> None:
        """The worker has submitted everything it executed and takes nothing in."""
        self.now = now
        if self.handoff and grant == self.grant:
            self.handoff = replace(self.handoff, drained=True)
            self.mark()

    @property
    def wants_successor(self) -> bool:
        """Whether a primary looks for somebody to take over."""
        return bool(self.peers) and (self.worker_op is None or self.handoff is not None or self.disk_full)

    def successor(self) -> Peer | None:
        """Who can take over without a pause, if primacy is to be passed on now."""
        if not self.leads or self.commit != self.log.head:
            return None
        wanted: str | None = None
        if self.handoff:
            if not self.handoff.drained:
                return None
            wanted = self.handoff.target
        elif self.disk_full:
            if self.grant:
                return None
        elif self.worker_op is not None or self.now < self.pass_at:
            return None
        for peer in self.peers.values():
            fits = peer.ready and peer.match == self.log.head
            if fits and wanted in (None, peer.name):
                return peer
        return None

    def call_off_handoff(self) -> None:
        """The target did not get ready in time: go on."""
        if self.handoff and self.now > self.handoff.until:
            target = self.handoff.target or "any other replica"
            self.handoff = None
            self.host.effect(Alert(self.group, f"handoff to {target} called off: it was not ready in time"))
            if self.grant:
                self.host.effect(Role(self.group, self.grant, WorkerRole.PRIMARY, self.era, self.view))

    def back_off(self) -> None:
        """Primacy came without a worker here: wait before passing it on, longer each time."""
        first = self.host.timing.first_worker_ms / 1000 if self.view == 0 else 0.0
        self.pass_at = self.now + max(self.pass_backoff, first)
        most = self.host.timing.pass_backoff_most_ms / 1000
        self.pass_backoff = min(self.pass_backoff * 2, most)

    def set_disk_full(self, full: bool, now: float) -> None:
        """A full disk refuses writes and hands primacy off; view records have space reserved.

        The only replica of a group keeps it: reads go on.
        """
        self.now = now
        if full and not self.disk_full and self.leads and self.handoff is None:
            self.resign(None, now)
        self.disk_full = full
        self.wake()

    @property
    def worker_ready(self) -> bool:
        """Whether a worker could take over here."""
        return self.worker_op is not None and self.status is Status.NORMAL and not self.disk_full
