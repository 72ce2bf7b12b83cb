"""The whole cluster as one gossip process sees it: what routes, status and alerts are computed from.

Guards one rule: what a node said in an earlier life, or said before it died, is never shown as if it
held now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from connserver.messages import NodeRecord, ProcessRecord, WorkerRecord
from gossip.placement import Placement

LIVING = frozenset({"alive", "suspect"})
UNKNOWN = "unknown"
"""State of a process that nobody alive can say anything about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What one gossip process knows of the whole cluster.

    `states`: "alive", "suspect", "dead", "stopped" or "refused", by node in the order of the file;
    `waiting`: why there is no placement yet.
    """

    cluster: str
    node: str
    groups: int
    states: Mapping[str, str]
    incarnations: Mapping[str, int]
    records: Mapping[str, NodeRecord]
    placement: Placement | None
    waiting: str
    farewells: Mapping[str, str] = field(default_factory=dict)
    """What gossip processes said when they had to end, in their node's present incarnation."""

    def current(self, node: str) -> NodeRecord | None:
        """What a node says of itself in its present life."""
        record = self.records.get(node)
        return record if record and record.incarnation == self.incarnations[node] else None

    def worker(self, node: str, group: int) -> WorkerRecord | None:
        """A node's worker of a group, dead or alive, in the node's present life."""
        record = self.current(node)
        if record is None:
            return None
        return next((row for row in record.workers if row.group == group), None)

    def process(self, node: str, name: str) -> ProcessRecord | None:
        """A process as the supervisor of its node sees it."""
        record = self.current(node)
        if record is None:
            return None
        return next((row for row in record.processes if row.name == name), None)

    def processes(self) -> list[ProcessRecord]:
        """All processes, by node in the order of the file, then by name.

        A host's supervisor tells all its nodes of all its processes, so a neighbour speaks for a
        node whose gossip is dead; if there is none, its processes are in state "unknown".
        """
        found: dict[tuple[str, str], tuple[int, ProcessRecord]] = {}
        for teller in self.states:
            record = self.records.get(teller)
            living = self.states[teller] in LIVING and self.current(teller) is not None
            for row in record.processes if record else ():
                if row.node not in self.states:
                    continue
                rank = (2 if row.node == teller else 1) if living else 0
                known = found.get((row.node, row.name))
                if known is None or rank > known[0]:
                    shown = row if rank else replace(row, state=UNKNOWN, pid=0)
                    found[row.node, row.name] = rank, shown
        order = {name: index for index, name in enumerate(self.states)}
        return sorted((row for _, row in found.values()), key=lambda row: (order[row.node], row.name))
