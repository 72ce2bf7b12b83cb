"""The documents of status, routes, route and plugin.list, made of whole machines."""

from __future__ import annotations

import json

import pytest

from connserver.limits import REPORTER_SILENT_MS
from connserver.messages import AlertRecord, GatewayReport, ProcessRecord, ProcessTable
from gossip.status import merged_alerts, timestamp
from tests.unit.gossip.mesh import WALL_MS, Mesh


@pytest.fixture
def mesh() -> Mesh:
    """Three nodes with workers that reported, a gateway on n1 and a supervisor for all."""
    mesh = Mesh()
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    for index, name in enumerate(mesh.names):
        for group in range(mesh.groups):
            identity = b"worker:%d:%d" % (group, 10_000 * (index + 1) + group)
            mesh.report(name, identity, 20, 17, details={"plugins": [{"name": "chat", "version": "1"}]})
    table = [
        ProcessRecord(name, role, f"{prefix}-{name}{suffix}", 50, "ready", 1, "ipc://x", "")
        for name in mesh.names
        for role, prefix, suffix in (("worker", "w", "-0"), ("gossip", "g", ""))
    ]
    for name in mesh.names:
        mesh.local(name, b"supervisor:9", ProcessTable("host", table, {"state": "ok", "error": ""}))
    mesh.local("n1", b"gateway:gw-n1-0:ab", GatewayReport("gw-n1-0", 70, "127.0.0.1:9000", 12, 3.5, {}))
    mesh.run(1.5)
    return mesh


def member(node: str, **different: object) -> dict[str, object]:
    """A replica that is in step with an empty log."""
    numbers = {"commit": 0, "head": 0, "lag": 0, "archived": 0}
    return {"node": node, "status": "normal", **numbers, "ready": True, "problem": "", **different}


def test_status_has_exactly_the_keys_that_scripts_rely_on(mesh: Mesh) -> None:
    status = mesh.result("n2", "status")
    assert list(status) == ["cluster", "nodes", "processes", "gateways", "groups", "storage", "alerts"]
    assert status["cluster"] == "demo" and status["alerts"] == []
    assert status["nodes"][0] == {"name": "n1", "state": "alive", "incarnation": 1}
    assert status["processes"][0] == {
        "node": "n1",
        "role": "gossip",
        "name": "g-n1",
        "pid": 50,
        "state": "ready",
        "restarts": 1,
        "endpoint": "ipc://x",
    }
    assert [row["name"] for row in status["processes"]] == [
        f"{prefix}-{name}{suffix}" for name in mesh.names for prefix, suffix in (("g", ""), ("w", "-0"))
    ]
    assert status["gateways"] == [{"node": "n1", "endpoint": "127.0.0.1:9000", "clients": 12}]
    assert status["groups"][1] == {
        "id": 1,
        "first_partition": 16384,
        "last_partition": 32767,
        "view": 0,
        "primary": "n2",
        "replicas": ["n2", "n3", "n1"],
        "members": [member("n2"), member("n3"), member("n1")],
        "commit": 20,
        "archived": 17,
    }
    assert status["storage"] == {"state": "ok", "lag_ops": 12}
    json.dumps(status)


def test_all_nodes_show_the_same_status(mesh: Mesh) -> None:
    assert mesh.result("n1", "status") == mesh.result("n2", "status") == mesh.result("n3", "status")


def test_verbose_adds_and_changes_nothing(mesh: Mesh) -> None:
    plain, verbose = mesh.result("n3", "status"), mesh.result("n3", "status", verbose=True)
    assert verbose["answered_by"] == "n3"
    assert verbose["gateways"][0]["messages_per_s"] == 3.5
    assert verbose["groups"][0]["state"] == "ready"
    for key, rows in plain.items():
        if isinstance(rows, list):
            for row, more in zip(rows, verbose[key], strict=True):
                assert row.items() <= more.items()
    assert "`verbose` is true or false" in mesh.error("n1", "status", verbose=1)


