"""A short batch of the simulator; `scripts/simulate` runs the long ones."""

from __future__ import annotations

import pytest

from tests.simulation import mutations, runner
from tests.simulation.test_directed import RANDOM_ONLY

SEEDS = 30


def test_seeds_hold() -> None:
    """Whatever goes wrong, nothing acked is lost or doubled, and everybody finishes."""
    acked = 0
    for seed in range(1, SEEDS + 1):
        outcome = runner.run(seed)
        assert not outcome.error, f"{outcome.error}\nscripts/simulate --replay {seed} --trace"
        acked += outcome.acked
    assert acked > SEEDS * 50


def test_a_seed_is_a_trace() -> None:
    """The same seed gives the same trace, another one another."""
    first, again, other = runner.run(5), runner.run(5, trace=False), runner.run(6)
    assert first.trace_hash == again.trace_hash
    assert first.trace_hash != other.trace_hash


@pytest.mark.parametrize("name", [*RANDOM_ONLY, "own_log"])
def test_the_checkers_check(name: str) -> None:
    """Bugs that the world, and not a trace, has to notice."""
    with mutations.put_back(name):
        assert any(runner.run(seed).error for seed in range(1, 60))
