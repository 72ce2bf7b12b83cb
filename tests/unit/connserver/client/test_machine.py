"""A client's machine by stories: what happens to it, and what it wants done."""

from __future__ import annotations

from typing import Any

import pytest

from connserver.client.events import (
    DirectEvent,
    EventsLost,
    LoggedInAgain,
    Loss,
    RoomGap,
    RoomLost,
    RoomMessage,
)
from connserver.client.machine import (
    Answered,
    Became,
    Deliver,
    Effect,
    Failed,
    Machine,
    Open,
    Options,
    Over,
    Send,
    Shut,
    State,
)
from connserver.errors import (
    ClientError,
    Refused,
    SessionClosed,
    SessionExpired,
    SessionKicked,
    SessionReplaced,
)
from connserver.limits import CLIENT_CONNECTIONS, CLIENT_ENTER_S
from connserver.model import Message

LIMITS: Message = {"message_bytes": 1000, "fields": 8, "nesting_levels": 4}


class Story:
    """A machine, its clock, and what it has sent."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        options = {"addresses": 2, **options}
        self.machine = Machine(Options(**options), lambda: {"user": "ann"}, lambda: 1.0)
        self.attempt = 0
        self.sent: list[Message] = []
        self.effects: list[Effect] = []
        self.opened: list[int] = []

    def take(self, effects: list[Effect]) -> list[Effect]:
        self.machine.check_invariants()
        for effect in effects:
            if isinstance(effect, Send):
                self.sent.append(effect.message)
            elif isinstance(effect, Open):
                self.attempt = effect.attempt
                self.opened.append(effect.address)
        rest = [effect for effect in effects if not isinstance(effect, (Send, Open))]
        self.effects += rest
        return rest

    def said(self) -> list[Message]:
        """What was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent

    def hear(self, message: Message) -> list[Effect]:
        return self.take(self.machine.received(self.attempt, message, self.now))

    def call(self, msg: str, **fields: Any) -> int:
        ticket, effects = self.machine.call({"msg": msg, **fields}, self.now)
        self.take(effects)
        return ticket

    def wait(self) -> list[Effect]:
        """Until the machine's next deadline."""
        self.now = max(self.now, self.machine.deadline)
        return self.take(self.machine.tick(self.now))

    def enter(self, resume: str = "t1") -> list[Effect]:
        """Connect and be logged in, or resumed."""
        if self.machine.state is State.NEW:
            self.take(self.machine.start(self.now))
        while self.machine.state is State.WAITING:
            self.wait()
        self.take(self.machine.opened(self.attempt, self.now))
        self.hear({"msg": "hello", "status": 0, "keepalive_ms": 4000, "limits": LIMITS})
        return self.hear({"msg": "login", "status": 0, "user": "ann", "oid": "0a", "resume": resume})

    def lose(self, code: int = 0) -> list[Effect]:
        return self.take(self.machine.lost(self.attempt, "broken", self.now, code))

    def join(self, room: str, seq: int, history: int = 0) -> None:
        self.call("room.join", room=room, history=history)
        number = self.said()[-1]["id"]
        self.hear({"msg": "room.join", "id": number, "status": 0, "seq": seq})


@pytest.fixture
def story() -> Story:
    made = Story()
    made.enter()
    made.said()
    made.effects.clear()
    return made


def message(room: str, seq: int) -> Message:
    return {"msg": "room.message", "room": room, "seq": seq, "from": "bob", "text": "x"}


def told(room: str, seq: int) -> Deliver:
    return Deliver(RoomMessage(room, seq, "bob", {"text": "x"}))


def test_it_greets_and_logs_in() -> None:
    story = Story()
    assert Became(State.READY) in story.enter()
    hello, login = story.said()
    assert (hello["msg"], hello["protocol"]) == ("hello", 1)
    assert login == {"msg": "login", "user": "ann"}
    assert (story.machine.user, story.machine.limits.message_bytes) == ("ann", 1000)


