"""Gossip machines together: they find each other, agree, serve, notice what is gone, and go on without it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from connserver.messages import GetRoutes, ProcessRecord, ProcessTable, Role, Routes
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


def ranks(mesh: Mesh, name: str, group: int) -> list[tuple[int, int, int]]:
    """What a node has published of a group with a grant, in order. Its views are looked at here."""
    entries = [entry for routes in mesh.hosts[name].routes for entry in routes.entries if entry.node]
    mine = [(entry.era, entry.view, entry.grant) for entry in entries if entry.group == group]
    views = [rank[:2] for rank in mine]
    assert views == sorted(views), (name, group)
    return [rank for rank in mine if rank[2]]


# --- all is well ----------------------------------------------------------------------------------------


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


def test_only_the_primary_has_a_grant_and_the_routes_show_it(mesh: Mesh) -> None:
    for group, primary in enumerate(("n1", "n2", "n3", "n1")):
        for name in mesh.names:
            role = mesh.role(name, mesh.worker(name, group).identity)
            assert (role.role, bool(role.grant)) == (
                ("primary", True) if name == primary else ("backup", False)
            )
            assert role.attached and (role.era, role.view) == (1, 0)
            if name == primary:
                assert mesh.route("n3", group).grant == role.grant == mesh.worker(name, group).grant


def test_a_group_is_ready_only_when_its_worker_serves() -> None:
    mesh = Mesh()
    mesh.start()
    mesh.run(1.0)
    assert mesh.route_states("n1") == ["starting"] * 4
    assert "has not attached yet" in mesh.route("n1", 1).reason
    mesh.attach("n2", 1, 100, loaded=False)
    mesh.run(0.3)
    assert "w-n2-1 is loading the objects of group 1" in mesh.route("n1", 1).reason
    worker = mesh.worker("n2", 1)
    mesh.local("n2", worker.identity, worker.load())
    mesh.run(0.1)
    assert mesh.route_states("n1") == ["starting", "ready", "starting", "starting"]
    assert mesh.route("n1", 1).grant == worker.grant


def test_roles_are_repeated_as_a_heartbeat_also_to_one_that_waits(mesh: Mesh) -> None:
    mesh.attach("n1", 0, 200)
    before = [len(mesh.got("n1", name)) for name in (b"worker:0:10000", b"worker:0:200")]
    mesh.run(1.0)
    after = [len(mesh.got("n1", name)) for name in (b"worker:0:10000", b"worker:0:200")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [4, 4]


def test_an_idle_cluster_changes_nothing(mesh: Mesh) -> None:
    mesh.run(2.0)
    versions = [mesh.hosts[name].machine.board.routes.version for name in mesh.names]
    records = mesh.hosts["n1"].machine.book.versions()
    written = [len(host.disk.records) for host in mesh.hosts.values()]
    mesh.run(30.0)
    assert [mesh.hosts[name].machine.board.routes.version for name in mesh.names] == versions
    assert mesh.hosts["n1"].machine.book.versions() == records
    assert [len(host.disk.records) for host in mesh.hosts.values()] == written


def test_routes_are_published_every_second_also_without_change(mesh: Mesh) -> None:
    before = len(mesh.hosts["n1"].routes)
    mesh.run(5.0)
    assert len(mesh.hosts["n1"].routes) - before == 5


def test_a_change_reaches_all_nodes_without_waiting_for_a_heartbeat(mesh: Mesh) -> None:
    mesh.kill("n3")
    mesh.kill("n1")
    mesh.run(2.0)
    mesh.start("n1")
    mesh.run(1.0)  # group 1: its other replicas have no worker
    assert mesh.route("n1", 1).state == "ready"
    mesh.now += 0.05
    mesh.die("n2", 20001)
    for name in ("n1", "n2"):
        assert mesh.route(name, 1).state == "starting"


def test_get_routes_answers_whoever_subscribed_too_late(mesh: Mesh) -> None:
    mesh.local("n3", b"gateway:gw-n3-0:ab", GetRoutes("gw-n3-0"))
    (answer,) = mesh.got("n3", b"gateway:gw-n3-0:ab")
    assert isinstance(answer, Routes)
    assert [entry.state for entry in answer.entries] == ["ready"] * 4


def test_a_single_node_serves_at_once_and_again_after_a_restart() -> None:
    mesh = Mesh(("n1",))
    mesh.start()
    mesh.run(0.2)
    mesh.attach_all()
    mesh.run(0.1)
    assert mesh.route_states("n1") == ["ready"] * 4
    assert all(entry.replicas == ["n1"] for entry in mesh.hosts["n1"].machine.board.routes.entries)
    mesh.submit("n1", 2, b"alone")
    mesh.kill("n1")
    mesh.start("n1")
    mesh.attach_all()
    mesh.run(0.5)
    assert mesh.route_states("n1") == ["ready"] * 4
    assert mesh.worker("n1", 2).entries == {1: b"alone"}


# --- a node is gone ---------------------------------------------------------------------------------------


def test_another_replica_takes_over_long_before_the_node_is_held_dead(mesh: Mesh) -> None:
    old = mesh.route("n1", 1)
    mesh.submit("n2", 1, b"one", b"two")
    mesh.kill("n2")
    mesh.run(0.3)
    for name in ("n1", "n3"):
        assert mesh.states(name)["n2"] == "alive"
        assert mesh.route_states(name) == ["ready"] * 4
        entry = mesh.route(name, 1)
        assert (entry.node, entry.view) == ("n3", 1)
        assert entry.grant == mesh.worker("n3", 1).grant != old.grant
    assert mesh.worker("n3", 1).entries == {1: b"one", 2: b"two"}
    mesh.submit("n3", 1, b"three")
    mesh.run(0.1)
    assert mesh.worker("n1", 1).entries == {1: b"one", 2: b"two", 3: b"three"}


def test_a_dead_node_is_noticed_within_two_seconds_and_nothing_is_missing(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.run(1.7)
    for name in ("n1", "n3"):
        assert mesh.states(name)["n2"] == "dead"
        assert mesh.route_states(name) == ["ready"] * 4
        (alert,) = mesh.alerts(name)
        assert alert.startswith("Node n2 is dead")


def test_two_dead_nodes_leave_no_majority_and_the_reason_names_them(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.kill("n3")
    mesh.run(2.0)
    assert mesh.route_states("n1") == ["unavailable"] * 4
    reason = mesh.route("n1", 1).reason
    assert "needs 2 of its nodes" in reason and "n2 is dead" in reason and "n3 is dead" in reason
    assert any("Group 1 is not served" in text for text in mesh.alerts("n1"))
    worker = mesh.submit("n1", 0, b"nobody agrees")
    mesh.run(5.0)
    assert worker.entries == {}, "committed without a majority"


def test_a_majority_without_a_worker_says_whom_it_waits_for(mesh: Mesh) -> None:
    for name, pid in (("n1", 10001), ("n3", 30001)):
        mesh.die(name, pid)
    mesh.kill("n2")
    mesh.run(2.0)
    entry = mesh.route("n1", 1)
    assert entry.state == "starting" and entry.node in ("n1", "n3")
    assert f"w-{entry.node}-1 has not attached yet" in entry.reason or "is not attached" in entry.reason


def test_a_node_that_comes_back_catches_up_and_is_next_in_line(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.run(2.0)
    mesh.submit("n3", 1, b"missed")
    mesh.start("n2")
    mesh.run(0.5)
    assert mesh.states("n1")["n2"] == "alive"
    assert mesh.route_states("n1") == ["ready"] * 4
    mesh.attach("n2", 1, 999)
    mesh.run(0.3)
    assert mesh.route("n1", 1).node == "n3", "who serves well is not disturbed"
    assert mesh.worker("n2", 1).entries == {1: b"missed"}
    mesh.kill("n3")
    mesh.kill("n1")
    mesh.start("n1")
    mesh.run(1.0)
    entry = mesh.route("n2", 1)
    assert (entry.state, entry.node) == ("ready", "n2") and entry.endpoint.endswith("-999")


def test_entries_never_go_back_whatever_happens(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.run(2.0)
    mesh.start("n2")
    mesh.run(1.0)
    mesh.attach("n2", 1, 999)
    mesh.run(1.0)
    mesh.die("n3", 30001)
    mesh.run(1.0)
    mesh.attach("n3", 1, 1000)
    mesh.kill_gossip("n2")
    mesh.start("n2")
    mesh.run(1.0)
    mesh.hosts["n3"].paused = True
    mesh.run(3.0)
    mesh.wake("n3")
    mesh.run(1.0)
    for name in ("n1", "n3"):
        for group in range(4):
            found = ranks(mesh, name, group)
            assert found == sorted(found), (name, group)
        assert len(set(ranks(mesh, name, 1))) >= 4


def test_a_primary_that_was_paused_has_been_replaced_and_refutes_its_death(mesh: Mesh) -> None:
    mesh.hosts["n2"].paused = True
    mesh.run(0.8)
    assert mesh.states("n1")["n2"] == "suspect"
    assert mesh.route_states("n1") == ["ready"] * 4
    assert mesh.route("n1", 1).node == "n3"
    mesh.run(1.2)
    assert mesh.states("n1")["n2"] == "dead"
    mesh.wake("n2")
    mesh.run(0.3)
    for name in mesh.names:
        assert mesh.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert mesh.route_states(name) == ["ready"] * 4
        assert mesh.route(name, 1).node == "n3"
    assert mesh.hosts["n2"].disk.incarnation == 2
    assert mesh.hosts["n2"].machine.membership.incarnation == 2
    assert mesh.role("n2", b"worker:1:20001").grant == 0


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
    mesh.perform("n3", mesh.hosts["n3"].machine.stopping(mesh.now))
    mesh.kill("n3")
    assert mesh.states("n1")["n3"] == "stopped"
    entry = mesh.route("n1", 2)
    assert entry.state == "starting"
    assert "n3 was stopped" in entry.reason and "another replica of group 2 takes over" in entry.reason
    mesh.run(0.3)
    assert mesh.route_states("n1") == ["ready"] * 4
    mesh.run(5.0)
    assert mesh.states("n2")["n3"] == "stopped"


# --- links that are cut ---------------------------------------------------------------------------------


def test_one_cut_link_accuses_nobody_and_every_group_finds_a_primary(mesh: Mesh) -> None:
    mesh.cuts = {("n2", "n1"), ("n1", "n2")}
    mesh.run(10.0)
    for name in mesh.names:
        assert mesh.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert mesh.route_states(name) == ["ready"] * 4
    assert "n2" in mesh.hosts["n1"].reconnects


def test_records_come_round_a_cut_link(mesh: Mesh) -> None:
    mesh.cuts = {("n2", "n1"), ("n1", "n2")}
    mesh.run(1.0)
    mesh.report("n2", b"worker:2:20002", 7, 7, storage="down")
    mesh.run(0.5)
    rows = mesh.hosts["n1"].machine.book.records["n2"].workers
    assert [row.storage for row in rows if row.group == 2] == ["down"]


def test_a_link_that_is_cut_in_one_direction_accuses_nobody(mesh: Mesh) -> None:
    mesh.cuts = {("n2", "n1")}
    mesh.run(10.0)
    assert {mesh.hosts[name].disk.incarnation for name in mesh.names} == {1}
    assert mesh.states("n1")["n2"] == "alive"
    assert mesh.route_states("n3") == ["ready"] * 4


def test_the_smaller_half_of_a_split_serves_nothing_and_it_heals(mesh: Mesh) -> None:
    mesh.cuts = {("n3", "n1"), ("n3", "n2"), ("n1", "n3"), ("n2", "n3")}
    cut_off = mesh.submit("n3", 2, b"lost")
    mesh.run(3.0)
    assert mesh.states("n3") == {"n1": "dead", "n2": "dead", "n3": "alive"}
    assert mesh.states("n1") == {"n1": "alive", "n2": "alive", "n3": "dead"}
    assert mesh.route_states("n1") == mesh.route_states("n2") == ["ready"] * 4
    assert mesh.route_states("n3") == ["unavailable"] * 4
    mesh.submit(mesh.route("n1", 2).node, 2, b"kept")
    mesh.cuts = set()
    mesh.run(1.0)
    for name in mesh.names:
        assert mesh.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert mesh.route_states(name) == ["ready"] * 4
        assert mesh.payloads(name, 2) == [b"kept"]
    assert cut_off.ended == "it executed what may not have been committed"


def test_silent_peers_get_fresh_sockets_again_and_again(mesh: Mesh) -> None:
    mesh.kill("n2")
    mesh.run(10.0)
    assert 2 <= mesh.hosts["n1"].reconnects.count("n2") <= 4
    assert "n3" not in mesh.hosts["n1"].reconnects


# --- workers --------------------------------------------------------------------------------------------


def test_a_dead_workers_group_goes_on_elsewhere(mesh: Mesh) -> None:
    before = mesh.route("n3", 1)
    mesh.die("n2", 20001)
    mesh.run(0.1)
    for name in mesh.names:
        entry = mesh.route(name, 1)
        assert (entry.state, entry.node, entry.view) == ("ready", "n3", 1)
        assert entry.grant == mesh.worker("n3", 1).grant != before.grant


def test_a_second_process_takes_over_only_after_the_first_is_dead(mesh: Mesh) -> None:
    for name, pid in (("n1", 10001), ("n3", 30001)):
        mesh.die(name, pid)
    mesh.run(0.1)
    mesh.attach("n2", 1, 999)
    mesh.run(1.0)
    assert mesh.role("n2", b"worker:1:999").grant == 0
    assert mesh.route("n1", 1).endpoint.endswith("-20001")
    old = mesh.route("n1", 1)
    mesh.die("n2", 20001)
    mesh.run(0.2)
    new = mesh.route("n1", 1)
    assert (new.state, new.node) == ("ready", "n2") and new.endpoint.endswith("-999")
    assert new.grant == mesh.role("n2", b"worker:1:999").grant > old.grant
    assert new.view == old.view, "nobody else could take over"


def test_a_worker_that_was_told_nothing_has_no_role(mesh: Mesh) -> None:
    assert not [row for row in mesh.got("n1", b"worker:9:9") if isinstance(row, Role)]


def test_the_supervisors_table_tells_why_a_worker_is_missing(mesh: Mesh) -> None:
    for name, pid in (("n1", 10001), ("n3", 30001)):
        mesh.die(name, pid)
    reason = "left down after 5 deaths in a minute; the last: exit status 1"
    row = ProcessRecord("n2", "worker", "w-n2-1", 0, "failed", 4, "", reason)
    mesh.local("n2", b"supervisor:1", ProcessTable("host", [row], {"state": "ok", "error": ""}))
    mesh.run(0.3)
    entry = mesh.route("n1", 1)
    assert entry.state == "unavailable" and reason in entry.reason
    assert asdict(row) == mesh.result("n3", "status", verbose=True)["processes"][0]
    assert any("w-n2-1 on n2 is left down" in text for text in mesh.alerts("n3"))


def test_a_supervisor_that_falls_silent_is_an_alert(mesh: Mesh) -> None:
    mesh.local("n2", b"supervisor:1", ProcessTable("host", [], {"state": "ok"}))
    mesh.run(4.0)
    assert mesh.alerts("n2") == []
    mesh.run(2.5)
    assert "supervisor of node n2's host is silent" in mesh.alerts("n1")[0]
