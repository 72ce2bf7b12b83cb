"""Three real gossip processes: they converge, notice the dead, and take back who returns."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from connserver.codec import decode
from connserver.messages import (
    NO_STATE,
    STALE_GRANT,
    AdminReply,
    AdminRequest,
    Attach,
    Refused,
    Role,
)
from tests.integration.gossip_cluster import DEADLINE_S, Cluster, Table, cluster

pytestmark = pytest.mark.integration


def all_ready(table: Table) -> bool:
    return [entry.state for entry in table.values()] == ["ready"] * 3


def serves_nothing(node: str, table: Table) -> bool:
    return node not in [entry.node for entry in table.values()]


@pytest.fixture
def demo() -> Iterator[Cluster]:
    """Three nodes with a worker of each of three groups on each."""
    with cluster() as made:
        made.start()
        made.attach_all()
        for name in made.names:
            made.routes_when(name, all_ready)
        yield made


def serves_elsewhere(group: int, than: str) -> Callable[[Table], bool]:
    return lambda table: table[group].state == "ready" and table[group].node != than


def test_three_processes_converge_and_one_that_is_killed_is_replaced_and_comes_back(demo: Cluster) -> None:
    tables = [demo.routes_when(name, all_ready) for name in demo.names]
    assert tables[0] == tables[1] == tables[2]
    assert demo.states("n3") == {"n1": "alive", "n2": "alive", "n3": "alive"}
    old = demo.primary(1)
    old.submit(b"one", b"two")
    assert old.learn(2) == [b"one", b"two"]

    demo.kill_node(old.node)
    killed_at = time.monotonic()
    left = [name for name in demo.names if name != old.node]
    for name in left:
        table = demo.routes_when(name, serves_elsewhere(1, old.node))
        assert table[1].view > tables[0][1].view and table[1].grant != tables[0][1].grant
    new = demo.worker_of(table[1].node, 1)
    new.hear(Role, lambda role: role.grant == table[1].grant)
    new.submit(b"three")
    assert new.learn(3) == [b"one", b"two", b"three"]
    while demo.states(left[0])[old.node] != "dead":
        assert time.monotonic() - killed_at < DEADLINE_S
    for name in left:
        demo.routes_when(name, all_ready)

    demo.start(old.node)
    back = demo.worker(old.node, 1)
    assert back.learn(3) == [b"one", b"two", b"three"]
    for name in demo.names:
        demo.routes_when(name, all_ready)
    nodes = {row["name"]: row for row in demo.status(left[0])["nodes"]}
    assert nodes[old.node] == {"name": old.node, "state": "alive", "incarnation": 2}


def test_who_joins_late_misses_nothing() -> None:
    with cluster() as late:
        late.start("n1", "n2")
        late.attach_all("n1", "n2")
        # a majority places the groups after it has waited for the third; they begin with all three
        table = late.routes_when("n1", lambda table: "for the first time" in table[0].reason)
        assert "node n3 is dead" in table[0].reason
        late.start("n3")
        for name in late.names:
            late.routes_when(name, all_ready)
        assert late.status("n3")["alerts"] == []


def test_a_stopped_primary_is_replaced_and_what_it_says_when_it_wakes_is_refused(demo: Cluster) -> None:
    old = demo.primary(2)
    before = demo.routes_when("n1", all_ready)[2]
    others = [name for name in demo.names if name != old.node]
    process = demo.children[old.node].process
    process.send_signal(signal.SIGSTOP)
    table = demo.routes_when(others[0], serves_elsewhere(2, old.node))
    new = demo.worker_of(table[2].node, 2)
    new.hear(Role, lambda role: role.grant == table[2].grant)
    new.submit(b"kept")
    assert new.learn(1) == [b"kept"]
    until = time.monotonic() + DEADLINE_S
    while demo.states(others[0])[old.node] != "dead":
        assert time.monotonic() < until

    message = old.submit(b"never")
    process.send_signal(signal.SIGCONT)
    old.hear(Role, lambda role: role.grant == 0)
    assert old.model.ended, "it has executed what never happened"
    old.say(message)
    refused = old.hear(Refused, lambda refused: refused.grant == before.grant)
    assert refused.reason == STALE_GRANT
    for name in demo.names:
        assert demo.routes_when(name, all_ready)[2].node == new.node
    old.kill()
    assert demo.worker(old.node, 2).learn(1) == [b"kept"]
    nodes = {row["name"]: (row["state"], row["incarnation"]) for row in demo.status(others[0])["nodes"]}
    assert nodes[old.node] == ("alive", 2), "it has refuted its death"


def test_a_workers_death_is_seen_its_request_blamed_and_its_group_goes_on(demo: Cluster) -> None:
    worker = demo.primary(1)
    before = demo.routes_when("n3", all_ready)[1]
    second = demo.worker(worker.node, 1)
    assert second.model.grant == 0
    worker.note.enter(7, 8, 9)
    worker.kill()
    after = demo.routes_when("n3", serves_elsewhere(1, worker.node))[1]
    assert after.view > before.view and after.grant != before.grant
    assert [decode(payload).suspects for payload in demo.primary(1).learn(1)] == [[[7, 8, 9]]]
    assert [decode(payload).suspects for payload in second.learn(1)] == [[[7, 8, 9]]]
    for name in demo.names:
        if name != worker.node:
            demo.worker_of(name, 1).kill()
    role = second.hear(Role, lambda role: role.grant > 0)
    last = demo.routes_when("n3", lambda table: table[1].grant == role.grant)[1]
    assert (last.state, last.endpoint) == ("ready", second.endpoint)


def test_a_worker_that_hangs_is_killed_and_its_group_goes_on(demo: Cluster) -> None:
    worker = demo.primary(1)
    worker.note.enter(1, 2, 3)
    worker.hangs = True
    assert worker.process.wait(DEADLINE_S) == -signal.SIGKILL
    demo.routes_when("n1", serves_elsewhere(1, worker.node))
    assert [decode(payload).suspects for payload in demo.primary(1).learn(1)] == [[[1, 2, 3]]]
    assert all(other.process.poll() is None for other in demo.workers if other is not worker)


def test_workers_outlive_their_gossip_and_begin_anew_with_the_next(demo: Cluster) -> None:
    old = demo.primary(1)
    old.submit(b"before")
    old.learn(1)
    demo.children[old.node].kill()
    table = demo.routes_when(
        next(name for name in demo.names if name != old.node), serves_elsewhere(1, old.node)
    )
    new = demo.worker_of(table[1].node, 1)
    new.hear(Role, lambda role: role.grant == table[1].grant)
    new.submit(b"after")
    demo.start(old.node)
    boot = old.model.gossip
    old.say(Attach(1, old.pid, old.endpoint, 0, 0, NO_STATE, 0))  # as after a while of silence
    assert old.learn(2) == [b"before", b"after"]
    assert old.model.gossip != boot and not old.model.grant and not old.model.ended
    assert demo.routes_when(old.node, all_ready)[1].node == new.node


def test_everything_at_once_and_everything_is_there_again(demo: Cluster) -> None:
    for group in range(3):
        worker = demo.primary(group)
        worker.submit(b"%d" % group)
        worker.learn(1)
    for name in demo.names:
        demo.kill_node(name)
    demo.start()
    demo.attach_all()
    for name in demo.names:
        demo.routes_when(name, all_ready)
        for group in range(3):
            assert demo.worker_of(name, group).learn(1) == [b"%d" % group]


def test_roles_come_again_without_being_asked(demo: Cluster) -> None:
    worker = demo.primary(0)
    granted = worker.hear(Role, lambda role: role.role == "primary")
    assert [worker.hear(Role) for _ in range(3)] == [granted] * 3


def test_a_node_with_another_configuration_is_refused_and_the_others_go_on(demo: Cluster) -> None:
    other = demo.write("other.toml", 3, "[replication]\nheartbeat_ms = 25\n")
    demo.kill_node("n3")
    demo.start("n3", file=other)
    demo.attach_all("n3")
    until = time.monotonic() + DEADLINE_S
    while demo.states("n2")["n3"] != "refused":
        assert time.monotonic() < until
    table = demo.routes_when("n1", all_ready)
    assert "n3" not in [entry.node for entry in table.values()]
    (alert,) = (row for row in demo.status("n1")["alerts"] if row["about"] == "node:n3")
    assert "[replication]" in alert["text"] and alert["severity"] == "critical"
    worker = demo.primary(2)
    worker.submit(b"without n3")
    assert worker.learn(1) == [b"without n3"]


def test_an_administrators_request_goes_to_the_primary_wherever_it_is(demo: Cluster) -> None:
    worker = demo.primary(2)
    asked = demo.request("n1", "object.get", oid="ffff000000000001")
    request = worker.hear(AdminRequest)
    assert (request.command, request.arguments) == ("object.get", {"oid": "ffff000000000001"})
    worker.say(AdminReply(request.number, {"kind": "thing"}, ""))
    assert asked.hear(AdminReply).result == {"kind": "thing"}

    route = demo.ask("n1", "route", target="room:lobby").result
    assert route["primary"]["node"] == demo.primary(route["group"]).node
    error = demo.ask("n1", "object.gte", oid="1").error
    assert "unknown command 'object.gte'" in error and "object.get" in error


def test_a_primary_that_does_not_answer_costs_five_seconds_and_says_so(demo: Cluster) -> None:
    asked_at = time.monotonic()
    error = demo.ask("n1", "object.get", oid="ffff000000000001").error
    assert 4.5 < time.monotonic() - asked_at < 8
    assert f"group 2 on {demo.primary(2).node} did not answer within 5 s" in error


def test_stopping_in_order_is_no_death(demo: Cluster) -> None:
    process = demo.children["n3"].process
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    table = demo.routes_when("n1", lambda table: all_ready(table) and serves_nothing("n3", table))
    assert table[2].node != "n3" and demo.states("n1")["n3"] == "stopped"


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


def test_a_lost_folder_comes_back_with_the_placement_the_log_and_a_higher_incarnation(demo: Cluster) -> None:
    worker = demo.primary(1)
    worker.submit(b"one", b"two")
    worker.learn(2)
    lost = worker.node
    demo.kill_node(lost)
    folder = demo.places.node_dir(lost)
    placement = (folder / "placement").read_bytes()
    shutil.rmtree(folder)
    other = next(name for name in demo.names if name != lost)
    demo.routes_when(other, serves_elsewhere(1, lost))
    demo.start(lost)
    assert demo.worker(lost, 1).learn(2) == [b"one", b"two"]
    demo.routes_when(lost, all_ready)
    assert (folder / "placement").read_bytes() == placement
    nodes = {row["name"]: row for row in demo.status(other)["nodes"]}
    assert nodes[lost]["incarnation"] == 2
