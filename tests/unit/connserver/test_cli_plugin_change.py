"""A change of plugins over a whole cluster: tried everywhere first, and honest when it ends halfway."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from connserver.cli.find import Admin
from connserver.cli.plugin_change import Change, apply, follow_files, groups_of, package_of
from connserver.errors import ClusterError
from tests.unit.partition.plugin_folders import plugin_folder

NODES = ("n1", "n2", "n3")


class Cluster:
    """Two groups, led by n1 and n2; `refuses`: (command, group, node) that say no."""

    def __init__(self, **attached: str) -> None:
        self.asked: list[tuple[str, int, str]] = []
        self.refuses: set[tuple[str, int, str]] = set()
        self.dead: set[str] = set()
        self.rows = [
            {"name": name, "digest": digest, "folder": f"/{name}", "group": group}
            for name, digest in attached.items()
            for group in range(2)
        ]

    def ask(self, command: str, **arguments: Any) -> Any:
        if command == "worker.plugin.rows":
            return {"plugins": [row for row in self.rows if row["group"] == arguments["group"]]}
        if command == "status":
            return {"nodes": [{"name": n, "state": "dead" if n in self.dead else "alive"} for n in NODES]}
        assert command == "routes"
        leaders = NODES[:2]
        return {
            "routes": [
                {"group": group, "node": node, "state": "ready", "reason": "", "replicas": list(NODES)}
                for group, node in enumerate(leaders)
            ]
        }

    def ask_patiently(self, patience_s: float, command: str, /, **arguments: Any) -> Any:
        group = arguments["group"]
        node = arguments.get("node", NODES[group])
        self.asked.append((command, group, node))
        if (command, group, node) in self.refuses:
            raise ClusterError("it says no; nothing was changed")
        if command == "worker.plugin.set":
            assert arguments["revision"] == 4
        return {"name": "toys", "was": "1.0", "now": "2.0", "revision": 4, "way_back": ""}


def do(cluster: Cluster, change: Change, groups: list[int] | None = None) -> Any:
    return apply(cast("Admin", cluster), change, groups if groups is not None else [0, 1])


DETACH = Change(action="detach", name="toys")


def test_every_node_and_every_group_tries_it_before_the_first_switches() -> None:
    cluster = Cluster(toys="d")
    done = do(cluster, DETACH)
    check, change = "replica.plugin.check", "worker.plugin.set"
    assert cluster.asked == [
        (check, 0, "n2"),
        (check, 0, "n3"),
        (check, 0, "n1"),
        (check, 1, "n2"),
        (change, 0, "n1"),
        (change, 1, "n2"),
    ]
    assert (done.name, done.was, done.now, done.groups) == ("toys", ["1.0"], "2.0", [0, 1])


def test_a_dead_node_is_not_waited_for() -> None:
    cluster = Cluster(toys="d")
    cluster.dead = {"n3"}
    do(cluster, DETACH)
    assert not any(node == "n3" for _, _, node in cluster.asked)


@pytest.mark.parametrize(("group", "node"), [(0, "n3"), (0, "n1"), (1, "n2")])
def test_one_refusal_changes_nothing_anywhere(group: int, node: str) -> None:
    cluster = Cluster(toys="d")
    cluster.refuses = {("replica.plugin.check", group, node)}
    with pytest.raises(ClusterError) as caught:
        do(cluster, DETACH)
    assert str(caught.value) == f"it says no (group {group} on {node}); nothing was changed"
    assert not any(command == "worker.plugin.set" for command, _, _ in cluster.asked)


def test_what_ends_halfway_says_what_is_done_and_how_to_go_on(tmp_path: Path) -> None:
    folder = plugin_folder(tmp_path / "toys", "toys", "")
    cluster = Cluster(toys="d")
    cluster.refuses = {("worker.plugin.set", 1, "n2")}
    change = Change(action="reload", name="toys", package=package_of(folder), folder=str(folder))
    with pytest.raises(ClusterError) as caught:
        do(cluster, change)
    told = str(caught.value)
    assert "The reload was done in group 0 and not in the others" in told
    assert f"`cs-cluster plugin reload toys {folder} --groups 1`" in told
    cluster.refuses = {("worker.plugin.set", 0, "n1")}
    with pytest.raises(ClusterError, match=r"it says no; nothing was changed \(group 0\)"):
        do(cluster, change)


def test_groups_that_have_it_already_are_left_alone(tmp_path: Path) -> None:
    folder = plugin_folder(tmp_path / "toys", "toys", "")
    package = package_of(folder)
    cluster = Cluster(toys="d")
    cluster.rows[0]["digest"] = package.digest
    done = do(cluster, Change(action="reload", name="toys", package=package, folder=str(folder)))
    assert (done.groups, done.same) == ([1], [0])
    del cluster.rows[1]
    done = do(cluster, DETACH)
    assert (done.groups, done.same) == ([0], [1])


def test_dev_brings_a_game_to_its_files(tmp_path: Path) -> None:
    toys = plugin_folder(tmp_path / "toys", "toys", "")
    pets = plugin_folder(tmp_path / "pets", "pets", "")
    same = plugin_folder(tmp_path / "same", "same", "")
    cluster = Cluster(toys="old", same=package_of(same).digest, gone="x")
    for row in cluster.rows:
        row["folder"] = str(tmp_path / str(row["name"]))
    follow_files(cast("Admin", cluster), {toys: 250, pets: 250, same: 250})
    changes = [group for command, group, _ in cluster.asked if command == "worker.plugin.set"]
    assert changes == [0, 1] * 3  # gone goes, toys is reloaded, pets comes; same stays


@pytest.mark.parametrize(("text", "groups"), [("all", [0, 1]), ("1", [1]), ("1,0,1", [0, 1])])
def test_groups_as_they_are_typed(text: str, groups: list[int]) -> None:
    assert groups_of(cast("Admin", Cluster()), text) == groups


@pytest.mark.parametrize("text", ["", "x", "2", "-1", "0,"])
def test_groups_that_are_none(text: str) -> None:
    with pytest.raises(ClusterError, match="--groups"):
        groups_of(cast("Admin", Cluster()), text)
