"""Directed traces of new eras, lost majorities, single nodes and attaching workers (see `directed`)."""

from __future__ import annotations

from gossip.protocol import BarrierPassed, Rebase, Role, Status, WorkerRole
from tests.simulation.directed import formed
from tests.simulation.stage import NAMES, Stage


def two_disks_lost(survivor: str = "n1") -> Stage:
    """Op 1 is committed everywhere; then two replicas lose their disks."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(60)
    for name in NAMES:
        if name != survivor:
            stage.crash(name)
            stage.wipe(name)
            stage.restart(name)
    stage.run(400)
    for name in NAMES:
        assert name == survivor or stage.replica(name).status is Status.RECOVERING
    return stage


def an_era_goes_on_from_the_surviving_log() -> None:
    """`recover` on a running node: what its replica holds is the history, and the others join."""
    stage = two_disks_lost()
    stage.attach("n1", 1)
    assert stage.begin_era("n1") == ""
    stage.run(600)
    stage.attach("n1", 1)
    stage.run(30)
    stage.submit("n1", "b")
    stage.run(60)
    for name in NAMES:
        assert (stage.replica(name).era, stage.replica(name).status) == (2, Status.NORMAL)
        assert stage.payloads(name) == ["a", "b"]
        assert stage.problem(name) == ""


def an_era_is_not_told_before_it_is_written() -> None:
    """If its record is torn, the era before must be all there: nobody may have left it."""
    stage = two_disks_lost()
    stage.hold_disk("n1")
    assert stage.begin_era("n1") == ""
    stage.run(300)
    stage.crash("n1")
    stage.restart("n1")
    stage.run(600)
    assert stage.replica("n1").era == 1
    assert stage.payloads("n1") == ["a"]


def acks_of_the_era_before_do_not_count() -> None:
    """n2 acked the op in era 1, and begins era 2 with nothing."""
    stage = formed()
    stage.isolate("n3")
    stage.hold_disk("n1")
    stage.submit("n1", "a")
    stage.deliver()
    assert stage.replica("n1").peers["n2"].match == 1
    assert stage.replica("n1").commit == 0
    stage.isolate("n1")
    stage.run(300)
    assert stage.begin_era("n1") == ""
    stage.write("n1")
    stage.heal()
    stage.isolate("n3")
    stage.hold("n2", "n1")
    for _ in range(40):
        stage.run(10)
        while stage.held[("n2", "n1")] and not stage.replica("n1").leads:
            incarnation, messages = stage.held[("n2", "n1")].pop(0)
            stage.receive("n2", "n1", incarnation, messages)
    assert stage.replica("n1").leads
    assert stage.replica("n1").era == 2
    assert stage.replica("n1").commit == 0
    stage.release("n2", "n1")
    stage.run(100)
    assert stage.replica("n1").commit == 1


def an_era_is_opened_once() -> None:
    """Two operators begin era 2 on two nodes: one of them gets n2, and the other stays outside."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(60)
    for name in NAMES:
        stage.isolate(name)
    stage.run(300)
    assert stage.begin_era("n1") == ""
    assert stage.begin_era("n3") == ""
    stage.heal()
    stage.isolate("n3")
    stage.run(600)
    assert stage.primary == "n1"
    stage.heal()
    stage.run(600)
    assert stage.replica("n3").status is Status.FORMING
    assert "another node" in stage.problem("n3")
    assert stage.begin_era("n1", base=None) != "", "it works"
    stage.attach("n1", 1)
    stage.run(30)
    stage.submit("n1", "b")
    stage.run(60)
    assert stage.payloads("n2") == ["a", "b"]


def an_era_that_was_begun_is_remembered() -> None:
    """All that is left of era 2 is a blank disk that heard of it: no first start."""
    stage = formed()
    for name in NAMES:
        stage.isolate(name)
    stage.run(300)
    assert stage.begin_era("n3") == ""
    stage.heal()
    stage.isolate("n1")
    stage.hold("n2", "n3")
    stage.run(60)
    assert (stage.replica("n2").era, stage.replica("n2").status) == (2, Status.BLANK)
    for name in ("n1", "n3"):
        stage.crash(name)
        stage.wipe(name)
    stage.heal()
    stage.held.clear()
    for name in ("n1", "n3"):
        stage.restart(name)
    stage.run(1_000)
    for name in NAMES:
        assert stage.replica(name).status is Status.BLANK
    assert "`recover`" in stage.problem("n1")
    assert stage.begin_era("n1", 0) == ""
    assert stage.replica("n1").era == 1, "the operator has to say which eras others know of"
    stage.run(600)
    assert (stage.replica("n1").era, stage.replica("n1").status) == (2, Status.BLANK)
    assert stage.begin_era("n1", 0) == ""
    stage.run(600)
    assert stage.primary == "n1"
    assert stage.replica("n1").era == 3


