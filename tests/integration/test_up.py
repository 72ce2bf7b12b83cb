"""A whole cluster with its PostgreSQL: up, down and up again, and what it does when parts are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.cluster import Cluster, new_cluster, wait_for

pytestmark = pytest.mark.integration

STATUS_KEYS = {
    "nodes": {"name", "state", "incarnation"},
    "processes": {"node", "role", "name", "pid", "state", "restarts", "endpoint"},
    "gateways": {"node", "endpoint", "clients"},
    "groups": {
        "id",
        "first_partition",
        "last_partition",
        "view",
        "primary",
        "replicas",
        "commit",
        "archived",
        "members",
    },
}


@pytest.fixture
def single() -> Iterator[Cluster]:
    with new_cluster(nodes=1, groups=1) as made:
        yield made


def count(cluster: Cluster) -> dict[str, int]:
    rows = cluster.status()["processes"]
    return {
        role: sum(row["role"] == role for row in rows) for role in ("gossip", "worker", "gateway", "storage")
    }


def test_three_nodes_of_four_groups(cluster: Cluster) -> None:
    assert {row["state"] for row in cluster.table} == {"ready"}
    wait_for("status of all processes", lambda: sum(count(cluster).values()) == 19)
    assert count(cluster) == {"gossip": 3, "worker": 12, "gateway": 3, "storage": 1}


def test_status_has_exactly_the_promised_keys(cluster: Cluster) -> None:
    wait_for("a report of every gateway", lambda: len(cluster.status()["gateways"]) == 3)
    status = cluster.status()
    assert set(status) == {"cluster", "nodes", "processes", "gateways", "groups", "storage", "alerts"}
    assert set(status["storage"]) == {"state", "lag_ops"}
    for part, keys in STATUS_KEYS.items():
        assert status[part]
        assert all(set(row) == keys for row in status[part]), part
    assert [group["id"] for group in status["groups"]] == [0, 1, 2, 3]
    assert [node["state"] for node in status["nodes"]] == ["alive"] * 3


def test_a_client_is_served_by_every_gateway(cluster: Cluster) -> None:
    for host, port in cluster.gateways:
        done = cluster.cli("send", '{"msg":"ping","id":7}', "--gateway", f"{host}:{port}")
        assert json.loads(done.stdout) == {"msg": "ping", "id": 7, "status": 0}
    wait_for("a call to be carried out", cluster.serves)


@pytest.mark.parametrize("name", ["w-n2-1", "g-n1", "gw-n3-0", "storage"])
def test_a_killed_process_comes_again_and_the_cluster_serves(cluster: Cluster, name: str) -> None:
    old = cluster.named()[name]
    os.kill(old, signal.SIGKILL)
    wait_for(f"a new {name}", lambda: cluster.named().get(name, old) != old)
    wait_for(
        "its state in status",
        lambda: next(
            (row["state"], row["restarts"] > 0) == ("ready", True)
            for row in cluster.status()["processes"]
            if row["name"] == name
        ),
        20,
    )
    wait_for("a call to be carried out", cluster.serves, 20)


def test_a_killed_postgres_comes_again(cluster: Cluster) -> None:
    keeper = psutil.Process(cluster.named()["storage"])
    (server,) = (child for child in keeper.children() if "postgres" in child.name())
    server.kill()
    wait_for("a new storage process", lambda: cluster.named().get("storage", keeper.pid) != keeper.pid)
    wait_for("storage to be ok", lambda: cluster.status()["storage"]["state"] == "ok", 20)


def test_up_down_up_keeps_what_was_and_the_second_start_is_quick(single: Cluster) -> None:
    single.up()
    wait_for("a call to be carried out", single.serves)
    assert single.down() == 0
    begun = time.monotonic()
    single.up()
    assert time.monotonic() - begun < 10  # three on a quiet machine; initdb alone would take more
    assert single.status()["nodes"][0]["incarnation"] == 2
    wait_for("a call to be carried out", single.serves)
    assert single.down() == 0


def test_a_killed_supervisor_leaves_nothing_and_the_next_up_works(single: Cluster) -> None:
    single.up()
    below = single.below()
    names = {psutil.Process(mark.pid).name() for mark in below}
    assert any("postgres" in name for name in names)
    assert single.process is not None
    single.process.kill()
    wait_for("the end of all processes", lambda: not any(mark.alive() for mark in below), 5)
    single.process.wait()
    single.up()
    wait_for("a call to be carried out", single.serves)
    assert single.down() == 0


def test_a_port_that_is_taken_is_named_before_anything_starts(single: Cluster) -> None:
    with socket.socket() as taken:
        taken.bind(single.gateways[0])
        taken.listen()
        done = single.cli("up", str(single.file))
    assert done.returncode == 1
    assert f"127.0.0.1:{single.ports[0]}: another program listens there" in done.stderr
    assert "`gateways`" in done.stderr and str(single.file) in done.stderr


def test_without_its_postgres_a_cluster_waits_and_says_for_what(single: Cluster) -> None:
    (single.folder / "dsn").write_text("postgresql://nobody:secret-word@127.0.0.1:1/none")
    (single.folder / "dsn").chmod(0o600)
    (single.folder / "local.toml").write_text('[secrets]\ndsn_file = "dsn"\n')
    process = single.start()
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert all(lines), single.errors()
    waiting = next(line for line in lines if line.startswith("storage: "))
    assert "127.0.0.1 port 1" in waiting
    assert single.named().keys() >= {"g-n1", "storage"}
    assert not any(name.startswith("w-") for name in single.named())
    assert single.down() == 0
    written = [path.read_text() for path in single.log_dir.glob("*.log")] + lines
    assert not any("secret-word" in text for text in written)
