"""Stories of one group on three nodes, beyond the text scenarios and the directed traces."""

from __future__ import annotations

import pytest

from connserver.ids import GroupId
from gossip.protocol import (
    NO_GRANT,
    Alert,
    BarrierPassed,
    Committed,
    Deliver,
    Rebase,
    Refusal,
    Refused,
    Role,
    Status,
    WorkerRole,
)
from gossip.records import Phase, new_era
from gossip.replica_set import HELD_BUNDLES, INCARNATION_STRIDE
from gossip.replica_state import Timing
from gossip.wal import restore
from tests.simulation.directed import formed
from tests.simulation.directed_eras import two_disks_lost
from tests.simulation.stage import GROUP, NAMES, Stage


def roles(stage: Stage, name: str) -> list[WorkerRole]:
    """The roles this node's worker was told."""
    return [effect.role for effect in stage.told(name, Role) if isinstance(effect, Role)]


def refusals(stage: Stage, name: str) -> list[Refusal]:
    """Why this node's worker was refused."""
    return [effect.reason for effect in stage.told(name, Refused) if isinstance(effect, Refused)]


# --- the first start ---


def test_nothing_happens_while_one_of_three_is_missing_at_the_first_start() -> None:
    """Rule 9: all three agree."""
    stage = Stage()
    stage.crash("n3")
    stage.run(1_000)
    assert not any(stage.replica(name).leads for name in ("n1", "n2"))
    stage.restart("n3")
    stage.run(600)
    assert stage.primary == "n1"


@pytest.mark.parametrize("victim", NAMES)
def test_a_crash_while_forming_delays_only(victim: str) -> None:
    """The bootstrap record is on disk, or it is not; both are fine."""
    stage = Stage()
    for pause in (20, 130, 140, 150, 250, 260):
        stage.run(pause)
        stage.crash(victim)
        stage.run(30)
        stage.restart(victim)
    stage.run(1_500)
    assert stage.primary
    assert all(stage.replica(name).status is Status.NORMAL for name in NAMES)


def test_the_stored_placement_wins_over_the_proposed() -> None:
    """Placement is never computed again: a blank node takes what its peers have stored."""
    stage = formed()
    stage.crash("n3")
    stage.wipe("n3")
    stage.restart("n3")
    stage.replica("n3").adopt_placement(("n3", "n1", "n2"))
    stage.run(1_000)
    assert stage.replica("n3").placement == ("n1", "n2", "n3")
    assert stage.replica("n3").status is Status.NORMAL


def test_two_lost_disks_are_said_aloud() -> None:
    """Rule 8: no automatic way back."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(30)
    for name in ("n2", "n3"):
        stage.crash(name)
        stage.wipe(name)
        stage.restart(name)
    stage.run(1_000)
    stage.submit("n1", "b")
    stage.run(300)
    assert stage.replica("n1").commit == 1
    alerts = [effect.text for effect in stage.told("n2", Alert) if isinstance(effect, Alert)]
    assert len(alerts) == 1
    assert "`recover`" in alerts[0]
    assert stage.sets["n2"].status(GROUP).problem == alerts[0]


# --- eras ---


def recovered(stage: Stage) -> None:
    """What `recover` does with n1's WAL."""
    durable = restore([(1, stage.disks["n1"])]).node.groups[GROUP]
    stage.disks["n1"] += stage._encode("n1", new_era(GROUP, durable, "n1"))


def test_recover_begins_a_new_era_from_the_best_log() -> None:
    """Two disks are gone; n1's log becomes the history of era 2."""
    stage = formed()
    stage.submit("n1", "a", "b")
    stage.run(30)
    for name in NAMES:
        stage.crash(name)
    stage.wipe("n2")
    stage.wipe("n3")
    recovered(stage)
    for name in NAMES:
        stage.restart(name)
    stage.run(1_500)
    stage.attach(stage.primary, 0)
    stage.submit(stage.primary, "c")
    stage.run(60)
    for name in NAMES:
        replica = stage.replica(name)
        assert (replica.era, replica.status) == (2, Status.NORMAL)
        assert stage.payloads(name) == ["a", "b", "c"]


