"""Which nodes hold which partition group: the value, the rule that computes it, how two are compared.

Guards one rule: equal inputs give an equal placement on every node, and the inputs (the cluster's
name, its nodes in the order of the file, the number of groups) are all covered by the configuration's
digest, so that nodes which accept each other compute the same one without a vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import chain

REPLICAS = 3
"""Nodes that hold a group: one may die and the other two still agree."""


@dataclass(frozen=True)
class Placement:
    """For each group the nodes that hold it; the primary of view v is number v modulo their count."""

    cluster: str
    groups: tuple[tuple[str, ...], ...]

    @cached_property
    def digest(self) -> str:
        """32 hex digits; equal on all nodes of one cluster."""
        text = "\n".join([self.cluster, *map(" ".join, self.groups)])
        return blake2b(text.encode(), digest_size=16, person=b"connserver").hexdigest()

    def replicas(self, group: int) -> tuple[str, ...]:
        """The nodes that hold a group."""
        return self.groups[group]

    def primary(self, group: int, view: int) -> str:
        """The node that leads a group in a view."""
        replicas = self.groups[group]
        return replicas[view % len(replicas)]

    def groups_of(self, node: str) -> frozenset[int]:
        """The groups a node holds."""
        return frozenset(group for group, nodes in enumerate(self.groups) if node in nodes)

    def rows(self) -> list[list[str]]:
        """As it travels and is stored; `from_rows` reads it."""
        return [list(nodes) for nodes in self.groups]


def from_rows(cluster: str, rows: Sequence[Sequence[str]]) -> Placement:
    """The placement of these rows; ValueError for rows that can be none."""
    groups = tuple(map(tuple, rows))
    if not groups:
        raise ValueError("a placement without groups")
    for group, nodes in enumerate(groups):
        if len(nodes) not in (1, REPLICAS) or len(set(nodes)) != len(nodes):
            raise ValueError(f"group {group} is placed on {', '.join(nodes) or 'no node'}")
    return Placement(cluster, groups)


def compute(cluster: str, nodes: Sequence[str], groups: int) -> Placement:
    """The first placement: primaries and replicas dealt out in turn, over the nodes in file order.

    Every second round swaps the backups, so that a dead node's groups go to both of its neighbours.
    """
    count = min(REPLICAS, len(nodes)) if len(nodes) >= REPLICAS else 1
    placed = []
    for group in range(groups):
        replicas = [nodes[(group + step) % len(nodes)] for step in range(count)]
        if group // len(nodes) % 2:
            replicas[1:] = reversed(replicas[1:])
        placed.append(tuple(replicas))
    return Placement(cluster, tuple(placed))


def misfit(placement: Placement, cluster: str, nodes: Sequence[str], groups: int) -> str:
    """Why this host's cluster.toml cannot be run on this placement, as a sentence; "" if it can."""
    if placement.cluster != cluster:
        return (
            f"the placement is of cluster {placement.cluster!r} and cluster.toml is of {cluster!r}: "
            "give each cluster a state folder of its own"
        )
    if len(placement.groups) != groups:
        return (
            f"cluster.toml has partition_groups = {groups}, but this cluster was started with "
            f"{len(placement.groups)}, which is fixed at the first start: put it back on all nodes"
        )
    missing = sorted(set(chain.from_iterable(placement.groups)) - set(nodes))
    if missing:
        return (
            f"cluster.toml has no node {', '.join(missing)}, which holds partition groups: put it back; "
            "a replacement machine takes the old name"
        )
    return ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether this node's placement is the one to serve by, and who differs from it."""

    serves: bool
    differing: tuple[str, ...]


def verdict(own: str, others: Mapping[str, str]) -> Verdict:
    """Weigh placement digests: `own`, and by node what others said last ("" = none yet)."""
    counted = Counter([own, *filter(None, others.values())])
    ahead = max((count for digest, count in counted.items() if digest != own), default=0)
    differing = tuple(sorted(name for name, digest in others.items() if digest and digest != own))
    return Verdict(counted[own] > ahead, differing)
