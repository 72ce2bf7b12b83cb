"""All directed traces, and which of them notices a bug."""

from __future__ import annotations

from tests.simulation import directed, directed_eras, directed_worlds

TRACES = [*directed.TRACES, *directed_eras.TRACES, *directed_worlds.TRACES]


def caught_by() -> str:
    """The first trace that fails ; empty if all hold."""
    for trace in TRACES:
        try:
            trace()
        except Exception:
            return trace.__name__
    return ""
