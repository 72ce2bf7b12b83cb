"""How a whole world is configured: the shipped configuration, small enough that things happen."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from random import Random
from typing import Any, cast

from connserver.config import ClusterConfig, Places
from connserver.config.schema import (
    AuthConfig,
    ClusterSection,
    LocalConfig,
    NodeConfig,
    PluginConfig,
    StorageConfig,
)
from connserver.ids import group_of, named_id, partition_of
from connserver.process import ProcessOptions

GROUPS = 2
NODES = ("n1", "n2", "n3")
PLUGIN = Path(__file__).parent / "plugin"
LONG_WINDOW_S = 120
SHORT_WINDOW_S = 1
SHORT = 0.25
"""The share of worlds where a session ends a second after its client was last there."""


class SimulatedPlaces:
    """Endpoints by name; no folder is made."""

    log_dir = storage_dir = Path("/nowhere")

    def node_dir(self, node: str) -> Path:
        """Where a node's notes lie."""
        return Path("/nowhere") / node

    def gossip_endpoint(self, node: str) -> str:
        """See Places."""
        return f"sim://gossip/{node}"

    def publish_endpoint(self, node: str) -> str:
        """See Places."""
        return f"sim://publish/{node}"

    def worker_endpoint(self, node: str, group: int) -> str:
        """See Places; a fresh one for each life, as with a wildcard port."""
        return f"sim://worker/{node}/{group}/*"


class Settings:
    """The configuration of this world, and options of its processes."""

    def __init__(self, random: Random, groups: int, plugins: tuple[Path, ...] = (PLUGIN,)) -> None:
        self.groups = groups
        self.window_s = SHORT_WINDOW_S if random.random() < SHORT else LONG_WINDOW_S
        self.plugins = plugins

    @property
    def expires(self) -> bool:
        """Whether a session may end while its client is away."""
        return self.window_s == SHORT_WINDOW_S

    def options(self, role: str, node: str, name: str, group: int = -1, listen: str = "") -> ProcessOptions:
        """What a process of this node is told."""
        config = ClusterConfig(
            cluster=ClusterSection(name="simulated", partition_groups=self.groups),
            nodes=tuple(NodeConfig(name=each) for each in NODES),
            storage=StorageConfig(archive_interval_ms=60),
            auth=AuthConfig(resume_window_s=self.window_s),
            plugins=tuple(PluginConfig(path=path) for path in self.plugins),
            local=LocalConfig(node=node),
        )
        places = cast(Places, cast(Any, SimulatedPlaces()))
        return ProcessOptions(
            role=role, node=node, name=name, config=config, places=places, group=group,
            listen=listen, storage_dsn="simulated",
        )  # fmt: skip

    def names(self, kind: str, group: int, amount: int) -> list[str]:
        """Names of users or rooms whose home is in a group."""
        found: list[str] = []
        for number in count():
            name = f"{kind[0]}{group}{number}"
            if group_of(partition_of(named_id(kind, name)), self.groups) == group:
                found.append(name)
                if len(found) == amount:
                    break
        return found
