"""The judge over faked transcripts: it says "held" to a good one, and each verdict can be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.failures.judge import Demand, Verdict, judge
from tests.failures.reading import read
from tests.failures.transcript import RECEIVED, SENT, Part, Transcript
from tests.failures.wire import CLASSIC, JSON, Cutter, Fields, fields, frame
from tests.failures.workloads import AUDITOR, GOLD

LENIENT = Demand(least_acked=1, in_flight=1, unknown_share=0.5)


class Fake:
    """A transcript in the making. Clients are named by their number."""

    def __init__(self, *parts: Part) -> None:
        self.transcript = Transcript(list(parts))

    def sent(self, at: float, client: int, number: int, msg: str, **more: Any) -> None:
        self._add(at, client, SENT, {"msg": msg, "id": number, **more})

    def answered(self, at: float, client: int, number: int, msg: str, **more: Any) -> None:
        self._add(at, client, RECEIVED, {"msg": msg, "id": number, "status": 0, **more})

    def refused(self, at: float, client: int, number: int, msg: str, error: str) -> None:
        self._add(at, client, RECEIVED, {"msg": msg, "id": number, "status": 1, "error": error})

    def done(self, at: float, client: int, number: int, msg: str, given: Fields, told: Fields) -> None:
        """Asked at this time and answered a tenth of a second later."""
        self.sent(at, client, number, msg, **given)
        self.answered(at + 0.1, client, number, msg, **told)

    def heard(self, at: float, client: int, room: str, seq: int, sender: str, k: int) -> None:
        event = {"msg": "room.message", "room": room, "seq": seq, "from": sender, "k": k}
        self._add(at, client, RECEIVED, event)

    def add(self, at: float, number: int, value: int, client: int = 0) -> None:
        self.done(at, client, number, "count.add", {}, {"value": value})

    def get(self, at: float, number: int, value: int, client: int = 1) -> None:
        self.done(at, client, number, "count.get", {}, {"value": value})

    def event(self, at: float, client: int, message: Fields) -> None:
        self._add(at, client, RECEIVED, message)

    def verdict(self, demand: Demand = LENIENT) -> Verdict:
        self.transcript.records.sort(key=lambda record: record.at)
        return judge(self.transcript, demand)

    def _add(self, at: float, client: int, what: str, message: Fields) -> None:
        encoding = self.transcript.parts[client].encoding
        self.transcript.add(at, client, 1, what, frame(encoding, message))


def kinds(verdict: Verdict) -> set[str]:
    return set(verdict.found)


# --- counters ---------------------------------------------------------------------------------------


def counter(last: int = 3) -> Fake:
    """Three additions by one session, reads by another, and the final look."""
    fake = Fake(
        Part(0, "amy", "writer", JSON), Part(1, "amy", "reader", CLASSIC), Part(2, "amy", "auditor", JSON)
    )
    for number in (1, 2, 3):
        fake.add(number, number, number)
        fake.get(number + 0.5, number, number)
    fake.get(9, 1, last, client=2)
    return fake


def test_a_good_counter_holds() -> None:
    verdict = counter().verdict()
    assert verdict.good, verdict.reasons
    assert (verdict.asked, verdict.acked, verdict.unknown) == (6, 6, 0)
    assert verdict.words == "held"


def test_an_acknowledged_addition_that_is_not_there_is_lost() -> None:
    assert counter(last=2).verdict().found == {"lost": 1, "stale": 1}


def test_an_addition_that_nobody_asked_for_is_doubled() -> None:
    assert kinds(counter(last=4).verdict()) == {"doubled"}


def test_two_additions_with_one_value_are_a_loss() -> None:
    fake = counter(last=4)
    fake.add(3.05, 4, 3)
    assert "lost" in kinds(fake.verdict())


def test_an_unknown_addition_may_be_there_or_not_but_not_twice() -> None:
    for last, good in ((3, True), (4, True), (5, False), (2, False)):
        fake = counter(last=last)
        fake.sent(4, 0, 4, "count.add")
        assert fake.verdict().good is good, last


def test_an_answer_that_says_nothing_leaves_it_open_and_a_refusal_does_not() -> None:
    for error, good in (("timeout", True), ("unavailable", True), ("overloaded", False)):
        fake = counter(last=4)
        fake.sent(4, 0, 4, "count.add")
        fake.refused(4.1, 0, 4, "count.add", error)
        assert fake.verdict().good is good, error


def test_a_read_older_than_an_acknowledged_addition_is_stale() -> None:
    fake = counter()
    fake.get(5, 4, 2)
    assert kinds(fake.verdict()) >= {"stale"}


def test_a_read_that_began_before_the_acknowledgement_may_be_older() -> None:
    fake = Fake(
        Part(0, "amy", "writer", JSON), Part(1, "amy", "reader", JSON), Part(2, "amy", "auditor", JSON)
    )
    fake.add(1, 1, 1)
    fake.get(1.05, 1, 0)
    fake.get(9, 1, 1, client=2)
    assert fake.verdict().good


def test_a_read_of_what_was_not_asked_for_yet_is_doubled() -> None:
    fake = counter()
    fake.get(0.5, 4, 1)
    assert kinds(fake.verdict()) >= {"doubled"}


def test_a_session_whose_later_request_was_done_earlier_is_disordered() -> None:
    fake = counter(last=5)
    fake.sent(4, 0, 4, "count.add")
    fake.sent(4, 0, 5, "count.add")
    fake.answered(4.1, 0, 4, "count.add", value=5)
    fake.answered(4.1, 0, 5, "count.add", value=4)
    assert kinds(fake.verdict()) == {"disordered"}


@pytest.mark.parametrize(("again", "found"), [(False, {"disordered"}), (True, set())])
def test_a_read_that_ran_again_may_know_of_later_additions(again: bool, found: set[str]) -> None:
    fake = counter(last=4)
    for number, msg in ((4, "count.get"), (5, "count.add")):
        fake.sent(4, 0, number, msg)
        if again:
            fake.sent(5, 0, number, msg)
    fake.answered(5.1, 0, 4, "count.get", value=4)
    fake.answered(5.1, 0, 5, "count.add", value=4)
    assert kinds(fake.verdict()) == found


def test_real_time_order_is_held_across_sessions() -> None:
    parts = [Part(0, "amy", "writer", JSON), Part(1, "amy", "writer", JSON), Part(2, "amy", "auditor", JSON)]
    fake = Fake(*parts)
    fake.add(1, 1, 2, client=0)
    fake.add(2, 1, 1, client=1)
    fake.get(9, 1, 2, client=2)
    assert kinds(fake.verdict()) == {"disordered", "doubled"}  # also a value above what was asked for


# --- answers ----------------------------------------------------------------------------------------


def test_two_answers_to_one_sending_are_doubled() -> None:
    fake = counter()
    fake.answered(3.2, 0, 3, "count.add", value=3)
    assert kinds(fake.verdict()) == {"doubled"}


def test_two_answers_to_two_sendings_are_well_if_they_are_the_same() -> None:
    for value, good in ((3, True), (4, False)):
        fake = counter()
        fake.sent(3.15, 0, 3, "count.add")
        fake.answered(3.2, 0, 3, "count.add", value=value)
        assert fake.verdict().good is good


def test_an_answer_that_nobody_asked_for_is_told() -> None:
    fake = counter()
    fake.answered(3.2, 0, 77, "count.add", value=3)
    assert kinds(fake.verdict()) == {"doubled"}


def test_a_plugins_failure_is_no_answer() -> None:
    fake = counter()
    fake.sent(4, 0, 4, "count.add")
    fake.refused(4.1, 0, 4, "count.add", "plugin_error")
    assert kinds(fake.verdict()) == {"lost"}


# --- strength ---------------------------------------------------------------------------------------


def test_a_trial_that_did_little_is_weak() -> None:
    assert counter().verdict(replace(LENIENT, least_acked=7)).found == {"weak": 1}
    assert counter().verdict(replace(LENIENT, in_flight=2)).found == {"weak": 2}
    fake = counter()
    fake.sent(4, 0, 4, "count.add")
    assert fake.verdict(replace(LENIENT, unknown_share=0.1)).found == {"weak": 1}


def test_a_lost_session_is_a_loss_unless_it_may_be() -> None:
    fake = counter()
    fake.event(5, 0, {"msg": "session.resume", "status": 1, "error": "session_expired"})
    assert kinds(fake.verdict()) == {"lost"}
    assert fake.verdict(replace(LENIENT, sessions_lost=1)).good


def test_what_cannot_be_read_at_the_end_is_not_taken_for_well() -> None:
    fake = Fake(Part(0, "amy", "writer", JSON))
    fake.add(1, 1, 1)
    assert kinds(fake.verdict()) == {"weak"}


# --- lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ("1 2 3", set()),
        ("1 2 3 4", set()),
        ("1 3", {"lost"}),
        ("1 2 2 3", {"doubled"}),
        ("1 3 2", {"disordered"}),
        ("1 2 3 9", {"doubled"}),
        ("1 2 3 5", {"doubled"}),
    ],
)
def test_lists(items: str, found: set[str]) -> None:
    """1 to 3 are acknowledged, 4 is unknown, 5 was refused."""
    fake = Fake(Part(0, "amy", "appender", JSON), Part(1, "amy", "auditor", JSON))
    for number in (1, 2, 3):
        fake.done(number, 0, number, "list.append", {"item": number}, {"value": number})
    fake.sent(4, 0, 4, "list.append", item=4)
    fake.sent(5, 0, 5, "list.append", item=5)
    fake.refused(5.1, 0, 5, "list.append", "overloaded")
    fake.done(9, 1, 1, "list.page", {"index": 0}, {"value": 3, "items": items})
    assert kinds(fake.verdict()) == found


# --- gifts and bells --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "taken", "found"),
    [(2, 2, set()), (2, 1, {"lost"}), (2, 3, {"doubled"}), (1, 1, {"lost"}), (3, 3, {"doubled"})],
)
def test_gifts(given: int, taken: int, found: set[str]) -> None:
    fake = Fake(Part(0, "amy", "giver", JSON, others=("amy",)), Part(1, "amy", "auditor", JSON))
    for number in (1, 2):
        fake.done(number, 0, number, "gift.give", {"to": "amy"}, {"value": number})
    fake.done(9, 1, 1, "gift.show", {}, {"given": given, "taken": taken})
    assert kinds(fake.verdict()) == found


def test_a_gift_in_doubt_is_given_and_taken_or_neither() -> None:
    fake = Fake(Part(0, "amy", "giver", JSON, others=("amy",)), Part(1, "amy", "auditor", JSON))
    fake.done(1, 0, 1, "gift.give", {"to": "amy"}, {"value": 1})
    fake.sent(2, 0, 2, "gift.give", to="amy")
    fake.done(9, 1, 1, "gift.show", {}, {"given": 2, "taken": 1})
    assert kinds(fake.verdict()) == {"lost"}


@pytest.mark.parametrize(("rung", "found"), [(1, {"lost"}), (2, set()), (3, {"doubled"})])
def test_bells(rung: int, found: set[str]) -> None:
    fake = Fake(Part(0, "amy", "ringer", JSON), Part(1, "amy", "auditor", JSON))
    for number in (1, 2):
        fake.done(number, 0, number, "bell.set", {"item": number}, {})
    fake.done(9, 1, 1, "bell.count", {}, {"value": rung})
    assert kinds(fake.verdict()) == found


# --- rooms ------------------------------------------------------------------------------------------


def room(
    edit: Callable[[list[tuple[int, int, str, int]]], None] = lambda events: None, last: int = 3
) -> Fake:
    """Amy sends two events and Bob one; both hear all three. `edit` may change (client, seq, from, k)."""
    fake = Fake(
        Part(0, "amy", "talker", JSON, room="hall"),
        Part(1, "bob", "talker", CLASSIC, room="hall"),
        Part(2, "eve", "auditor", JSON, room="hall"),
    )
    for client in (0, 1):
        fake.done(0, client, 1, "room.join", {"room": "hall"}, {"seq": 0})
    fake.done(1, 0, 2, "room.send", {"room": "hall", "k": 2}, {"seq": 1})
    fake.done(2, 1, 2, "room.send", {"room": "hall", "k": 2}, {"seq": 2})
    fake.done(3, 0, 3, "room.send", {"room": "hall", "k": 3}, {"seq": 3})
    events = [
        (client, *event) for client in (0, 1) for event in ((1, "amy", 2), (2, "bob", 2), (3, "amy", 3))
    ]
    edit(events)
    for index, (client, seq, sender, k) in enumerate(events):
        fake.heard(3.5 + index / 100, client, "hall", seq, sender, k)
    fake.done(9, 2, 1, "room.join", {"room": "hall"}, {"seq": last})
    return fake


def test_a_good_room_holds() -> None:
    verdict = room().verdict()
    assert verdict.good, verdict.reasons


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda events: events.pop(1), {"lost"}),
        (lambda events: events.pop(2), {"lost"}),
        (lambda events: events.insert(2, events[1]), {"doubled"}),
        (lambda events: events.insert(6, (1, 4, "amy", 3)), {"doubled", "disordered", "lost"}),
        (lambda events: events.__setitem__(1, (0, 2, "bob", 7)), {"disordered", "lost"}),
        (lambda events: events.reverse(), {"lost", "doubled"}),
    ],
)
def test_rooms(edit: Callable[[list[tuple[int, int, str, int]]], None], found: set[str]) -> None:
    assert kinds(room(edit).verdict()) >= found


def test_events_that_all_members_missed_are_lost_all_the_same() -> None:
    def forget(events: list[tuple[int, int, str, int]]) -> None:
        events[:] = [event for event in events if event[1] < 3]

    assert kinds(room(forget, last=2).verdict()) == {"lost"}


def test_the_order_of_a_room_is_that_of_real_time() -> None:
    fake = room()
    fake.done(4, 1, 3, "room.send", {"room": "hall", "k": 3}, {"seq": 3})
    assert kinds(fake.verdict()) == {"disordered", "lost"}


def test_an_event_that_was_refused_is_not_heard() -> None:
    def more(events: list[tuple[int, int, str, int]]) -> None:
        events.insert(3, (0, 4, "amy", 4))
        events.append((1, 4, "amy", 4))

    fake = room(more, last=4)
    fake.sent(3.2, 0, 4, "room.send", room="hall", k=4)
    fake.refused(3.3, 0, 4, "room.send", "overloaded")
    assert kinds(fake.verdict()) == {"doubled"}


@pytest.mark.parametrize(("newest", "good"), [(257, True), (256, False)])
def test_a_gap_is_honest_only_where_the_room_has_gone_on_by_all_that_it_keeps(
    newest: int, good: bool
) -> None:
    """Bob comes back after the first event was forgotten, or so he is told."""
    fake = Fake(
        Part(0, "amy", "talker", JSON, room="hall"),
        Part(1, "bob", "talker", JSON, room="hall"),
        Part(2, "eve", "auditor", JSON, room="hall"),
    )
    for client in (0, 1):
        fake.done(0, client, 1, "room.join", {"room": "hall"}, {"seq": 0})
    for seq in range(1, newest + 1):
        fake.done(1 + seq / 1000, 0, 1 + seq, "room.send", {"room": "hall", "k": 1 + seq}, {"seq": seq})
        fake.heard(1.2 + seq / 1000, 0, "hall", seq, "amy", 1 + seq)
        if seq > 1:
            fake.heard(3.0 + seq / 1000, 1, "hall", seq, "amy", 1 + seq)
    fake.event(2.9, 1, {"msg": "room.gap", "room": "hall", "from": 1, "to": 1})
    fake.done(9, 2, 1, "room.join", {"room": "hall"}, {"seq": newest})
    verdict = fake.verdict()
    # acknowledged a tenth of a second later and sent a thousandth apart: order in real time is not tried here
    assert ("lost" not in verdict.found) is good, verdict.reasons


# --- bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [JSON, CLASSIC])
def test_messages_are_cut_wherever_the_network_cuts(encoding: str) -> None:
    said = [{"msg": "count.add", "id": 1}, {"msg": "room.send", "room": "a", "k": 2, "id": 2}]
    data = b"".join(frame(encoding, message) for message in said)
    for size in (1, 3, len(data)):
        cutter = Cutter(encoding)
        found = [one for at in range(0, len(data), size) for one in cutter.feed(data[at : at + size])]
        assert found == said


def test_classic_writes_the_rooms_of_a_resume_as_the_protocol_has_it() -> None:
    resume = {"msg": "session.resume", "rooms": [{"room": "a", "seq": 3}]}
    assert frame(CLASSIC, resume) == b"msg:session.resume\nrooms.0.room:a\nrooms.0.seq:3\n\0"
    assert fields(CLASSIC, b"msg:ping\nid:7\nfrom:7\n") == {"msg": "ping", "id": 7, "from": "7"}


def test_a_transcript_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    fake = counter()
    fake.transcript.save(tmp_path / "kept")
    again = Transcript.load(tmp_path / "kept")
    assert again == fake.transcript
    assert [len(history.asked) for history in read(again)] == [3, 3, 1]


# --- trades ------------------------------------------------------------------------------------------------

SELLER, BUYER = (
    Part(0, "ann", "trader", JSON, others=("bob",)),
    Part(1, "bob", "trader", CLASSIC, others=("ann",)),
)


def trade(gold: tuple[int, int], bags: tuple[list[str], list[str]], *, sold: bool = True) -> Verdict:
    """Bob buys Ann's first thing for a coin; then both show what they have."""
    fake = Fake(SELLER, BUYER, Part(2, "ann", AUDITOR, JSON), Part(3, "bob", AUDITOR, JSON))
    fake.done(1.0, 0, 1, "trade.offer", {"thing": "ann-0", "price": 1}, {})
    asked = {"seller": "user:ann", "thing": "ann-0", "price": 1}
    fake.sent(2.0, 1, 1, "trade.buy", **asked)
    if sold:
        fake.answered(2.1, 1, 1, "trade.buy")
    for client in (0, 1):
        told = {"gold": gold[client], "bag": bags[client], "offers": {}}
        fake.done(3.0, client + 2, 1, "world.inventory", {}, told)
    return fake.verdict()


