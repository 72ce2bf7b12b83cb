"""Seeds and the worlds they are run in: that of the core, or the whole cluster."""

from __future__ import annotations

from collections import Counter

from tests.simulation import mutations, runner
from tests.simulation.runner import Outcome
from tests.simulation.whole import mutations as _  # noqa: F401  (enters them into the table)
from tests.simulation.whole import runner as whole

CORE, WHOLE, BOTH = "core", "whole", "both"
EVERY = 3
"""With both, one seed in so many is of the whole cluster: those cost five times as much."""


def world_of(seed: int, worlds: str) -> str:
    """The kind of world in which a seed is run."""
    if worlds != BOTH:
        return worlds
    return WHOLE if seed % EVERY == 0 else CORE


def run(seed: int, worlds: str, trace: bool = False) -> Outcome:
    """Run one seed; never raises for what the cluster does."""
    if world_of(seed, worlds) == WHOLE:
        return whole.run(seed, trace)
    return runner.run(seed, trace=trace)


def missing(coverage: Counter[str], worlds: str) -> list[str]:
    """What a batch should have reached and did not."""
    minima = {
        **(runner.MINIMA if worlds != WHOLE else {}),
        **(whole.MINIMA if worlds != CORE else {}),
    }
    return [name for name, least in minima.items() if coverage[name] < least]


def worlds_of(mutation: str) -> str:
    """The kind of world in which a bug shows."""
    return mutations.MUTATIONS[mutation].worlds
