"""Negative controls: known bugs, put into the workers of a test's cluster, that the judge has to catch.

Guards one rule: the product has no switch for any of them. A cluster with a control runs another program,
`patched/patched_cluster.py`, whose workers replace one method before they start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

PATCHED: Final = Path(__file__).resolve().parent / "patched"

CONTROLS: Final = {
    "async-acks": "answers leave before their entry has committed",
    "no-dedup": "a request that is asked again runs again",
    "local-reads": "reads are answered without asking the others whether the grant still holds",
}
"""The bugs by name."""
CATCHERS: Final = {
    "async-acks": ("counter", "isolate"),
    "no-dedup": ("mixed", "kill-gateway"),
    "local-reads": ("counter", "isolate"),
}
"""A workload and a fault that must catch each."""


def with_control(name: str) -> dict[str, Any]:
    """Arguments of `new_world` for a cluster with this bug."""
    assert name in CONTROLS, name
    environment = {"PYTHONPATH": str(PATCHED), "FAILURES_CONTROL": name}
    return {"program": ("patched_cluster",), "environment": environment}
