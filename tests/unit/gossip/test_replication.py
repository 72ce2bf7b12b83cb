"""The logs under the workers: who may execute, what workers hear and in which order, and what is void."""

from __future__ import annotations

import pytest

from connserver.ids import GroupId
from connserver.messages import (
    Attach,
    Deliver,
    GetBarrier,
    GroupPosition,
    Refused,
    Role,
    Submit,
)
from tests.unit.gossip.mesh import Mesh, everywhere, heard, serving
from tests.unit.gossip.model_worker import ModelWorker


@pytest.fixture
def mesh() -> Mesh:
    """Three nodes that serve; group 1 is led by n2, then by n3, then by n1."""
    return serving()


# --- the ordinary way ----------------------------------------------------------------------------------


def test_what_a_primary_submits_is_committed_and_delivered_to_the_others(mesh: Mesh) -> None:
    primary = mesh.submit("n2", 1, b"a", b"b")
    mesh.submit("n2", 1, b"c")
    mesh.run(0.05)
    assert primary.entries == {1: b"a", 2: b"b", 3: b"c"}
    for name in ("n1", "n3"):
        assert mesh.worker(name, 1).entries == primary.entries
    assert everywhere(mesh, 1) == [[b"a", b"b", b"c"]] * 3
    assert everywhere(mesh, 0) == [[]] * 3, "groups are apart"


def test_one_that_comes_later_is_delivered_everything_before_it_may_execute(mesh: Mesh) -> None:
    mesh.submit("n2", 1, *[b"%d" % number for number in range(50)])
    for name, pid in (("n1", 10001), ("n3", 30001), ("n2", 20001)):
        mesh.die(name, pid)
    mesh.run(0.3)
    mesh.attach("n1", 1, 500)
    mesh.run(2.0)
    worker = mesh.worker("n1", 1)
    assert worker.grant and sorted(worker.entries) == list(range(1, 51))
    kinds = [type(row) for row in mesh.got("n1", worker.identity) if not isinstance(row, Role)]
    assert kinds and set(kinds) == {Deliver}
    roles = [row for row in mesh.got("n1", worker.identity) if isinstance(row, Deliver | Role)]
    first = next(at for at, row in enumerate(roles) if isinstance(row, Role) and row.grant)
    assert not any(isinstance(row, Deliver) for row in roles[first:])


def test_a_state_from_the_middle_is_delivered_the_rest_and_the_outputs_it_asks_for(mesh: Mesh) -> None:
    mesh.submit("n2", 1, *[b"%d" % number for number in range(1, 11)])
    mesh.run(0.1)
    mesh.die("n3", 30001)
    worker = ModelWorker(1, 500, "ipc://x", mesh.now)
    mesh.local("n3", worker.identity, Attach(1, 500, "ipc://x", 1, 1, 6, 4))
    mesh.run(0.1)
    (deliver,) = heard(mesh, "n3", worker, Deliver)
    assert deliver.first_op == 5
    assert deliver.payloads == [b"%d" % number for number in range(5, 11)]


def test_a_barrier_passes_when_others_have_confirmed_the_grant(mesh: Mesh) -> None:
    worker = mesh.worker("n2", 1)
    mesh.local("n2", worker.identity, GetBarrier(1, worker.grant, 77))
    mesh.run(0.05)
    assert worker.barriers == [77]
    mesh.cuts = {(name, other) for name in mesh.names for other in mesh.names}
    mesh.local("n2", worker.identity, GetBarrier(1, worker.grant, 78))
    mesh.run(0.5)
    assert worker.barriers == [77]


def test_a_handoff_moves_primacy_without_losing_anything(mesh: Mesh) -> None:
    host = mesh.hosts["n2"]
    old = mesh.submit("n2", 1, b"before")
    assert host.log.resign(1, "n1", mesh.now) == ""
    mesh.run(0.3)
    new = mesh.worker("n1", 1)
    assert (mesh.route("n3", 1).node, mesh.route("n3", 1).state) == ("n1", "ready")
    assert new.grant and not old.grant and not old.ended
    assert any(role.role == "draining" for role in heard(mesh, "n2", old, Role))
    mesh.submit("n1", 1, b"after")
    mesh.run(0.1)
    assert old.entries == new.entries == {1: b"before", 2: b"after"}


