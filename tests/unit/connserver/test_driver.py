"""Ports on a loop that is turned by hand: nothing that arrives is left lying."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
import zmq

from connserver.driver import DRAIN_MESSAGES, Port
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
        self.comes_with_a_send: list[list[bytes]] = []

    def getsockopt(self, option: int) -> int:
        return 7

    def get(self, option: int) -> int:
        return int(zmq.POLLIN if self.waiting else 0) | int(zmq.POLLOUT)

    def recv_multipart(self, flags: int) -> list[bytes]:
        if not self.waiting:
            raise zmq.Again
        return self.waiting.popleft()

    def send_multipart(self, frames: list[bytes], flags: int) -> None:
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
