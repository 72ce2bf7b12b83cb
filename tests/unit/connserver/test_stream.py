"""Numbered streams over a carrier that loses, repeats and reorders."""

import random
from collections import deque

import pytest

from connserver.codec import decode
from connserver.limits import STREAM_PROBE_MS, STREAM_RETAINED_MESSAGES
from connserver.messages import ParcelsDone, StreamAck, StreamProbe, StreamResend
from connserver.stream import Duplex, Receiver, Sender


class Carrier:
    """Two ends and what is in flight between them."""

    def __init__(self, seed: int, loss: float) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.flying: deque[tuple[int, bytes]] = deque()
        self.received: dict[int, list[int]] = {0: [], 1: []}
        self.ends = [
            Duplex(7, lambda data: self.put(1, data), 0.0),
            Duplex(7, lambda data: self.put(0, data), 0.0),
        ]

    def put(self, end: int, data: bytes) -> None:
        if self.random.random() >= self.loss:
            self.flying.append((end, data))
            if self.random.random() < self.loss / 2:
                self.flying.append((end, data))

    def post(self, end: int, value: int, now: float) -> None:
        self.ends[end].post(lambda number, acked: ParcelsDone(7, number, acked, end, value), now)

    def deliver(self, now: float) -> None:
        while self.flying:
            end, data = self.flying.popleft()
            message = decode(data)
            if isinstance(message, StreamAck | StreamProbe | StreamResend):
                self.ends[end].control(message, now)
            elif self.ends[end].accept(message.number, message.acked, now):
                self.received[end].append(message.upto)


@pytest.mark.parametrize("seed", range(30))
def test_everything_arrives_once_and_in_order(seed: int) -> None:
    carrier = Carrier(seed, loss=0.3)
    now = 0.0
    for value in range(100):
        carrier.post(value % 2, value, now)
        if value % 7 == 0:
            carrier.deliver(now)
    for _ in range(200):
        now += STREAM_PROBE_MS / 1000
        for end in carrier.ends:
            end.tick(now)
        carrier.deliver(now)
    assert carrier.received == {1: list(range(0, 100, 2)), 0: list(range(1, 100, 2))}
    for end in carrier.ends:
        end.sender.check_invariants()
        assert not end.sender.kept


def test_a_quiet_stream_costs_nothing() -> None:
    sent: list[bytes] = []
    end = Duplex(7, sent.append, 0.0)
    for second in range(100):
        end.tick(float(second))
    assert sent == []
    end.tick(101.0, greet=True)
    assert [decode(data) for data in sent] == [StreamAck(7, 0)]


def test_a_gap_is_asked_for_once_until_a_probe_comes() -> None:
    receiver = Receiver()
    assert not receiver.accept(3)
    assert receiver.missing(3) == 1
    assert receiver.missing(4) == 0
    receiver.forget()
    assert receiver.missing(4) == 1
    assert receiver.accept(1)
    assert receiver.missing(4) == 2


def test_a_sender_says_when_the_other_side_is_too_far_behind() -> None:
    sender = Sender()
    outcomes = [sender.sent(b"", 0.0) for _ in range(STREAM_RETAINED_MESSAGES + 1)]
    assert outcomes == [True] * STREAM_RETAINED_MESSAGES + [False]