def three_disks_that_are_not_believed() -> None:
    """The power failed everywhere: nobody's incarnation is known, and everybody recorded higher ones."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(60)
    for name in NAMES:
        stage.crash(name)
    for name in NAMES:
        stage.restart(name, disorderly=True)
    stage.run(600)
    for name in NAMES:
        assert stage.replica(name).status is Status.RECOVERING
        assert "`recover`" in stage.problem(name)
    assert "holds no log" in stage.begin_era("n2")
    assert stage.begin_era("n2", 1) == ""
    stage.run(800)
    assert stage.primary == "n2"
    stage.attach("n2", 1)
    stage.submit("n2", "b")
    stage.run(60)
    for name in NAMES:
        assert stage.payloads(name) == ["b"]
        assert stage.replica(name).log.base == 1


def one_that_was_away_learns_its_incarnation() -> None:
    """n2 and n3 lost their disks while n1 was down; n1 recorded more of n2 than n3 knows."""
    stage = formed()
    for _ in range(3):
        stage.crash("n2")
        stage.restart("n2")
        stage.isolate("n3")
        stage.run(30)
    stage.crash("n1")
    for name in ("n2", "n3"):
        stage.crash(name)
        stage.wipe(name)
        stage.restart(name)
    stage.heal()
    stage.run(400)
    assert stage.begin_era("n2", 0, (1, 0)) == ""
    stage.run(400)
    assert stage.primary == "n2"
    stage.restart("n1")
    stage.run(1_500)
    assert (stage.replica("n1").era, stage.replica("n1").status) == (2, Status.NORMAL)


def the_granted_worker_of_a_void_log_begins_anew() -> None:
    """Its state is of a history that is over, committed or not."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(60)
    for name in NAMES:
        stage.isolate(name)
    stage.run(300)
    assert stage.begin_era("n2") == ""
    stage.heal()
    stage.run(300)
    assert stage.replica("n1").era == 2
    assert stage.told("n1", Rebase) == [Rebase(stage.replica("n1").group, 0)]


def a_snapshot_above_the_log_is_no_grant() -> None:
    """The archive holds op 5, the log ends at 1: executing would give op 2 to something else."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(60)
    stage.attach("n1", 0, 5)
    stage.run(100)
    assert stage.problem("n1") == "", "too early to say"
    stage.run(100)
    assert not stage.grant("n1")
    assert "ahead of the log" in stage.problem("n1")
    stage.isolate("n1")
    stage.run(300)
    assert stage.problem("n1") == "", "perhaps it has been deposed"
    stage.heal()
    stage.run(600)
    stage.attach(stage.primary, 0, 1)
    stage.run(60)
    assert stage.grant(stage.primary)


def a_grant_waits_for_the_commit_of_the_snapshot() -> None:
    """n2 holds all and knows of no commit; its worker's snapshot is from a better informed time."""
    stage = formed()
    stage.submit("n1", "a", "b")
    stage.run(60)
    stage.crash("n2")
    stage.restart("n2")
    assert stage.replica("n2").commit == 0
    stage.attach("n2", 1, 2)
    stage.crash("n1")
    stage.run(600)
    told = [e.role for e in stage.told("n2", Role) if isinstance(e, Role)]
    assert told == [WorkerRole.BACKUP, WorkerRole.PRIMARY]
    assert [type(e).__name__ for e in stage.effects["n2"]] == ["Role", "Deliver", "Role"]


def barriers_end_with_their_worker() -> None:
    """The next worker numbers its own from the beginning."""
    stage = formed()
    stage.hold("n2", "n1")
    stage.hold("n3", "n1")
    stage.barrier("n1", 5)
    stage.attach("n1")
    assert stage.grant("n1")
    stage.release("n2", "n1")
    stage.release("n3", "n1")
    stage.run(60)
    assert not stage.told("n1", BarrierPassed)
    stage.barrier("n1", 1)
    stage.run(60)
    assert len(stage.told("n1", BarrierPassed)) == 1


def one_node_waits_for_its_disk() -> None:
    """A majority of one is one's own disk."""
    stage = Stage(names=("n1",))
    stage.run(100)
    stage.attach("n1")
    stage.hold_disk("n1")
    stage.submit("n1", "a")
    stage.run(300)
    assert stage.replica("n1").commit == 0
    stage.write("n1")
    assert stage.replica("n1").commit == 1
    stage.hold_disk("n1")
    stage.submit("n1", "b")
    stage.crash("n1")
    stage.restart("n1")
    stage.run(100)
    assert stage.replica("n1").leads
    assert stage.replica("n1").view == 1
    assert stage.payloads("n1") == ["a"]


TRACES = [
    an_era_goes_on_from_the_surviving_log,
    an_era_is_not_told_before_it_is_written,
    acks_of_the_era_before_do_not_count,
    an_era_is_opened_once,
    an_era_that_was_begun_is_remembered,
    three_disks_that_are_not_believed,
    one_that_was_away_learns_its_incarnation,
    the_granted_worker_of_a_void_log_begins_anew,
    a_snapshot_above_the_log_is_no_grant,
    a_grant_waits_for_the_commit_of_the_snapshot,
    barriers_end_with_their_worker,
    one_node_waits_for_its_disk,
]
