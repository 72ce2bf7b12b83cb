"""The operator's commands on a running cluster of three nodes: handoff, a drill of each kind, recovery.

One cluster for all, with one gateway a node; each test leaves it whole.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.voices import login

pytestmark = pytest.mark.integration

GROUPS = 2
NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with new_cluster(groups=GROUPS) as made:
        made.up()
        wait_for("all replicas", lambda: whole(made), 30)
        yield made
        assert made.down() == 0


def whole(cluster: Cluster) -> bool:
    """Whether every group is served and every replica could take over."""
    status = cluster.ask("status")
    members = [row for group in status["groups"] for row in group["members"]]
    ready = len(members) == GROUPS * len(NODES) and all(row["ready"] for row in members)
    routes = cluster.ask("routes")["routes"]
    processes = all(row["state"] == "ready" for row in status["processes"])
    return ready and processes and all(row["state"] == "ready" for row in routes)


def drill(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    wait_for("all replicas", lambda: whole(cluster), 30)
    return cluster.cli("drill", "--seconds", "3", "--load", "100", "--yes", *arguments, timeout_s=90)


def node_dir(cluster: Cluster, node: str) -> Path:
    (folder,) = (cluster.folder / "state").glob(f"*/{node}")
    return folder


def test_status_has_a_row_for_each_replica(running: Cluster) -> None:
    for group in running.status()["groups"]:
        assert [row["node"] for row in group["members"]] == group["replicas"]
        assert {row["status"] for row in group["members"]} == {"normal"}
    shown = running.cli("status").stdout
    assert shown.count("leads") == GROUPS and shown.count("no word") == 0


def test_primacy_is_handed_over_and_back_and_nothing_is_forgotten(running: Cluster) -> None:
    with login(running.gateways[0], "handed") as voice:
        voice.good("room.join", room="den", id=1)
        sent = voice.good("room.send", room="den", text="before", id=2)
        before = running.ask("route", "room:den")
        target = next(node for node in NODES if node != before["primary"]["node"])
        moved = running.ask("failover", str(before["group"]), "--to", target)
        assert (moved["from"], moved["to"]) == (before["primary"]["node"], target)
        again = voice.good("room.send", room="den", text="before", id=2)
        assert again["seq"] == sent["seq"], "it ran once"
        assert voice.good("room.send", room="den", text="after", id=3)["seq"] == sent["seq"] + 1


def test_a_handoff_that_cannot_be_says_why(running: Cluster) -> None:
    primary = running.ask("routes")["routes"][0]["node"]
    for arguments, words in (
        (("0", "--to", primary), f"group 0 is led by {primary} already"),
        (("0", "--to", "n9"), "n9 is not another replica"),
        (("7",), "there is no partition group 7"),
    ):
        done = running.cli("failover", *arguments)
        assert done.returncode == 1 and words in done.stderr


@pytest.mark.parametrize("kind", ["worker", "gossip", "gateway", "node"])
def test_a_drill_loses_nothing(running: Cluster, kind: str) -> None:
    done = drill(running, "--kill", kind, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer) == ["acked", "lost", "duplicated", "pause_ms"]
    assert (answer["lost"], answer["duplicated"]) == (0, 0), done.stderr
    assert answer["acked"] > 100
    pause = answer["pause_ms"]
    assert list(pause) == ["p50", "p99", "max"]
    assert 0 < pause["p50"] <= pause["p99"] <= pause["max"]


def test_a_drill_has_to_be_wanted(running: Cluster) -> None:
    pids = {row["name"]: row["pid"] for row in running.status()["processes"]}
    done = running.cli("drill", "--kill", "worker")
    assert done.returncode == 1 and "--yes" in done.stderr
    assert {row["name"]: row["pid"] for row in running.status()["processes"]} == pids


def test_what_is_fine_is_not_recovered(running: Cluster) -> None:
    wait_for("all replicas", lambda: whole(running), 30)
    done = running.cli("recover", "0", "--yes")
    assert done.returncode == 1 and "there is nothing to recover" in done.stderr
    assert running.ask("recover", "--all", "--yes") == {"groups": []}


class TestLostDisks:
    @pytest.fixture
    def kept(self, running: Cluster) -> int:
        """The place of an event that everybody has, in the room `kept`."""
        wait_for("all replicas", lambda: whole(running), 30)
        with login(running.gateways[0], "keeper") as voice:
            voice.good("room.join", room="kept", id=1)
            seq = voice.good("room.send", room="kept", text="kept", id=2)["seq"]
            assert isinstance(seq, int)
        return seq

    def lose(self, cluster: Cluster, *nodes: str) -> None:
        """The logs of these nodes are gone, and the cluster is started without them."""
        assert cluster.down() == 0
        for node in nodes:
            shutil.rmtree(node_dir(cluster, node) / "log")
        cluster.start("--json")
        wait_for("gossip", lambda: cluster.cli("status").returncode == 0, 30)

    def seq_after(self, cluster: Cluster) -> int:
        with login(cluster.gateways[1], "keeper") as voice:
            voice.good("room.join", room="kept", id=1)
            seq = voice.good("room.send", room="kept", text="after", id=2)["seq"]
            assert isinstance(seq, int)
        return seq

    @pytest.mark.parametrize(("lost", "source"), [(("n2", "n3"), "log"), (NODES, "archive")])
    def test_the_group_goes_on_from_what_is_left(
        self, running: Cluster, kept: int, lost: tuple[str, ...], source: str
    ) -> None:
        wait_for("the archive", lambda: running.status()["storage"]["lag_ops"] == 0, 20)
        self.lose(running, *lost)

        def recovered() -> list[dict[str, object]]:
            done = running.cli("recover", "--all", "--yes", "--json", timeout_s=60)
            rows = json.loads(done.stdout)["groups"] if done.returncode == 0 else []
            return [row for row in rows if row["from"] == source]

        found: list[dict[str, object]] = []

        def all_of_them() -> bool:
            found.extend(recovered())
            return len(found) == GROUPS

        wait_for(f"{GROUPS} groups begun from the {source}", all_of_them, 60)
        assert {str(row["primary"]) for row in found} <= set(NODES)
        wait_for("all replicas", lambda: whole(running), 60)
        assert self.seq_after(running) == kept + 1
