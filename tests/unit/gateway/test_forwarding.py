"""The link to a group's worker: streams, new grants, and requests that nobody answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connserver.codec import decode
from connserver.limits import BATCH_ITEMS, STREAM_PROBE_MS, STREAM_RETAINED_MESSAGES
from connserver.messages import (
    OpenStream,
    Outputs,
    RequestKind,
    Requests,
    RouteEntry,
    StreamAck,
    StreamOpened,
    StreamProbe,
    StreamResend,
    WrongGrant,
)
from connserver.model import pack, unpack
from gateway.forwarding import (
    FAREWELL_S,
    GREET_S,
    OPENING_S,
    RETRY_S,
    SILENCE_S,
    UNANSWERED_BYTES,
    UNAVAILABLE_S,
    Connect,
    Deliver,
    Disconnect,
    Effect,
    Link,
    Opened,
    State,
    Transmit,
)
from gateway.line import BATCH_BYTES, Batch, Line

CALL, LOGIN, RESUME, GONE = RequestKind.CALL, RequestKind.LOGIN, RequestKind.RESUME, RequestKind.GONE
BOOT = 77


def route(grant: int = 1, *, state: str = "ready", endpoint: str = "") -> RouteEntry:
    return RouteEntry(
        3,
        0,
        9,
        1,
        0,
        grant,
        "n1",
        endpoint or f"ipc://w-{grant}",
        ["n1"],
        state,
        "" if state == "ready" else "down",
    )


def outputs(number: int, *, grant: int = 1, acked: int = 0, op: int = 0) -> Outputs:
    return Outputs(grant, number, acked, 0, op, [[1]], [0], [1], [pack({"n": number})])


def sent(effects: list[Effect]) -> list[Any]:
    return [decode(effect.data) for effect in effects if isinstance(effect, Transmit)]


def opening(effects: list[Effect]) -> OpenStream:
    (connect,) = [effect for effect in effects if isinstance(effect, Connect)]
    message = decode(connect.opening)
    assert isinstance(message, OpenStream)
    return message


def items(effects: list[Effect]) -> list[tuple[int, int, int]]:
    """(connection, kind, sequence) of all requests among these effects."""
    return [
        item
        for message in sent(effects)
        if isinstance(message, Requests)
        for item in zip(message.connections, message.kinds, message.sequences, strict=True)
    ]


def fresh() -> Link:
    return Link(3, "gw", BOOT, 0.0)


def opened(now: float = 0.0, grant: int = 1) -> Link:
    link = fresh()
    link.routed(route(grant), now)
    assert link.receive(StreamOpened(grant), now) == [Opened(3)]
    return link


def joined(link: Link, number: int, *, token: str = "") -> Line:
    line = Line(number)
    link.join(line)
    line.token = token
    return line


def call(link: Link, line: Line, now: float = 0.0, *, kind: int = CALL, **fields: Any) -> None:
    link.add(line, [(kind, pack({"msg": "a", **fields}))], now)


# --- opening ----------------------------------------------------------------------------------------------


def test_a_ready_route_is_opened_with_its_grant() -> None:
    link = fresh()
    (connect,) = link.routed(route(5), 0.0)
    assert isinstance(connect, Connect)
    assert (connect.group, connect.attempt, connect.endpoint) == (3, 1, "ipc://w-5")
    assert decode(connect.opening) == OpenStream("gw", BOOT, 5, 0)
    assert link.opening and link.flush(0.0) == []
    assert link.receive(StreamOpened(4), 0.0) == [] and link.opening
    assert link.receive(StreamOpened(5), 0.0) == [Opened(3)] and not link.opening


def test_a_route_that_is_not_ready_is_waited_for() -> None:
    link = fresh()
    assert link.routed(route(state="starting"), 0.0) == []
    assert link.tick(100.0) == []
    assert [type(effect) for effect in link.routed(route(), 100.0)] == [Connect]


def test_a_worker_that_does_not_open_is_tried_over_new_connections_ever_more_patiently() -> None:
    link = fresh()
    link.routed(route(), 0.0)
    first, longest = OPENING_S
    now = 0.0
    waits: list[float] = []
    while len(waits) < 6:
        begun = now
        while not (effects := link.tick(now)):
            now += first / 10
        disconnect, connect = effects
        assert disconnect == Disconnect(3) and isinstance(connect, Connect)
        waits.append(now - begun)
    assert link.attempt == 7 and link.opening
    assert waits == pytest.approx([first, 2 * first, 4 * first, 8 * first, longest, longest], abs=first / 5)


def test_a_wrong_grant_is_tried_again_after_a_pause_that_grows() -> None:
    link = opened()
    first, longest = RETRY_S
    now = 1.0
    for pause in (first, 2 * first, 4 * first, 8 * first, longest, longest):
        assert link.receive(WrongGrant(1, 0), now) == [Disconnect(3)]
        assert link.opening and link.tick(now + pause * 0.9) == []
        now += pause * 1.01
        assert [type(effect) for effect in link.tick(now)] == [Connect]
    link.receive(StreamOpened(1), now)
    link.receive(WrongGrant(1, 0), now)
    assert [type(effect) for effect in link.tick(now + first)] == [Connect]


def test_a_new_route_is_tried_at_once_whatever_was_refused_before() -> None:
    link = opened()
    for _ in range(5):
        link.receive(WrongGrant(1, 2), 1.0)
        link.tick(2.0)
    link.receive(WrongGrant(1, 2), 2.0)
    assert opening(link.routed(route(2), 2.0)).grant == 2
    assert link.receive(WrongGrant(2, 0), 2.0) == [Disconnect(3)]
    assert opening(link.tick(2.0 + RETRY_S[0])).grant == 2


def test_a_route_without_a_worker_hastens_nothing() -> None:
    link = opened()
    link.routed(replace(route(2), state="starting"), 1.0)
    assert not link.opening and link.state is State.CLOSED


def test_a_wrong_grant_of_an_earlier_grant_says_nothing() -> None:
    link = opened(grant=2)
    assert link.receive(WrongGrant(1, 2), 1.0) == [] and link.state is State.OPEN


def test_a_worker_that_answers_is_kept_whatever_is_said_about_it() -> None:
    link = opened()
    assert link.routed(route(state="unavailable"), 1.0) == []
    assert link.state is State.OPEN
    assert link.routed(route(), 2.0) == []
    disconnect, connect = link.routed(route(2), 3.0)
    assert disconnect == Disconnect(3) and isinstance(connect, Connect)


def test_another_endpoint_of_the_same_grant_is_another_connection() -> None:
    link = opened()
    effects = link.routed(route(endpoint="ipc://elsewhere"), 1.0)
    assert [type(effect) for effect in effects] == [Disconnect, Connect]


# --- the streams ------------------------------------------------------------------------------------------


def test_a_turn_leaves_as_one_message_in_order() -> None:
    link = opened()
    first, second = joined(link, 1), joined(link, 2)
    call(link, first, x=1)
    call(link, second)
    link.add(first, [(CALL, pack({"msg": "b"})), (CALL, pack({"msg": "c"}))], 0.0)
    (message,) = sent(link.flush(0.0))
    assert isinstance(message, Requests)
    assert (message.grant, message.number, message.acked) == (1, 1, 0)
    assert message.connections == [1, 2, 1, 1] and message.sequences == [1, 1, 2, 3]
    assert [unpack(body)["msg"] for body in message.bodies] == ["a", "a", "b", "c"]
    assert link.flush(0.0) == []
    link.check_invariants()


def test_outputs_are_delivered_once_and_in_order() -> None:
    link = opened()
    assert link.receive(outputs(1), 0.0) == [Deliver(3, outputs(1))]
    assert link.receive(outputs(1), 0.0) == []
    assert sent(link.receive(outputs(3), 0.0)) == [StreamResend(1, 2)]
    assert link.receive(outputs(4), 0.0) == []
    assert link.receive(outputs(2), 0.1) == [Deliver(3, outputs(2))]
    assert link.receive(outputs(3), 0.1) == [Deliver(3, outputs(3))]
    assert link.receive(outputs(9, grant=2), 0.1) == []


def test_what_arrived_is_acknowledged_by_requests_or_else_by_the_tick() -> None:
    link = opened()
    link.receive(outputs(1), 0.0)
    assert sent(link.tick(0.05)) == [StreamAck(1, 1)]
    assert sent(link.tick(0.1)) == []
    link.receive(outputs(2), 0.2)
    line = joined(link, 1)
    call(link, line)
    (message,) = sent(link.flush(0.2))
    assert message.acked == 2
    assert sent(link.tick(0.25)) == []


def test_lost_requests_are_probed_for_and_sent_again_as_they_were() -> None:
    link = opened()
    line = joined(link, 1)
    call(link, line)
    (lost,) = link.flush(0.0)
    now = STREAM_PROBE_MS / 1000 + 0.01
    assert sent(link.tick(now)) == [StreamProbe(1, 1)]
    assert link.receive(StreamResend(1, 1), now) == [lost]
    link.receive(StreamAck(1, 1), now)
    assert link.settled and sent(link.tick(now + 0.5)) == []


def test_a_worker_is_greeted_once_a_second() -> None:
    link = opened()
    greetings = []
    for step in range(1, 40):
        now = step * 0.05
        link.receive(StreamAck(1, 0), now)
        greetings += sent(link.tick(now))
    assert greetings == [StreamAck(1, 0)]
    assert GREET_S == 1.0


def test_a_worker_that_falls_silent_gets_a_new_connection() -> None:
    link = opened()
    assert link.tick(SILENCE_S - 0.01) != []
    effects = link.tick(SILENCE_S)
    assert [type(effect) for effect in effects] == [Disconnect, Connect]


def test_a_worker_too_far_behind_gets_a_new_stream() -> None:
    link = opened()
    line = joined(link, 1)
    for number in range(STREAM_RETAINED_MESSAGES + 1):
        call(link, line)
        link.answered(line, number + 1)
        link.flush(0.0)
    assert [type(effect) for effect in link.tick(0.01)] == [Disconnect, Connect]


# --- a new grant ------------------------------------------------------------------------------------------


def test_a_new_grant_is_told_of_every_session_and_then_of_every_unanswered_request_in_order() -> None:
    link = opened()
    bound, idle, entering = (
        joined(link, 1, token="00000000000000aa.s"),
        joined(link, 2, token="t"),
        joined(link, 3),
    )
    bound.encoding, bound.last_event = 2, 17
    call(link, bound)
    call(link, bound)
    call(link, bound)
    call(link, entering, kind=LOGIN)
    link.flush(0.0)
    assert link.answered(bound, 2) is not None
    link.routed(route(2), 1.0)
    call(link, bound, 1.5)
    assert link.flush(1.5) == []
    link.receive(StreamOpened(2), 2.0)
    effects = link.flush(2.0)
    assert items(effects) == [
        (1, RESUME, 0),
        (1, CALL, 1),
        (1, CALL, 3),
        (1, CALL, 4),
        (2, RESUME, 0),
        (3, LOGIN, 1),
    ]
    (message,) = sent(effects)
    assert (message.grant, message.number) == (2, 1)
    assert unpack(message.bodies[0]) == {
        "resume": "00000000000000aa.s",
        "rebind": True,
        "encoding": 2,
        "n": 17,
    }
    assert idle.pending == {} and link.flush(2.0) == []
    call(link, bound, 2.0)
    assert items(link.flush(2.0)) == [(1, CALL, 5)]
    link.check_invariants()


def test_a_new_stream_is_opened_with_the_op_of_the_outputs_that_were_delivered_last() -> None:
    link = opened()
    link.receive(outputs(1, op=5), 0.0)
    link.receive(outputs(3, op=9), 0.0)  # 2 is missing: not delivered
    link.receive(outputs(1, op=4), 0.0)  # a repeat
    link.receive(outputs(2, op=7, grant=2), 0.0)  # of another grant
    assert opening(link.routed(route(2), 1.0)).received == 5
    link.receive(outputs(1, op=8, grant=2), 1.0)  # before the stream is opened
    link.receive(StreamOpened(2), 1.0)
    assert opening(link.tick(1.0 + SILENCE_S)).received == 5
    link.receive(StreamOpened(2), 5.0)
    link.receive(outputs(1, op=6, grant=2), 5.0)
    link.receive(WrongGrant(2, 0), 5.0)
    assert opening(link.tick(6.0)).received == 6


def test_in_a_new_era_ops_begin_lower() -> None:
    link = opened()
    link.receive(outputs(1, op=500), 0.0)
    link.routed(replace(route(2), era=2), 1.0)
    link.receive(StreamOpened(2), 1.0)
    link.receive(outputs(1, op=3, grant=2), 1.0)
    assert opening(link.routed(replace(route(3), era=2), 2.0)).received == 3


def test_telling_is_done_in_parts_and_new_requests_do_not_overtake_it() -> None:
    link = opened()
    lines = [joined(link, number, token="t") for number in range(BATCH_ITEMS + 10)]
    link.routed(route(2), 1.0)
    link.receive(StreamOpened(2), 1.0)
    assert len(items(link.flush(1.0))) == BATCH_ITEMS and link.unflushed
    call(link, lines[-1], 1.0)
    call(link, lines[0], 1.0)
    rest = items(link.flush(1.0))
    last = [item for item in rest if item[0] == BATCH_ITEMS + 9]
    assert last == [(BATCH_ITEMS + 9, RESUME, 0), (BATCH_ITEMS + 9, CALL, 1)]
    assert (0, CALL, 1) in rest and len(rest) == 12
    assert not link.unflushed


def test_a_connection_that_comes_while_others_are_told_is_not_told_twice() -> None:
    link = opened()
    joined(link, 1, token="t")
    link.routed(route(2), 1.0)
    link.receive(StreamOpened(2), 1.0)
    call(link, joined(link, 2), 1.0, kind=LOGIN)
    assert sorted(items(link.flush(1.0))) == [(1, RESUME, 0), (2, LOGIN, 1)]


def test_a_connection_that_moves_away_and_back_meanwhile_is_not_told_twice() -> None:
    link = opened()
    line = joined(link, 1)
    link.routed(route(2), 1.0)
    link.receive(StreamOpened(2), 1.0)
    link.leave(line, 1.0, gone=False)
    link.join(line)
    call(link, line, 1.0, kind=LOGIN)
    assert items(link.flush(1.0)) == [(1, LOGIN, 1)]


def test_the_end_of_a_connection_is_told_to_every_grant_for_a_while() -> None:
    link = opened()
    line = joined(link, 1, token="t")
    call(link, line)
    link.flush(0.0)
    link.leave(line, 1.0, gone=True)
    assert items(link.flush(1.0)) == [(1, GONE, 2)]
    assert link.unanswered_bytes == 0 and line.group == -1
    for grant, now in ((2, 2.0), (3, 20.0)):
        link.routed(route(grant), now)
        link.receive(StreamOpened(grant), now)
        assert items(link.flush(now)) == [(1, GONE, 2)]
    link.routed(route(4), 1.0 + FAREWELL_S)
    link.receive(StreamOpened(4), 1.0 + FAREWELL_S)
    assert items(link.flush(1.0 + FAREWELL_S)) == []


def test_a_connection_that_only_moves_is_not_gone() -> None:
    link = opened()
    line = joined(link, 1)
    link.leave(line, 1.0, gone=False)
    assert items(link.flush(1.0)) == [] and link.lines == {}


# --- nobody answers ---------------------------------------------------------------------------------------


def test_requests_wait_for_a_worker_and_then_are_given_back() -> None:
    link = fresh()
    line = joined(link, 1, token="t")
    call(link, line, 3.0)
    call(link, line, 8.0)
    assert link.expire(3.0 + UNAVAILABLE_S - 0.1) == []
    ((expired, requests),) = link.expire(3.0 + UNAVAILABLE_S)
    assert expired is line and [since for _, _, since in requests] == [3.0]
    assert list(line.pending) == [2]
    link.check_invariants()


def test_the_wait_begins_when_the_worker_is_lost_not_when_the_request_came() -> None:
    link = opened()
    line = joined(link, 1, token="t")
    call(link, line, 1.0)
    assert link.expire(1_000.0) == []
    link.receive(WrongGrant(1, 0), 50.0)
    assert link.expire(50.0 + UNAVAILABLE_S - 0.1) == []
    assert len(link.expire(50.0 + UNAVAILABLE_S)) == 1


def test_with_a_login_goes_what_was_meant_for_its_session() -> None:
    link = fresh()
    line = joined(link, 1)
    call(link, line, 1.0, kind=LOGIN)
    call(link, line, 9.0)
    ((_, requests),) = link.expire(1.0 + UNAVAILABLE_S)
    assert [kind for kind, _, _ in requests] == [LOGIN, CALL] and line.pending == {}
    link.check_invariants()


def test_why_nobody_answers_is_said() -> None:
    link = fresh()
    assert "group 3" in link.unavailable().reason and "no node" in link.unavailable().reason
    link.routed(route(state="unavailable"), 0.0)
    assert "down" in link.unavailable().reason and link.unavailable().error == "unavailable"


def test_what_waits_for_one_group_is_bounded_in_bytes() -> None:
    link = fresh()
    line = joined(link, 1)
    body = b"x" * (1 << 20)
    for _ in range(UNANSWERED_BYTES // len(body)):
        assert not link.full
        link.add(line, [(CALL, body)], 0.0)
    assert link.full
    link.answered(line, 1)
    assert not link.full
    link.check_invariants()


def test_a_batch_is_cut_by_items_and_by_bytes() -> None:
    batch = Batch()
    for number in range(BATCH_ITEMS * 2 + 1):
        batch.add(number, CALL, 1, b"")
    assert batch.cuts() == [
        (0, BATCH_ITEMS),
        (BATCH_ITEMS, 2 * BATCH_ITEMS),
        (2 * BATCH_ITEMS, 2 * BATCH_ITEMS + 1),
    ]
    batch = Batch()
    for _ in range(5):
        batch.add(1, CALL, 1, b"x" * (BATCH_BYTES // 2))
    assert batch.cuts() == [(0, 2), (2, 4), (4, 5)]
    assert Batch().cuts() == []


def test_a_route_is_compared_by_era_view_and_grant() -> None:
    link = opened()
    assert link.routed(replace(route(), replicas=["n1", "n2"]), 1.0) == []
    assert [type(effect) for effect in link.routed(replace(route(), view=1), 1.0)] == [Disconnect, Connect]