@pytest.mark.parametrize(
    ("group", "target", "words"),
    [(1, "n9", "not another replica"), (9, None, "no replica on n2"), (0, None, "not its primary")],
)
def test_a_handoff_that_cannot_be_says_why(mesh: Mesh, group: int, target: str | None, words: str) -> None:
    assert words in mesh.hosts["n2"].log.resign(group, target, mesh.now)
    mesh.run(0.3)
    assert mesh.route("n1", 1).node == "n2"


# --- losing it -------------------------------------------------------------------------------------------


def test_an_old_grant_is_refused_and_what_was_executed_under_it_is_void(mesh: Mesh) -> None:
    old = mesh.worker("n2", 1)
    grant = old.grant
    mesh.hosts["n2"].paused = True
    mesh.run(0.5)
    assert mesh.route("n1", 1).node == "n3"
    mesh.submit("n3", 1, b"new history")
    mesh.submit("n2", 1, b"old history")  # waits at the paused process
    mesh.wake("n2")
    mesh.run(0.5)
    assert everywhere(mesh, 1) == [[b"new history"]] * 3
    assert old.ended == "it executed what may not have been committed"
    mesh.local("n2", old.identity, Submit(1, grant, 2, [b"old again"]))
    refused = heard(mesh, "n2", old, Refused)[-1]
    assert (refused.grant, refused.reason) == (grant, "stale_grant")
    mesh.local("n2", old.identity, GetBarrier(1, grant, 5))
    assert heard(mesh, "n2", old, Refused)[-1].first_op == 0 and old.barriers == []
    mesh.run(0.2)
    assert everywhere(mesh, 1) == [[b"new history"]] * 3


def test_a_primary_that_lost_nothing_goes_on_as_a_backup(mesh: Mesh) -> None:
    old = mesh.submit("n2", 1, b"kept")
    mesh.hosts["n2"].paused = True
    mesh.run(0.5)
    mesh.submit("n3", 1, b"more")
    mesh.wake("n2")
    mesh.run(0.5)
    assert not old.ended and not old.grant and old.attempt == 2
    assert old.entries == {1: b"kept", 2: b"more"}
    assert mesh.role("n2", old.identity).attached


def test_a_worker_that_dies_blames_what_it_was_running_and_passes_primacy_on(mesh: Mesh) -> None:
    source = (0xDEAD, 12, 34)
    mesh.hosts["n2"].running[1] = source
    mesh.submit("n2", 1, b"fine")
    mesh.die("n2", 20001)
    mesh.run(0.2)
    for name in mesh.names:
        assert mesh.suspects(name, 1) == [list(source)]
    entry = mesh.route("n2", 1)
    assert entry.node in ("n1", "n3") and entry.state == "ready"
    assert mesh.worker("n3", 1).applied == mesh.worker("n1", 1).applied == 2, "who takes over has applied it"


def test_what_was_handed_in_at_death_comes_before_the_blame(mesh: Mesh) -> None:
    mesh.hosts["n2"].running[1] = (1, 2, 3)
    worker = mesh.worker("n2", 1)
    host = mesh.hosts["n2"]
    host.log.worker_says(worker.identity, worker.submit(b"handed in"), mesh.now)  # in the same turn
    mesh.die("n2", 20001)
    mesh.run(0.2)
    assert mesh.payloads("n1", 1)[0] == b"handed in"
    assert mesh.suspects("n1", 1) == [[1, 2, 3]]


@pytest.mark.parametrize(("name", "pid"), [("n1", 10001), ("n3", 30001)])
def test_the_death_of_a_backup_blames_nobody(mesh: Mesh, name: str, pid: int) -> None:
    mesh.hosts[name].running[1] = (1, 2, 3)
    mesh.die(name, pid)
    mesh.run(0.2)
    assert everywhere(mesh, 1) == [[]] * 3
    assert mesh.route("n2", 1).node == "n2"


def test_a_worker_that_was_running_nothing_blames_nobody(mesh: Mesh) -> None:
    mesh.die("n2", 20001)
    mesh.run(0.2)
    assert everywhere(mesh, 1) == [[]] * 3
    assert mesh.route("n1", 1).node == "n3"


def test_a_primary_that_was_deposed_before_its_worker_died_blames_nobody(mesh: Mesh) -> None:
    mesh.hosts["n2"].running[1] = (1, 2, 3)
    mesh.cuts = {("n2", "n1"), ("n2", "n3"), ("n1", "n2"), ("n3", "n2")}
    mesh.run(0.5)
    mesh.die("n2", 20001)
    mesh.run(0.1)
    mesh.cuts = set()
    mesh.run(0.5)
    assert everywhere(mesh, 1) == [[]] * 3


