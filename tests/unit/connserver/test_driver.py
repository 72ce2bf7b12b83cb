"""Ports on a loop that is turned by hand: nothing that arrives is left lying."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
import zmq

from connserver.driver import BURST_GAP_S, DRAIN_MESSAGES, WINDOW_DELAYS, WORTH_A_WAIT, Flush, Port
from connserver.sockets import Sent, Socket


class Loop:
    """Keeps what is to be called soon."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], None]] = deque()
        self.readable: Callable[[], None] = lambda: None

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.readable = callback

    def remove_reader(self, descriptor: int) -> None:
        self.readable = lambda: None

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        while self.soon:
            self.soon.popleft()()


class Inbox:
    """A socket whose descriptor is edge-triggered: only the test says when the loop hears of it."""

    def __init__(self) -> None:
        self.waiting: deque[list[bytes]] = deque()
        self.begun: deque[bytes] = deque()
        self.sent: list[tuple[bytes, bool]] = []
        self.comes_with_a_send: list[list[bytes]] = []

    def getsockopt(self, option: int) -> int:
        return 7

    def get(self, option: int) -> int:
        if option == zmq.RCVMORE:
            return int(bool(self.begun))
        return int(zmq.POLLIN if self.waiting else 0) | int(zmq.POLLOUT)

    def recv(self, flags: int) -> bytes:
        if not self.begun:
            if not self.waiting:
                raise zmq.Again
            self.begun = deque(self.waiting.popleft())
        return self.begun.popleft()

    def send(self, frame: bytes, flags: int) -> None:
        self.sent.append((frame, bool(flags & zmq.SNDMORE)))
        if not flags & zmq.SNDMORE:
            self.waiting.extend(self.comes_with_a_send)

    def close(self) -> None:
        self.waiting.clear()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def port(loop: Loop, inbox: Inbox, on_message: Callable[[list[bytes]], Any]) -> Port:
    return Port(cast(asyncio.AbstractEventLoop, loop), cast(Socket, inbox), on_message)


def test_everything_waiting_is_read_at_one_edge_however_much_it_is(loop: Loop, inbox: Inbox) -> None:
    got: list[list[bytes]] = []
    port(loop, inbox, got.append)
    loop.turn()
    sent = [[b"%d" % number] for number in range(2 * DRAIN_MESSAGES + 1)]
    inbox.waiting.extend(sent)
    loop.readable()
    loop.turn()
    assert got == sent


def test_what_arrives_while_something_is_sent_is_read_without_another_edge(loop: Loop, inbox: Inbox) -> None:
    got: list[list[bytes]] = []
    sender = port(loop, inbox, got.append)
    loop.turn()
    inbox.comes_with_a_send = [[b"swallowed edge"]]
    assert sender.send([b"out"]) is Sent.YES
    loop.turn()
    assert got == [[b"swallowed edge"]]


def test_what_arrives_while_a_message_is_answered_is_read(loop: Loop, inbox: Inbox) -> None:
    got: list[list[bytes]] = []

    def answer(frames: list[bytes]) -> None:
        got.append(frames)
        inbox.comes_with_a_send = [[b"second"]] if len(got) == 1 else []
        answering.send([b"answer"])

    answering = port(loop, inbox, answer)
    inbox.waiting.append([b"first"])
    loop.turn()
    assert got == [[b"first"], [b"second"]]


def test_a_message_that_fails_does_not_keep_the_next_from_being_read(loop: Loop, inbox: Inbox) -> None:
    got: list[list[bytes]] = []

    def fail_once(frames: list[bytes]) -> None:
        got.append(frames)
        if len(got) == 1:
            raise ValueError("the first one")

    port(loop, inbox, fail_once)
    inbox.waiting.extend([[b"first"], [b"second"]])
    with pytest.raises(ValueError, match="the first one"):
        loop.turn()
    loop.turn()
    assert got == [[b"first"], [b"second"]]


