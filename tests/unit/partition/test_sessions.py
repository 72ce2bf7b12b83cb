"""Sessions: binding, exactly-once, direct events, and that all of it survives a reload."""

from itertools import count

import pytest

from connserver.ids import named_id
from connserver.limits import KEPT_REPLIES
from connserver.messages import OutputKind
from connserver.model import unpack
from partition.sessions import KEPT_EVENTS, TOKENS_KEPT, Session, Sessions
from tests.unit.partition.worlds import Kept

ALICE = named_id("user", "alice")
HERE, THERE = (11, 1), (22, 5)


def sessions_of(kept: Kept) -> Sessions:
    numbers = count()
    sessions = Sessions(kept.ledger, lambda: f"secret{next(numbers)}", 120.0)
    sessions.load()
    return sessions


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def sessions(kept: Kept) -> Sessions:
    return sessions_of(kept)


def opened(sessions: Sessions) -> tuple[Session, str]:
    return sessions.open(ALICE, "alice", frozenset({"player"}), HERE)


def test_a_session_is_found_by_connection_user_and_id(sessions: Sessions) -> None:
    session, _ = opened(sessions)
    assert sessions.at(*HERE) is session
    assert sessions.of_user(ALICE) == [session]
    assert sessions.get(session.oid) is session
    sessions.check_invariants()


def test_everything_about_a_session_survives_a_reload(kept: Kept, sessions: Sessions) -> None:
    session, token = opened(sessions)
    sessions.enter_room(session, "lobby")
    sessions.remember(session, 7, b"seven", durable=True)
    sessions.remember(session, (11, 1, 3), None, durable=True)
    sessions.tell(session, {"msg": "hi"})
    again = sessions_of(kept.reopen())
    loaded = again.get(session.oid)
    assert loaded is not None
    assert (loaded.name, loaded.roles, loaded.rooms, loaded.place) == ("alice", {"player"}, {"lobby"}, HERE)
    assert again.reply_to(loaded, 7) == b"seven"
    assert again.known(loaded, (11, 1, 3)) and again.reply_to(loaded, (11, 1, 3)) is None
    assert loaded.last_event == 1
    assert again.resume(session.oid, token.partition(".")[2], THERE) is not None
    again.check_invariants()


def test_replies_beyond_the_kept_ones_make_their_ids_expire(kept: Kept, sessions: Sessions) -> None:
    session, _ = opened(sessions)
    for number in range(1, KEPT_REPLIES + 11):
        sessions.remember(session, number, b"%d" % number, durable=True)
    for reader in (sessions, sessions_of(kept.reopen())):
        held = reader.get(session.oid)
        assert held is not None
        assert [reader.too_old(held, number) for number in (10, 11)] == [True, False]
        assert reader.reply_to(held, 11) == b"11"
        assert not reader.known(held, KEPT_REPLIES + 11)


def test_an_answer_in_progress_keeps_its_slot(kept: Kept, sessions: Sessions) -> None:
    session, _ = opened(sessions)
    sessions.remember(session, 1, None, durable=True)
    for number in range(2, 10):
        sessions.remember(session, number, b"x", durable=True)
    sessions.remember(session, 1, b"late", durable=True)
    again = sessions_of(kept.reopen())
    loaded = again.get(session.oid)
    assert loaded is not None and again.reply_to(loaded, 1) == b"late"
    assert list(loaded.kept) == list(range(1, 10))


def test_resume_needs_a_secret_as_new_as_the_last_used(sessions: Sessions) -> None:
    session, token = opened(sessions)
    first = token.partition(".")[2]
    assert sessions.resume(session.oid, "wrong", THERE) is None
    resumed = sessions.resume(session.oid, first, THERE)
    assert resumed is not None
    _, second_token, former = resumed
    assert former == HERE and sessions.at(*HERE) is None and sessions.at(*THERE) is session
    # the new token was lost on its way: the old one still works
    assert sessions.resume(session.oid, first, HERE) is not None
    # or it was not lost but overtaken: it works too, and from then on the old one does not
    assert sessions.resume(session.oid, second_token.partition(".")[2], THERE) is not None
    assert sessions.resume(session.oid, first, HERE) is None
    sessions.check_invariants()


def test_a_session_without_a_connection_expires_after_its_window(sessions: Sessions) -> None:
    session, _ = opened(sessions)
    assert sessions.expired(1e12) == []
    sessions.leave(session, 100.0)
    assert sessions.expired(219.9) == []
    assert sessions.expired(220.0) == [session]
    sessions.check_invariants()


def test_an_ended_session_leaves_nothing_behind(kept: Kept, sessions: Sessions) -> None:
    session, _ = opened(sessions)
    for number in range(1, 200):
        sessions.remember(session, number, b"x", durable=number % 3 != 0)
        sessions.tell(session, {"msg": "e"})
    sessions.end(session)
    left = [image.kind for image in kept.store.images()]
    assert left == ["cs.ids"]
    assert len(sessions) == 0


def test_direct_events_are_numbered_sent_and_kept(kept: Kept, sessions: Sessions) -> None:
    session, _ = opened(sessions)
    for _ in range(KEPT_EVENTS + 5):
        sessions.tell(session, {"msg": "tick"})
    turn = kept.turn.finish()
    assert turn.outputs[0].targets == [[1]] * (KEPT_EVENTS + 5)
    assert set(turn.outputs[0].kinds) == {OutputKind.EVENT}
    lost, bodies = sessions.missed(session, 2)
    assert lost == 3
    assert [unpack(body)["n"] for body in bodies] == list(range(6, KEPT_EVENTS + 6))
    assert sessions.missed(session, KEPT_EVENTS + 5) == (0, [])


def test_a_resume_that_comes_late_does_not_spoil_the_token_that_the_client_has(sessions: Sessions) -> None:
    """A client asked at one gateway, gave up, asked at another, was answered; then the first one runs."""
    session, token = opened(sessions)
    first = token.partition(".")[2]
    answered = sessions.resume(session.oid, first, THERE)
    late = sessions.resume(session.oid, first, (33, 1))
    assert answered is not None and late is not None
    newest = answered[1].partition(".")[2]
    assert sessions.resume(session.oid, newest, HERE) is not None
    assert sessions.resume(session.oid, first, HERE) is None
    for _ in range(2 * TOKENS_KEPT):
        assert sessions.resume(session.oid, newest, HERE) is not None
    assert len(session.tokens) == TOKENS_KEPT
    sessions.check_invariants()