def test_a_successor_that_waited_gets_the_group_when_nobody_else_can(mesh: Mesh) -> None:
    for name, pid in (("n1", 10001), ("n3", 30001)):
        mesh.die(name, pid)
    mesh.run(0.1)
    mesh.submit("n2", 1, b"one")
    mesh.hosts["n2"].running[1] = (1, 2, 3)
    mesh.attach("n2", 1, 999)
    first = mesh.worker("n2", 1)
    assert (first.pid, first.grant) == (999, 0)
    mesh.die("n2", 20001)
    mesh.run(0.2)
    assert first.grant and first.applied == 2 and mesh.suspects("n2", 1) == [[1, 2, 3]]


# --- gossip starts anew under living workers --------------------------------------------------------------


def test_workers_outlive_their_gossip_and_begin_anew_with_the_next(mesh: Mesh) -> None:
    old = mesh.submit("n2", 1, b"before")
    before = {worker: (worker.attempt, worker.gossip) for worker in mesh.hosts["n2"].workers.values()}
    mesh.kill_gossip("n2")
    mesh.start("n2")
    mesh.run(2.0)
    for worker, (attempt, boot) in before.items():
        assert worker.attempt > attempt and worker.gossip not in (0, boot) and not worker.ended
        role = mesh.role("n2", worker.identity)
        assert role.attached and role.gossip == worker.gossip
    assert mesh.route("n1", 1).node == "n3" and not old.grant
    mesh.submit("n3", 1, b"after")
    mesh.run(0.1)
    assert old.entries == {1: b"before", 2: b"after"}


def test_a_worker_with_uncommitted_work_does_not_survive_its_gossip(mesh: Mesh) -> None:
    old = mesh.worker("n2", 1)
    mesh.kill_gossip("n2")
    mesh.submit("n2", 1, b"nobody took it")
    mesh.start("n2")
    mesh.run(2.0)
    assert old.ended and everywhere(mesh, 1) == [[]] * 3
    assert mesh.route("n1", 1).node == "n3"


def test_no_grant_is_given_in_a_view_that_the_last_life_led(mesh: Mesh) -> None:
    before = mesh.route("n1", 1)
    for name, pid in (("n1", 10001), ("n3", 30001)):
        mesh.die(name, pid)
    mesh.kill("n2")
    mesh.start("n2")
    mesh.attach("n2", 1, 999)
    mesh.run(8.0)  # it comes round: nobody else has a worker
    after = mesh.route("n1", 1)
    assert (after.node, after.state) == ("n2", "ready")
    assert after.view > before.view and after.grant > before.grant


def test_all_at_once_and_everything_is_there_again(mesh: Mesh) -> None:
    for group in range(4):
        mesh.submit(mesh.route("n1", group).node, group, b"%d" % group, b"more")
    mesh.run(0.1)
    for name in mesh.names:
        mesh.kill(name)
    mesh.start()
    mesh.attach_all()
    mesh.run(3.0)
    for name in mesh.names:
        assert mesh.route_states(name) == ["ready"] * 4
        for group in range(4):
            assert mesh.worker(name, group).entries == {1: b"%d" % group, 2: b"more"}


def test_an_archive_of_a_later_era_is_a_problem_with_a_name() -> None:
    mesh = Mesh()
    mesh.start()
    mesh.run(2.0)
    name = mesh.route("n1", 0).node
    mesh.local(name, b"worker:0:77", Attach(0, 77, "ipc:///run/later", 1, 2, 5, 0))
    mesh.run(0.3)
    assert any("archive of group 0 is of era 2 and its log of era 1" in text for text in mesh.alerts(name))


def test_only_groups_to_which_something_happened_are_looked_at_and_all_of_them_once_a_second(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.run(1.0)
    log = mesh.hosts["n1"].log
    looked: list[int] = []
    position = log._position

    def count(group: GroupId) -> GroupPosition:
        looked.append(group)
        return position(group)

    monkeypatch.setattr(log, "_position", count)
    mesh.run(2.0)
    assert sorted(looked) == sorted([*log.set.replicas] * 2)
    looked.clear()
    mesh.submit("n2", 1, b"a")
    mesh.run(0.3)
    assert 1 in looked and len(looked) - looked.count(1) <= len(log.set.replicas)
    assert [row.commit for row in log._shown] == [replica.commit for replica in log.set.replicas.values()]
