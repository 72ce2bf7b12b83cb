"""Workers that come to a log: with which state, when they may begin, what is void; and what is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connserver.ids import GroupId
from connserver.messages import (
    NO_STATE,
    Archived,
    Attach,
    Committed,
    Deliver,
    Rebase,
    Role,
    Submit,
)
from gossip.effects import Note
from gossip.replica_state import Timing
from tests.unit.gossip.mesh import Mesh, everywhere, heard, serving
from tests.unit.gossip.model_worker import ModelWorker


@pytest.fixture
def mesh() -> Mesh:
    """Three nodes that serve; group 1 is led by n2, then by n3, then by n1."""
    return serving()


# --- when a worker may begin ----------------------------------------------------------------------


def test_the_same_attach_again_changes_nothing(mesh: Mesh) -> None:
    worker = mesh.submit("n2", 1, b"a")
    mesh.run(0.05)
    grant, view = worker.grant, mesh.route("n1", 1).view
    for _ in range(3):
        mesh.local("n2", worker.identity, worker.hello())
        mesh.run(0.05)
    assert (worker.grant, mesh.route("n1", 1).view, worker.attempt) == (grant, view, 1)
    assert mesh.submit("n2", 1, b"b").grant == grant
    mesh.run(0.05)
    assert worker.entries == {1: b"a", 2: b"b"}
    assert not heard(mesh, "n2", worker, Deliver)


def test_a_question_is_answered_at_once_and_changes_nothing(mesh: Mesh) -> None:
    worker = mesh.worker("n2", 1)
    grant = worker.grant
    before = len(mesh.got("n2", worker.identity))
    mesh.local("n2", worker.identity, Attach(1, 20001, worker.endpoint, 0, 0, NO_STATE, 0))
    (answer,) = mesh.got("n2", worker.identity)[before:]
    assert isinstance(answer, Role) and (answer.grant, answer.attached) == (grant, True)
    mesh.run(0.5)
    assert mesh.submit("n2", 1, b"a").grant == grant


def test_a_higher_attempt_begins_anew_with_another_grant(mesh: Mesh) -> None:
    worker = mesh.submit("n2", 1, b"a")
    mesh.run(0.05)
    grant = worker.grant
    again = Attach(1, 20001, worker.endpoint, worker.attempt + 1, 1, 1, 0)
    worker.ended = "replaced by hand"
    mesh.local("n2", worker.identity, again)
    mesh.run(0.05)
    (deliver,) = heard(mesh, "n2", worker, Deliver)
    assert (deliver.first_op, deliver.payloads) == (1, [b"a"])
    assert mesh.role("n2", worker.identity).grant not in (0, grant)


@pytest.mark.parametrize("endpoint", ["ipc://other", ""])
def test_the_same_process_that_starts_over_is_attached_anew(mesh: Mesh, endpoint: str) -> None:
    worker = mesh.worker("n2", 1)
    worker.ended = "it is another program now"
    second = Attach(1, 20001, worker.endpoint, 2, 1, 0, 0)
    mesh.local("n2", worker.identity, second)
    mesh.run(0.05)
    grant = mesh.role("n2", worker.identity).grant
    mesh.local("n2", worker.identity, replace(second, attempt=1, endpoint=endpoint or worker.endpoint))
    mesh.run(0.05)
    assert mesh.role("n2", worker.identity).grant not in (0, grant)


def test_a_lost_attach_is_repeated_until_it_arrives(mesh: Mesh) -> None:
    mesh.die("n2", 20001)
    mesh.run(0.3)
    newcomer = ModelWorker(1, 700, "ipc://new", mesh.now)
    mesh.muted.add(newcomer.identity)
    mesh.employ("n2", newcomer)
    mesh.run(3.0)
    assert newcomer.gossip == 0 and not mesh.got("n2", newcomer.identity)
    mesh.muted.clear()
    mesh.run(1.5)
    assert newcomer.gossip and mesh.role("n2", newcomer.identity).attached


def test_one_that_was_told_that_it_is_not_attached_says_it_again(mesh: Mesh) -> None:
    mesh.die("n2", 20001)
    mesh.run(0.3)
    newcomer = mesh.employ("n2", ModelWorker(1, 700, "ipc://new", mesh.now, loaded=False))
    mesh.muted.add(newcomer.identity)
    mesh.local("n2", newcomer.identity, newcomer.hello())
    newcomer.load()  # said, and lost
    mesh.run(0.5)
    assert not mesh.role("n2", newcomer.identity).attached
    mesh.muted.clear()
    mesh.run(0.3)
    assert mesh.role("n2", newcomer.identity).attached


def test_while_it_cannot_begin_it_is_answered_with_the_heartbeat_only() -> None:
    mesh = Mesh()
    mesh.start("n1", "n2")
    worker = mesh.employ("n1", ModelWorker(0, 500, "ipc://x", mesh.now))
    mesh.run(10.0)
    roles = heard(mesh, "n1", worker, Role)
    assert not any(role.attached or role.grant for role in roles)
    assert 35 <= len(roles) <= 45, "every 250 ms"
    mesh.muted.add(worker.identity)
    mesh.start("n3")
    mesh.run(1.0)
    assert mesh.role("n1", worker.identity).attached and worker.grant
    assert worker.attempt == 1, "it was remembered"


def test_workers_that_waited_for_the_first_start_leave_the_primaries_where_they_are_placed() -> None:
    mesh = Mesh()
    mesh.start()
    mesh.attach_all()
    mesh.run(2.0)
    assert [mesh.route("n1", group).node for group in range(4)] == ["n1", "n2", "n3", "n1"]
    assert mesh.route_states("n1") == ["ready"] * 4


def test_a_state_of_an_older_era_is_void(mesh: Mesh) -> None:
    mesh.die("n3", 30001)
    worker = ModelWorker(1, 500, "ipc://x", mesh.now)
    mesh.hosts["n3"].log.set.replicas[GroupId(1)].era = 2  # as after `recover`
    mesh.employ("n3", worker)
    (rebase,) = heard(mesh, "n3", worker, Rebase)
    assert (rebase.group, rebase.era) == (1, 2)
    assert worker.ended


def test_a_state_of_an_era_that_is_not_known_yet_waits(mesh: Mesh) -> None:
    mesh.die("n3", 30001)
    worker = ModelWorker(1, 500, "ipc://x", mesh.now)
    mesh.local("n3", worker.identity, replace(worker.hello(), era=2))
    mesh.run(0.5)
    role = mesh.role("n3", worker.identity)
    assert (role.era, role.attached) == (1, False)
    assert not heard(mesh, "n3", worker, Rebase) and not heard(mesh, "n3", worker, Deliver)


def test_a_state_that_the_log_has_gone_past_is_void() -> None:
    mesh = serving(Timing(tail_entries=4))
    primary = mesh.submit("n2", 1, *[b"%d" % number for number in range(20)])
    mesh.run(0.05)
    mesh.local("n2", primary.identity, Archived(1, 20))
    mesh.run(0.2)
    mesh.die("n3", 30001)
    stale = mesh.employ("n3", ModelWorker(1, 500, "ipc://x", mesh.now))
    (rebase,) = heard(mesh, "n3", stale, Rebase)
    assert rebase.op == mesh.hosts["n3"].log.set.replicas[GroupId(1)].log.base >= 12
    assert stale.ended
    mesh.die("n3", 500)
    fresh = ModelWorker(1, 501, "ipc://y", mesh.now)
    fresh.applied = rebase.op
    mesh.employ("n3", fresh)
    fresh_said = Attach(1, 501, "ipc://y", 2, 1, rebase.op, 0)
    mesh.local("n3", fresh.identity, fresh_said)
    mesh.run(0.1)
    assert not fresh.ended and mesh.role("n3", fresh.identity).attached
    assert heard(mesh, "n3", fresh, Deliver)[-1].first_op == rebase.op + 1


def test_a_snapshot_newer_than_what_is_known_here_to_be_committed_waits_for_it(mesh: Mesh) -> None:
    mesh.submit("n2", 1, *[b"%d" % number for number in range(10)])
    mesh.run(0.1)
    mesh.kill("n3")
    mesh.start("n3")
    worker = ModelWorker(1, 500, "ipc://x", mesh.now)
    worker.applied = 10
    mesh.employ("n3", worker)
    mesh.local("n3", worker.identity, Attach(1, 500, "ipc://x", 2, 1, 10, 10))
    mesh.run(0.3)
    mesh.submit("n2", 1, b"next")
    mesh.run(0.1)
    assert worker.entries == {11: b"next"}
    mesh.kill("n2")
    mesh.run(0.3)
    assert worker.grant and worker.applied == 11


def test_a_snapshot_that_the_log_has_never_come_to_is_not_served(mesh: Mesh) -> None:
    mesh.submit("n2", 1, b"a")
    mesh.run(0.1)
    for index, name in enumerate(mesh.names):
        mesh.die(name, 10_001 + 10_000 * index)
    mesh.local("n2", b"worker:1:500", Attach(1, 500, "ipc://x", 1, 1, 50, 0))
    mesh.run(1.0)
    role = mesh.role("n2", b"worker:1:500")
    assert (role.attached, role.grant) == (True, 0)
    assert "the archive is ahead of the log" in mesh.hosts["n2"].log.set.status(GroupId(1)).problem


def test_only_the_process_that_counts_is_listened_to(mesh: Mesh) -> None:
    primary = mesh.worker("n2", 1)
    host = mesh.hosts["n2"]
    mesh.attach("n2", 1, 999)
    for identity in (b"worker:1:999", b"worker:1:1", b"worker:0:20000", b"gateway:x:1"):
        host.notes.clear()
        mesh.local("n2", identity, Submit(1, primary.grant, 1, [b"forged"]))
        assert host.notes == [Note("warning", "local.refused", {"reason": "Submit"})]
    mesh.run(0.2)
    assert everywhere(mesh, 1) == [[]] * 3


def test_a_node_that_may_not_serve_begins_no_worker_though_its_disk_has_the_replica(mesh: Mesh) -> None:
    for name in mesh.names:
        mesh.kill(name)
    mesh.groups = 8  # the file says something else now
    mesh.start()
    for group in range(4):
        mesh.attach("n2", group, 100 + group)
    mesh.run(2.0)
    for group in range(4):
        role = mesh.role("n2", b"worker:%d:%d" % (group, 100 + group))
        assert not role.attached and role.grant == 0
    for name in mesh.names:
        mesh.kill(name)
    mesh.groups = 4
    mesh.start()
    mesh.attach_all()
    mesh.run(2.0)
    assert mesh.route_states("n1") == ["ready"] * 4


# --- what is shown --------------------------------------------------------------------------------


def test_positions_of_all_replicas_are_in_every_nodes_record(mesh: Mesh) -> None:
    mesh.submit("n2", 1, b"a", b"b")
    mesh.run(2.0)
    for name in ("n2", "n3"):
        rows = {row.group: row for row in mesh.hosts["n1"].machine.book.records[name].positions}
        assert sorted(rows) == [0, 1, 2, 3]
        row = rows[1]
        assert (row.era, row.view, row.status, row.head, row.commit) == (1, 0, "normal", 2, 2)
        assert row.ready and row.problem == ""


def test_whether_a_worker_could_take_over_is_shown_at_once(mesh: Mesh) -> None:
    def ready() -> bool:
        return mesh.hosts["n3"].machine._own.record.positions[1].ready

    mesh.die("n3", 30001)
    mesh.run(0.13)
    assert not ready()
    mesh.attach("n3", 1, 500)
    assert ready()


def test_a_view_that_is_only_joined_moves_no_route(mesh: Mesh) -> None:
    mesh.cuts = {(name, other) for name in mesh.names for other in mesh.names}
    mesh.hosts["n3"].log.set.replicas[GroupId(1)].leave_for(4)
    mesh.run(0.15)
    row = mesh.hosts["n3"].machine._own.record.positions[1]
    assert (row.status, row.view) == ("view_change", 0)
    assert mesh.route("n3", 1).view == 0


def test_a_disk_that_was_lost_is_recovered_and_shown_meanwhile(mesh: Mesh) -> None:
    mesh.submit("n2", 1, b"a", b"b")
    mesh.kill("n2")
    mesh.run(0.5)
    mesh.hosts["n2"].disk.lose()
    mesh.cuts = {("n2", "n1"), ("n1", "n2")}
    mesh.start("n2")
    mesh.run(1.0)
    row = mesh.hosts["n3"].machine.book.records["n2"].positions[1]
    assert row.status == "recovering" and not row.ready, "it needs both of the others"
    assert mesh.route("n3", 1).state == "ready"
    mesh.cuts = set()
    mesh.run(1.0)
    row = mesh.hosts["n3"].machine.book.records["n2"].positions[1]
    assert row.status == "normal" and mesh.payloads("n2", 1) == [b"a", b"b"]


def test_two_lost_disks_are_a_problem_that_is_named_and_nothing_is_made_up(mesh: Mesh) -> None:
    mesh.submit("n2", 1, b"a")
    mesh.run(0.1)
    for name in ("n1", "n2"):
        mesh.kill(name)
        mesh.hosts[name].disk.lose()
    mesh.run(0.5)
    mesh.start("n1", "n2")
    mesh.attach("n1", 1, 500)
    mesh.run(5.0)
    entry = mesh.route("n3", 1)
    assert entry.state == "unavailable" and "recover" in entry.reason
    assert mesh.role("n1", b"worker:1:500").grant == 0
    assert mesh.payloads("n1", 1) == []
    assert any("recover" in text for text in mesh.alerts("n3"))


def test_what_was_committed_under_a_grant_is_said_to_its_worker_only(mesh: Mesh) -> None:
    mesh.submit("n2", 1, b"a")
    mesh.run(0.1)
    for name in mesh.names:
        for worker in mesh.hosts[name].workers.values():
            said = heard(mesh, name, worker, Committed)
            assert bool(said) == (worker is mesh.worker("n2", 1))
