"""Replicas that cannot trust their disk: blank, forming the group, or recovering.

Guards rule 8: a replica whose disk was lost has forgotten what it promised. Before it may promise
again, both peers have written down a new incarnation for it, so that nothing of its old life can
reach them any more, and both have answered as NORMAL after that, so that all its old life did is in
what they hold. And rule 9: a group comes to be by a record that all replicas have on disk, so a blank
disk is never mistaken for a first start. (The only replica of a group has nobody to ask: its blank
disk is one.) A new era (`begin_era`) is formed in the same way, by a majority, around one log.
"""

from __future__ import annotations

from connserver.ids import GroupId
from gossip.protocol import (
    NEVER_INSTALLED,
    UNASKED,
    Form,
    FormOk,
    Placement,
    Recover,
    RecoverResponse,
    Status,
)
from gossip.records import KEEP_LOG, Blank, DurableGroup, Formed, Lost, Opened, Promise
from gossip.replica_state import Host
from gossip.view_change import ViewChange

FIRST_ERA = 1
OPENED = (Status.NORMAL, Status.VIEW_CHANGE, Status.RECOVERING)
"""What a replica can be only in a group that was formed."""


class Recovery(ViewChange):
    """The layer below which a replica does not take part."""

    def __init__(self, group: GroupId, host: Host, durable: DurableGroup, now: float) -> None:
        super().__init__(group, host, durable, now)
        self.asked_round_at = float("-inf")
        self.nonce = 0
        self.answers: dict[str, RecoverResponse] = {}
        self.offer: Form | None = None
        self.offered_by = ""
        self.formed: set[str] = set()
        self.open_write = 0

    # --- asking ---

    def tick_recovery(self) -> None:
        """Ask again each suspicion timeout, under a new nonce; a transfer under way comes first."""
        timing = self.host.timing
        if self.status is Status.FORMING:
            if not self.form_write:
                self._tick_forming()
            return
        if self.transfer is not None and self.now - self.heard_at <= timing.suspicion:
            if self.now - self.peers[self.transfer.source].asked_at >= 2 * timing.heartbeat:
                self._fetch_now(self.transfer.source)
            return
        if self.install_write or self.form_write:
            return
        if self.now - self.asked_round_at >= timing.suspicion:
            self.transfer = None
            self.ask_peers()

    def _tick_forming(self) -> None:
        if self.coordinator != self.me:
            self.send(self.coordinator, FormOk(self.group, self.era, self.view, self.placement))
            return
        if self.seeded:
            for name in self.peers:
                self.tell_higher(name)  # they may live in the era before
        self._open_if_agreed()

    def ask_peers(self) -> None:
        """RECOVER to all, in the incarnation we have now."""
        self._judge_round()
        self.asked_round_at = self.now
        self.nonce = self.host.nonce()
        self.answers, self.offer = {}, None
        for name in self.peers:
            self.send(name, Recover(self.group, self.era, self.view, self.nonce))
        if not self.peers:
            self._consider()

    def _judge_round(self) -> None:
        """The last round led nowhere: tell the operator if no later one can."""
        answers = self.answers.values()
        said = [answer.status for answer in answers]
        if self.status is Status.RECOVERING and not self.peers:
            self.alert("the only replica of this group lost its log: no automatic way back, see `recover`")
        elif self.status is Status.RECOVERING and Status.RECOVERING in said:
            self.alert("two replicas lost their disks: no automatic way back, see `recover`")
        elif len(said) == len(self.peers) and self.offer is None and not set(said) & set(OPENED):
            era = max([self.era, *(answer.era for answer in answers)])
            known_here = self.era if self.status is Status.RECOVERING else 0
            if Status.FORMING in said or era > known_here:
                self.alert(f"era {era} of this group was begun and nobody holds its log: see `recover`")

    # --- answering ---

    def on_recover(self, sender: str, message: Recover) -> None:
        """Say what we are and which incarnation of the asker we have on disk."""
        if self.form_write:
            return
        self._respond(sender, message.nonce)
        if self.status is Status.FORMING and self.coordinator == self.me:
            self.send(
                sender, Form(self.group, self.era, self.view, message.nonce, self.placement, self.seeded)
            )

    def _respond(self, node: str, nonce: int) -> None:
        self.send(
            node,
            RecoverResponse(
                self.group, self.era, self.view, nonce,
                self.host.recorded(node), self.status, self.log.head, self.placement,
            ),
        )  # fmt: skip

    def tell_recorded(self, node: str, now: float) -> None:
        """It speaks in an incarnation below the one recorded: nothing it says is heard here."""
        self.now = now
        if node in self.peers and not self.form_write and self.may_answer(node):
            self._respond(node, UNASKED)

    def on_recover_response(self, sender: str, message: RecoverResponse) -> None:
        """Collect the answers of a round, then go as far as they allow."""
        if message.nonce == UNASKED:
            self.host.learn_incarnation(message.recorded)
            return
        if message.nonce != self.nonce or self.status not in (Status.BLANK, Status.RECOVERING):
            return
        newer = message.era >= self.era if self.status is Status.BLANK else message.era > self.era
        if message.status in OPENED and newer:
            self.lose(message.era, message.placement)
            return
        if 0 < self.era < message.era:
            self.era_is_over(message.era)
            return
        self.answers[sender] = message
        self._consider()

    def _consider(self) -> None:
        """Go as far as this round's answers allow."""
        if self.transfer or self.install_write or self.form_write:
            return
        seeded = self.offer is not None and self.offer.seeded
        if len(self.answers) < (self.majority - 1 if seeded else len(self.peers)):
            return
        recorded = [answer.recorded for answer in self.answers.values()]
        known = self.host.learn_incarnation(max(recorded, default=0))
        if not known or any(number != self.host.incarnation for number in recorded):
            return  # all must have the incarnation that asks on disk: the next round will show it
        if self.offer is not None:
            self._take_offer(self.offer)
        elif self.status is Status.RECOVERING:
            self._recover_from_answers()
        else:
            self._form_first()

    def lose(self, era: int, placement: Placement) -> None:
        """The group exists and this disk does not know it (any more)."""
        if self.me not in placement:
            self.alert(
                f"placement {placement} of this group does not name {self.me}: node name or disk mixed up"
            )
            return
        self._void(era, Status.RECOVERING)
        self.adopt_placement(placement)
        self.write(Lost(self.group, era, placement), sync=True)
        self.host.count("disks_found_lost")
        self.mark()

    def _recover_from_answers(self) -> None:
        answers = self.answers
        if any(answer.status is not Status.NORMAL or answer.era != self.era for answer in answers.values()):
            return
        if not answers:
            return  # the only replica: nobody can give back what it lost
        view = max(answer.view for answer in answers.values())
        if self.primary_of(view) == self.me:
            return  # our old life may have published more in it than anyone knows: wait for the next
        name = max(
            (name for name in answers if answers[name].view == view), key=lambda name: answers[name].head
        )
        self.view = view  # not promised yet: a RECOVERING replica promises nothing
        self.heard_at = self.now
        self.begin_transfer(name, view, answers[name].head)

    def finish_recovery(self) -> None:
        """The log of both peers is on disk: take part again."""
        self.status = Status.NORMAL
        self.resigned = self.silent = False
        self.alerted = ""
        self.answers = {}
        self.heard_at = self.now
        self.ack_due = True
        self.host.count("recoveries")
        self.mark()

    # --- a group comes to be ---

    def _form_first(self) -> None:
        new = not self.era and not any(
            answer.era or answer.status is not Status.BLANK for answer in self.answers.values()
        )
        if new and self.placement[0] == self.me:
            self._write_formed(FIRST_ERA, 0, self.placement, False, self.me)

    def on_form(self, sender: str, message: Form) -> None:
        """The coordinator offers the record we asked for; taken once the answers are in as well.

        It says this only while its era is not open: so nothing that we may have lost counted in it.
        """
        if self.status not in (Status.BLANK, Status.RECOVERING):
            return
        if message.nonce != self.nonce or message.era < self.era:
            return
        if self.me in message.placement and sender in self.answers:
            self.offer, self.offered_by = message, sender
            self._consider()

    def _take_offer(self, offer: Form) -> None:
        self.adopt_placement(offer.placement)
        self._write_formed(offer.era, offer.view, offer.placement, offer.seeded, self.offered_by)

    def _write_formed(
        self,
        era: int,
        view: int,
        placement: Placement,
        seeded: bool,
        coordinator: str,
        base: int = KEEP_LOG,
    ) -> None:
        self.era, self.view, self.seeded, self.coordinator = era, view, seeded, coordinator
        self.status = Status.FORMING
        self.alerted = ""
        self.formed, self.open_write = set(), 0
        record = Formed(self.group, era, view, placement, seeded, coordinator, base)
        self.form_write = self.write(record, sync=True)
        self.wake()

    def on_form_ok(self, sender: str, message: FormOk) -> None:
        """A peer has the record on disk."""
        if self.status is not Status.FORMING or self.coordinator != self.me or self.form_write:
            if self.status is Status.NORMAL:
                self.send_view(sender)  # it has not heard that the group is open
            return
        if message.placement != self.placement:
            self.alert(f"{sender} has placement {message.placement}, here it is {self.placement}")
            return
        if message.era == self.era:
            self.formed.add(sender)
            self._open_if_agreed()

    def _open_if_agreed(self) -> None:
        """All (for a seeded era, a majority) have the record on disk: open the group."""
        needed = self.majority - 1 if self.seeded else len(self.peers)
        if len(self.formed) >= needed and not self.open_write:
            self.open_write = self.write(Opened(self.group), sync=True)
            self.mark()

    def opened_by(self, sender: str) -> None:
        """Only a replica of an open group says what we just heard."""
        if self.coordinator == self.me:  # and we did not open it
            self.alert(f"era {self.era} was begun on another node too: `recover` again, above this era")
        elif not self.form_write:
            self.write(Opened(self.group), sync=True)
            self.open_group()

    def open_group(self) -> None:
        """The end of forming. Without a seed the empty log is what the view begins with."""
        self.heard_at = self.now
        self.alerted = ""
        self.host.count("groups_opened")
        if self.seeded:
            self.status = Status.VIEW_CHANGE
            if self.is_primary:
                self.install(self.view, self.log.head, self.log.head_view, [], jump=False)
            return
        self.status = Status.NORMAL
        self.log_view = self.view
        if self.is_primary:
            self.become_primary()
        else:
            self.ack_due = True
        self.mark()

    # --- a newer era ---

    def begin_era(self, now: float, base: int | None, above: tuple[int, int]) -> str:
        """The operator's `recover` (see ReplicaSet.begin_era)."""
        self.now = now
        refusal = self._no_era_because(base)
        if refusal:
            return f"group {self.group}: {refusal}"
        era, view = max(self.era, above[0]) + 1, self.next_view_of(self.me, above[1])
        self.host.count("eras_begun")
        self.host.learn_incarnation(
            max((answer.recorded for answer in self.answers.values()), default=0)
        )  # a disk that lost it too: whoever knows a higher one will say so
        if base is None:
            self.forget_view()
            self.dismiss_worker()
        else:
            self._void(era, Status.FORMING)
            self.log.reset(base, 0)
            self.log_view = 0
            self.commit = self.archived_op = self.inherited = self.sent_op = self.durable_head = base
        self._write_formed(era, view, self.placement, True, self.me, KEEP_LOG if base is None else base)
        return ""

    def _no_era_because(self, base: int | None) -> str:
        holds = self.status in (Status.NORMAL, Status.VIEW_CHANGE)
        holds |= self.status is Status.FORMING and self.seeded and self.coordinator == self.me
        holds &= self.log_view != NEVER_INSTALLED
        if self.me not in self.placement:
            return f"{self.me} is not in its placement {', '.join(self.placement)}"
        if base is None and not holds:
            return f"{self.me} holds no log of it ({self.status.value})"
        if base is None and self._works():
            return "it works, there is nothing to recover"
        if base is not None and holds and base < self.commit:
            return f"{self.me} holds committed entries up to op {self.commit}, above the archive's {base}"
        return ""

    def _works(self) -> bool:
        if self.status is not Status.NORMAL:
            return False
        if self.leads:
            return not self.unheard()
        return not self.is_primary and self.now - self.heard_at <= self.host.timing.suspicion

    def holds_archived(self, view: int, op: int) -> bool:
        """Whether our log surely contains what a primary of `view` archived up to `op`.

        What was committed by then is in every log that is good in a later view, and in this one's.
        """
        return op <= self.commit or (self.log_view >= view and op <= self.log.head)

    def era_is_over(self, era: int) -> None:
        """`recover` has begun a new history elsewhere: what is here is void."""
        self.host.count("eras_ended")
        self._void(era, Status.BLANK)
        self.write(Blank(self.group, era, self.placement), sync=True)
        self.mark()

    def _void(self, era: int, status: Status) -> None:
        self.forget_view()
        self.era, self.status = era, status
        self.view, self.log_view = 0, NEVER_INSTALLED
        self.form_write = self.open_write = 0
        self.answers, self.formed, self.offer = {}, set(), None
        self.alerted = ""
        self.log.reset(0, 0)
        self.commit = self.archived_op = self.inherited = self.sent_op = self.durable_head = 0
        self.writing.clear()
        self.written_bytes = self.appended_bytes
        self.dismiss_worker()
        self.wake()

    def promise_recovered_view(self) -> None:
        """The view goes to disk with the log it belongs to."""
        self.write(Promise(self.group, self.view))
