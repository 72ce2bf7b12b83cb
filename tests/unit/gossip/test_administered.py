"""Handoff and recovery as an administrator orders them, on whole gossip machines with their logs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.gossip.mesh import Mesh

GROUP = 0
"""Led by n1 at first."""


@pytest.fixture
def mesh() -> Mesh:
    """Three nodes that serve, with three entries in the log of the group."""
    mesh = Mesh(groups=1)
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.run(1.0)
    mesh.submit("n1", GROUP, b"a", b"b", b"c")
    mesh.run(1.5)
    assert mesh.route_states("n1") == ["ready"]
    return mesh


def later(mesh: Mesh, name: str, command: str, **arguments: Any) -> Any:
    """The result of a command that another node may have to answer first."""
    reply = mesh.ask(name, command, **arguments)
    assert reply is not None and not reply.error, reply
    return reply.result


def lose_disks(mesh: Mesh, *names: str) -> None:
    """New machines with these names, and new workers on them that have loaded nothing."""
    for name in names:
        mesh.kill(name)
        mesh.hosts[name].disk.lose()
    mesh.run(2.5)
    for name in names:
        mesh.start(name)
    mesh.run(2.0)


class TestHandoff:
    def test_primacy_goes_to_the_one_that_is_named_from_whichever_node_it_is_asked(self, mesh: Mesh) -> None:
        assert later(mesh, "n2", "failover", group=GROUP, to="n3") == {"group": 0, "from": "n1", "view": 0}
        mesh.run(1.0)
        assert {mesh.route(name, GROUP).node for name in mesh.names} == {"n3"}
        assert mesh.payloads("n3", GROUP)[:3] == [b"a", b"b", b"c"]

    def test_primacy_goes_to_whoever_is_ready(self, mesh: Mesh) -> None:
        mesh.result("n1", "failover", group=GROUP)
        mesh.run(1.0)
        assert mesh.route("n2", GROUP).node in ("n2", "n3")
        assert mesh.route_states("n2") == ["ready"]

    def test_what_cannot_be_is_refused_in_words(self, mesh: Mesh) -> None:
        assert "is led by n1 already" in mesh.error("n1", "failover", group=GROUP, to="n1")
        assert "n9 is not another replica" in mesh.error("n2", "failover", group=GROUP, to="n9")
        assert "from 0 to 0" in mesh.error("n1", "failover", group=1)


class TestRecovery:
    def test_a_group_that_is_fine_is_left_alone(self, mesh: Mesh) -> None:
        held = mesh.result("n1", "recover.look", group=GROUP, node="n1")
        assert (held["status"], held["head"], held["commit"]) == ("normal", 3, 3)
        assert "nothing to recover" in mesh.error("n1", "recover.begin", group=GROUP, node="n1")
        assert "nothing to recover" in mesh.error("n1", "recover.begin", group=GROUP, node="n2", archive=True)

    def test_one_lost_disk_is_healed_without_an_administrator(self, mesh: Mesh) -> None:
        lose_disks(mesh, "n3")
        assert later(mesh, "n1", "recover.look", group=GROUP, node="n3")["status"] == "normal"

    def test_two_lost_disks_and_the_log_that_is_left(self, mesh: Mesh) -> None:
        lose_disks(mesh, "n2", "n3")
        mesh.run(1.0)
        looks = {name: later(mesh, "n2", "recover.look", group=GROUP, node=name) for name in mesh.names}
        assert [looks[name]["status"] for name in ("n2", "n3")] == ["recovering", "recovering"]
        assert looks["n1"]["head"] == 3
        group = mesh.result("n1", "status", verbose=True)["groups"][GROUP]
        assert group["state"] != "ready" and "recover" in group["reason"]
        assert "holds no log" in mesh.error("n1", "recover.begin", group=GROUP, node="n2")
        assert later(mesh, "n3", "recover.begin", group=GROUP, node="n1")["era"] == 2
        mesh.run(3.0)
        looks = {name: later(mesh, "n2", "recover.look", group=GROUP, node=name) for name in mesh.names}
        assert {(look["status"], look["era"]) for look in looks.values()} == {("normal", 2)}
        assert [mesh.payloads(name, GROUP)[:3] for name in mesh.names] == [[b"a", b"b", b"c"]] * 3

    def test_all_disks_lost_and_the_archive(self, mesh: Mesh) -> None:
        lose_disks(mesh, *mesh.names)
        mesh.archive = {"state": "known", "era": 1, "view": 0, "op": 2}
        assert (
            later(mesh, "n2", "recover.begin", group=GROUP, node="n1", archive=True, above=[1, 0])["era"] == 2
        )
        mesh.run(3.0)
        looks = [later(mesh, "n2", "recover.look", group=GROUP, node=name) for name in mesh.names]
        assert {(look["status"], look["era"], look["base"]) for look in looks} == {("normal", 2, 2)}