def test_nothing_is_read_once_it_is_closed(loop: Loop, inbox: Inbox) -> None:
    got: list[list[bytes]] = []
    closing = port(loop, inbox, got.append)
    inbox.waiting.append([b"late"])
    closing.close()
    closing.close()
    loop.turn()
    assert got == []
    assert closing.send([b"out"]) is Sent.UNREACHABLE


def test_frames_of_a_message_stay_together(loop: Loop, inbox: Inbox) -> None:
    got: list[list[bytes]] = []
    sender = port(loop, inbox, got.append)
    inbox.waiting.extend([[b"peer", b"one"], [b"alone"], [b"peer", b"two", b"three"]])
    loop.turn()
    assert got == [[b"peer", b"one"], [b"alone"], [b"peer", b"two", b"three"]]
    assert sender.send([b"peer", b"out"]) is Sent.YES and sender.send([b"alone"]) is Sent.YES
    assert inbox.sent == [(b"peer", True), (b"out", False), (b"alone", False)]


# --- flushing -----------------------------------------------------------------------------------------------

DELAY_S = 0.001


class Turns:
    """A loop whose turns and time the test makes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.flushed: list[float] = []
        self.flush = Flush(
            cast(asyncio.AbstractEventLoop, self), self._flushed, DELAY_S * 1000, clock=lambda: self.now
        )

    def _flushed(self) -> None:
        self.flushed.append(self.now)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.later.append((self.now + delay, callback))

    def turn(self, marks: int = 0, passes: float = 0.00001) -> None:
        """What was to be done soon, then so many marks, as a loop reads after it has called."""
        soon, self.soon = self.soon, []
        due = [callback for when, callback in self.later if when <= self.now]
        self.later = [(when, callback) for when, callback in self.later if when > self.now]
        for callback in [*due, *soon]:
            callback()
        for _ in range(marks):
            self.flush.mark()
            self.now += passes

    def spread(self, bursts: float, delays: int) -> None:
        """One mark at a time, so many a delay."""
        for _ in range(int(bursts * delays)):
            self.turn(1)
            self.now += DELAY_S / bursts - 0.00001
            self.turn()
            self.turn()


def test_a_burst_over_several_turns_is_flushed_once_in_the_first_turn_that_brings_nothing() -> None:
    turns = Turns()
    for marks in (1, 3, 2):
        turns.turn(marks)
    assert turns.flushed == []
    turns.turn()
    turns.turn()
    assert len(turns.flushed) == 1 and not turns.soon and not turns.later


def test_what_comes_without_end_is_flushed_all_the_same() -> None:
    turns = Turns()
    begun = turns.now
    while not turns.flushed:
        turns.turn(5, passes=DELAY_S / 50)
        assert turns.now < begun + 2 * DELAY_S
    assert turns.flushed[0] - begun >= DELAY_S


def test_what_comes_rarely_never_waits_for_a_timer() -> None:
    turns = Turns()
    turns.spread(WORTH_A_WAIT * 0.8, 10 * WINDOW_DELAYS)
    assert turns.later == [] and len(turns.flushed) == int(WORTH_A_WAIT * 0.8 * 10 * WINDOW_DELAYS)


def test_what_comes_often_and_one_by_one_is_flushed_once_a_delay_and_no_longer_once_it_is_rare() -> None:
    turns = Turns()
    turns.spread(2 * WORTH_A_WAIT, 2 * WINDOW_DELAYS)
    before = len(turns.flushed)
    turns.spread(2 * WORTH_A_WAIT, 20)
    assert 18 <= len(turns.flushed) - before <= 21
    turns.spread(1, 3 * WINDOW_DELAYS)
    before = len(turns.flushed)
    turns.spread(1, 20)
    assert turns.later == [] and len(turns.flushed) - before >= 19


def test_marks_of_one_burst_count_once() -> None:
    turns = Turns()
    for _ in range(10 * WINDOW_DELAYS):
        turns.turn(20, passes=BURST_GAP_S / 3)
        turns.turn()
        turns.turn()
        turns.now += DELAY_S
    assert turns.later == [] and len(turns.flushed) == 10 * WINDOW_DELAYS