def test_a_dead_nodes_processes_are_shown_by_their_neighbours(mesh: Mesh) -> None:
    changed = ProcessRecord("n2", "gossip", "g-n2", 0, "backoff", 2, "", "killed")
    mesh.kill("n2")
    mesh.run(2.0)
    for name in ("n1", "n3"):
        mesh.local(name, b"supervisor:9", ProcessTable("host", [changed], {"state": "ok"}))
    mesh.run(0.5)
    status = mesh.result("n1", "status")
    states = {row["name"]: (row["state"], row["pid"]) for row in status["processes"]}
    assert states["g-n2"] == ("backoff", 0)
    assert states["w-n2-0"] == ("unknown", 0), "only the dead node's record has it"
    assert {row["primary"] for row in status["groups"]} == {"n1", "n3"}, "its groups have moved"
    unknown = member("n2", status="unknown", commit=None, head=None, lag=None, archived=None, ready=False)
    assert unknown in status["groups"][0]["members"]


def test_what_a_replica_has_committed_is_shown(mesh: Mesh) -> None:
    mesh.submit("n2", 1, b"a", b"b", b"c")
    mesh.run(2.5)
    status = mesh.result("n1", "status")
    numbers = {"commit": 3, "head": 3}
    assert status["groups"][1]["members"] == [member(name, **numbers) for name in ("n2", "n3", "n1")]
    assert status["groups"][0]["members"][0] == member("n1")