def test_a_call_and_its_results(story: Story) -> None:
    tickets = [story.call("a", x=1), story.call("b"), story.call("c")]
    assert story.said() == [{"msg": "a", "x": 1, "id": 1}, {"msg": "b", "id": 2}, {"msg": "c", "id": 3}]
    assert story.hear({"msg": "b", "id": 2, "status": 0, "y": 2}) == [Answered(tickets[1], {"y": 2})]
    (failed,) = story.hear({"msg": "a", "id": 1, "status": 1, "error": "refused", "code": "a.no"})
    assert isinstance(failed, Failed) and isinstance(failed.error, Refused) and failed.error.code == "a.no"
    (failed,) = story.hear({"msg": "c", "id": 3, "status": 1, "error": "from_the_future"})
    assert isinstance(failed, Failed) and isinstance(failed.error, Refused)
    assert story.hear({"msg": "c", "id": 3, "status": 0}) == []


def test_ids_between_the_oldest_and_the_newest_are_bounded() -> None:
    story = Story(in_flight=4)
    story.enter()
    tickets = [story.call("a") for _ in range(4)]
    assert story.machine.is_full
    story.hear({"msg": "a", "id": 3, "status": 0})
    assert story.machine.is_full, "id 1 is still open, so id 5 must wait"
    story.hear({"msg": "a", "id": 1, "status": 0})
    assert not story.machine.is_full
    story.machine.cancel(tickets[1])
    story.machine.check_invariants()
    assert story.hear({"msg": "a", "id": 2, "status": 0}) == []
    with pytest.raises(ValueError, match="in_flight"):
        Story(in_flight=65)


def test_after_a_reconnect_the_same_ids_are_sent_again_in_order(story: Story) -> None:
    for name in "abc":
        story.call(name)
    story.hear({"msg": "b", "id": 2, "status": 0})
    story.said()
    story.lose()
    late = story.call("d")
    assert story.said() == []
    story.enter("t2")
    assert story.opened == [0, 1], "the next gateway is tried"
    _, resume, *calls = story.said()
    assert resume == {"msg": "session.resume", "resume": "t1", "n": 0, "rooms": []}
    assert calls == [{"msg": "a", "id": 1}, {"msg": "c", "id": 3}, {"msg": "d", "id": 4}]
    assert story.hear({"msg": "d", "id": 4, "status": 0}) == [Answered(late, {})]
    story.lose()
    story.enter()
    assert story.said()[1]["resume"] == "t2"


def test_waits_between_gateways_grow_and_end() -> None:
    story = Story()
    story.take(story.machine.start(story.now))
    waits = []
    for _ in range(12):
        story.lose()
        begun = story.now
        story.wait()
        waits.append(round(story.now - begun, 3))
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 5]
    assert story.opened == [0, 1] * 6 + [0]
    assert story.machine.last_failure == "broken"


def test_a_gateway_that_takes_clients_and_drops_them_is_not_asked_faster_and_faster(story: Story) -> None:
    waits = []
    for _ in range(4):
        story.lose()
        begun = story.now
        story.wait()
        waits.append(round(story.now - begun, 3))
        story.enter()
    assert waits == [0.05, 0.1, 0.2, 0.4]
    story.now += 5
    story.hear({"msg": "ping", "status": 0})
    story.lose()
    assert round(story.machine.deadline - story.now, 3) == 0.05, "this one was good for a while"


def test_a_gateway_that_says_nothing_is_given_up() -> None:
    story = Story()
    story.take(story.machine.start(story.now))
    story.now += CLIENT_ENTER_S
    assert story.take(story.machine.tick(story.now)) == [Shut(1)]
    assert story.machine.state is State.WAITING


def test_silence_is_asked_about_and_then_ends_the_connection(story: Story) -> None:
    story.now += 4  # twice the keepalive of 4 s counts as dead
    assert story.wait() == [] and story.said() == [{"msg": "ping"}]
    story.hear({"msg": "ping", "status": 0})
    assert story.machine.deadline == story.now + 4
    story.wait()
    assert story.said() == [{"msg": "ping"}]
    assert story.wait() == [Shut(story.attempt), Became(State.WAITING)]


