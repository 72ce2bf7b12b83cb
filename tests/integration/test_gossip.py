"""Three real gossip processes: they converge, notice the dead, and take back who returns."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import zmq

from connserver.messages import AdminReply, AdminRequest, Role
from tests.integration.gossip_cluster import DEADLINE_S, Cluster, Table, cluster

pytestmark = pytest.mark.integration


def all_ready(table: Table) -> bool:
    return [entry.state for entry in table.values()] == ["ready"] * 3


@pytest.fixture
def demo() -> Iterator[Cluster]:
    """Three nodes with a worker of each of three groups on each."""
    with cluster() as made:
        made.start()
        made.attach_all()
        for name in made.names:
            made.routes_when(name, all_ready)
        yield made


def test_three_processes_converge_and_one_that_is_killed_is_dead_within_seconds(demo: Cluster) -> None:
    tables = [demo.routes_when(name, all_ready) for name in demo.names]
    assert tables[0] == tables[1] == tables[2]
    assert [entry.node for entry in tables[0].values()] == ["n1", "n2", "n3"]
    assert demo.states("n3") == {"n1": "alive", "n2": "alive", "n3": "alive"}

    demo.children["n2"].kill()
    killed_at = time.monotonic()
    table = demo.routes_when("n1", lambda table: table[1].state == "unavailable")
    took = time.monotonic() - killed_at
    assert 0.5 < took < 3.0, f"noticed after {took:.2f} s"
    assert "n2" in table[1].reason
    demo.routes_when("n3", lambda table: table[1].state == "unavailable")
    assert demo.states("n1") == {"n1": "alive", "n2": "dead", "n3": "alive"}

    demo.start("n2")
    worker = demo.worker("n2", 1)
    back = demo.routes_when("n3", all_ready)
    assert back[1].grant > tables[0][1].grant and back[1].endpoint == worker.endpoint
    nodes = {row["name"]: row for row in demo.status("n1")["nodes"]}
    assert nodes["n2"] == {"name": "n2", "state": "alive", "incarnation": 2}


def test_who_joins_late_misses_nothing() -> None:
    with cluster() as late:
        late.start("n1", "n2")
        late.attach_all("n1", "n2")
        # without n3 a majority places the groups, after it has waited for the third
        late.routes_when("n1", lambda table: [table[0].state, table[1].state] == ["ready", "ready"])
        late.routes_when("n2", lambda table: [table[0].state, table[1].state] == ["ready", "ready"])
        late.start("n3")
        late.worker("n3", 2)
        for name in late.names:
            late.routes_when(name, all_ready)
        assert late.status("n3")["alerts"] == []


def test_a_stopped_process_is_given_up_and_refutes_when_it_wakes(demo: Cluster) -> None:
    before = demo.routes_when("n1", all_ready)
    process = demo.children["n3"].process
    process.send_signal(signal.SIGSTOP)
    demo.routes_when("n1", lambda table: table[2].state == "unavailable")
    demo.routes_when("n2", lambda table: table[2].state == "unavailable")
    process.send_signal(signal.SIGCONT)
    for name in demo.names:
        after = demo.routes_when(name, lambda table: all_ready(table) and table[2].grant > before[2].grant)
        assert demo.states(name) == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert after[2].grant >> 20 == 2


def test_a_workers_death_is_seen_and_its_successor_gets_a_new_grant(demo: Cluster) -> None:
    before = demo.routes_when("n3", all_ready)
    (worker,) = (row for row in demo.workers if (row.node, row.group) == ("n2", 1))
    second = demo.worker("n2", 1)
    assert second.hear(Role).grant == 0
    worker.kill()
    role = second.hear(Role, lambda role: role.grant > 0)
    assert role.primary and role.grant > before[1].grant
    after = demo.routes_when("n3", lambda table: table[1].grant == role.grant)
    assert (after[1].state, after[1].endpoint) == ("ready", second.endpoint)


def test_roles_come_again_without_being_asked(demo: Cluster) -> None:
    worker = demo.workers[0]
    granted = worker.hear(Role, lambda role: role.primary)
    assert [worker.hear(Role) for _ in range(3)] == [granted] * 3


def test_a_node_with_another_configuration_is_refused_and_named() -> None:
    with cluster() as mixed:
        other = mixed.write("other.toml", 3, "[replication]\nheartbeat_ms = 25\n")
        mixed.start("n1", "n2")
        mixed.start("n3", file=other)
        mixed.attach_all()
        # the third counts as absent, so the other two place the groups without it
        table = mixed.routes_when("n1", lambda table: table[2].state == "unavailable")
        assert "refused" in table[2].reason
        (alert,) = (row for row in mixed.status("n1")["alerts"] if row["about"] == "node:n3")
        assert "[replication]" in alert["text"] and alert["severity"] == "critical"
        assert mixed.states("n2")["n3"] == "refused"


def test_an_administrators_request_goes_to_the_primary_wherever_it_is(demo: Cluster) -> None:
    (worker,) = (row for row in demo.workers if (row.node, row.group) == ("n3", 2))
    asked = demo.request("n1", "object.get", oid="ffff000000000001")
    request = worker.hear(AdminRequest)
    assert (request.command, request.arguments) == ("object.get", {"oid": "ffff000000000001"})
    worker.say(AdminReply(request.number, {"kind": "thing"}, ""))
    assert asked.hear(AdminReply).result == {"kind": "thing"}

    route = demo.ask("n1", "route", target="room:lobby").result
    assert route["primary"]["node"] == demo.names[route["group"]]
    error = demo.ask("n1", "object.gte", oid="1").error
    assert "unknown command 'object.gte'" in error and "object.get" in error


def test_a_primary_that_does_not_answer_costs_five_seconds_and_says_so(demo: Cluster) -> None:
    asked_at = time.monotonic()
    error = demo.ask("n1", "object.get", oid="ffff000000000001").error
    assert 4.5 < time.monotonic() - asked_at < 8
    assert "group 2 on n3 did not answer within 5 s" in error


def test_stopping_in_order_is_no_death(demo: Cluster) -> None:
    process = demo.children["n3"].process
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    demo.routes_when("n1", lambda table: table[2].state == "unavailable")
    assert demo.states("n1")["n3"] == "stopped"


def test_a_gossip_process_does_not_outlive_its_supervisor(demo: Cluster) -> None:
    child = demo.children["n1"]
    child.cut_lifeline()
    assert child.process.wait(DEADLINE_S) == 0
    assert "the supervisor is gone" in child.log.read_text()


def test_a_second_process_on_the_same_folder_is_refused(demo: Cluster) -> None:
    with pytest.raises(AssertionError, match="another gossip process of this node is running"):
        demo.start("n1")
    assert demo.children["n1"].process.wait(DEADLINE_S) == 1
    assert demo.states("n2")["n1"] == "alive"


def test_garbage_on_its_sockets_does_it_no_harm(demo: Cluster) -> None:
    peer = demo.peer("n1", b"gossip:n2")
    keyed_by_list = b"\x01\x92\x29\x81\x91\x01\x02"
    for junk in (b"", b"\x01", b"\x01\x91\xce\xff\xff\xff\xff", keyed_by_list, os.urandom(4096)):
        assert peer.socket.poll(int(DEADLINE_S * 1000), zmq.POLLOUT)
        peer.socket.send_multipart([junk])
        peer.socket.send_multipart([junk, junk])
        peer.socket.send_multipart([junk, junk, junk, junk])
    peer.say(AdminRequest(1, "routes", {}))
    assert len(peer.hear(AdminReply).result["routes"]) == 3
    assert demo.children["n1"].process.poll() is None


def test_a_lost_folder_comes_back_with_the_placement_and_a_higher_incarnation(demo: Cluster) -> None:
    before = demo.routes_when("n1", all_ready)
    demo.children["n2"].kill()
    folder = demo.places.node_dir("n2")
    placement = (folder / "placement").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    demo.routes_when("n1", lambda table: table[1].state == "unavailable")
    demo.start("n2")
    worker = demo.worker("n2", 1)
    after = demo.routes_when("n1", all_ready)
    assert after[1].endpoint == worker.endpoint and after[1].grant > before[1].grant
    assert (folder / "placement").read_bytes() == placement
