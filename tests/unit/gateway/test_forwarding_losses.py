"""A link and a worker over a network that loses messages, while workers take over from each other."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from connserver.codec import decode
from connserver.messages import (
    OpenStream,
    OutputKind,
    Outputs,
    RequestKind,
    Requests,
    StreamOpened,
    WrongGrant,
)
from connserver.model import pack, unpack
from connserver.stream import Duplex
from gateway.forwarding import Connect, Deliver, Disconnect, Effect, Link, Opened, Transmit
from gateway.line import Line
from tests.unit.gateway.test_forwarding import fresh, joined, route

CALL, REPLY, EVENT = RequestKind.CALL, int(OutputKind.REPLY), int(OutputKind.EVENT)

Row = tuple[int, int, int, bytes]
"""(connection, kind, answer, body) of one output."""


class LossyWorker:
    """The workers of a group, one after the other. What one has executed is in a log that the next has.

    Each request makes an event besides its answer. Outputs are kept by op until the gateway has
    acknowledged them, and a stream begins with those after the op that it was opened with. A request
    that ran before is answered again, under the op that the log then has.
    """

    def __init__(self) -> None:
        self.grant = 0
        self.op = 0
        self.events = 0
        self.ran: set[tuple[int, int]] = set()
        self.order: dict[int, list[int]] = {}
        self.out: list[bytes] = []
        self.retained: deque[tuple[int, list[Row]]] = deque()
        self.sent: dict[int, int] = {}
        self.duplex: Duplex | None = None

    def take_over(self, grant: int) -> None:
        self.grant = grant
        self.duplex = None
        self.out.clear()

    def open(self, message: OpenStream, now: float) -> Any:
        if message.grant != self.grant:
            return WrongGrant(message.grant, self.grant)
        self.duplex = Duplex(self.grant, self.out.append, now)
        self.sent.clear()
        self._let_go(message.received)
        for op, rows in self.retained:
            self._post(op, rows, now)
        return StreamOpened(self.grant)

    def receive(self, message: Any, now: float) -> Any:
        if self.duplex is None or message.grant != self.grant:
            return WrongGrant(message.grant, self.grant)
        if not isinstance(message, Requests):
            self.duplex.control(message, now)
        elif self.duplex.accept(message.number, message.acked, now):
            self._run(message, now)
        kept = self.duplex.sender.kept
        acked = kept[0][0] - 1 if kept else self.duplex.sender.next - 1
        if acked in self.sent:
            self._let_go(self.sent[acked])
        return None

    def _let_go(self, op: int) -> None:
        while self.retained and self.retained[0][0] <= op:
            self.retained.popleft()

    def _run(self, requests: Requests, now: float) -> None:
        again: list[Row] = []
        logged: list[Row] = []
        for connection, kind, sequence in zip(
            requests.connections, requests.kinds, requests.sequences, strict=True
        ):
            if kind != CALL:
                continue
            if (connection, sequence) in self.ran:
                again.append((connection, REPLY, sequence, b""))
                continue
            self.ran.add((connection, sequence))
            self.order.setdefault(connection, []).append(sequence)
            self.events += 1
            logged.append((connection, REPLY, sequence, b""))
            logged.append((connection, EVENT, 0, pack({"event": self.events})))
        if again:
            self._post(self.op, again, now)
        if logged:
            self.op += 1
            self.retained.append((self.op, logged))
            self._post(self.op, logged, now)

    def _post(self, op: int, rows: list[Row], now: float) -> None:
        assert self.duplex is not None
        self.sent[self.duplex.sender.next] = op
        connections, kinds, answers, bodies = (list(column) for column in zip(*rows, strict=True))
        targets = [[number] for number in connections]
        self.duplex.post(
            lambda number, acked: Outputs(self.grant, number, acked, 0, op, targets, kinds, answers, bodies),
            now,
        )


class Clients:
    """What reached the clients of the link: answers by connection, and all events as they came."""

    def __init__(self, link: Link, numbers: tuple[int, ...]) -> None:
        self.link = link
        self.lines: dict[int, Line] = {number: joined(link, number, token="t") for number in numbers}
        self.answers: dict[int, list[int]] = {number: [] for number in numbers}
        self.events: list[int] = []
        self.repeated = 0

    def take(self, outputs: Outputs) -> None:
        rows = zip(outputs.targets, outputs.kinds, outputs.answers, outputs.bodies, strict=True)
        for (number,), kind, sequence, body in rows:
            if kind == EVENT:
                self.events.append(int(str(unpack(body)["event"])))
            elif self.link.answered(self.lines[number], sequence) is not None:
                self.answers[number].append(sequence)
            else:
                self.repeated += 1


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_lost_every_request_runs_once_in_order_and_every_output_comes_once(seed: int) -> None:
    chance = random.Random(seed)
    link, worker = fresh(), LossyWorker()
    clients = Clients(link, (1, 2, 3))
    now, opening, asked = 0.0, None, 0
    to_worker: list[bytes] = []

    def perform(effects: list[Effect]) -> None:
        nonlocal opening
        for effect in effects:
            match effect:
                case Connect():
                    opening = decode(effect.opening)
                    to_worker.clear()
                    worker.out.clear()
                case Disconnect():
                    opening = None
                    to_worker.clear()
                    worker.out.clear()
                case Transmit():
                    to_worker.append(effect.data)
                case Deliver():
                    clients.take(effect.outputs)
                case Opened():
                    pass

    grant = 1
    worker.take_over(grant)
    perform(link.routed(route(grant), now))
    for step in range(4_000):
        now += 0.01
        calm = step > 2_500
        if not calm:
            for number, line in clients.lines.items():
                if chance.random() < 0.3 and len(line.pending) < 50:
                    link.add(line, [(CALL, pack({"msg": "a"}))] * chance.randint(1, 3), now)
                    asked += 1
                    assert number == line.number
            if chance.random() < 0.01:
                grant += 1
                worker.take_over(grant)
                if chance.random() < 0.7:
                    perform(link.routed(route(grant), now))
        if link.route is not None and link.route.grant != grant and (calm or chance.random() < 0.05):
            perform(link.routed(route(grant), now))
        perform(link.flush(now))
        if opening is not None and chance.random() < 0.5:
            answer = worker.open(opening, now)
            opening = None
            if calm or chance.random() < 0.8:
                perform(link.receive(answer, now))
        loss = 0.0 if calm else 0.15
        arriving, to_worker = to_worker, []
        for data in arriving:
            if chance.random() >= loss:
                answer = worker.receive(decode(data), now)
                if answer is not None:
                    perform(link.receive(answer, now))
        if worker.duplex is not None and step % 5 == 0:
            worker.duplex.tick(now, greet=step % 100 == 0)
        leaving, worker.out[:] = list(worker.out), []
        for data in leaving:
            if chance.random() >= loss:
                perform(link.receive(decode(data), now))
        if step % 5 == 0:
            perform(link.tick(now))
        link.check_invariants()
    assert asked > 1_000 and grant > 10 and clients.repeated > 0
    for number, line in clients.lines.items():
        everything = list(range(1, line.sequence + 1))
        assert not line.pending and sorted(clients.answers[number]) == everything
        assert worker.order[number] == everything
    assert clients.events == list(range(1, worker.events + 1))