def test_what_is_not_possible_now_is_named_or_tried_again() -> None:
    hasty, patient = Story(), Story(patience_s=5.0)
    for story in (hasty, patient):
        story.enter()
        story.said()
        story.call("a")
        story.call("b")
        story.said()
        story.hear({"msg": "a", "id": 1, "status": 1, "error": "rate_limited", "retry_after_ms": 300})
        story.hear({"msg": "b", "id": 2, "status": 1, "error": "unavailable"})
    errors = [effect.error for effect in hasty.effects if isinstance(effect, Failed)]
    assert [error.error for error in errors if isinstance(error, ClientError)] == [
        "rate_limited",
        "unavailable",
    ]
    begun = patient.now
    patient.wait()
    assert round(patient.now - begun, 3) == 0.1
    assert patient.said() == [{"msg": "b", "id": 2}], "it may have run: the same id"
    patient.wait()
    assert round(patient.now - begun, 3) == 0.3
    assert patient.said() == [{"msg": "a", "id": 3}], "this reply is kept: a new id"
    patient.now += 5
    patient.hear({"msg": "b", "id": 2, "status": 1, "error": "overloaded", "retry_after_ms": 300})
    assert isinstance(patient.effects[-1], Failed)


def test_a_login_that_is_refused_ends_the_client() -> None:
    story = Story()
    story.take(story.machine.start(story.now))
    story.take(story.machine.opened(1, story.now))
    effects = story.hear({"msg": "login", "status": 1, "error": "unauthorized", "reason": "no"})
    assert isinstance(effects[-1], Over) and isinstance(effects[-1].error, ClientError)
    assert story.machine.deadline == float("inf")


def test_a_login_that_is_not_possible_now_is_tried_at_the_next_gateway() -> None:
    story = Story()
    story.take(story.machine.start(story.now))
    story.take(story.machine.opened(1, story.now))
    reply: Message = {"msg": "login", "status": 1, "error": "overloaded", "retry_after_ms": 2000}
    assert story.hear(reply) == [Shut(1)]
    begun = story.now
    story.wait()
    assert (round(story.now - begun, 3), story.opened) == (2.0, [0, 1])


@pytest.mark.parametrize("login_again", [False, True])
def test_a_session_that_has_expired(login_again: bool) -> None:
    story = Story(login_again=login_again)
    story.enter()
    story.join("hall", 3)
    sent = story.call("a")
    story.lose()
    unsent = story.call("b")
    while story.machine.state is State.WAITING:
        story.wait()
    story.take(story.machine.opened(story.attempt, story.now))
    story.said()
    story.effects.clear()
    story.hear({"msg": "session.resume", "status": 1, "error": "session_expired", "reason": "gone"})
    failed = {effect.ticket: effect.error for effect in story.effects if isinstance(effect, Failed)}
    assert isinstance(failed[sent], SessionExpired) and failed[sent].may_have_run
    if not login_again:
        assert isinstance(failed[unsent], SessionExpired) and not failed[unsent].may_have_run
        assert isinstance(story.effects[-1], Over) and story.machine.state is State.OVER
        return
    assert story.said() == [{"msg": "login", "user": "ann"}] and unsent not in failed
    assert Deliver(LoggedInAgain()) in story.hear({"msg": "login", "status": 0, "resume": "t9"})
    join, call = story.said()
    assert join == {"msg": "room.join", "room": "hall", "history": 256, "id": join["id"]}
    assert call["msg"] == "b" and call["id"] > join["id"] > 3
    story.hear({"msg": "room.join", "id": join["id"], "status": 0, "seq": 5})
    assert [story.hear(message("hall", seq)) for seq in (2, 3, 4, 5)] == [
        [],
        [],
        [told("hall", 4)],
        [told("hall", 5)],
    ]


def test_a_new_session_counts_its_events_anew() -> None:
    story = Story(login_again=True)
    story.enter()
    story.hear({"msg": "hit", "n": 1})
    story.hear({"msg": "hit", "n": 2})
    story.lose()
    story.wait()
    story.take(story.machine.opened(story.attempt, story.now))
    story.hear({"msg": "session.resume", "status": 1, "error": "session_expired"})
    story.hear({"msg": "login", "status": 0, "resume": "t9"})
    assert story.hear({"msg": "hit", "n": 1}) == [Deliver(DirectEvent("hit", 1, {}))]


