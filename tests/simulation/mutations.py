"""Bugs put back, one at a time. Each entry replaces one decision of the core (or of a model beside it)
by the mistake; `scripts/simulate --mutations` must catch every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch
from zlib import crc32

from gossip import records, recovery, replica_set, wal
from gossip.protocol import BarrierPassed, JoinView, PrepareOk, Rebase, Recover, Status
from gossip.records import Append, Install, Opened, Promise, staged_crc
from gossip.recovery import Recovery
from gossip.repair import Repair, Transfer
from gossip.replica import Replica
from gossip.replica_set import ReplicaSet
from gossip.replica_state import ReplicaState
from gossip.view_change import ViewChange
from gossip.worker_side import WorkerSide
from tests.simulation import archive, machines, workers

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """What is wrong, in words, and how it is put back; in which kind of world it shows."""

    bug: str
    patches: Callable[[], list[Patch]]
    worlds: str = "core"


MUTATIONS: dict[str, Mutation] = {}


def mutation(
    name: str, bug: str, worlds: str = "core"
) -> Callable[[Callable[[], list[Patch]]], Callable[[], list[Patch]]]:
    """Enter a bug into the table."""

    def enter(patches: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
        assert name not in MUTATIONS, name
        MUTATIONS[name] = Mutation(bug, patches, worlds)
        return patches

    return enter


@contextmanager
def put_back(name: str | None) -> Iterator[None]:
    """The core with this bug; without a name, as it is."""
    with ExitStack() as stack:
        for target, attribute, value in MUTATIONS[name].patches() if name else []:
            stack.enter_context(patch.object(target, attribute, value))
        yield


# --- promises and writes ---


@mutation("ack_before_write", "PREPARE_OK says the head in memory")
def _() -> list[Patch]:
    original = Replica._ack

    def ack(self: Any) -> None:
        durable, self.durable_head = self.durable_head, self.log.head
        original(self)
        self.durable_head = durable

    return [(Replica, "_ack", ack)]


@mutation("commit_before_own_write", "a primary counts its own entries before they are on its disk")
def _() -> list[Patch]:
    def advance(self: Any) -> None:
        acked = sorted([self.log.head, *(peer.match for peer in self.peers.values())])[1]
        self.set_commit(acked)

    return [(Replica, "advance_commit", advance)]


@mutation("join_before_write", "JOIN_VIEW leaves before the promise is on disk")
def _() -> list[Patch]:
    original = ViewChange.leave_for

    def leave_for(self: Any, view: int) -> None:
        original(self, view)
        self.view_write = 0
        self._join()

    return [(ViewChange, "leave_for", leave_for)]


@mutation("view_before_install_written", "a new primary begins its view before its log is on disk")
def _() -> list[Patch]:
    original = Repair.install

    def install(self: Any, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        if self.status is Status.VIEW_CHANGE and self.is_primary:
            self.install_write = 0
            self.install_is_durable()

    return [(Repair, "install", install)]


@mutation("no_wal", "nothing is written")
def _() -> list[Patch]:
    def nothing(record: Any, sequence: int) -> bytes:
        return b""

    from tests.simulation import stage

    return [(machines, "encode_record", nothing), (stage, "encode_record", nothing)]


@mutation("promise_forgotten", "the promised view is not read back at a restart")
def _() -> list[Patch]:
    original = records.Replay.apply

    def apply(self: Any, record: Any) -> None:
        if not isinstance(record, Promise):
            original(self, record)

    return [(records.Replay, "apply", apply)]


@mutation("install_not_atomic", "entries of an install are appended one by one after the cut")
def _() -> list[Patch]:
    original = ReplicaState.write

    def write(self: Any, record: Any, sync: bool = False) -> int:
        if isinstance(record, records.Staged):
            self.__dict__.setdefault("_mutant_staged", []).append(record.entry)
            return 0
        if isinstance(record, Install):
            entries = self.__dict__.pop("_mutant_staged", [])
            cut = record._replace(head=record.prev_op, crc=staged_crc([]))
            number = original(self, cut, sync)
            for entry in entries:
                number = original(self, Append(record.group, entry), sync)
            return number
        return original(self, record, sync)

    return [(ReplicaState, "write", write)]


@mutation("cut_before_transfer", "the old tail is dropped before its replacement is in hand")
def _() -> list[Patch]:
    original = Repair.begin_transfer

    def begin(self: Any, source: str, log_view: int, target: int) -> None:
        op = self.commit
        view = self.log.view_at(op)
        self.write(Install(self.group, self.log_view, op, view, op, False, staged_crc([])))
        self.log.cut_after(op)
        self.sent_op = min(self.sent_op, op)
        self.durable_head = min(self.durable_head, op)
        self.writing.clear()
        original(self, source, log_view, target)

    return [(Repair, "begin_transfer", begin)]


@mutation("install_of_another_view", "an install that is written late makes a replica NORMAL in a later view")
def _() -> list[Patch]:
    original = ViewChange.leave_for

    def leave_for(self: Any, view: int) -> None:
        pending = self.install_write
        original(self, view)
        self.install_write = pending

    return [(ViewChange, "leave_for", leave_for)]


@mutation("damage_is_torn", "a damaged record is taken for the end of the log")
def _() -> list[Patch]:
    original = wal.read_segment

    def read(data: bytes, number: int, first: int | None, last: bool) -> wal.Reading:
        reading = original(data, number, first, last)
        if reading.damaged_groups or reading.broken_at >= 0:
            cut = reading.broken_at
            at = wal.SEGMENT_HEADER_BYTES
            while at + wal.RECORD_HEADER_BYTES <= len(data) and (cut < 0 or at < cut):
                length, crc = wal._HEADER.unpack_from(data, at)[:2]
                body = data[at + wal.RECORD_HEADER_BYTES :][:length]
                if crc32(body) != crc:
                    break
                at += wal.RECORD_HEADER_BYTES + length
            return original(data[:at], number, first, True)
        return reading

    return [(wal, "read_segment", read)]


# --- views ---


@mutation("no_view_check", "messages of a lower view are taken for the current one's")
def _() -> list[Patch]:
    original = Replica.handle

    def handle(self: Any, sender: str, message: Any, now: float) -> None:
        if message.view < self.view and isinstance(message, PrepareOk | JoinView):
            message = message._replace(view=self.view)
        original(self, sender, message, now)

    return [(Replica, "handle", handle)]


@mutation("longest_log", "of two logs the longer wins, whatever view it was good in")
def _() -> list[Patch]:
    return [(ViewChange, "rank", staticmethod(lambda log_view, head: (head, log_view)))]


@mutation("own_log", "a new primary begins with its own log")
def _() -> list[Patch]:
    return [(ViewChange, "winner", lambda self: (self.me, self.log_view, self.log.head))]


@mutation("primary_resumes", "a restarted primary goes on in its view")
def _() -> list[Patch]:
    original = ReplicaState.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self.resigned = False

    return [(ReplicaState, "__init__", init)]


@mutation("join_counts_as_ack", "a join's head commits inherited entries, acked in this view or not")
def _() -> list[Patch]:
    original = ViewChange.become_primary

    def become_primary(self: Any) -> None:
        original(self)
        for name, join in self.joins.items():
            self.peers[name].match = min(join.outline.head, self.log.head)
        self.advance_commit()

    return [(ViewChange, "become_primary", become_primary)]


@mutation("votes_never_expire", "a vote counts for ever")
def _() -> list[Patch]:
    original = ViewChange.on_exit_view

    def on_exit_view(self: Any, sender: str, message: Any) -> None:
        original(self, sender, message)
        if message.view >= self.view:
            self.peers[sender].vote_until = float("inf")

    def on_prepare_ok(self: Any, sender: str, message: Any) -> None:
        until = self.peers[sender].vote_until
        original_ok(self, sender, message)
        self.peers[sender].vote_until = until

    original_ok = Replica.on_prepare_ok
    return [(ViewChange, "on_exit_view", on_exit_view), (Replica, "on_prepare_ok", on_prepare_ok)]


@mutation("higher_vote_ignored", "a vote from a higher view is not joined: its sender stays outside for ever")
def _() -> list[Patch]:
    original = ViewChange.on_exit_view

    def on_exit_view(self: Any, sender: str, message: Any) -> None:
        if message.view <= self.view:
            original(self, sender, message)

    return [(ViewChange, "on_exit_view", on_exit_view)]


@mutation("one_vote_leaves", "a suspicious replica leaves its view alone")
def _() -> list[Patch]:
    def count(self: Any) -> None:
        votes = self.live_votes()
        if votes:
            self.leave_for(max(*votes, self.view) + 1)

    return [(ViewChange, "count_votes", count)]


@mutation("loop_lateness_ignored", "a node blames its peers for its own late loop")
def _() -> list[Patch]:
    return [(Replica, "late", lambda self, seconds, now: None)]


# --- the log ---


@mutation("no_prev_check", "PREPARE is appended wherever our log ends")
def _() -> list[Patch]:
    def append_matching(self: Any, prev_op: int, prev_view: int, entries: Any) -> bool:
        for entry in entries:
            if entry.op > self.log.head:
                self.append(Append(self.group, entry._replace(op=self.log.head + 1)))
        return True

    return [(Repair, "append_matching", append_matching)]


@mutation("no_match_in_transfer", "a transfer is put behind whatever is there")
def _() -> list[Patch]:
    def stage(self: Any, transfer: Transfer, message: Any) -> bool:
        if transfer.prev_op < 0:
            transfer.prev_op, transfer.prev_view = min(message.prev_op, self.log.head), message.prev_view
            transfer.jump = message.jump
        transfer.entries.extend(message.entries)
        return True

    return [(Repair, "stage", stage)]


@mutation("truncate_unarchived", "the log is cut at the commit, archived or not")
def _() -> list[Patch]:
    original = Repair.truncate

    def truncate(self: Any) -> None:
        self.archived_op = max(self.archived_op, self.commit)
        original(self)

    return [(Repair, "truncate", truncate)]


# --- recovery ---


@mutation("wiped_replica_votes", "a replica that lost its disk takes part with an empty log")
def _() -> list[Patch]:
    original = Recovery.lose

    def lose(self: Any, era: int, placement: Any) -> None:
        original(self, era, placement)
        self.log_view, self.status = 0, Status.NORMAL
        self.write(Install(self.group, 0, 0, 0, 0, True, staged_crc([])))
        self.host._known = True
        self.host.incarnation = max(self.host.incarnation, 1 << 30)

    return [(Recovery, "lose", lose)]


@mutation("recovery_from_one", "one answer is enough to recover")
def _() -> list[Patch]:
    original = Recovery.on_recover_response

    def on_response(self: Any, sender: str, message: Any) -> None:
        if self.status is Status.RECOVERING and message.nonce == self.nonce:
            for name in self.peers:
                if name != sender:
                    self.answers.setdefault(name, message._replace(head=0, view=-1))
        original(self, sender, message)

    return [(Recovery, "on_recover_response", on_response)]


@mutation("recovery_from_abnormal", "a peer in the middle of a view change may answer for recovery")
def _() -> list[Patch]:
    original = Recovery._recover_from_answers

    def recover(self: Any) -> None:
        for name, answer in self.answers.items():
            if answer.status is Status.VIEW_CHANGE:
                self.answers[name] = answer._replace(status=Status.NORMAL, view=0, head=0)
        original(self)

    return [(Recovery, "_recover_from_answers", recover)]


@mutation("nonce_ignored", "an answer to an earlier question counts")
def _() -> list[Patch]:
    original = Recovery.on_recover_response

    def on_response(self: Any, sender: str, message: Any) -> None:
        original(self, sender, message._replace(nonce=self.nonce, recorded=self.host.incarnation))

    return [(Recovery, "on_recover_response", on_response)]


@mutation("incarnation_ignored", "messages of an earlier life are heeded")
def _() -> list[Patch]:
    original = ReplicaSet.receive

    def receive(self: Any, sender: str, incarnation: int, messages: Any, now: float) -> None:
        heard = self._heard.get(sender, 0)
        original(self, sender, max(incarnation, heard), messages, now)

    return [(ReplicaSet, "receive", receive)]


@mutation("incarnation_max_plus_one", "a recovered disk goes on at the recorded incarnation + 1")
def _() -> list[Patch]:
    return [(replica_set, "INCARNATION_STRIDE", 1)]


@mutation("incarnation_not_recorded", "a higher incarnation is heeded before it is on disk")
def _() -> list[Patch]:
    def receive(self: Any, sender: str, incarnation: int, messages: Any, now: float) -> None:
        self._now = now
        if self._starting:
            return
        if incarnation < self._heard.get(sender, 0):
            messages = tuple(message for message in messages if type(message) is Recover)
        self._heard[sender] = max(incarnation, self._heard.get(sender, 0))
        self._recorded[sender] = self._heard[sender]
        self._dispatch(sender, messages)

    return [(ReplicaSet, "receive", receive)]


@mutation("blank_is_new", "a blank disk is taken for a first start")
def _() -> list[Patch]:
    def on_response(self: Any, sender: str, message: Any) -> None:
        if self.status is Status.BLANK and self.placement[0] == self.me:
            self._write_formed(recovery.FIRST_ERA, 0, self.placement, False, self.me)
            self.write(Opened(self.group))
            self.form_write = 0
            self.host._known, self.host.incarnation = True, max(self.host.incarnation, 1 << 30)
            self.open_group()
        else:
            original(self, sender, message)

    original = Recovery.on_recover_response
    return [(Recovery, "on_recover_response", on_response)]


# --- eras ---


@mutation("era_before_write", "a new era is told before its record is on disk")
def _() -> list[Patch]:
    original_higher, original_recover = ReplicaState.tell_higher, Recovery.on_recover

    def early(original: Any) -> Any:
        def tell(self: Any, *arguments: Any) -> None:
            self.form_write, pending = 0, self.form_write
            original(self, *arguments)
            self.form_write = pending

        return tell

    return [
        (ReplicaState, "tell_higher", early(original_higher)),
        (Recovery, "on_recover", early(original_recover)),
    ]


@mutation("acks_outlive_their_era", "what peers acked in the era before counts in the new one")
def _() -> list[Patch]:
    original = Recovery.begin_era

    def begin_era(self: Any, *arguments: Any) -> str:
        before = {name: peer.match for name, peer in self.peers.items()}
        reason = original(self, *arguments)
        for name, match in before.items():
            self.peers[name].match = match
        return reason

    return [(Recovery, "begin_era", begin_era)]


@mutation("two_open_one_era", "a coordinator takes part in an era of its number that another one opened")
def _() -> list[Patch]:
    def opened_by(self: Any, sender: str) -> None:
        if not self.form_write:
            self.write(Opened(self.group), sync=True)
            self.open_group()

    return [(Recovery, "opened_by", opened_by)]


@mutation("first_start_again", "blank disks form era 1 although one of them knows of a later era")
def _() -> list[Patch]:
    original = Recovery._form_first

    def form_first(self: Any) -> None:
        for name, answer in self.answers.items():
            self.answers[name] = answer._replace(era=0)
        original(self)

    return [(Recovery, "_form_first", form_first)]


@mutation("low_incarnation_untold", "who speaks in too low an incarnation is ignored and never told")
def _() -> list[Patch]:
    return [(ReplicaSet, "_tell_recorded", lambda self, sender, messages: None)]


@mutation("worker_of_a_void_log", "the worker that held the grant is not told that its log is void")
def _() -> list[Patch]:
    def dismiss(self: Any) -> None:
        self.revoke()
        if self.worker_op is not None:
            self.worker_op = None
            self.host.effect(Rebase(self.group, 0))

    return [(WorkerSide, "dismiss_worker", dismiss)]


@mutation("archive_always_fits", "a log is kept although the archive has what it does not hold")
def _() -> list[Patch]:
    return [(Recovery, "holds_archived", lambda self, view, op: True)]


@mutation("old_era_archives", "the archive takes rows of an older era")
def _() -> list[Patch]:
    fits = staticmethod(lambda row, era, view, op: row.view <= view and row.archived_op <= op)
    return [(archive.Archive, "fence", fits)]


# --- workers, reads, the archive ---


@mutation("grant_below_the_snapshot", "a worker executes though its snapshot holds more than the log")
def _() -> list[Patch]:
    original = WorkerSide.attach

    def attach(self: Any, after: int, state: int, now: float) -> None:
        original(self, min(after, self.log.head), min(state, self.log.head), now)

    return [(WorkerSide, "attach", attach)]


@mutation("barrier_of_the_worker_before", "a new worker hears of barriers that the one before asked for")
def _() -> list[Patch]:
    original = WorkerSide.forget_worker

    def forget(self: Any) -> None:
        barriers = list(self.barriers)
        original(self)
        self.barriers.extend(barriers)

    return [(WorkerSide, "forget_worker", forget)]


@mutation("execution_before_inherited", "a new primary executes before the inherited entries committed")
def _() -> list[Patch]:
    def may_grant(self: Any) -> bool:
        return self.leads and self.handoff is None and self.worker_op == self.commit

    return [(WorkerSide, "may_grant", may_grant)]


@mutation("stale_grant_accepted", "SUBMIT is taken whatever its grant")
def _() -> list[Patch]:
    original = WorkerSide.refusal

    def refusal(self: Any, grant: Any, first_op: int) -> Any:
        return original(self, self.grant or grant, first_op)

    return [(WorkerSide, "refusal", refusal)]


@mutation("gap_accepted", "SUBMIT is taken wherever it begins")
def _() -> list[Patch]:
    def submit(self: Any, grant: Any, first_op: int, payloads: Any, now: float) -> None:
        self.now = now
        refusal = self.refusal(grant, min(first_op, self.log.head + 1))
        if refusal is None:
            for payload in payloads:
                self._append_own(payload)

    return [(WorkerSide, "submit", submit)]


@mutation("worker_kept", "a worker that executed ahead lives on after it lost its grant")
def _() -> list[Patch]:
    def attach_again(self: Any) -> None:
        if self.attached:
            self.unsent, self.outputs, self.reads = [], [], []
            self._attach()

    return [(workers.Worker, "_attach_again", attach_again)]


@mutation("reads_outlive_their_grant", "a read leaves with a barrier of a later grant")
def _() -> list[Patch]:
    original = workers.Worker._attach

    def attach(self: Any) -> None:
        reads = self.reads
        original(self)
        self.reads = reads

    return [(workers.Worker, "_attach", attach)]


@mutation("no_dedup", "nothing is remembered of a request that ran")
def _() -> list[Patch]:
    return [(workers.KeptReplies, "known", lambda self, objects, request: None)]


@mutation("reads_without_barrier", "a read leaves when its state is committed")
def _() -> list[Patch]:
    def request_barrier(self: Any, grant: Any, token: int, now: float) -> None:
        self.now = now
        self.host.effect(BarrierPassed(self.group, grant, token))

    return [(WorkerSide, "request_barrier", request_barrier)]


@mutation("errors_without_barrier", "an error reply leaves at once")
def _() -> list[Patch]:
    original = workers.Worker.request

    def request(self: Any, asked: Any, answer: Any) -> None:
        value = self.objects.get(asked.key, 0)
        refused = asked.kind == "take" and value % 2 == 0
        if self.grant and refused and self.attached and self.node.paused_until <= self.world.now:
            answer(workers.Reply(asked.number, "refused", self.applied, value, self.era))
        else:
            original(self, asked, answer)

    return [(workers.Worker, "request", request)]


@mutation("reads_before_commit", "a read leaves when its barrier passed, committed or not")
def _() -> list[Patch]:
    def may_leave(self: Any, waiting: Any) -> bool:
        return bool(waiting.token <= self.passed if waiting.token else waiting.op <= self.committed)

    return [(workers.Worker, "may_leave", may_leave)]


@mutation("replies_before_commit", "a reply leaves when its op is submitted")
def _() -> list[Patch]:
    return [(workers.Worker, "may_leave", lambda self, waiting: waiting.token <= self.passed)]


@mutation("barrier_reset", "barrier numbers begin anew in a primary that goes on after a restart")
def _() -> list[Patch]:
    def on_prepare_ok(self: Any, sender: str, message: Any) -> None:
        _, number = message.barrier
        original(self, sender, message._replace(barrier=(self.host.incarnation, number)))

    original = Replica.on_prepare_ok
    resumes = MUTATIONS["primary_resumes"].patches()
    return [*resumes, (Replica, "on_prepare_ok", on_prepare_ok)]


@mutation("archives_uncommitted", "the archive takes what was executed, committed or not")
def _() -> list[Patch]:
    return [(workers.Worker, "archivable_op", lambda self: self.applied)]


@mutation("archive_not_fenced", "the archive takes rows from any view")
def _() -> list[Patch]:
    return [(archive.Archive, "fence", staticmethod(lambda row, era, view, op: True))]
