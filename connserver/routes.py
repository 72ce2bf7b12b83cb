"""Which worker serves which group, as told by all gossip processes.

Guards one rule: several gossip processes speak about every group, some of them late; for each group
the greatest (era, view, grant) wins, and among equals the word of the node that has the worker, as
long as that node is heard. So a dead or slow gossip process can never route backwards.
"""

from __future__ import annotations

from typing import Final

from connserver.messages import RouteEntry, Routes

OWNER_SILENCE_S: Final = 3.0
"""Routes come once a second; after three are missing others are believed about a node's workers."""

Rank = tuple[int, int, int]


def rank(entry: RouteEntry) -> Rank:
    """What orders two entries of one group in time."""
    return entry.era, entry.view, entry.grant


class RouteTable:
    """The newest known entry of each group."""

    __slots__ = ("_cluster", "_entries", "_groups", "_owner_heard")

    def __init__(self, cluster: str, groups: int) -> None:
        self._cluster = cluster
        self._groups = groups
        self._entries: dict[int, RouteEntry] = {}
        self._owner_heard: dict[int, float] = {}

    def merge(self, routes: Routes, now: float) -> list[RouteEntry]:
        """Take in one gossip process's table; the entries that changed. Foreign clusters are ignored."""
        if routes.cluster != self._cluster:
            return []
        changed = []
        for entry in routes.entries:
            if 0 <= entry.group < self._groups and self._newer(entry, routes.sender, now):
                if self._entries.get(entry.group) != entry:
                    changed.append(entry)
                self._entries[entry.group] = entry
        return changed

    def _newer(self, entry: RouteEntry, sender: str, now: float) -> bool:
        known = self._entries.get(entry.group)
        owner = _is_of_node(sender, entry.node)
        if known is not None and rank(entry) < rank(known):
            return False
        if known is None or rank(entry) > rank(known):
            self._owner_heard[entry.group] = now if owner else now - OWNER_SILENCE_S
            return True
        if owner:
            self._owner_heard[entry.group] = now
            return True
        return now - self._owner_heard[entry.group] > OWNER_SILENCE_S

    def entry(self, group: int) -> RouteEntry | None:
        """What is known of a group."""
        return self._entries.get(group)

    def entries(self) -> list[RouteEntry]:
        """All that is known, in the order of the groups."""
        return [entry for _, entry in sorted(self._entries.items())]

    @property
    def complete(self) -> bool:
        """Whether every group has a worker that is ready."""
        return len(self._entries) == self._groups and all(
            entry.state == "ready" for entry in self._entries.values()
        )

    def check_invariants(self) -> None:
        """Every entry is filed under its own group."""
        assert all(group == entry.group for group, entry in self._entries.items())
        assert self._entries.keys() == self._owner_heard.keys()


def _is_of_node(sender: str, node: str) -> bool:
    return sender == node or sender == f"g-{node}"
