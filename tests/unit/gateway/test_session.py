"""The machine of one connection: from its first bytes to its end."""

from __future__ import annotations

from math import inf
from typing import Any

import orjson
import pytest

from connserver.encodings import Encoding
from connserver.errors import ClientError
from connserver.limits import KEPT_REPLIES, Limits
from connserver.messages import RequestKind
from connserver.model import Message, unpack
from gateway.authentication import Anonymous, Authenticator, Identity
from gateway.effects import Again, Answer, Effect, Forward, Hold, Join, Keepalive, Overdue, Shut, Write
from gateway.entrance import Rules
from gateway.framing import Close, Refuse, Send
from gateway.routing import home_of_connection, home_of_user
from gateway.session import (
    ANSWER_S,
    FRAMES_PER_TURN,
    HALF_CLOSED,
    LOGIN_ATTEMPTS,
    Received,
    Session,
    overloaded,
)
from gateway.states import Home, State

GROUPS = 8
WALL = 1_800_000_000.5
FAST = Limits(messages_per_s=100_000, bytes_per_s=1 << 30)


class Passwords:
    """A provider that knows one user."""

    implicit = False

    def identify(self, message: Message, wall: float) -> Identity:
        if message.get("token") != "ann's":
            raise ClientError("unauthorized", "wrong token")
        return Identity("ann", ("gm",))


class Story:
    """A session and the requests that have no answer yet."""

    def __init__(
        self,
        *,
        limits: Limits = FAST,
        who: Authenticator | None = None,
        encoding: Encoding | None = Encoding.JSON,
    ) -> None:
        who = who or Anonymous(lambda: "0badcafe")
        self.rules = Rules(limits, GROUPS, 30_000, who, lambda: WALL)
        self.session = Session(5, self.rules, 0.0)
        self.now = 0.0
        self.in_flight = 0
        self.home = Home.SERVES
        self.group = -1
        if encoding is not None:
            assert self.session.detected(encoding) == []

    def receives(self, *received: Received | dict[str, Any]) -> list[Effect]:
        self.session.backlog += [orjson.dumps(item) if isinstance(item, dict) else item for item in received]
        return self.works()

    def works(self) -> list[Effect]:
        effects = self.session.work(self.rules, self.now, self.in_flight, self.home)
        for effect in effects:
            if isinstance(effect, Join):
                assert self.in_flight == 0
                self.group = effect.group
            elif isinstance(effect, Forward):
                self.in_flight += len(effect.items)
        self.session.check_invariants()
        return effects

    def is_answered(self, count: int = 1) -> list[Effect]:
        self.in_flight -= count
        return self.works()

    def logs_in(self) -> None:
        self.receives({"msg": "login", "user": "ann"})
        self.session.bound()
        self.in_flight = 0

    def looks(self, **known: Any) -> tuple[list[Effect], float]:
        known = {"unfinished": None, "oldest": inf, "sent": 0.0, **known}
        result = self.session.look(self.rules, self.now, **known)
        self.session.check_invariants()
        return result


def answers(effects: list[Effect]) -> list[Message]:
    return [message for effect in effects if isinstance(effect, Answer) for message in effect.messages]


def forwarded(effects: list[Effect]) -> list[tuple[int, Message]]:
    return [
        (kind, unpack(body))
        for effect in effects
        if isinstance(effect, Forward)
        for kind, body in effect.items
    ]


def ends(effects: list[Effect]) -> list[tuple[int, bool]]:
    return [(effect.code, effect.spoken) for effect in effects if isinstance(effect, Shut)]


# --- before login -----------------------------------------------------------------------------------------


def test_hello_ping_and_time_are_answered_at_once() -> None:
    story = Story()
    effects = story.receives(
        {"msg": "hello", "protocol": 3, "id": "a"},
        {"msg": "ping", "id": 7, "x": [1, None], "status": 5},
        {"msg": "time"},
    )
    hello, ping, time = answers(effects)
    assert hello["msg"] == "hello" and hello["id"] == "a" and hello["status"] == 0
    assert hello["protocol"] == 1 and hello["keepalive_ms"] == 30_000 and hello["time_ms"] == int(WALL * 1000)
    assert ping == {"msg": "ping", "id": 7, "status": 0, "x": [1, None]}
    assert time == {"msg": "time", "status": 0, "time": WALL}
    assert len(effects) == 1 and story.session.state is State.OPEN


def test_a_protocol_that_never_was_is_refused() -> None:
    for wrong in (0, -1, "x", 1.5, None):
        (reply,) = answers(Story().receives({"msg": "hello", "protocol": wrong, "id": 1}))
        assert reply["error"] == "bad_argument" and reply["id"] == 1 and "protocol" in str(reply["reason"])