def test_a_call_that_was_only_put_off_goes_to_the_next_session() -> None:
    """Its answer says that it never ran, so nothing about it is in doubt."""
    story = Story(login_again=True, patience_s=60.0)
    story.enter()
    call = story.call("a")
    story.hear({"msg": "a", "id": 1, "status": 1, "error": "rate_limited", "retry_after_ms": 9000})
    story.lose()
    story.wait()
    story.take(story.machine.opened(story.attempt, story.now))
    story.said()
    story.hear({"msg": "session.resume", "status": 1, "error": "session_expired"})
    story.hear({"msg": "login", "status": 0, "resume": "t9"})
    again = story.said()[-1]
    assert again["msg"] == "a"
    assert story.hear({**again, "status": 0}) == [Answered(call, {})]


def test_a_room_that_is_being_left_is_not_joined_again(story: Story) -> None:
    story.join("hall", 3)
    ticket = story.call("room.leave", room="hall")
    story.said()
    story.lose()
    story.enter()
    resume, leave = story.said()[1:]
    assert resume["rooms"] == [] and leave["msg"] == "room.leave"
    assert story.hear(message("hall", 4)) == []
    assert story.hear({**leave, "status": 0}) == [Answered(ticket, {"room": "hall"})]
    assert story.machine.rooms.get("hall") is None


def test_a_room_that_cannot_be_joined_again_is_named() -> None:
    story = Story(login_again=True)
    story.enter()
    story.join("hall", 3)
    story.lose()
    story.wait()
    story.take(story.machine.opened(story.attempt, story.now))
    story.hear({"msg": "session.resume", "status": 1, "error": "session_expired"})
    story.hear({"msg": "login", "status": 0, "resume": "t9"})
    number = story.said()[-1]["id"]
    (effect,) = story.hear({"msg": "room.join", "id": number, "status": 1, "error": "forbidden"})
    assert isinstance(effect, Deliver) and isinstance(effect.event, RoomLost)
    assert story.machine.rooms.get("hall") is None


@pytest.mark.parametrize(("code", "error"), [(4002, SessionReplaced), (4003, SessionKicked)])
@pytest.mark.parametrize("is_websocket", [True, False])
def test_ends_that_are_final(story: Story, code: int, error: type, is_websocket: bool) -> None:
    call = story.call("a")
    if is_websocket:
        story.lose(code)
    else:
        story.hear({"msg": "goodbye", "code": code, "reason": "so it is"})
    failed = [effect for effect in story.effects if isinstance(effect, Failed)]
    assert failed[0].ticket == call and type(failed[0].error) is error
    assert type(story.effects[-1]) is Over and type(story.effects[-1].error) is error


@pytest.mark.parametrize("code", [1012, 1013, 4001])
def test_ends_that_are_not(story: Story, code: int) -> None:
    story.hear({"msg": "goodbye", "code": code, "reason": "elsewhere"})
    assert story.machine.state is State.WAITING
    story.enter()
    assert story.said()[1]["msg"] == "session.resume"


def test_a_call_that_breaks_every_connection_ends(story: Story) -> None:
    call = story.call("a")
    for _ in range(CLIENT_CONNECTIONS):
        story.lose()
        story.enter()
    (failed,) = [effect for effect in story.effects if isinstance(effect, Failed)]
    assert failed.ticket == call and isinstance(failed.error, ClientError) and failed.error.error == "timeout"


def test_closing_logs_out_and_waits_for_the_answer_only_so_long(story: Story) -> None:
    call = story.call("a")
    story.said()
    story.take(story.machine.close(story.now))
    assert story.said() == [{"msg": "logout"}] and story.machine.state is State.LEAVING
    story.hear({"msg": "logout", "status": 0})
    assert story.machine.state is State.OVER
    failed = [effect for effect in story.effects if isinstance(effect, Failed)]
    assert failed[0].ticket == call and isinstance(failed[0].error, SessionClosed)
    deaf = Story()
    deaf.enter()
    deaf.take(deaf.machine.close(deaf.now))
    assert isinstance(deaf.wait()[-1], Over)


