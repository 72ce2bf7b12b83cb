"""What a gossip machine refuses: other configurations, other clusters, other placements, nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connserver.ids import GroupId
from connserver.limits import PLACEMENT_WAIT_MS
from connserver.messages import (
    AdminReply,
    AdminRequest,
    Attach,
    Forward,
    Forwarded,
    GatewayReport,
    GroupPosition,
    Heartbeat,
    Records,
    Sighting,
)
from gossip.effects import Publish, SendPeer
from gossip.node_records import empty_record
from gossip.placement import compute
from gossip.protocol import ExitView
from gossip.wire import Encoder
from tests.unit.gossip.mesh import Mesh, heartbeat

WAIT_S = PLACEMENT_WAIT_MS / 1000
POSITION = GroupPosition(0, 1, 0, "normal", 0, 0, 0, 0, True, "")
ATTACH = Attach(0, 100, "ipc://x", 1, 1, 0, 0)


@pytest.fixture
def mesh() -> Mesh:
    """Three nodes that serve."""
    mesh = Mesh()
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.run(1.1)
    return mesh


def fresh() -> Mesh:
    """Three nodes that have not been started."""
    return Mesh()


# --- configuration -------------------------------------------------------------------------------------


def test_a_node_with_another_file_is_refused_and_the_section_is_named() -> None:
    mesh = fresh()
    mesh.hosts["n3"].digest = "e" * 32
    mesh.hosts["n3"].sections["replication"] = "other"
    mesh.start()
    mesh.run(2.0)
    for name in ("n1", "n2"):
        assert mesh.states(name)["n3"] == "refused"
        assert "Node n3 runs with another cluster.toml; [replication] differs" in mesh.alerts(name)[0]
    assert mesh.states("n3") == {"n1": "refused", "n2": "refused", "n3": "alive"}
    assert mesh.hosts["n3"].disk.placement is None, "it may not place anything alone"
    mesh.run(WAIT_S)
    assert mesh.hosts["n1"].disk.placement is not None
    mesh.attach_all()
    mesh.run(1.0)
    assert mesh.route_states("n1") == ["starting"] * 4, "a group begins with all three or not at all"
    assert "for the first time: node n3 is refused" in mesh.route("n1", 2).reason
    for name in mesh.names:
        assert not any(worker.grant for worker in mesh.hosts[name].workers.values())


def test_a_file_that_is_changed_on_one_node_costs_that_node_only(mesh: Mesh) -> None:
    mesh.kill("n3")
    mesh.hosts["n3"].digest = "e" * 32
    mesh.start("n3")
    mesh.attach("n3", 2, 100)
    mesh.run(2.0)
    assert mesh.states("n1")["n3"] == "refused"
    assert mesh.route_states("n1") == ["ready"] * 4
    assert mesh.route("n1", 2).node != "n3"
    assert mesh.role("n3", b"worker:2:100").grant == 0
    committed = mesh.submit(mesh.route("n1", 2).node, 2, b"without n3")
    mesh.run(1.0)
    assert committed.entries == {1: b"without n3"}
    assert mesh.payloads("n3", 2) == [], "nothing of others counts there"


def test_a_corrected_file_is_accepted_after_a_restart() -> None:
    mesh = fresh()
    host = mesh.hosts["n3"]
    host.digest, right = "e" * 32, host.digest
    mesh.start()
    mesh.run(2.0)
    mesh.kill("n3")
    mesh.run(2.0)
    assert mesh.states("n1")["n3"] == "dead", "refused ends when it is silent"
    host.digest = right
    mesh.start("n3")
    mesh.run(3.0)
    assert mesh.states("n1")["n3"] == "alive"
    assert mesh.alerts("n1") == []


def test_another_cluster_on_our_address_is_named_and_ignored(mesh: Mesh) -> None:
    mesh.kill("n3")
    mesh.hosts["n3"].cluster = "shop"
    mesh.start("n3")
    mesh.run(0.5)
    assert "A gossip process of cluster 'shop' speaks from the address of node n3" in mesh.alerts("n1")[0]
    assert mesh.states("n1")["n3"] == "refused"


def test_a_node_under_a_wrong_name_is_named_and_ignored(mesh: Mesh) -> None:
    beat = heartbeat(mesh, "n3")
    host = mesh.hosts["n1"]
    mesh.perform(host.name, host.machine.published("n2", beat, mesh.now))
    assert "at the address of node n2 says that it is 'n3'" in mesh.alerts("n1")[0]
    mesh.run(2.0)
    assert mesh.states("n1")["n2"] == "alive", "the right one is still heard"


def test_what_a_refused_node_says_directly_has_no_effect() -> None:
    mesh = fresh()
    mesh.hosts["n3"].digest = "e" * 32
    mesh.start()
    mesh.run(WAIT_S + 1)
    mesh.attach("n1", 0, 100)
    host = mesh.hosts["n1"]
    before = host.log.set.status(GroupId(0))
    bundle = Encoder("n3").encode("n1", 9, (ExitView(GroupId(0), before.era, 8),))
    for _ in range(3):
        mesh._give(host, "log", "n3", bundle)
    assert host.log.set.status(GroupId(0)).view == before.view
    forged = replace(empty_record("n2", 9), refusal="forged")
    for message in (Records([forged]), Forward(1, 0, "object.get", {}), Forwarded(1, None, "")):
        assert not [
            effect for effect in host.machine.direct("n3", message, mesh.now) if isinstance(effect, SendPeer)
        ]
    assert host.machine.book.records["n2"].refusal == ""
    assert not any(isinstance(row, AdminRequest) for row in mesh.got("n1", b"worker:0:100"))


# --- placement -----------------------------------------------------------------------------------------


def test_two_of_three_wait_for_the_third_and_then_place_the_groups() -> None:
    mesh = fresh()
    mesh.start("n1", "n2")
    mesh.attach_all()
    mesh.run(WAIT_S - 1)
    assert mesh.hosts["n1"].disk.placement is None
    assert "waits for n3" in mesh.alerts("n1")[-1]
    mesh.run(1.5)
    assert mesh.hosts["n1"].disk.placement is not None
    assert mesh.hosts["n1"].disk.placement == mesh.hosts["n2"].disk.placement
    assert mesh.route_states("n1") == ["starting"] * 4
    assert "for the first time: node n3 is dead" in mesh.route("n1", 0).reason
    mesh.start("n3")
    mesh.run(3.0)
    assert mesh.hosts["n3"].disk.placement == mesh.hosts["n1"].disk.placement
    assert mesh.route_states("n3") == ["ready"] * 4, "the workers of the two wait and then begin"


def test_one_of_three_places_nothing() -> None:
    mesh = fresh()
    mesh.start("n2")
    mesh.run(60.0)
    mesh.attach("n2", 1, 100)
    mesh.run(1.0)
    assert mesh.hosts["n2"].disk.placement is None
    assert mesh.role("n2", b"worker:1:100").grant == 0
    assert mesh.route_states("n2") == ["starting"] * 4


def test_a_lost_folder_takes_the_placement_and_overtakes_its_former_incarnation() -> None:
    mesh = fresh()
    odd = compute("demo", ("n3", "n2", "n1"), 4)  # what the file would not give
    for host in mesh.hosts.values():
        host.disk.placement, host.disk.incarnation = odd, 6
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.run(0.2)
    mesh.submit(mesh.route("n1", 1).node, 1, b"kept")
    mesh.kill("n2")
    mesh.hosts["n2"].disk.lose()
    mesh.run(2.0)
    mesh.start("n2")
    mesh.attach("n2", 1, 100)
    mesh.run(1.0)
    assert mesh.hosts["n2"].disk.placement == odd
    assert mesh.hosts["n2"].disk.incarnation == 8
    assert mesh.states("n1")["n2"] == "alive"
    assert mesh.payloads("n2", 1) == [b"kept"], "its log came back from the others"
    assert mesh.worker("n2", 1).entries == {1: b"kept"}


def test_a_damaged_placement_file_is_replaced_by_the_others(mesh: Mesh) -> None:
    host = mesh.hosts["n2"]
    placement = host.disk.placement
    mesh.kill("n2")
    host.disk.placement, host.disk.damaged = None, True
    mesh.start("n2")
    mesh.run(1.0)
    assert host.disk.placement == placement


def test_a_node_with_another_placement_serves_nothing_and_the_others_go_on(mesh: Mesh) -> None:
    mesh.kill("n3")
    mesh.hosts["n3"].disk.placement = compute("demo", ("n3", "n1", "n2"), 4)
    mesh.start("n3")
    mesh.attach("n3", 2, 100)
    mesh.run(0.8)
    assert mesh.role("n3", b"worker:2:100").grant == 0
    assert mesh.route_states("n1") == ["ready"] * 4
    assert mesh.route("n1", 2).node in ("n1", "n2")
    assert "its placement differs from that of n1, n2" in mesh.hosts["n1"].machine.book.records["n3"].refusal
    assert any("n1 and n3 hold different placements" in text for text in mesh.alerts("n1"))
    assert any("Until then n3 serves nothing" in text for text in mesh.alerts("n1"))
    assert mesh.role("n1", b"worker:0:10000").grant
    mesh.kill("n2")
    mesh.run(2.0)
    reason = mesh.route("n1", 2).reason
    assert "node n2 is dead" in reason and "n3 serves nothing: its placement differs" in reason


def test_one_that_finds_out_later_that_its_placement_differs_gets_no_grant(mesh: Mesh) -> None:
    for name in mesh.names:
        mesh.kill(name)
    mesh.hosts["n3"].disk.placement = compute("demo", ("n3", "n1", "n2"), 4)
    mesh.start("n3")
    mesh.attach_all()  # nobody contradicts it yet, so its workers begin
    mesh.run(0.3)
    mesh.start("n1", "n2")
    mesh.run(3.0)
    assert "its placement differs" in mesh.hosts["n1"].machine.book.records["n3"].refusal
    assert not any(worker.grant for worker in mesh.hosts["n3"].workers.values())
    mesh.attach_all()
    mesh.run(3.0)
    assert mesh.route_states("n1") == ["ready"] * 4
    assert not any(worker.grant for worker in mesh.hosts["n3"].workers.values())


def test_a_changed_number_of_groups_serves_nothing_until_it_is_put_back(mesh: Mesh) -> None:
    for name in mesh.names:
        mesh.kill(name)
    mesh.groups = 8
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.run(0.5)
    assert mesh.route_states("n1") == ["starting"] * 8
    assert (
        "cluster.toml has partition_groups = 8, but this cluster was started with 4" in mesh.alerts("n1")[0]
    )
    assert mesh.role("n1", b"worker:0:10000").grant == 0


# --- names ---------------------------------------------------------------------------------------------


def test_two_processes_of_one_name_are_noticed(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    for round_ in range(4):
        incarnation = host.disk.incarnation + 3
        beat = replace(heartbeat(mesh, "n2"), sightings=[Sighting("n1", incarnation, 5, "alive", False)])
        mesh.perform(host.name, host.machine.published("n2", beat, mesh.now))
        mesh.perform(host.name, host.machine.published("n2", replace(beat, number=beat.number + 1), mesh.now))
        assert host.disk.incarnation == incarnation + 1, round_
        mesh.run(1.0)
    mesh.run(0.1)
    assert any("Another gossip process uses the name n1" in text for text in mesh.alerts("n1"))


def test_a_fight_over_a_name_costs_one_raise_a_second(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    for step in range(20):
        rival = Sighting("n1", host.disk.incarnation + 1, 5, "alive", False)
        beat = replace(heartbeat(mesh, "n2"), sightings=[rival], number=10_000 + step)
        mesh.perform(host.name, host.machine.published("n2", beat, mesh.now))
    assert host.disk.incarnation == 3


def test_being_accused_twice_at_once_raises_once_and_a_leaving_node_does_not(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    accused = Sighting("n1", 1, 1, "dead", False)
    beat = replace(heartbeat(mesh, "n2"), sightings=[accused, accused])
    mesh.perform(host.name, host.machine.published("n2", beat, mesh.now))
    assert host.disk.incarnation == 2
    host.machine.stopping(mesh.now)
    beat = replace(beat, number=beat.number + 1, sightings=[replace(accused, incarnation=2)])
    mesh.perform(host.name, host.machine.published("n2", beat, mesh.now))
    assert host.disk.incarnation == 2


def test_a_refutation_is_said_at_once_even_right_after_a_heartbeat(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    mesh.run(0.1)
    beat = replace(heartbeat(mesh, "n2"), sightings=[Sighting("n1", 1, 1, "dead", False)])
    effects = host.machine.published("n2", beat, mesh.now)
    said = [effect.message for effect in effects if isinstance(effect, Publish)]
    assert 2 in [message.incarnation for message in said if isinstance(message, Heartbeat)]


def test_a_paused_node_does_not_forget_its_gateways(mesh: Mesh) -> None:
    mesh.local("n1", b"gateway:gw-n1-0:ab", GatewayReport("gw-n1-0", 70, "127.0.0.1:9000", 12, 3.5, {}))
    mesh.hosts["n1"].paused = True
    mesh.run(20.0)
    mesh.wake("n1")
    assert [row["clients"] for row in mesh.result("n1", "status")["gateways"]] == [12]


# --- administration through the mesh -----------------------------------------------------------------------


def replies(mesh: Mesh) -> list[AdminReply]:
    """All that administrators were told by n1."""
    return [row for rows in mesh.hosts["n1"].inbox.values() for row in rows if isinstance(row, AdminReply)]


def test_a_request_goes_through_the_primarys_node_and_back(mesh: Mesh) -> None:
    assert mesh.ask("n1", "object.get", oid="5000000000000001") is None
    (request,) = [row for row in mesh.got("n2", b"worker:1:20001") if isinstance(row, AdminRequest)]
    assert request.arguments == {"oid": "5000000000000001"}
    mesh.local("n2", b"worker:1:20001", AdminReply(request.number, {"x": 1}, ""))
    assert replies(mesh) == [AdminReply(7, {"x": 1}, "")]


def test_another_worker_cannot_answer_for_it(mesh: Mesh) -> None:
    mesh.ask("n1", "object.get", oid="0000000000000001")
    (request,) = [row for row in mesh.got("n1", b"worker:0:10000") if isinstance(row, AdminRequest)]
    mesh.local("n1", b"worker:1:10001", AdminReply(request.number, {"forged": 1}, ""))
    assert replies(mesh) == []


def test_what_cannot_be_sent_is_an_error_at_once(mesh: Mesh) -> None:
    machine = mesh.hosts["n1"].machine
    effects = machine.local(b"cli:9", AdminRequest(3, "object.get", {"oid": "5000000000000001"}), mesh.now)
    (forward,) = [effect for effect in effects if isinstance(effect, SendPeer)]
    mesh.perform("n1", machine.not_sent(forward.message, mesh.now))
    (reply,) = mesh.got("n1", b"cli:9")
    assert "cannot be reached now" in reply.error and "nothing was changed" in reply.error


def test_a_worker_that_dies_before_it_answers(mesh: Mesh) -> None:
    mesh.ask("n1", "object.get", oid="0000000000000001")
    mesh.die("n1", 10000)
    (reply,) = replies(mesh)
    assert "died before it answered" in reply.error


def test_a_second_worker_process_and_one_in_the_wrong_place_are_alerts() -> None:
    mesh = Mesh(("n1", "n2", "n3", "n4"))
    mesh.start()
    mesh.run(1.0)
    mesh.attach("n4", 0, 500)
    mesh.attach("n1", 0, 100)
    mesh.attach("n1", 0, 200)
    mesh.run(0.5)
    texts = mesh.alerts("n2")
    assert any("w-n4-0 runs on n4, where group 0 is not placed" in text for text in texts)
    assert any("(pid 200) waits because the first (pid 100) still lives" in text for text in texts)
    assert mesh.role("n4", b"worker:0:500").grant == 0
    mesh.run(61.0)
    texts = mesh.alerts("n2")
    assert any("w-n4-0 runs on n4" in text for text in texts), "as long as it says that it is there"
    assert not any("still lives" in text for text in texts)


# --- last words -----------------------------------------------------------------------------------------


def test_why_a_gossip_process_had_to_end_is_told_by_those_who_are_left(mesh: Mesh) -> None:
    words = "the log in /x cannot be written: Input/output error. Look at the disk"
    mesh.perform("n3", mesh.hosts["n3"].node.dying(words, mesh.now))
    mesh.deliver()
    mesh.kill("n3")
    mesh.run(3.0)
    for name in ("n1", "n2"):
        (told,) = (text for text in mesh.alerts(name) if "Node n3 is dead" in text)
        assert words in told
    mesh.start("n3")
    mesh.run(3.0)
    mesh.kill("n3")
    mesh.run(3.0)
    assert not any(words in text for text in mesh.alerts("n1")), "that was said by an earlier life"


def test_a_farewell_that_is_too_long_is_refused(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    said = replace(heartbeat(mesh, "n3"), farewell="x" * 1_001)
    mesh.perform("n1", host.node.published("n3", said, mesh.now))
    assert any("too long a farewell" in text for text in mesh.alerts("n1"))
