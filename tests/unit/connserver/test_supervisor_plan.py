"""Which processes a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from connserver.config import ClusterConfig, ClusterSection, Endpoint, LocalConfig, NodeConfig
from connserver.messages import RouteEntry, Routes
from connserver.supervisor.link import placement_of
from connserver.supervisor.plan import obvious_placement, plan


def cluster(nodes: int, groups: int = 4, node: str | None = None) -> ClusterConfig:
    return ClusterConfig(
        file=Path("/nowhere/cluster.toml"),
        cluster=ClusterSection(partition_groups=groups),
        nodes=tuple(
            NodeConfig(name=f"n{number}", gateways=(Endpoint("127.0.0.1", 9000 + number),))
            for number in range(1, nodes + 1)
        ),
        local=LocalConfig(node=node, state_dir=Path("/nowhere/state")),
    )


def names(config: ClusterConfig, role: str) -> list[str]:
    return [spec.name for spec in plan(config, obvious_placement(config)) if spec.role == role]


def test_the_shipped_cluster_has_twelve_workers_three_gossips_three_gateways() -> None:
    config = cluster(3)
    assert (len(names(config, "worker")), len(names(config, "gossip")), len(names(config, "gateway"))) == (
        12,
        3,
        3,
    )
    assert names(config, "storage") == ["storage"]


def test_a_host_runs_its_own_node_only() -> None:
    config = cluster(3, node="n2")
    assert names(config, "worker") == ["w-n2-0", "w-n2-1", "w-n2-2", "w-n2-3"]
    assert (names(config, "gossip"), names(config, "gateway")) == (["g-n2"], ["gw-n2-0"])


def test_with_five_nodes_workers_wait_for_the_placement_to_be_known() -> None:
    config = cluster(5, groups=2)
    assert names(config, "worker") == []
    specs = plan(config, {0: ("n1", "n2", "n3"), 1: ("n4", "n5", "n1")})
    workers = [spec.name for spec in specs if spec.role == "worker"]
    assert workers == ["w-n1-0", "w-n2-0", "w-n3-0", "w-n1-1", "w-n4-1", "w-n5-1"]


def test_workers_need_storage_and_their_own_gossip() -> None:
    config = cluster(3)
    found = {spec.name: spec for spec in plan(config, obvious_placement(config))}
    assert found["w-n2-1"].after == ("storage", "g-n2")
    assert found["gw-n3-0"].after == ("g-n3",)
    assert found["gw-n3-0"].listen == "127.0.0.1:9003"


def test_a_placement_is_taken_from_routes_only_when_it_is_whole() -> None:
    def entry(group: int, replicas: list[str]) -> RouteEntry:
        return RouteEntry(group, 0, 1, 0, 0, 0, "", "", replicas, "starting", "")

    whole = Routes("demo", "n1", 1, [entry(0, ["n1"]), entry(1, ["n2"])])
    assert placement_of(whole) == {0: ("n1",), 1: ("n2",)}
    assert placement_of(Routes("demo", "n1", 1, [entry(0, ["n1"]), entry(1, [])])) == {}
