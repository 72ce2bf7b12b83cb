"""How long clients wait when the process that serves them is killed: many kills, one number each.

Guards two rules. A pause counts only with a verdict: every round of kills is judged like any trial, and a
round that lost something has no pauses to show. And the supervisors' own rule (five deaths in a minute
leave a process down) stays as it is: a node whose processes have died too often for another kill is
started anew, between two kills, where nothing is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tests.failures import workloads
from tests.failures.faults import Fault, KillGossip, KillNode, KillWorker
from tests.failures.faults_planned import HandOver
from tests.failures.judge import Demand, Verdict, judge
from tests.failures.load import Load
from tests.failures.nodes import World, until
from tests.failures.reading import read
from tests.failures.trial import DRAIN_S, READY_S, SERVED_S, audit, longest_gap_s, served

KINDS: Final[dict[str, Callable[[], Fault]]] = {
    "worker": KillWorker,
    "gossip": KillGossip,
    "node": KillNode,
    "handoff": HandOver,
}
ROUND: Final = 8
"""Kills under one load: few enough that its transcript is judged in seconds."""
PERIOD_S: Final = 0.02
"""Between two waves: how fine a pause can be seen."""
HANDOVER_PERIOD_S: Final = 0.005
"""The same where pauses are short."""
BETWEEN_S: Final = 0.7
DEATHS: Final = 3
"""Of one process within a minute; one more, and a fifth by accident would leave it down."""


@dataclass
class Round:
    """What one round gave: milliseconds, one for each kill and each client of a group without its primary."""

    pauses_ms: list[float]
    verdict: Verdict


@dataclass(frozen=True)
class Strike:
    """One kill: from when to when its pause is looked for, and the groups that lost their primary."""

    at: float
    until: float
    groups: frozenset[int]


def rounds(world: World, kind: str, count: int, tag: str, sample: int = 0) -> Iterator[Round]:
    """`count` kills of the process of this kind that serves a group; the groups take turns.

    `sample`: so many groups have clients, spread over all; 0: every one.
    """
    step = world.groups / (sample or world.groups)
    groups = sorted({int(number * step) for number in range(sample or world.groups)})
    done = 0
    while done < count:
        kills = min(ROUND, count - done)
        targets = [groups[number % len(groups)] for number in range(done, done + kills)]
        yield _round(world, kind, targets, f"{tag}-{done}", frozenset(groups))
        done += kills


def _round(world: World, kind: str, targets: list[int], tag: str, groups: frozenset[int]) -> Round:
    parts = [part for part in workloads.cast("counter", tag, world.groups) if part.group in groups]
    parts = [replace(part, number=number) for number, part in enumerate(parts)]
    period_s = HANDOVER_PERIOD_S if kind == "handoff" else PERIOD_S
    load = Load(world.gateways, parts, seed=targets[0], period_s=period_s)
    strikes: list[Strike] = []
    load.start()
    try:
        assert until("sessions", load.ready, READY_S), "clients could not begin"
        load.ask()
        for target in targets:
            strikes.append(strike(world, load, KINDS[kind](), target))
        load.ask_no_more()
        until("the last answers", load.finished, DRAIN_S)
    finally:
        transcript = load.close()
    audit(world, transcript)
    verdict = judge(transcript, Demand(least_acked=100 * len(targets)))
    found = []
    for history in read(transcript):
        for one in strikes:
            if history.part.group in one.groups and history.part.role == "writer":
                found.append(1000 * longest_gap_s(history, one.at, one.until))
    return Round(found, verdict)


def strike(world: World, load: Load, fault: Fault, group: int) -> Strike:
    """One kill around the primary of a group, once all is well, until everybody is served again."""
    until("a cluster in full", world.in_full, SERVED_S)
    for node in world.nodes.values():
        if max(node.deaths().values(), default=0) > DEATHS:
            node.bury()
            node.start()
            node.wait_up()
    until("a cluster in full", world.in_full, SERVED_S)
    time.sleep(BETWEEN_S)  # so that the gap of one kill is not that of the one before
    fault.target_group = group
    fault.prepare(world)
    at = time.monotonic()
    load.transcript.note(at, f"strike {fault.name} of group {group}")
    fault.strike(world)
    served(load, at, SERVED_S)
    ended = time.monotonic()
    fault.heal(world)
    return Strike(at, ended, fault.groups)


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