def test_direct_events_come_once_and_in_order(story: Story) -> None:
    def event(n: int) -> Message:
        return {"msg": "hit", "n": n, "by": "bob"}

    def heard(n: int) -> Deliver:
        return Deliver(DirectEvent("hit", n, {"by": "bob"}))

    assert story.hear(event(1)) == [heard(1)]
    assert story.hear(event(1)) == []
    assert story.hear(event(4)) == [Deliver(EventsLost(2, 3, Loss.SKIPPED)), heard(4)]
    story.lose()
    story.enter()
    assert story.said()[1]["n"] == 4
    assert story.hear({"msg": "session.gap", "from": 5, "to": 9}) == [Deliver(EventsLost(5, 9, Loss.GONE))]
    assert story.hear(event(10)) == [heard(10)]
    assert story.hear({"msg": "keepalive"}) == []
    assert story.hear({"msg": "from_the_future"}) == [Deliver(DirectEvent("from_the_future", 0, {}))]


def test_a_resume_says_what_was_seen_of_rooms(story: Story) -> None:
    story.join("hall", 10, history=3)
    assert [story.hear(message("hall", seq)) for seq in (8, 9)] == [[told("hall", 8)], [told("hall", 9)]]
    story.lose()
    story.enter()
    resume, join = story.said()[1:]
    assert resume["rooms"] == [{"room": "hall", "seq": 9}]
    assert join["msg"] == "room.join" and join["history"] == 0, "for the volatile values"
    gap: Message = {"msg": "room.gap", "room": "hall", "from": 10, "to": 12}
    assert story.hear(gap) == [Deliver(RoomGap("hall", 10, 12, Loss.GONE))]
    assert story.hear(message("hall", 12)) == []
    assert story.hear(message("hall", 13)) == [told("hall", 13)]


def test_a_join_that_was_interrupted_is_made_again_for_its_history(story: Story) -> None:
    """Its kept reply says nothing of where the history went: to the connection that broke."""
    ticket = story.call("room.join", room="hall", history=2)
    story.lose()
    story.enter()
    again = story.said()[-1]
    assert again == {"msg": "room.join", "room": "hall", "history": 2, "id": 1}
    assert story.hear(message("hall", 7)) == [], "from before the join"
    assert story.hear({"msg": "room.join", "id": 1, "status": 0, "seq": 5}) == []
    (fresh,) = story.said()
    assert fresh == {**again, "id": 2}
    assert story.hear({"msg": "room.join", "id": 2, "status": 0, "seq": 8}) == [Answered(ticket, {"seq": 8})]
    assert [story.hear(message("hall", seq)) for seq in (7, 8)] == [[told("hall", 7)], [told("hall", 8)]]


def test_rooms_that_do_not_fit_into_a_resume_are_joined_again(story: Story) -> None:
    names = [f"{number:0100}" for number in range(40)]
    for name in names:
        story.join(name, 5)
    story.lose()
    story.enter()
    resume, *joins = story.said()[1:]
    listed = resume["rooms"]
    assert isinstance(listed, list) and 10 < len(listed) < 30
    assert [join["room"] for join in joins] == names
    assert [join["history"] for join in joins] == [0] * len(listed) + [256] * (40 - len(listed))


def test_what_a_former_connection_says_is_nothing(story: Story) -> None:
    former = story.attempt
    story.lose()
    story.wait()
    assert story.machine.received(former, message("hall", 1), story.now) == []
    assert story.machine.lost(former, "late", story.now) == []
    assert story.machine.state is State.CONNECTING


@pytest.mark.parametrize(
    "hostile",
    [
        {"status": 0, "id": 1, "msg": None},
        {"status": "x", "id": 7},
        {"status": 1, "id": 1, "error": 5, "retry_after_ms": "soon"},
        {"status": 0, "msg": "login", "resume": 5},
        {"status": 0, "msg": "hello", "limits": 5, "keepalive_ms": None},
        {"msg": "room.message", "room": 5, "seq": "x"},
        {"msg": "room.message", "room": "hall", "seq": -1},
        {
            "msg": "room.state",
            "room": "hall",
            "changes": [5, {}, {"from": 1, "key": [], "value": {}}],
            "t": {},
        },
        {"msg": "room.gap", "room": "hall", "from": 9, "to": None},
        {"msg": "session.gap", "from": "a", "to": 2**60},
        {"msg": 5, "n": "x"},
        {},
    ],
)
def test_whatever_a_gateway_sends_breaks_nothing(story: Story, hostile: Message) -> None:
    story.join("hall", 1)
    story.call("a")
    story.hear(hostile)
    story.lose()
    story.enter()
