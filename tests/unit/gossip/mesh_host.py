"""A node of the mesh: its machines while they run, and its disk."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from connserver.messages import Routes
from connserver.running import Source
from gossip.effects import Note
from gossip.node import GossipNode
from gossip.placement import Placement
from gossip.records import Record
from gossip.replication import Replication
from gossip.wire import Decoder, Encoder
from tests.unit.gossip.model_worker import ModelWorker

SECTIONS = {"cluster": "a", "nodes": "b", "replication": "c"}


@dataclass
class Disk:
    """What survives a node's process."""

    incarnation: int = 0
    placement: Placement | None = None
    damaged: bool = False
    records: list[Record] = field(default_factory=list)
    """The write-ahead log."""

    def lose(self) -> None:
        """A new machine with the same name."""
        self.incarnation, self.placement = 0, None
        self.records.clear()


@dataclass
class Host:
    """One node: its machines while they run, its disk, and what its local processes got."""

    name: str
    disk: Disk = field(default_factory=Disk)
    digest: str = "d" * 32
    sections: dict[str, str] = field(default_factory=lambda: dict(SECTIONS))
    cluster: str = "demo"
    node: GossipNode | None = None
    logs: Replication | None = None
    paused: bool = False
    watched: set[int] = field(default_factory=set)
    workers: dict[bytes, ModelWorker] = field(default_factory=dict)
    running: dict[int, Source] = field(default_factory=dict)
    """By group: what its worker's note says."""
    inbox: dict[bytes, list[Any]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    reconnects: list[str] = field(default_factory=list)
    routes: list[Routes] = field(default_factory=list)
    waiting: deque[tuple[str, Any, Any]] = field(default_factory=deque)
    """What arrived while it was paused: (how, from, message)."""
    encoder: Encoder = field(init=False)
    decoder: Decoder = field(init=False)

    @property
    def machine(self) -> GossipNode:
        """The running machine."""
        assert self.node is not None
        return self.node

    @property
    def log(self) -> Replication:
        """The running logs."""
        assert self.logs is not None
        return self.logs
