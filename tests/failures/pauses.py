"""How long clients wait when the process that serves them is killed: many kills, one number each.

Guards one rule: a pause counts only with a verdict. Every round of kills is judged like any trial, and a
round that lost something has no pauses to show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.failures import workloads
from tests.failures.faults import Fault, KillGossip, KillNode, KillWorker
from tests.failures.judge import Demand, Verdict, judge
from tests.failures.load import Load
from tests.failures.nodes import World, until
from tests.failures.reading import read
from tests.failures.trial import DRAIN_S, READY_S, SERVED_S, audit, longest_gap_s, served

KINDS: Final[dict[str, Callable[[], Fault]]] = {
    "worker": KillWorker,
    "gossip": KillGossip,
    "node": KillNode,
}
ROUND: Final = 8
"""Kills under one load: few enough that its transcript is judged in seconds."""
PERIOD_S: Final = 0.02
"""Between two waves: how fine a pause can be seen."""
BETWEEN_S: Final = 0.7


@dataclass
class Round:
    """What one round gave: milliseconds, one for each kill and each client of a group without its primary."""

    pauses_ms: list[float]
    verdict: Verdict


def rounds(world: World, kind: str, count: int, tag: str) -> Iterator[Round]:
    """`count` kills of the process of this kind that serves a group; the groups take turns."""
    done = 0
    while done < count:
        kills = min(ROUND, count - done)
        yield _round(world, kind, kills, done, f"{tag}-{done}")
        done += kills


def _round(world: World, kind: str, kills: int, first: int, tag: str) -> Round:
    parts = workloads.cast("counter", tag, world.groups)
    load = Load(world.gateways, parts, seed=first, period_s=PERIOD_S)
    strikes: list[tuple[float, frozenset[int]]] = []
    load.start()
    try:
        assert until("sessions", load.ready, READY_S), "clients could not begin"
        load.ask()
        for number in range(first, first + kills):
            strikes.append(_strike(world, load, KINDS[kind](), number % world.groups))
        load.ask_no_more()
        until("the last answers", load.finished, DRAIN_S)
    finally:
        transcript = load.close()
    audit(world, transcript)
    verdict = judge(transcript, Demand(least_acked=100 * kills))
    found = []
    ends = [at for at, _ in strikes[1:]] + [time.monotonic()]
    for history in read(transcript):
        for (at, groups), end in zip(strikes, ends, strict=True):
            if history.part.group in groups and history.part.role == "writer":
                found.append(1000 * longest_gap_s(history, at, end))
    return Round(found, verdict)


def _strike(world: World, load: Load, fault: Fault, group: int) -> tuple[float, frozenset[int]]:
    world.rest()
    until("a cluster in full", world.in_full, SERVED_S)
    time.sleep(BETWEEN_S)  # so that the gap of one kill is not that of the one before
    fault.target_group = group
    fault.prepare(world)
    at = time.monotonic()
    load.transcript.note(at, f"strike {fault.name} of group {group}")
    fault.strike(world)
    served(load, at, SERVED_S)
    fault.heal(world)
    return at, fault.groups


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
