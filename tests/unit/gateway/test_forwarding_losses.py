"""A link and a worker over a network that loses messages, while workers take over from each other."""

from __future__ import annotations

import random
from typing import Any

import pytest

from connserver.codec import decode
from connserver.messages import OpenStream, Outputs, RequestKind, Requests, StreamOpened, WrongGrant
from connserver.model import pack
from connserver.stream import Duplex
from gateway.forwarding import Connect, Deliver, Disconnect, Effect, Opened, Transmit
from tests.unit.gateway.test_forwarding import fresh, joined, route

CALL = RequestKind.CALL


class LossyWorker:
    """Executes each request once, whatever is lost; its successors know what it knew."""

    def __init__(self) -> None:
        self.grant = 0
        self.ran: set[tuple[int, int]] = set()
        self.order: dict[int, list[int]] = {}
        self.out: list[bytes] = []
        self.duplex: Duplex | None = None

    def take_over(self, grant: int) -> None:
        self.grant = grant
        self.duplex = None
        self.out.clear()

    def open(self, message: OpenStream, now: float) -> Any:
        if message.grant != self.grant:
            return WrongGrant(message.grant, self.grant)
        self.duplex = Duplex(self.grant, self.out.append, now)
        return StreamOpened(self.grant)

    def receive(self, message: Any, now: float) -> Any:
        if self.duplex is None or message.grant != self.grant:
            return WrongGrant(message.grant, self.grant)
        if not isinstance(message, Requests):
            self.duplex.control(message, now)
        elif self.duplex.accept(message.number, message.acked, now):
            self._run(message, now)
        return None

    def _run(self, requests: Requests, now: float) -> None:
        answers = []
        for connection, kind, sequence in zip(
            requests.connections, requests.kinds, requests.sequences, strict=True
        ):
            if kind != CALL:
                continue
            key = (connection, sequence)
            if key not in self.ran:
                self.ran.add(key)
                self.order.setdefault(connection, []).append(sequence)
            answers.append(key)
        if answers:
            assert self.duplex is not None
            targets, sequences = [[number] for number, _ in answers], [sequence for _, sequence in answers]
            kinds, bodies = [0] * len(answers), [b""] * len(answers)
            self.duplex.post(
                lambda number, acked: Outputs(
                    self.grant, number, acked, 0, 0, targets, kinds, sequences, bodies
                ),
                now,
            )


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_lost_every_request_runs_once_in_order_and_is_answered(seed: int) -> None:
    chance = random.Random(seed)
    link, worker = fresh(), LossyWorker()
    lines = {number: joined(link, number, token="t") for number in (1, 2, 3)}
    answered: dict[int, list[int]] = {number: [] for number in lines}
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
                    rows = zip(effect.outputs.targets, effect.outputs.answers, strict=True)
                    for (number,), sequence in rows:
                        if link.answered(lines[number], sequence) is not None:
                            answered[number].append(sequence)
                case Opened():
                    pass

    grant = 1
    worker.take_over(grant)
    perform(link.routed(route(grant), now))
    for step in range(4_000):
        now += 0.01
        calm = step > 2_500
        if not calm:
            for number, line in lines.items():
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
    assert asked > 1_000 and all(not line.pending for line in lines.values())
    for number, line in lines.items():
        everything = list(range(1, line.sequence + 1))
        assert sorted(answered[number]) == everything
        assert worker.order[number] == everything