def test_a_replica_of_an_older_era_is_blank() -> None:
    """n3 comes back with a log of era 1, longer than that of era 2: void."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(30)
    stage.isolate("n1")
    stage.run(400)
    stage.attach("n2", 1)
    stage.run(30)
    stage.submit("n2", "b", "c")
    stage.run(60)
    for name in NAMES:
        stage.crash(name)
    stage.heal()
    stage.wipe("n2")
    recovered(stage)
    stage.truth.clear()
    for name in NAMES:
        stage.restart(name)
    stage.run(2_000)
    for name in NAMES:
        assert (stage.replica(name).era, stage.replica(name).status) == (2, Status.NORMAL)
        assert stage.payloads(name) == ["a"]
    assert stage.sets["n3"].counters["eras_ended"] == 1


def test_an_era_cannot_begin_from_nothing() -> None:
    """`recover` refuses a node that holds no log."""
    durable = restore([]).node
    assert GROUP not in durable.groups
    stage = formed()
    group = restore([(1, stage.disks["n1"])]).node.groups[GROUP]
    with pytest.raises(ValueError, match="take another node's"):
        new_era(GROUP, group, "n9")
    group.phase = Phase.LOST
    with pytest.raises(ValueError, match="holds no log"):
        new_era(GROUP, group, "n1")


@pytest.mark.parametrize("victim", NAMES)
@pytest.mark.parametrize("base", [None, 1])
def test_a_crash_while_an_era_forms_delays_only(victim: str, base: int | None) -> None:
    """Begun on disk it goes on after a restart of anybody."""
    for pause in range(0, 200, 20):
        stage = two_disks_lost()
        stage.submit("n1", "b")
        assert stage.begin_era("n1", base) == ""
        stage.run(pause)
        stage.crash(victim)
        stage.run(30)
        stage.restart(victim)
        stage.run(1_500)
        for name in NAMES:
            replica = stage.replica(name)
            assert (replica.era, replica.status) == (2, Status.NORMAL), (pause, name)
            assert stage.payloads(name) == ([] if base else ["a", "b"])
            assert stage.problem(name) == ""


def test_an_era_is_refused_where_it_would_lose_something() -> None:
    """What works is not recovered, and what is known as committed is not given up."""
    stage = formed()
    stage.submit("n1", "a", "b")
    stage.run(60)
    for name in ("n1", "n2"):
        assert stage.begin_era(name) == "group 0: it works, there is nothing to recover"
        assert "committed entries up to op 2, above the archive's 1" in stage.begin_era(name, 1)
    stage.isolate("n1")
    assert "works" in stage.begin_era("n1")
    stage.run(300)
    assert stage.begin_era("n1", above=(7, 11)) == ""
    assert (stage.replica("n1").era, stage.replica("n1").view) == (8, 12)
    assert stage.begin_era("n1") == "", "again, from the log that it keeps"
    assert (stage.replica("n1").era, stage.replica("n1").view) == (9, 15)
    stage.heal()
    stage.run(600)
    assert stage.payloads("n3") == ["a", "b"]
    assert stage.replica("n3").era == 9


def test_an_era_cannot_begin_here_without_a_log_or_outside_the_placement() -> None:
    """Each refusal says what to do instead."""
    stage = two_disks_lost()
    assert stage.begin_era("n2") == "group 0: n2 holds no log of it (recovering)"
    stage.replica("n2").adopt_placement(("n1", "n3", "n4"))
    assert stage.begin_era("n2", 0) == "group 0: n2 is not in its placement n1, n3, n4"


def test_a_log_fits_the_archive_if_it_surely_holds_what_was_archived() -> None:
    """n1 was away while n2 and n3 replaced what it wrote alone."""
    stage = formed("n1", "n2")
    stage.submit("n1", "a")
    stage.run(60)
    stage.isolate("n1")
    stage.submit("n1", "x", "y", "z")
    stage.run(400)
    stage.submit("n2", "b")
    stage.run(60)
    view = stage.replica("n2").view
    assert view > 0
    assert not stage.sets["n1"].holds_archived(GROUP, view, 2), "its op 2 is another"
    assert stage.sets["n1"].holds_archived(GROUP, view, 1), "committed before it was cut off"
    assert stage.sets["n3"].holds_archived(GROUP, view, 2)
    assert not stage.sets["n3"].holds_archived(GROUP, view, 3), "above its head"
    assert not stage.sets["n3"].holds_archived(GROUP, view + 1, 3)


def test_one_lost_disk_of_two_that_are_up_is_no_case_for_recover() -> None:
    """The third may be only down: nothing is said that would have the operator give it up."""
    stage = formed()
    stage.crash("n1")
    stage.crash("n3")
    stage.wipe("n3")
    stage.restart("n3")
    stage.run(1_000)
    assert [stage.problem(name) for name in ("n2", "n3")] == ["", ""]


# --- one node ---


@pytest.mark.parametrize("pause", range(0, 60, 5))
def test_one_node_forms_whenever_it_crashes(pause: int) -> None:
    """A blank disk, a bootstrap record or an open group: it always goes on."""
    stage = Stage(names=("n1",))
    stage.hold_disk("n1")
    stage.run(pause // 2)
    stage.write("n1")
    stage.run(pause)
    stage.crash("n1")
    stage.restart("n1")
    stage.run(100)
    assert stage.primary == "n1"
    assert stage.replica("n1").era == 1
    assert stage.problem("n1") == ""


def test_one_node_hears_nobody_and_suspects_nobody() -> None:
    """It leads for ever, says nothing to anybody, and passes primacy to nobody."""
    stage = Stage(names=("n1",))
    stage.run(5_000)
    assert (stage.replica("n1").view, stage.primary) == (0, "n1")
    stage.attach("n1")
    stage.submit("n1", "a")
    assert not stage.flying
    assert stage.sets["n1"].resign(GROUP, None, stage.now) == "group 0: n1 holds its only replica"
    stage.sets["n1"].detach(GROUP, stage.now)
    stage._perform("n1")
    stage.run(5_000)
    assert (stage.replica("n1").view, stage.primary) == (0, "n1")


def test_one_node_grants_on_a_full_disk() -> None:
    """Reads go on; a write is refused."""
    stage = Stage(names=("n1",))
    stage.run(100)
    stage.sets["n1"].set_disk_full(True, stage.now)
    stage.attach("n1")
    stage.barrier("n1", 1)
    assert stage.told("n1", BarrierPassed) == [BarrierPassed(GROUP, stage.grant("n1"), 1)]
    stage.submit("n1", "a")
    assert refusals(stage, "n1") == [Refusal.OVERLOADED]


# --- the worker's side ---


def test_a_worker_that_attaches_during_a_handoff_has_nothing_to_drain() -> None:
    """The one before is gone, with its grant."""
    stage = formed("n1", "n2")
    assert stage.sets["n1"].resign(GROUP, "n2", stage.now) == ""
    stage._perform("n1")
    stage.attach("n1")
    stage.run(60)
    assert stage.primary == "n2"


def test_a_new_worker_waits_until_the_old_ones_entries_committed() -> None:
    """Its snapshot is older than what its predecessor submitted."""
    stage = formed()
    stage.cut("n1", "n2")
    stage.cut("n1", "n3")
    stage.submit("n1", "a")
    stage.attach("n1", 0)
    stage.run(40)
    assert stage.grant("n1") == NO_GRANT
    stage.heal()
    stage.run(40)
    assert stage.grant("n1")
    kinds = [type(e) for e in stage.effects["n1"] if isinstance(e, Deliver | Role)]
    assert kinds[-2:] == [Deliver, Role], "delivered before it may execute"


def test_committed_is_told_once_and_in_order() -> None:
    """The worker that holds the grant hears where the commit is, not what it submitted."""
    stage = formed()
    stage.submit("n1", "a", "b")
    stage.deliver()
    stage.submit("n1", "c")
    stage.deliver()
    assert stage.told("n1", Committed) == [Committed(GROUP, 2), Committed(GROUP, 3)]
    assert stage.told("n1", Deliver) == []


def test_deliveries_are_bounded() -> None:
    """A worker that comes late gets its entries in chunks."""
    stage = Stage(Timing(tail_entries=4, chunk_bytes=10))
    stage.form()
    stage.attach("n1")
    stage.run(20)
    stage.submit("n1", *("x" * 6 for _ in range(5)))
    stage.run(60)
    stage.attach("n2")
    delivered = [e for e in stage.told("n2", Deliver) if isinstance(e, Deliver)]
    assert [len(e.entries) for e in delivered] == [1] * 5


def test_a_worker_below_the_base_is_sent_for_a_snapshot() -> None:
    """Rule 11."""
    stage = formed()
    stage.submit("n1", *map(str, range(12)))
    stage.run(40)
    stage.sets["n1"].archived(GROUP, 12, stage.now)
    stage.run(40)
    stage.attach("n2", 3)
    assert stage.told("n2", Rebase) == [Rebase(GROUP, 8)]
    assert not stage.sets["n2"].status(GROUP).worker_ready


def test_the_log_is_bounded() -> None:
    """At the limit writes are refused, until the archive has caught up."""
    stage = Stage(Timing(tail_entries=2, log_bytes=50))
    stage.form()
    stage.attach("n1")
    stage.run(20)
    for _ in range(3):
        stage.submit("n1", "x" * 20)
    stage.run(40)
    stage.submit("n1", "y")
    assert refusals(stage, "n1") == [Refusal.OVERLOADED]
    stage.sets["n1"].archived(GROUP, 3, stage.now)
    stage.submit("n1", "y")
    assert stage.replica("n1").log.head == 4


def test_a_disk_that_hangs_does_not_fill_the_memory() -> None:
    """Neither the primary's, which refuses, nor a backup's, which fetches later what it let pass."""
    stage = Stage(Timing(tail_entries=4, unwritten_bytes=50))
    stage.form()
    stage.attach("n1")
    stage.run(20)
    stage.hold_disk("n2")
    for number in range(6):
        stage.submit("n1", f"{number}" * 20)
        stage.run(20)
    assert stage.replica("n1").commit == 6
    assert stage.replica("n2").log.head == 3
    stage.write("n2")
    stage.run(100)
    assert stage.payloads("n2") == stage.payloads("n1")
    stage.hold_disk("n1")
    for number in range(4):
        stage.submit("n1", f"{number}" * 20)
    assert refusals(stage, "n1") == [Refusal.OVERLOADED]
    stage.write("n1")
    stage.submit("n1", "x")
    assert refusals(stage, "n1") == [Refusal.OVERLOADED]


def test_barriers_of_a_turn_share_a_number_and_are_bounded() -> None:
    """One published barrier answers all; too many in the air are refused."""
    stage = Stage(Timing(tail_entries=4, waiting_barriers=3))
    stage.form()
    stage.attach("n1")
    stage.run(20)
    stage.isolate("n1")
    node = stage.sets["n1"]
    for token in range(1, 5):
        node.request_barrier(GROUP, stage.grant("n1"), token, stage.now)
    stage._perform("n1")
    assert stage.replica("n1").barrier == stage.replica("n1").barrier_sent
    assert refusals(stage, "n1") == [Refusal.OVERLOADED]
    stage.heal()
    stage.run(40)
    passed = [e.token for e in stage.told("n1", BarrierPassed) if isinstance(e, BarrierPassed)]
    assert passed == [1, 2, 3]


def test_a_barrier_lost_on_the_way_is_repeated() -> None:
    """Each heartbeat carries the last one."""
    stage = formed()
    stage.isolate("n1")
    stage.barrier("n1", 1)
    stage.run(30)
    stage.heal()
    stage.run(40)
    assert len(stage.told("n1", BarrierPassed)) == 1


# --- passing primacy on ---


def test_a_handoff_waits_for_a_ready_target_and_is_called_off_in_time() -> None:
    """The worker goes on as if nothing had been."""
    stage = formed("n1")
    grant = stage.grant("n1")
    assert stage.sets["n1"].resign(GROUP, "n2", stage.now) == ""
    stage._perform("n1")
    stage.sets["n1"].drained(GROUP, grant, stage.now)
    stage.run(Timing().handoff_ms + 100)
    assert roles(stage, "n1") == [
        WorkerRole.BACKUP, WorkerRole.PRIMARY, WorkerRole.DRAINING, WorkerRole.PRIMARY,
    ]  # fmt: skip
    assert stage.grant("n1") == grant
    assert "handoff to n2 called off" in str(stage.told("n1", Alert))
    stage.submit("n1", "a")
    stage.run(30)
    assert stage.told("n1", Committed) == [Committed(GROUP, 1)]


def test_a_handoff_waits_for_what_was_submitted() -> None:
    """JOIN_VIEW goes out when the target has everything and all of it is committed."""
    stage = formed("n1", "n2", "n3")
    stage.hold_disk("n2")
    stage.submit("n1", "a")
    stage.sets["n1"].resign(GROUP, "n2", stage.now)
    stage._perform("n1")
    stage.sets["n1"].drained(GROUP, stage.grant("n1"), stage.now)
    stage.run(60)
    assert stage.primary == "n1"
    stage.write("n2")
    stage.run(60)
    assert stage.primary == "n2"
    assert stage.payloads("n2") == ["a"]


def test_primacy_goes_to_a_ready_worker_and_backs_off_when_it_goes_in_circles() -> None:
    """A replica without a worker acks and votes, but does not keep primacy."""
    stage = formed("n1", "n3")
    stage.crash("n1")
    stage.run(700)
    assert stage.primary == "n3", "n2 was next in line and has no worker"
    waits = []
    for _ in range(3):
        waits.append(stage.replica("n2").pass_backoff)
        stage.replica("n2").back_off()
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_nobody_ready_means_nobody_to_pass_to() -> None:
    """Without any worker the primary stays where it is."""
    stage = Stage()
    stage.form()
    stage.run(3_000)
    assert [stage.replica(name).view for name in NAMES] == [0, 0, 0]


def test_a_full_disk_refuses_and_hands_over() -> None:
    """Rule 10: `overloaded` for writes; view records still have room."""
    stage = formed("n1", "n2", "n3")
    stage.sets["n1"].set_disk_full(True, stage.now)
    stage.submit("n1", "a")
    assert refusals(stage, "n1") == [Refusal.OVERLOADED]
    stage.sets["n1"].drained(GROUP, stage.grant("n1"), stage.now)
    stage.run(60)
    assert stage.primary in ("n2", "n3")
    stage.submit(stage.primary, "b")
    stage.run(60)
    assert stage.payloads("n1") == [], "a full disk takes no entries"
    assert stage.replica(stage.primary).commit == 1
    stage.sets["n1"].set_disk_full(False, stage.now)
    stage.run(60)
    assert stage.payloads("n1") == ["b"]


# --- incarnations ---


def test_every_start_has_its_incarnation_on_disk_before_it_speaks() -> None:
    """And peers write it down before they listen."""
    stage = formed()
    before = stage.sets["n2"].incarnation
    assert before % INCARNATION_STRIDE == 0, "a blank disk begins at a multiple of the stride"
    stage.crash("n2")
    stage.restart("n2")
    assert stage.sets["n2"].incarnation == before + 1
    stage.hold_disk("n1")
    stage.run(30)
    assert stage.sets["n1"].recorded("n2") == before
    stage.write("n1")
    assert stage.sets["n1"].recorded("n2") == before + 1


def test_held_bundles_are_bounded() -> None:
    """A slow disk cannot make a peer's traffic pile up."""
    stage = formed()
    stage.hold_disk("n1")
    for _ in range(HELD_BUNDLES + 50):
        stage.sets["n1"].receive("n2", 1 << 40, (), stage.now)
    assert len(stage.sets["n1"]._held["n2"]) == HELD_BUNDLES


