"""How far a start has come, from the table of processes. Pure.

Guards one rule: a start never just hangs. Whatever it waits for is said in words, and a failure of
something that the rest needs ends the waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from connserver.messages import ProcessRecord
from connserver.supervisor.plan import FORK_SERVER, STORAGE, group_of_worker

ROLES: Final = {
    FORK_SERVER: "program code",
    STORAGE: "PostgreSQL",
    "gossip": "gossip",
    "worker": "workers",
    "gateway": "gateways",
}
"""In the order of starting, as people call them."""
NEEDED: Final = frozenset({FORK_SERVER, STORAGE})
"""Without these nothing else can start."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`steps`: a line per role; `waits`: what processes said they wait for, or died of."""

    steps: tuple[str, ...]
    reached: tuple[str, ...]
    waits: tuple[str, ...]
    failed: tuple[ProcessRecord, ...]
    ready: bool
    alone: bool
    """No gossip process can run."""
    unserved: tuple[int, ...]
    """Partition groups of which every worker here is left down: gateways wait for them in vain, unless
    another host has a worker of it."""

    @property
    def hopeless(self) -> bool:
        """A start that cannot succeed."""
        return any(record.role in NEEDED for record in self.failed) or self.alone

    @property
    def reasons(self) -> str:
        """Why processes are left down; what several died of is told once."""
        told: dict[str, list[str]] = {}
        for record in self.failed:
            told.setdefault(record.reason, []).append(record.name)
        return "; ".join(f"{', '.join(names)} {reason}" for reason, names in told.items())

    @property
    def nothing_left(self) -> bool:
        """Nothing runs any more, and nothing will."""
        return any(record.role == FORK_SERVER for record in self.failed)


def progress(records: Sequence[ProcessRecord]) -> Progress:
    """What to tell about these records while they start."""
    steps, reached = [], []
    for role, title in ROLES.items():
        mine = [record for record in records if record.role == role]
        ready = sum(record.state == "ready" for record in mine)
        if mine:
            count = f" {ready}/{len(mine)}" if len(mine) > 1 else ""
            steps.append(f"{title}{count}" + (" ready" if ready == len(mine) else " …"))
        if mine and ready == len(mine):
            reached.append(f"{title} ready" + (f" ({ready})" if ready > 1 else ""))
    gossips = [record for record in records if record.role == "gossip"]
    # A node whose gossip is left down has nothing else that could start.
    cut_off = {record.node for record in gossips if record.state == "failed"}
    failed = tuple(record for record in records if record.state == "failed")
    return Progress(
        steps=tuple(steps),
        reached=tuple(reached),
        waits=tuple(
            f"{record.name}: {record.reason}"
            for record in records
            if record.reason and record.state in ("starting", "backoff")
        ),
        failed=failed,
        ready=all(record.state in ("ready", "failed") or record.node in cut_off for record in records),
        alone=bool(gossips) and all(record.state == "failed" for record in gossips),
        unserved=_unserved(records),
    )


def _unserved(records: Sequence[ProcessRecord]) -> tuple[int, ...]:
    """The groups without a worker that runs or will, if a gateway says that it waits."""
    workers = [record for record in records if record.role == "worker"]
    gateways = [record for record in records if record.role == "gateway"]
    if not any(record.state == "starting" and record.reason for record in gateways):
        return ()
    groups = {group_of_worker(record.name) for record in workers}
    left = {group_of_worker(record.name) for record in workers if record.state != "failed"}
    return tuple(sorted(groups - left))


def shown_endpoint(record: ProcessRecord) -> str:
    """An endpoint short enough for a table: of a local socket the name alone."""
    return record.endpoint.rsplit("/", 1)[-1] if record.endpoint.startswith("ipc://") else record.endpoint
