"""Gossip machines together: they find each other, agree, serve, and notice what is gone."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from connserver.messages import GetRoutes, ProcessRecord, ProcessTable, Routes
from tests.unit.gossip.mesh import Mesh


@pytest.fixture
def mesh() -> Mesh:
    """Three nodes that have been running for a second, with all their workers attached."""
    mesh = Mesh()
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.run(0.5)
    return mesh


def test_three_nodes_find_each_other_place_the_groups_and_serve(mesh: Mesh) -> None:
    for name in mesh.names:
        assert mesh.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert mesh.route_states(name) == ["ready"] * 4
        assert mesh.alerts(name) == []
    assert len({host.disk.placement.digest for host in mesh.hosts.values() if host.disk.placement}) == 1


def test_all_compute_the_same_table(mesh: Mesh) -> None:
    tables = [mesh.hosts[name].machine.board.routes.entries for name in mesh.names]
    assert tables[0] == tables[1] == tables[2]
    assert [entry.node for entry in tables[0]] == ["n1", "n2", "n3", "n1"]
    assert [entry.endpoint for entry in tables[0]][1] == "ipc:///run/w-n2-1-20001"


def test_only_the_primary_gets_a_grant_and_it_names_the_incarnation(mesh: Mesh) -> None:
    primary, backup = mesh.role("n2", b"worker:1:20001"), mesh.role("n1", b"worker:1:10001")
    assert primary.primary and primary.grant >> 20 == 1 and primary.grant & 0xFFFFF
    assert not backup.primary and backup.grant == 0
    assert (primary.era, primary.view) == (1, 0)


def test_roles_are_repeated_as_a_heartbeat(mesh: Mesh) -> None:
    before = len(mesh.got("n1", b"worker:0:10000"))
    mesh.run(1.0)
    assert len(mesh.got("n1", b"worker:0:10000")) - before == 4


def test_an_idle_cluster_changes_nothing(mesh: Mesh) -> None:
    mesh.run(2.0)
    versions = [mesh.hosts[name].machine.board.routes.version for name in mesh.names]
    records = mesh.hosts["n1"].machine.book.versions()
    mesh.run(30.0)
    assert [mesh.hosts[name].machine.board.routes.version for name in mesh.names] == versions
    assert mesh.hosts["n1"].machine.book.versions() == records


def test_routes_are_published_every_second_also_without_change(mesh: Mesh) -> None:
    before = len(mesh.hosts["n1"].routes)
    mesh.run(5.0)
    assert len(mesh.hosts["n1"].routes) - before == 5


def test_a_change_reaches_all_nodes_without_waiting_for_a_heartbeat(mesh: Mesh) -> None:
    mesh.run(1.0)
    mesh.now += 0.05
    mesh.die("n2", 20001)
    for name in mesh.names:
        assert mesh.route_states(name) == ["ready", "starting", "ready", "ready"]


def test_get_routes_answers_whoever_subscribed_too_late(mesh: Mesh) -> None:
    mesh.local("n3", b"gateway:gw-n3-0:ab", GetRoutes("gw-n3-0"))
    (answer,) = mesh.got("n3", b"gateway:gw-n3-0:ab")
    assert isinstance(answer, Routes)
    assert [entry.state for entry in answer.entries] == ["ready"] * 4


def test_a_dead_node_is_noticed_within_two_seconds_and_its_groups_say_so(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.run(1.7)
    for name in ("n1", "n3"):
        assert mesh.states(name)["n2"] == "dead"
        assert mesh.route_states(name) == ["ready", "unavailable", "ready", "ready"]
        entry = mesh.hosts[name].machine.board.routes.entries[1]
        assert "n2" in entry.reason and "dead" in entry.reason
        assert any("Group 1 is not served" in text for text in mesh.alerts(name))
        assert any(text.startswith("Node n2 is dead") for text in mesh.alerts(name))


def test_a_node_that_comes_back_has_a_higher_incarnation_and_serves_again(mesh: Mesh) -> None:
    old = mesh.hosts["n1"].machine.board.routes.entries[1]
    mesh.kill("n2")
    mesh.run(2.0)
    mesh.start("n2")
    mesh.run(0.5)
    assert mesh.states("n1")["n2"] == "alive"
    assert mesh.route_states("n1")[1] == "starting"
    mesh.attach("n2", 1, 999)
    mesh.run(0.3)
    new = mesh.hosts["n1"].machine.board.routes.entries[1]
    assert new.state == "ready" and new.endpoint.endswith("-999")
    assert new.grant > old.grant and new.grant >> 20 == 2


def test_entries_never_go_back_whatever_happens(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.run(2.0)
    mesh.start("n2")
    mesh.run(1.0)
    mesh.attach("n2", 1, 999)
    mesh.run(1.0)
    mesh.die("n2", 999)
    mesh.run(1.0)
    mesh.attach("n2", 1, 1000)
    mesh.hosts["n2"].paused = True
    mesh.run(3.0)
    mesh.wake("n2")
    mesh.run(1.0)
    for name in ("n1", "n3"):
        ranks = [
            (entry.era, entry.view, entry.grant)
            for routes in mesh.hosts[name].routes
            for entry in routes.entries
            if entry.group == 1 and entry.node
        ]
        assert ranks == sorted(ranks) and len(set(ranks)) >= 4


def test_a_node_that_was_paused_refutes_its_death(mesh: Mesh) -> None:
    mesh.hosts["n2"].paused = True
    mesh.run(0.8)
    assert mesh.states("n1")["n2"] == "suspect"
    assert mesh.route_states("n1") == ["ready"] * 4
    mesh.run(1.2)
    assert mesh.states("n1")["n2"] == "dead"
    grant = mesh.role("n2", b"worker:1:20001").grant
    mesh.wake("n2")
    mesh.run(0.3)
    for name in mesh.names:
        assert mesh.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert mesh.route_states(name) == ["ready"] * 4
    assert mesh.hosts["n2"].disk.incarnation == 2
    assert mesh.role("n2", b"worker:1:20001").grant > grant
    assert mesh.hosts["n2"].machine.membership.incarnation == 2


def test_a_short_pause_costs_no_incarnation(mesh: Mesh) -> None:
    mesh.hosts["n2"].paused = True
    mesh.run(0.9)
    mesh.wake("n2")
    mesh.run(0.2)
    assert mesh.states("n1")["n2"] == "alive"
    assert mesh.hosts["n2"].disk.incarnation == 1


def test_a_woken_node_accuses_nobody(mesh: Mesh) -> None:
    mesh.hosts["n2"].paused = True
    mesh.hosts["n2"].waiting.clear()
    mesh.run(1.2)
    mesh.hosts["n2"].waiting.clear()  # nothing was queued: all it has is its own clock
    mesh.wake("n2")
    assert mesh.states("n2") == {"n1": "alive", "n2": "alive", "n3": "alive"}


def test_an_orderly_stop_is_known_at_once(mesh: Mesh) -> None:
    host = mesh.hosts["n3"]
    mesh._perform(host, host.machine.stopping(mesh.now))
    mesh.deliver()
    mesh.kill("n3")
    assert mesh.states("n1")["n3"] == "stopped"
    assert mesh.route_states("n1")[2] == "unavailable"
    mesh.run(5.0)
    assert mesh.states("n2")["n3"] == "stopped"


def test_one_cut_link_accuses_nobody(mesh: Mesh) -> None:
    mesh.cuts = {("n2", "n1"), ("n1", "n2")}
    mesh.run(10.0)
    for name in mesh.names:
        assert mesh.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert mesh.route_states(name) == ["ready"] * 4
    assert "n2" in mesh.hosts["n1"].reconnects


def test_records_come_round_a_cut_link(mesh: Mesh) -> None:
    mesh.cuts = {("n2", "n1"), ("n1", "n2")}
    mesh.die("n2", 20001)
    mesh.run(0.5)
    assert mesh.route_states("n1")[1] == "starting"


def test_a_link_that_is_cut_in_one_direction_accuses_nobody(mesh: Mesh) -> None:
    mesh.cuts = {("n2", "n1")}
    mesh.run(10.0)
    assert {mesh.hosts[name].disk.incarnation for name in mesh.names} == {1}
    assert mesh.states("n1")["n2"] == "alive"


def test_both_halves_of_a_split_heal(mesh: Mesh) -> None:
    mesh.cuts = {("n3", "n1"), ("n3", "n2"), ("n1", "n3"), ("n2", "n3")}
    mesh.run(3.0)
    assert mesh.states("n3") == {"n1": "dead", "n2": "dead", "n3": "alive"}
    assert mesh.states("n1") == {"n1": "alive", "n2": "alive", "n3": "dead"}
    mesh.cuts = set()
    mesh.run(1.0)
    for name in mesh.names:
        assert mesh.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert mesh.route_states(name) == ["ready"] * 4


def test_silent_peers_get_fresh_sockets_again_and_again(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.run(10.0)
    assert 2 <= mesh.hosts["n1"].reconnects.count("n2") <= 4
    assert "n3" not in mesh.hosts["n1"].reconnects


def test_a_single_node_serves_at_once() -> None:
    mesh = Mesh(("n1",))
    mesh.start()
    mesh.run(0.1)
    mesh.attach_all()
    assert mesh.route_states("n1") == ["ready"] * 4
    assert all(entry.replicas == ["n1"] for entry in mesh.hosts["n1"].machine.board.routes.entries)


def test_the_view_of_a_log_moves_the_primary(mesh: Mesh) -> None:
    mesh.run(1.0)
    for name in ("n2", "n3"):
        host = mesh.hosts[name]
        mesh._perform(host, host.machine.positioned(1, 1, 1, mesh.now))
    mesh.run(0.5)
    for name in mesh.names:
        entry = mesh.hosts[name].machine.board.routes.entries[1]
        assert (entry.view, entry.node, entry.state) == (1, "n3", "ready")
    assert mesh.role("n3", b"worker:1:30001").primary
    assert mesh.role("n2", b"worker:1:20001").grant == 0
    with pytest.raises(AssertionError, match="never goes back"):
        mesh.hosts["n3"].machine.positioned(1, 1, 0, mesh.now)


def test_grants_that_are_used_up_raise_the_incarnation(mesh: Mesh) -> None:
    machine = mesh.hosts["n1"].machine
    machine.desk.workers._count = (1 << 20) - 1
    mesh.run(0.5)
    assert mesh.hosts["n1"].disk.incarnation == 2
    assert mesh.role("n1", b"worker:0:10000").grant >> 20 == 2
    assert mesh.route_states("n2") == ["ready"] * 4


def test_the_supervisors_table_tells_why_a_worker_is_missing(mesh: Mesh) -> None:
    reason = "left down after 5 deaths in a minute; the last: exit status 1"
    row = ProcessRecord("n2", "worker", "w-n2-1", 0, "failed", 4, "", reason)
    mesh.local("n2", b"supervisor:1", ProcessTable("host", [row], {"state": "ok", "error": ""}))
    mesh.run(0.3)
    entry = mesh.hosts["n1"].machine.board.routes.entries[1]
    assert entry.state == "unavailable" and reason in entry.reason
    assert asdict(row) == mesh.result("n3", "status", verbose=True)["processes"][0]
    assert any("w-n2-1 on n2 is left down" in text for text in mesh.alerts("n3"))


def test_a_supervisor_that_falls_silent_is_an_alert(mesh: Mesh) -> None:
    mesh.local("n2", b"supervisor:1", ProcessTable("host", [], {"state": "ok"}))
    mesh.run(4.0)
    assert mesh.alerts("n2") == []
    mesh.run(2.5)
    assert "supervisor of node n2's host is silent" in mesh.alerts("n1")[0]
