"""A client of the drill, message by message: through broken connections, refusals and lost sessions."""

from __future__ import annotations

from typing import Any

import pytest

from connserver.cli.drill_session import RETRY_S, WINDOW, DrillSession, Step

Message = dict[str, Any]


class Story:
    """A session, and what it wrote into its journal."""

    def __init__(self) -> None:
        self.written: list[tuple[Any, ...]] = []
        self.session = DrillSession("s0", "den", {"user": "ann"}, self)
        self.now = 10.0

    def acked(self, session: str, op: str, seq: int, at: float) -> None:
        self.written.append(("acked", op, seq, at))

    def doubted(self, op: str) -> None:
        self.written.append(("doubted", op))

    def refused(self, op: str, error: str) -> None:
        self.written.append(("refused", op, error))

    def joined(self, session: str, seq: int) -> None:
        self.written.append(("joined", seq))

    def saw(self, session: str, seq: int, op: str) -> None:
        self.written.append(("saw", seq, op))

    def skipped(self, session: str, first: int, last: int) -> None:
        self.written.append(("skipped", first, last))

    def hear(self, **message: Any) -> list[Message]:
        said = self.session.received(message, self.now)
        self.session.check_invariants()
        return said

    def reply(self, number: int | str, **fields: Any) -> list[Message]:
        return self.hear(msg="x", id=number, status=0, **fields)

    def error(self, number: int | str, error: str, **fields: Any) -> list[Message]:
        return self.hear(msg="x", id=number, status=1, error=error, reason="because", **fields)

    def event(self, seq: int, op: str = "x") -> None:
        assert self.hear(msg="room.message", room="den", seq=seq, text=op) == []

    def enter(self) -> None:
        """Logged in, and in the room, of which three events were before."""
        assert self.session.connected() == [{"msg": "login", "id": "login", "user": "ann"}]
        assert self.reply("login", resume="t1") == [{"msg": "room.join", "id": "join", "room": "den"}]
        assert self.reply("join", seq=3) == []
        assert self.session.step is Step.INSIDE

    def operate(self) -> Message:
        (message,) = self.session.operate()
        return message


@pytest.fixture
def story() -> Story:
    made = Story()
    made.enter()
    return made


RESUME = {"msg": "session.resume", "id": "resume", "resume": "t1", "n": 0}


def test_operations_have_rising_ids_and_are_written_down_when_answered(story: Story) -> None:
    assert story.operate() == {"msg": "room.send", "room": "den", "id": 1, "text": "s0/1"}
    assert story.operate()["id"] == 2
    story.event(4, "s0/1")
    story.reply(1, seq=4)
    assert story.written == [("joined", 3), ("saw", 4, "s0/1"), ("acked", "s0/1", 4, 10.0)]
    assert story.session.pending == 1
    story.reply(1, seq=4)
    assert len(story.written) == 3, "an answer that comes twice is none"


def test_so_many_are_under_way_and_no_more(story: Story) -> None:
    for _ in range(WINDOW):
        story.operate()
    assert story.session.operate() == []
    story.reply(1, seq=4)
    assert story.operate()["id"] == WINDOW + 1


def test_a_broken_connection_is_resumed_and_what_is_open_said_again_in_order(story: Story) -> None:
    first, second, third = story.operate(), story.operate(), story.operate()
    story.event(4)
    story.hear(msg="hello.you", n=7)
    story.reply(2, seq=5)
    story.session.disconnected()
    assert story.session.operate() == []
    assert story.session.connected() == [{**RESUME, "n": 7, "rooms": [{"room": "den", "seq": 4}]}]
    assert story.reply("resume", resume="t2") == [first, third]
    story.session.disconnected()
    (again,) = story.session.connected()
    assert again["resume"] == "t2"
    assert second["id"] == 2


def test_a_connection_that_breaks_before_the_room_joins_then() -> None:
    story = Story()
    story.session.connected()
    story.reply("login", resume="t1")
    story.session.disconnected()
    assert story.session.connected() == [{**RESUME, "rooms": []}]
    assert story.reply("resume", resume="t2") == [{"msg": "room.join", "id": "join", "room": "den"}]


def test_what_is_put_off_is_said_again_with_its_id_when_it_is_due(story: Story) -> None:
    message = story.operate()
    assert story.error(1, "unavailable") == []
    assert story.session.tick(10.0 + RETRY_S / 2) == []
    assert story.session.tick(10.0 + RETRY_S) == [message]
    assert story.session.tick(20.0) == []
    story.error(1, "overloaded", retry_after_ms=500)
    assert story.session.tick(10.4) == []
    assert story.session.tick(10.5) == [message]


def test_what_is_put_off_when_the_connection_breaks_is_said_once(story: Story) -> None:
    message = story.operate()
    story.error(1, "timeout")
    story.session.disconnected()
    story.session.connected()
    assert story.reply("resume", resume="t2") == [message]
    assert story.session.tick(99.0) == []


def test_an_error_for_good_is_refused_and_an_expired_id_in_doubt(story: Story) -> None:
    story.operate()
    story.operate()
    story.error(1, "forbidden")
    story.error(2, "id_expired")
    assert story.written[1:] == [("refused", "s0/1", "forbidden"), ("doubted", "s0/2")]
    assert story.session.pending == 0


def test_a_session_that_is_lost_is_begun_anew_and_what_was_open_is_in_doubt(story: Story) -> None:
    story.operate()
    story.operate()
    login = {"msg": "login", "id": "login", "user": "ann"}
    assert story.error(1, "session_expired") == [login]
    assert story.error(2, "session_expired") == [], "said once"
    assert story.written[1:] == [("doubted", "s0/1"), ("doubted", "s0/2")]
    story.reply("login", resume="t9")
    story.reply("join", seq=8)
    assert story.written[-1] == ("joined", 8)
    assert story.operate()["id"] == 3, "no id is used twice"


@pytest.mark.parametrize("error", ["session_expired", "bad_argument"])
def test_a_token_that_is_not_taken_any_more_means_a_new_session(story: Story, error: str) -> None:
    story.session.disconnected()
    story.session.connected()
    assert story.error("resume", error) == [{"msg": "login", "id": "login", "user": "ann"}]


def test_entering_is_tried_again_and_not_in_a_hot_loop() -> None:
    story = Story()
    (login,) = story.session.connected()
    assert story.error("login", "unavailable") == []
    assert story.session.tick(10.0) == []
    assert story.session.tick(10.0 + RETRY_S) == [login]
    (join,) = story.reply("login", resume="t1")
    assert story.error("join", "overloaded") == []
    assert story.session.tick(10.0 + RETRY_S) == [join]
    story.error("join", "overloaded")
    story.session.disconnected()
    assert story.session.tick(99.0) == []


def test_the_room_is_followed_and_no_other(story: Story) -> None:
    story.hear(msg="room.message", room="other", seq=99, text="x")
    story.event(4, "a")
    story.hear(msg="room.gap", room="den", **{"from": 5, "to": 9})
    assert story.written[1:] == [("saw", 4, "a"), ("skipped", 5, 9)]
    assert story.session.seq == 9


def test_it_leaves_in_order(story: Story) -> None:
    assert story.session.leave() == [{"msg": "logout", "id": "logout"}]
    assert story.session.operate() == []
    story.reply("logout")
    story.session.disconnected()
    assert story.session.step is Step.LEFT
