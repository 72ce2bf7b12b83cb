"""Which processes a host runs, and what each waits for. Pure.

Guards one rule: which node holds which partition group is the gossip processes' to say, for it was
decided at the cluster's first start. Only where there is nothing to decide (one node, or three that
all hold everything) the workers are planned before it is heard, so that a start does not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from connserver.config import ClusterConfig

Placement = Mapping[int, tuple[str, ...]]
"""The nodes that hold each group."""

OBVIOUS_NODES: Final = (1, 3)
"""Numbers of nodes with which a new cluster has every group on every node."""

FORK_SERVER: Final = "forkserver"
STORAGE: Final = "storage"

STOP_RANKS: Final = {FORK_SERVER: 0, STORAGE: 1, "gossip": 1, "worker": 2, "gateway": 3}
"""Processes stop from the highest rank down; a rank begins when the one above is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to run.

    `after`: processes that must have been ready once. `settling`: a role of which every process must
    have been ready, or have died, once; waiting for these never holds this one back for good.
    """

    name: str
    role: str
    node: str
    group: int = -1
    listen: str = ""
    after: tuple[str, ...] = ()
    settling: str = ""

    @property
    def rank(self) -> int:
        """Where in the order of stopping this process comes."""
        return STOP_RANKS[self.role]


def obvious_placement(config: ClusterConfig) -> Placement:
    """Every group on every node where a new cluster has it so, else nothing."""
    names = tuple(node.name for node in config.nodes)
    if len(names) not in OBVIOUS_NODES:
        return {}
    return dict.fromkeys(range(config.cluster.partition_groups), names)


def group_of_worker(name: str) -> int:
    """The partition group of the worker of this name."""
    return int(name.rpartition("-")[2])


def plan(config: ClusterConfig, placement: Placement) -> tuple[ProcessSpec, ...]:
    """All processes of this host in the order of starting; the fork server is the first."""
    here = config.host_nodes
    specs = [
        ProcessSpec(name=FORK_SERVER, role=FORK_SERVER, node=here[0].name),
        ProcessSpec(name=STORAGE, role=STORAGE, node=here[0].name),
    ]
    specs += [ProcessSpec(name=f"g-{node.name}", role="gossip", node=node.name) for node in here]
    specs += [
        ProcessSpec(
            name=f"w-{node.name}-{group}",
            role="worker",
            node=node.name,
            group=group,
            after=(STORAGE, f"g-{node.name}"),
        )
        for group in range(config.cluster.partition_groups)
        for node in here
        if node.name in placement.get(group, ())
    ]
    specs += [
        ProcessSpec(
            name=f"gw-{node.name}-{index}",
            role="gateway",
            node=node.name,
            listen=str(endpoint),
            after=(f"g-{node.name}",),
            settling="worker",
        )
        for node in here
        for index, endpoint in enumerate(node.gateways)
    ]
    return tuple(specs)
