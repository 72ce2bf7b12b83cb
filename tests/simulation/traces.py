"""All directed traces, and which of them notices a bug."""

from __future__ import annotations

from tests.simulation import directed, directed_eras, directed_worlds
from tests.simulation.whole import directed as whole

TRACES = [*directed.TRACES, *directed_eras.TRACES, *directed_worlds.TRACES]


def caught_by(worlds: str = "core") -> str:
    """The first trace of these worlds that fails; empty if all hold."""
    for trace in whole.TRACES if worlds == "whole" else TRACES:
        try:
            trace()
        except Exception:
            return trace.__name__
    return ""
