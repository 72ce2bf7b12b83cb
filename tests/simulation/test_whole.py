"""A short batch of whole clusters, and the bugs of sessions, outboxes, rooms and streams; `scripts/simulate`
runs the long ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation import batches, mutations, traces
from tests.simulation.whole import directed, runner

SEEDS = 12
ENOUGH = 24
"""Seeds within which a bug shows that CI looks for by chance; all but DIRECTED show within three."""

DIRECTED = (
    "stale_binding_accepted", "cursor_ignored", "reads_leave_at_once", "resume_replays_twice",
    "outputs_not_retained", "outputs_received_when_sent",
)  # fmt: skip
"""Bugs that seeds rarely show."""


def test_seeds_hold() -> None:
    """Whoever dies, every request is answered once, and everybody sees the same."""
    acked = 0
    for seed in range(1, SEEDS + 1):
        outcome = runner.run(seed)
        assert not outcome.error, f"{outcome.error}\nscripts/simulate --replay {seed} --worlds whole --trace"
        acked += outcome.acked
    assert acked > SEEDS * 40


def test_a_seed_is_a_trace() -> None:
    """The same seed gives the same trace, another one another."""
    first, again, other = runner.run(5), runner.run(5, trace=True), runner.run(6)
    assert first.trace_hash == again.trace_hash
    assert first.trace_hash != other.trace_hash


WHOLE = [name for name in mutations.MUTATIONS if batches.worlds_of(name) == batches.WHOLE]


@pytest.mark.parametrize("trace", directed.TRACES, ids=lambda trace: trace.__name__)
def test_trace(trace: Callable[[], None]) -> None:
    """Without a bug the trace holds."""
    trace()


@pytest.mark.parametrize("name", DIRECTED)
def test_rare_bug_is_caught(name: str) -> None:
    """With the bug put back a directed trace fails."""
    with mutations.put_back(name):
        assert traces.caught_by(batches.WHOLE), mutations.MUTATIONS[name].bug


@pytest.mark.parametrize("name", [name for name in WHOLE if name not in DIRECTED])
def test_bug_is_caught(name: str) -> None:
    """With the bug put back a checker fails."""
    with mutations.put_back(name):
        assert any(runner.run(seed).error for seed in range(1, ENOUGH + 1)), mutations.MUTATIONS[name].bug