def test_login_goes_to_the_home_of_the_user_without_its_token() -> None:
    story = Story(who=Passwords())
    effects = story.receives({"msg": "login", "user": "ann", "token": "ann's", "id": 1})
    assert story.group == home_of_user("ann", GROUPS)[1]
    assert forwarded(effects) == [
        (
            RequestKind.LOGIN,
            {
                "user": "ann",
                "roles": ["gm"],
                "encoding": int(Encoding.JSON),
                "message": {"msg": "login", "user": "ann", "id": 1},
            },
        )
    ]
    story.session.bound()
    assert story.session.state is State.BOUND


def test_without_login_a_call_needs_one() -> None:
    story = Story(who=Passwords())
    (reply,) = answers(story.receives({"msg": "chat.say", "id": 9}))
    assert reply["error"] == "unauthorized" and reply["msg"] == "chat.say" and reply["id"] == 9
    assert story.session.state is State.OPEN


def test_where_nothing_is_proved_the_first_call_logs_in() -> None:
    story = Story()
    effects = story.receives({"msg": "chat.say", "id": 9}, {"msg": "ping"})
    kinds = [kind for kind, _ in forwarded(effects)]
    assert kinds == [RequestKind.LOGIN, RequestKind.CALL, RequestKind.CALL]
    login = forwarded(effects)[0][1]
    assert login["user"] == "guest-0badcafe" and "message" not in login
    assert story.group == home_of_user("guest-0badcafe", GROUPS)[1]


def test_logout_without_a_session_does_not_make_one() -> None:
    story = Story()
    (reply,) = answers(story.receives({"msg": "logout"}))
    assert reply["error"] == "unauthorized" and story.session.state is State.OPEN


def test_methods_before_login_are_asked_of_some_group_and_hold_up_what_follows() -> None:
    story = Story()
    effects = story.receives({"msg": "methods", "id": 1}, {"msg": "login", "user": "ann"})
    assert forwarded(effects) == [(RequestKind.CALL, {"msg": "methods", "id": 1})]
    assert story.group == home_of_connection(5, GROUPS)
    assert story.works() == []
    effects = story.is_answered()
    assert story.group == home_of_user("ann", GROUPS)[1]
    assert [kind for kind, _ in forwarded(effects)] == [RequestKind.LOGIN]


def test_resume_goes_where_the_session_lives_with_numbers_that_text_encodings_lack() -> None:
    story = Story(encoding=Encoding.CLASSIC, who=Passwords())
    token = "8000000000000100.secret"
    effects = story.receives(
        f"msg:session.resume\nid:4\nresume:{token}\nn:17\nrooms.0.room:lobby\nrooms.0.seq:250".encode()
    )
    assert story.group == GROUPS // 2
    ((kind, body),) = forwarded(effects)
    assert kind == RequestKind.RESUME
    assert body == {
        "resume": token,
        "n": 17,
        "rooms": [{"room": "lobby", "seq": 250}],
        "encoding": int(Encoding.CLASSIC),
        "message": {"msg": "session.resume", "id": 4},
    }


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"resume": "nonsense"}, "session_expired"),
        ({"resume": 7}, "session_expired"),
        ({}, "session_expired"),
        ({"resume": "8000000000000100.s", "n": "many"}, "bad_argument"),
        ({"resume": "8000000000000100.s", "rooms": "lobby"}, "bad_argument"),
        ({"resume": "8000000000000100.s", "rooms": [{"seq": 1}]}, "bad_argument"),
        ({"resume": "8000000000000100.s", "rooms": [{"room": "a", "seq": {}}]}, "bad_argument"),
    ],
)
def test_a_resume_that_cannot_be_right_is_answered_here(fields: dict[str, Any], error: str) -> None:
    story = Story()
    (reply,) = answers(story.receives({"msg": "session.resume", **fields}))
    assert reply["error"] == error and story.session.state is State.OPEN


def test_whoever_keeps_guessing_is_disconnected() -> None:
    story = Story(who=Passwords())
    for _ in range(LOGIN_ATTEMPTS - 1):
        assert ends(story.receives({"msg": "login", "token": "guess"})) == []
    effects = story.receives({"msg": "login", "token": "guess"}, {"msg": "login", "token": "ann's"})
    assert [reply["error"] for reply in answers(effects)] == ["unauthorized"]
    assert ends(effects) == [(1008, True)] and forwarded(effects) == []
    assert story.session.is_closed


def test_a_login_that_the_worker_refuses_can_be_tried_again() -> None:
    story = Story()
    story.receives({"msg": "login", "user": "nobody"})
    assert story.session.login_refused(1.0) == []
    story.in_flight = 0
    assert story.session.state is State.OPEN
    assert [kind for kind, _ in forwarded(story.receives({"msg": "login", "user": "ann"}))] == [
        RequestKind.LOGIN
    ]