def test_a_group_without_a_majority_says_who_is_missing(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.kill("n3")
    mesh.run(3.0)
    group = mesh.result("n1", "status", verbose=True)["groups"][0]
    assert group["state"] == "unavailable"
    assert "n2 is dead" in group["reason"] and "n3 is dead" in group["reason"]


def test_the_worst_storage_is_shown_with_its_reason(mesh: Mesh) -> None:
    mesh.report("n3", b"worker:2:30002", 30, 17, storage="lagging")
    mesh.run(0.3)
    assert mesh.result("n1", "status")["storage"]["state"] == "lagging"
    mesh.report("n1", b"worker:0:10000", 20, 17, storage="down", storage_error="connection refused")
    mesh.run(0.3)
    status = mesh.result("n2", "status", verbose=True)
    assert status["storage"] == {"state": "down", "lag_ops": 22, "error": "connection refused"}
    texts = [row["text"] for row in status["alerts"]]
    assert any("PostgreSQL is down for groups 0: connection refused" in text for text in texts)
    assert status["alerts"][0]["severity"] == "critical"


def test_a_supervisor_that_says_storage_is_down_is_believed(mesh: Mesh) -> None:
    mesh.local("n1", b"supervisor:9", ProcessTable("host", [], {"state": "down", "error": "no disk"}))
    mesh.run(0.3)
    assert mesh.result("n3", "status")["storage"]["state"] == "down"


def test_a_gateway_that_falls_silent_is_gone(mesh: Mesh) -> None:
    mesh.run(REPORTER_SILENT_MS / 1000 + 1)
    assert mesh.result("n2", "status")["gateways"] == []


def test_numbers_reach_the_others_within_two_seconds_and_not_at_once(mesh: Mesh) -> None:
    mesh.report("n2", b"worker:1:20001", 21, 17)
    mesh.report("n2", b"worker:1:20001", 22, 18)
    version = mesh.hosts["n1"].machine.book.records["n2"].version
    mesh.run(2.2)
    record = mesh.hosts["n1"].machine.book.records["n2"]
    assert [row.commit for row in record.workers if row.group == 1] == [22]
    assert record.version - version <= 2
    assert mesh.result("n1", "status")["groups"][1]["commit"] == 22


def test_route_finds_what_is_asked_for(mesh: Mesh) -> None:
    route = mesh.result("n3", "route", target="5000000000000001")
    assert route == {
        "target": "5000000000000001",
        "oid": "5000000000000001",
        "partition": 20480,
        "group": 1,
        "view": 0,
        "primary": {"node": "n2", "endpoint": "ipc:///run/w-n2-1-20001"},
        "replicas": ["n2", "n3", "n1"],
        "state": "ready",
        "reason": "",
        "gateways": [{"node": "n1", "endpoint": "127.0.0.1:9000"}],
    }
    assert mesh.result("n1", "route", target="20480")["oid"] == ""
    assert len(mesh.result("n1", "route", target="room:lobby")["oid"]) == 16
    assert "is no object id" in mesh.error("n1", "route", target="lobby")
    assert "`target` is missing" in mesh.error("n1", "route")


def test_routes_is_the_whole_table(mesh: Mesh) -> None:
    routes = mesh.result("n1", "routes")["routes"]
    assert [row["group"] for row in routes] == [0, 1, 2, 3]
    assert routes[1]["node"] == "n2" and routes[1]["endpoint"].endswith("w-n2-1-20001")


def test_plugins_are_listed_per_worker(mesh: Mesh) -> None:
    rows = mesh.result("n1", "plugin.list")["plugins"]
    assert len(rows) == 12
    assert rows[0] == {"name": "chat", "version": "1", "node": "n1", "group": 0, "primary": True}
    assert sum(row["primary"] for row in rows) == 4


def test_metrics_are_those_of_the_process(mesh: Mesh) -> None:
    assert mesh.result("n1", "metrics") == {"text": "metrics"}


def test_alerts_say_since_when_by_the_wall_clock() -> None:
    mesh = Mesh()
    mesh.start()
    mesh.run(1.0)
    mesh.kill("n3")
    mesh.run(10.0)
    alert = next(row for row in mesh.result("n1", "status")["alerts"] if row["about"] == "node:n3")
    assert alert["since"] == timestamp(WALL_MS + 2_500)


def test_an_alert_told_twice_is_shown_once_with_its_earliest_time() -> None:
    rows = [
        AlertRecord(2000, "warning", "b", "node:n2"),
        AlertRecord(5000, "critical", "a", "node:n1"),
        AlertRecord(3000, "critical", "a", "node:n1"),
    ]
    shown = merged_alerts(rows)
    assert [(row["text"], row["since"]) for row in shown] == [
        ("a", "1970-01-01T00:00:03Z"),
        ("b", "1970-01-01T00:00:02Z"),
    ]


def test_a_time_that_no_calendar_has_breaks_nothing() -> None:
    assert timestamp(1 << 62) == timestamp(-(1 << 62)) == "1970-01-01T00:00:00Z"


def test_what_waits_for_an_operator_is_an_alert_as_long_as_it_does(mesh: Mesh) -> None:
    row = {"method": "toy.burn", "plugin": "toys", "version": "1.2", "incident": "n1-x", "deaths": 2}
    waits = {"quarantined": [row], "parked_calls": 3, "held_timers": 1}
    group = next(route["group"] for route in mesh.result("n1", "routes")["routes"] if route["node"] == "n1")
    identity = b"worker:%d:%d" % (group, 10_000 + group)
    mesh.report("n1", identity, 20, 17, details=waits)
    mesh.run(1.5)
    told = "\n".join(mesh.alerts("n3"))
    assert f"toy.burn of plugin toys 1.2 has ended its worker and is quarantined in group {group}" in told
    assert "`cs-cluster logs --incident n1-x`" in told and "`cs-cluster plugin release n1-x`" in told
    assert "`cs-cluster call list`" in told and "Timers are overdue" in told
    mesh.report("n1", identity, 20, 17, details={})
    mesh.run(1.5)
    assert mesh.alerts("n3") == []


def test_a_node_that_cannot_load_a_plugin_says_that_it_does_not_take_over(mesh: Mesh) -> None:
    row = {"name": "toys", "version": "1.2", "state": "cannot be loaded: no module named squeak"}
    mesh.report("n2", b"worker:0:20000", 20, 17, details={"plugins": [row]})
    mesh.run(1.5)
    (told,) = mesh.alerts("n1")
    assert "toys 1.2 of group 0 on n2 cannot be loaded: no module named squeak." in told
    assert "does not take over" in told