FULL_BAGS = ["ann-1", "ann-2"], ["bob-0", "bob-1", "bob-2", "ann-0"]


def test_a_trade_that_was_told_is_held_against_both_sides() -> None:
    assert trade((GOLD + 1, GOLD - 1), FULL_BAGS).good
    assert trade((GOLD + 1, GOLD - 1), FULL_BAGS, sold=False).good, "without an answer it may have been done"
    assert trade((GOLD, GOLD), FULL_BAGS, sold=False).good


@pytest.mark.parametrize(
    ("gold", "bags", "kind"),
    [
        ((GOLD, GOLD - 1), FULL_BAGS, "lost"),
        ((GOLD + 1, GOLD), FULL_BAGS, "doubled"),
        ((GOLD, GOLD), FULL_BAGS, "lost"),
        ((GOLD + 2, GOLD - 2), FULL_BAGS, "doubled"),
        ((GOLD + 1, GOLD - 1), (["ann-1"], FULL_BAGS[1]), "lost"),
        ((GOLD + 1, GOLD - 1), (["ann-0", "ann-1", "ann-2"], FULL_BAGS[1]), "doubled"),
    ],
)
def test_gold_and_things_that_come_or_go_are_found(
    gold: tuple[int, int], bags: tuple[list[str], list[str]], kind: str
) -> None:
    assert kind in trade(gold, bags).found