def test_a_connection_that_is_not_admitted_is_told_so_once_it_can_be() -> None:
    story = Story(encoding=None)
    story.session.refuse(overloaded("too many"))
    effects = story.session.detected(Encoding.JSON)
    assert answers(effects) == [
        {"msg": "error", "status": 1, "error": "overloaded", "reason": "too many", "retry_after_ms": 1000}
    ]
    assert ends(effects) == [(1013, False)] and story.session.is_deaf


# --- bound ------------------------------------------------------------------------------------------------


def test_once_bound_everything_goes_to_the_worker_in_its_order() -> None:
    story = Story()
    story.logs_in()
    effects = story.receives({"msg": "hello"}, b'{"msg":}', {"msg": "ping", "id": 2})
    assert len(effects) == 1
    kinds = forwarded(effects)
    assert [kind for kind, _ in kinds] == [RequestKind.CALL, RequestKind.REJECTED, RequestKind.CALL]
    rejected = kinds[1][1]
    assert rejected["msg"] == "error" and rejected["status"] == 1 and rejected["error"] == "bad_message"
    assert kinds[2][1] == {"msg": "ping", "id": 2}


def test_before_login_a_bad_message_is_refused_here() -> None:
    story = Story()
    (reply,) = answers(story.receives(b'{"msg":}'))
    assert reply["error"] == "bad_message" and story.session.state is State.OPEN


def test_an_unreadable_rest_closes_after_what_came_before_it_was_answered() -> None:
    story = Story()
    story.logs_in()
    effects = story.receives({"msg": "a"}, Refuse("too_large", "too long", close=True))
    assert [kind for kind, _ in forwarded(effects)] == [RequestKind.CALL, RequestKind.REJECTED]
    assert ends(effects) == []
    assert ends(story.is_answered()) == []
    assert ends(story.is_answered()) == [(1009, False)]


def test_half_closing_waits_for_every_answer() -> None:
    story = Story()
    story.logs_in()
    effects = story.receives({"msg": "a"}, {"msg": "b"}, HALF_CLOSED)
    assert len(forwarded(effects)) == 2 and ends(effects) == []
    assert story.is_answered() == []
    assert ends(story.is_answered()) == [(1000, False)]


def test_half_closing_with_nothing_open_closes_at_once() -> None:
    story = Story()
    assert ends(story.receives({"msg": "ping"}, HALF_CLOSED)) == [(1000, False)]


def test_a_close_frame_does_not_wait_and_written_bytes_keep_their_place() -> None:
    story = Story()
    story.logs_in()
    effects = story.receives({"msg": "a"}, Send(b"close frame"), Close(1000, "bye"), {"msg": "b"})
    assert [type(effect) for effect in effects] == [Forward, Write, Shut]
    assert len(forwarded(effects)) == 1
    assert story.receives({"msg": "c"}) == [] and story.session.backlog == []


def test_a_stop_answers_what_was_received_and_says_goodbye() -> None:
    story = Story()
    story.logs_in()
    story.receives({"msg": "a"})
    story.session.end(1012, "stopping")
    assert story.session.is_deaf and story.works() == []
    assert ends(story.is_answered()) == [(1012, True)]


# --- bounds -----------------------------------------------------------------------------------------------


def test_one_turn_takes_a_bounded_number_of_messages() -> None:
    story = Story()
    story.logs_in()
    many = [{"msg": "a", "id": number} for number in range(FRAMES_PER_TURN + 1)]
    effects = story.receives(*many)
    assert len(forwarded(effects)) == FRAMES_PER_TURN and Again() in effects
    story.in_flight = 0
    effects = story.works()
    assert [body["id"] for _, body in forwarded(effects)] == [FRAMES_PER_TURN] and Again() not in effects


def test_one_turn_takes_a_bounded_number_of_bytes() -> None:
    story = Story()
    story.logs_in()
    big = {"msg": "a", "text": "x" * 40_000}
    effects = story.receives(big, big, big)
    assert len(forwarded(effects)) == 2 and Again() in effects


def test_over_the_rate_messages_wait_and_none_is_lost() -> None:
    story = Story(limits=Limits(messages_per_s=10, burst=1, bytes_per_s=1 << 30))
    story.logs_in()
    effects = story.receives(*[{"msg": "a", "id": number} for number in range(11)])
    assert len(forwarded(effects)) == 9  # the login was the first of ten
    (hold,) = [effect for effect in effects if isinstance(effect, Hold)]
    assert hold.seconds == pytest.approx(0.1)
    story.in_flight = 0
    seen = [body["id"] for _, body in forwarded(effects)]
    for _ in range(2):
        story.now += hold.seconds + 0.001
        seen += [body["id"] for _, body in forwarded(story.works())]
    assert seen == list(range(11))


