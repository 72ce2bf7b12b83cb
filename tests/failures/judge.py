"""The verdict over a transcript: nothing lost, doubled, out of order or read too old.

Guards one rule: what counts is what clients were told. An operation answered as done has to be in the
state read back at the end, once; one without an answer may be there or not, once at most; reads and orders
are held against real time. Pure: the same transcript always gets the same verdict.

The checks of each kind of object are in `judge_objects`, `judge_rooms` and `judge_trades`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.failures import judge_objects, judge_rooms, judge_trades
from tests.failures.reading import History, read
from tests.failures.transcript import Transcript
from tests.failures.workloads import AUDITOR

SHOWN = 12
"""Reasons told; more of them would say the same."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of a trial. `least_acked`: operations done, else the load proves nothing;
    `unknown_share` of all operations may stay without an answer; `in_flight` at the same time, per client;
    `sessions_lost`: sessions that may have ended (a failure that loses them has to say so)."""

    least_acked: int = 500
    unknown_share: float = 0.01
    in_flight: int = 8
    sessions_lost: int = 0


@dataclass
class Verdict:
    """What was found, by kind of fault; `reasons` in words, the first ones."""

    asked: int = 0
    acked: int = 0
    refused: int = 0
    unknown: int = 0
    sessions_lost: int = 0
    found: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything that was demanded held."""
        return not self.found

    @property
    def words(self) -> str:
        """The verdict in a few words: "held", or what was found how often."""
        if self.good:
            return "held"
        return ", ".join(f"{kind} {count}" for kind, count in sorted(self.found.items()))

    def accuse(self, kind: str, reason: str, count: int = 1) -> None:
        """Something did not hold: `kind` is lost, doubled, disordered, stale or weak."""
        self.found[kind] += count
        if len(self.reasons) < SHOWN:
            self.reasons.append(f"{kind}: {reason}")


def judge(transcript: Transcript, demand: Demand | None = None) -> Verdict:
    """Hold a transcript against what is demanded."""
    demand = demand or Demand()
    verdict = Verdict()
    histories = read(transcript)
    clients = [history for history in histories if history.part.role != AUDITOR]
    auditors = [history for history in histories if history.part.role == AUDITOR]
    _count(clients, verdict)
    for history in clients:
        _answers(history, verdict)
    judge_objects.check(clients, auditors, verdict.accuse)
    judge_rooms.check(clients, auditors, verdict.accuse)
    judge_trades.check(clients, auditors, verdict.accuse)
    _strength(clients, demand, verdict)
    return verdict


def _count(clients: list[History], verdict: Verdict) -> None:
    for history in clients:
        verdict.sessions_lost += len(history.expired)
        for asked in history.asked.values():
            verdict.asked += 1
            verdict.acked += asked.acked
            verdict.refused += asked.refused
            verdict.unknown += asked.unknown


def _answers(history: History, verdict: Verdict) -> None:
    """One answer per sending at most, always the same one, and no answer that nobody asked for."""
    name = history.part.user
    for asked in history.asked.values():
        bodies = [fields for _, fields in asked.answers]
        if len(bodies) > len(asked.sent):
            verdict.accuse("doubled", f"{name} heard {len(bodies)} answers to request {asked.id}")
        if any(body != bodies[0] for body in bodies):
            verdict.accuse("doubled", f"{name} heard different answers to request {asked.id}: {bodies}")
        if bodies and bodies[0].get("error") == "plugin_error":
            verdict.accuse("lost", f"{name} got a plugin's failure: {bodies[0]}")
    for message in history.strange:
        verdict.accuse("doubled", f"{name} heard an answer to nothing: {message}")


def _strength(clients: list[History], demand: Demand, verdict: Verdict) -> None:
    """A trial that asked little, or learnt little, proves nothing."""
    if verdict.acked < demand.least_acked:
        verdict.accuse("weak", f"{verdict.acked} operations done, {demand.least_acked} wanted")
    if verdict.unknown > demand.unknown_share * max(1, verdict.asked):
        verdict.accuse("weak", f"{verdict.unknown} of {verdict.asked} operations without an answer")
    if verdict.sessions_lost > demand.sessions_lost:
        verdict.accuse("lost", "sessions were said to be over", verdict.sessions_lost)
    for history in clients:
        if history.most_in_flight() < demand.in_flight:
            most = history.most_in_flight()
            verdict.accuse("weak", f"{history.part.user} never had more than {most} requests in flight")