def test_messages_for_groups_that_are_not_here_are_skipped() -> None:
    """PUB goes to everybody."""
    stage = formed()
    other = [stage.replica("n1")._prepared]
    assert other[0] is not None
    stage.receive("n1", "n2", stage.sets["n1"].incarnation, (other[0]._replace(group=GroupId(77)),))


# --- quiet groups ---


def test_idle_groups_cost_one_bundle_and_notice_a_dead_primary_all_the_same() -> None:
    """Quiet bundles keep clocks going; silence is noticed as fast as ever."""
    stage = formed("n1", "n2", "n3")
    stage.run(1_000)
    assert stage.sets["n2"].counters["quiet_bundles"] > 20
    assert [stage.replica(name).view for name in NAMES] == [0, 0, 0]
    stage.crash("n1")
    stage.run(90)
    assert stage.replica("n2").view == 0
    stage.run(80)
    assert stage.primary == "n2"


def test_a_touched_group_is_looked_at_again() -> None:
    """A barrier or a submit between two heartbeats is not lost in the quiet."""
    stage = formed()
    stage.run(500)
    for token in range(1, 20):
        stage.barrier("n1", token)
        stage.submit("n1", str(token))
        stage.run(30)
        assert stage.replica("n1").commit == token
        assert len(stage.told("n1", BarrierPassed)) == token
        assert stage.replica("n2").commit == token