def test_the_rate_counts_before_login_too() -> None:
    story = Story(limits=Limits(messages_per_s=10, burst=1, bytes_per_s=1 << 30))
    effects = story.receives(*[{"msg": "ping", "id": number} for number in range(15)])
    assert [reply["id"] for reply in answers(effects)] == list(range(10))
    assert [effect.seconds for effect in effects if isinstance(effect, Hold)] == [pytest.approx(0.1)]


def test_bytes_in_debt_hold_up_the_next_read() -> None:
    story = Story(limits=Limits(messages_per_s=1000, bytes_per_s=100, burst=1))
    story.logs_in()
    story.session.allowance.bytes -= 250
    effects = story.receives({"msg": "a"})
    assert len(forwarded(effects)) == 1
    assert [round(effect.seconds, 3) for effect in effects if isinstance(effect, Hold)] == [1.5]


def test_as_many_requests_are_under_way_as_replies_are_kept() -> None:
    story = Story(limits=Limits(requests_in_flight=1_000, messages_per_s=100_000, bytes_per_s=1 << 30))
    story.logs_in()
    story.session.backlog += [b'{"msg":"a"}'] * (KEPT_REPLIES + 10)
    while Again() in story.works():
        pass
    assert story.in_flight == KEPT_REPLIES and len(story.session.backlog) == 10
    assert len(forwarded(story.is_answered(3))) == 3


def test_without_a_worker_the_bound_is_said_instead_of_waited_for() -> None:
    story = Story(limits=Limits(requests_in_flight=2, messages_per_s=1000))
    story.logs_in()
    story.home = Home.AWAY
    effects = story.receives({"msg": "a"}, {"msg": "b"}, {"msg": "c", "id": 3}, b"{")
    assert [body["msg"] for _, body in forwarded(effects)] == ["a", "b"]
    overload, bad = answers(effects)
    assert overload["id"] == 3 and overload["error"] == "overloaded" and overload["retry_after_ms"] == 1000
    assert bad["error"] == "bad_message"


def test_where_too_much_waits_nothing_more_is_taken() -> None:
    story = Story()
    story.logs_in()
    story.home = Home.FULL
    (reply,) = answers(story.receives({"msg": "a", "id": 1}))
    assert reply["error"] == "overloaded"


# --- time -------------------------------------------------------------------------------------------------


def test_whoever_does_not_log_in_in_time_is_told_and_closed() -> None:
    story = Story(limits=Limits(login_ms=5_000))
    assert story.looks() == ([], 5.0)
    story.now = 5.0
    effects, _ = story.looks()
    assert [reply["error"] for reply in answers(effects)] == ["timeout"]
    assert ends(effects) == [(1008, False)]


def test_who_says_nothing_at_all_is_closed_without_a_word() -> None:
    story = Story(encoding=None)
    story.now = 5.0
    effects, _ = story.looks()
    assert answers(effects) == [] and ends(effects) == [(1008, False)]


def test_the_login_limit_does_not_run_while_a_worker_is_asked() -> None:
    story = Story()
    story.receives({"msg": "login", "user": "ann"})
    story.now = 9.0
    assert story.looks(oldest=0.0)[0] == []
    story.session.login_refused(9.0)
    story.in_flight = 0
    assert story.looks() == ([], 14.0)


def test_an_unfinished_message_has_its_time() -> None:
    story = Story(limits=Limits(message_ms=10_000))
    story.logs_in()
    assert story.looks(unfinished=3.0) == ([], 13.0)
    story.now = 13.0
    effects, _ = story.looks(unfinished=3.0, sent=12.0)
    assert [reply["error"] for reply in answers(effects)] == ["timeout"]
    assert ends(effects) == [(1008, False)]


def test_keepalive_comes_when_nothing_was_sent_and_only_then() -> None:
    story = Story()
    story.logs_in()
    story.now = 29.0
    assert story.looks(sent=0.0) == ([], 30.0)
    story.now = 30.0
    assert story.looks(sent=0.0) == ([Keepalive()], 60.0)
    assert story.looks(sent=10.0) == ([], 40.0)


def test_a_request_without_an_answer_is_overdue_in_the_end() -> None:
    story = Story()
    story.logs_in()
    story.now = ANSWER_S + 2
    assert story.looks(oldest=2.5, sent=20.0) == ([], ANSWER_S + 2.5)
    assert Overdue() in story.looks(oldest=2.0, sent=20.0)[0]


def test_an_event_outside_the_table_is_a_bug() -> None:
    story = Story()
    with pytest.raises(AssertionError, match="detected in state open"):
        story.session.detected(Encoding.XML)
