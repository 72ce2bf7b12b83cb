"""The directed traces hold, and each bug of the mutation table that they can see is seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation import mutations, traces

RANDOM_ONLY = (
    "worker_kept", "no_dedup", "errors_without_barrier", "replies_before_commit", "archives_uncommitted",
    "archive_not_fenced",
)  # fmt: skip
"""Bugs of the models around the core that any few seeds show (`test_simulation`)."""


@pytest.mark.parametrize("trace", traces.TRACES, ids=lambda trace: trace.__name__)
def test_trace(trace: Callable[[], None]) -> None:
    """Without a bug the trace holds."""
    trace()


CORE = [name for name, mutation in mutations.MUTATIONS.items() if mutation.worlds == "core"]


@pytest.mark.parametrize("name", [name for name in CORE if name not in RANDOM_ONLY])
def test_bug_is_caught(name: str) -> None:
    """With the bug put back a trace fails."""
    with mutations.put_back(name):
        assert traces.caught_by(), f"no directed trace notices: {mutations.MUTATIONS[name].bug}"
