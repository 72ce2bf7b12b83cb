"""Replicas that cannot trust their disk: blank, forming the group, or recovering.

Guards rule 8: a replica whose disk was lost has forgotten what it promised. Before it may promise
again, both peers have written down a new incarnation for it, so that nothing of its old life can
reach them any more, and both have answered as NORMAL after that, so that all its old life did is in
what they hold. And rule 9: a group comes to be by a record that all three have on disk, so a blank
disk is never mistaken for a first start.
"""

from __future__ import annotations

from connserver.ids import GroupId
from gossip.protocol import (
    NEVER_INSTALLED,
    Alert,
    Form,
    FormOk,
    Placement,
    Rebase,
    Recover,
    RecoverResponse,
    Status,
)
from gossip.records import Blank, DurableGroup, Formed, Lost, Opened, Promise
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
        self.form_write = 0
        self.open_write = 0
        self.alerted = ""

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
        elif self.seeded:
            for name in self.peers:
                self.tell_higher(name)  # they may live in the era before

    def ask_peers(self) -> None:
        """RECOVER to both, in the incarnation we have now."""
        self.asked_round_at = self.now
        self.nonce = self.host.nonce()
        self.answers, self.offer = {}, None
        for name in self.peers:
            self.send(name, Recover(self.group, self.era, self.view, self.nonce))

    # --- answering ---

    def on_recover(self, sender: str, message: Recover) -> None:
        """Say what we are and which incarnation of the asker we have on disk."""
        self.send(
            sender,
            RecoverResponse(
                self.group, self.era, self.view, message.nonce,
                self.host.recorded(sender), self.status, self.log.head, self.placement,
            ),
        )  # fmt: skip
        if self.status is Status.FORMING and self.coordinator == self.me and not self.form_write:
            self.send(
                sender, Form(self.group, self.era, self.view, message.nonce, self.placement, self.seeded)
            )

    def on_recover_response(self, sender: str, message: RecoverResponse) -> None:
        """Collect both answers of a round, then go as far as they allow."""
        if message.nonce != self.nonce or self.status not in (Status.BLANK, Status.RECOVERING):
            return
        newer = message.era >= self.era if self.status is Status.BLANK else message.era > self.era
        if message.status in OPENED and newer:
            self.lose(message.era, message.placement)
            return
        self.answers[sender] = message
        self._consider()

    def _consider(self) -> None:
        """Go as far as this round's answers allow."""
        if self.transfer or self.install_write or self.form_write:
            return
        seeded = self.offer is not None and self.offer.seeded
        if len(self.answers) < (1 if seeded else 2):
            return
        recorded = [answer.recorded for answer in self.answers.values()]
        if not self.host.learn_incarnation(max(recorded)) or set(recorded) != {self.host.incarnation}:
            return  # both must have the incarnation that asks on disk: the next round will show it
        if self.status is Status.RECOVERING:
            self._recover_from_answers()
        elif self.offer is not None:
            self._take_offer(self.offer)
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
        if any(answer.status is Status.RECOVERING for answer in answers.values()):
            self.alert("two replicas lost their disks: no automatic way back, see `recover`")
        if any(answer.status is not Status.NORMAL or answer.era != self.era for answer in answers.values()):
            return
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
        if self.placement[0] != self.me or self.era > FIRST_ERA:
            return
        if any(answer.status is not Status.BLANK for answer in self.answers.values()):
            self.alert("a peer holds a bootstrap record that this disk has lost: wipe all three or `recover`")
            return
        self._write_formed(FIRST_ERA, 0, self.placement, False, self.me)

    def on_form(self, sender: str, message: Form) -> None:
        """The coordinator offers the record we asked for; taken once its answers are in as well."""
        if self.status is not Status.BLANK or message.nonce != self.nonce or message.era < self.era:
            return
        if self.me in message.placement and sender in self.answers:
            self.offer, self.offered_by = message, sender
            self._consider()

    def _take_offer(self, offer: Form) -> None:
        self.adopt_placement(offer.placement)
        self._write_formed(offer.era, offer.view, offer.placement, offer.seeded, self.offered_by)

    def _write_formed(
        self, era: int, view: int, placement: Placement, seeded: bool, coordinator: str
    ) -> None:
        self.era, self.view, self.seeded, self.coordinator = era, view, seeded, coordinator
        self.status = Status.FORMING
        record = Formed(self.group, era, view, placement, seeded, coordinator)
        self.form_write = self.write(record, sync=True)
        self.mark()

    def on_form_ok(self, sender: str, message: FormOk) -> None:
        """All three (for a seeded era, two) have the record on disk: open the group."""
        if self.status is not Status.FORMING or self.coordinator != self.me or self.form_write:
            if self.status is Status.NORMAL:
                self.send_view(sender)  # it has not heard that the group is open
            return
        if message.placement != self.placement:
            self.alert(f"{sender} has placement {message.placement}, here it is {self.placement}")
            return
        self.formed.add(sender)
        if len(self.formed) >= (1 if self.seeded else 2) and not self.open_write:
            self.open_write = self.write(Opened(self.group), sync=True)
            self.mark()

    def opened_by(self, sender: str) -> None:
        """Only a replica of an open group says what we just heard."""
        if not self.form_write:
            self.write(Opened(self.group), sync=True)
            self.open_group()

    def open_group(self) -> None:
        """The end of forming. Without a seed the empty log is what the view begins with."""
        self.heard_at = self.now
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

    def era_is_over(self, era: int) -> None:
        """`recover` has begun a new history elsewhere: what is here is void."""
        self.host.count("eras_ended")
        self._void(era, Status.BLANK)
        self.write(Blank(self.group, era, self.placement), sync=True)
        self.mark()

    def _void(self, era: int, status: Status) -> None:
        self.revoke()
        self.era, self.status = era, status
        self.view, self.log_view = 0, NEVER_INSTALLED
        self.transfer, self.install_write, self.view_write = None, 0, 0
        self.answers, self.formed, self.joins = {}, set(), {}
        self.log.reset(0, 0)
        self.commit = self.archived_op = self.inherited = self.sent_op = self.durable_head = 0
        self.writing.clear()
        self.written_bytes = self.appended_bytes
        self.wake()
        if self.worker_op is not None:
            self.worker_op = None
            self.host.effect(Rebase(self.group, 0))

    def alert(self, text: str) -> None:
        """Once per cause."""
        if text != self.alerted:
            self.alerted = text
            self.host.effect(Alert(self.group, text))

    def promise_recovered_view(self) -> None:
        """The view goes to disk with the log it belongs to."""
        self.write(Promise(self.group, self.view))
