"""Directed traces: each walks the cluster into the corner where one bug of the mutation table shows.

Random seeds rarely find these. Each function plays on a `Stage` and asserts; with the bug put back it
(or an invariant of the core on the way) must fail. They are the regression tests of the rules too.
"""

from __future__ import annotations

from gossip.protocol import BarrierPassed, Refused, Role, Status, WorkerRole
from gossip.records import Append, Install
from tests.simulation.stage import Stage, before


def formed(*working: str) -> Stage:
    """A group in view 0 under n1, with workers on the named nodes."""
    stage = Stage()
    stage.form()
    for name in working or ("n1",):
        stage.attach(name)
    stage.run(50)
    assert stage.grant("n1"), stage.replica("n1").describe()
    return stage


# --- promises and writes ---


def acks_wait_for_the_disk() -> None:
    """Rule 2: what is not written anywhere but here is not committed."""
    stage = formed()
    stage.hold_disk("n2")
    stage.hold_disk("n3")
    stage.submit("n1", "a")
    stage.run(30)
    assert stage.replica("n1").commit == 0
    stage.write("n2")
    stage.deliver()
    assert stage.replica("n1").commit == 1


def the_primary_waits_for_its_own_disk() -> None:
    """One backup and a primary that has not written are one, not two."""
    stage = formed()
    stage.isolate("n3")
    stage.hold_disk("n1")
    stage.submit("n1", "a")
    stage.run(30)
    assert stage.replica("n1").commit == 0


def joins_wait_for_the_promise() -> None:
    """Rule 2: a join whose promise could be forgotten is no join."""
    stage = formed()
    stage.isolate("n1")
    stage.hold_disk("n3")
    stage.run(300)
    assert stage.replica("n2").status is Status.VIEW_CHANGE, "formed a view with a join that was not written"
    stage.crash("n3")
    stage.restart("n3")
    stage.run(400)
    assert stage.primary


def a_view_begins_on_disk() -> None:
    """The outcome of a view change is not told before its first holder has it on disk."""
    stage = formed()
    stage.isolate("n1")
    stage.hold("n3", "n2")
    stage.leave_for("n2", 1)
    stage.leave_for("n3", 1)
    stage.hold_disk("n2")
    stage.release("n3", "n2")
    stage.run(60)
    assert stage.replica("n3").log_view == 0, "n3 installed a log that its primary may forget"
    stage.write("n2")
    stage.run(60)
    assert stage.primary == "n2"
    assert stage.replica("n3").log_view == 1


def promises_survive_restarts() -> None:
    """Rule 2: never back to a lower view."""
    stage = formed()
    stage.leave_for("n3", 4)
    stage.isolate("n3")
    stage.crash("n3")
    stage.restart("n3")
    assert stage.replica("n3").view == 4


def half_an_install_is_none() -> None:
    """Rule 3: a torn install leaves the old log, with its old claim."""
    stage = formed()
    stage.isolate("n3")
    stage.submit("n1", "a", "b")
    stage.run(30)
    assert stage.replica("n1").commit == 2
    stage.crash("n1")
    stage.heal()
    stage.hold("n2", "n3")
    stage.leave_for("n2", 1)
    stage.leave_for("n3", 1)
    stage.run(60)
    assert stage.primary == "n2"
    stage.hold_disk("n3")
    stage.release("n2", "n3")
    assert stage.replica("n3").log.head == 2, "the log of view 1 is being written"
    stage.crash("n3", _last_of_install(stage))
    stage.crash("n2")
    stage.restart("n3")
    stage.restart("n1")
    stage.run(1_000)
    assert stage.primary
    stage.check_all_committed_is_there()


def _last_of_install(stage: Stage) -> type:
    """The kind of the last record that n3 is writing: Install, unless a bug appends one by one."""
    return Append if any(before(data, Append)[1] for _, data in stage.unwritten["n3"]) else Install


def the_old_tail_stays_until_replaced() -> None:
    """Rule 3: n3 holds the only other copy while it waits for the log of a view it already has."""
    stage = formed()
    stage.isolate("n2")
    stage.submit("n1", "a", "b")
    stage.deliver()
    assert stage.replica("n1").commit == 2
    stage.crash("n3")
    stage.restart("n3")  # its commit is 0 again
    stage.heal()
    stage.cut("n1", "n2")
    stage.leave_for("n2", 3)
    stage.hold("n3", "n1")
    stage.leave_for("n1", 3)
    stage.deliver()
    stage.hold_disk("n1")
    stage.release("n3", "n1")
    stage.write("n1")
    stage.deliver()
    stage.hold("n1", "n3")
    stage.run(20)
    stage.crash("n1")
    stage.heal()
    stage.held.clear()
    stage.run(1_000)
    assert stage.primary
    assert stage.payloads(stage.primary) == ["a", "b"]


def a_late_install_is_not_a_view() -> None:
    """An install that reaches the disk after its view is over makes nobody NORMAL."""
    stage = formed()
    stage.isolate("n1")
    stage.hold("n2", "n3")
    stage.leave_for("n2", 1)
    stage.leave_for("n3", 1)
    stage.run(30)
    stage.hold_disk("n3")
    stage.release("n2", "n3")
    stage.leave_for("n3", 5)
    upto, data = stage.unwritten["n3"].pop(0)
    stage.disks["n3"] += data
    stage.sets["n3"].written(upto, stage.now)
    assert stage.replica("n3").status is Status.VIEW_CHANGE


def damage_is_not_absence() -> None:
    """Rule 10: n2 lost an op that it acked; it may not vote as if it had never had it."""
    stage = formed()
    stage.isolate("n3")
    stage.submit("n1", "aaaa")
    stage.submit("n1", "bbbb")
    stage.deliver()
    assert stage.replica("n1").commit == 2
    stage.crash("n1")
    stage.crash("n2")
    disk = stage.disks["n2"]
    stage.disks["n2"] = disk.replace(b"bbbb", b"bbxb")
    assert stage.disks["n2"] != disk
    stage.heal()
    stage.restart("n2")
    stage.run(800)
    assert not stage.primary
    assert stage.replica("n2").status is Status.RECOVERING
    stage.restart("n1")
    stage.run(1_500)
    assert stage.replica("n2").status is Status.NORMAL
    stage.check_all_committed_is_there()


# --- views ---


def a_later_view_beats_a_longer_log() -> None:
    """Of two joined logs the one good in the later view wins."""
    stage = formed("n1", "n2")
    stage.isolate("n1")
    stage.submit("n1", "x", "y", "z")
    stage.run(400)
    assert stage.primary == "n2"
    stage.submit("n2", "a")
    stage.run(30)
    assert stage.truth[1].payload == b"a"
    stage.crash("n3")
    stage.heal()
    stage.leave_for("n2", 3)
    stage.run(800)
    assert stage.primary
    assert stage.payloads(stage.primary) == ["a"]
    assert stage.payloads("n1") == ["a"]


def a_restarted_primary_steps_back() -> None:
    """It may have published what its disk never saw; it must not give that op to another entry."""
    stage = formed()
    stage.hold_disk("n1")
    stage.submit("n1", "a")
    stage.deliver()
    assert stage.replica("n1").commit == 1
    stage.crash("n1")
    stage.restart("n1")
    stage.attach("n1")
    stage.run(10)
    if stage.grant("n1"):
        stage.submit("n1", "b")
    stage.run(800)
    assert stage.payloads(stage.primary) == ["a"]


def a_join_is_no_ack() -> None:
    """Rule 1: inherited entries commit through acks given in this view only."""
    stage = formed("n1", "n2")
    stage.isolate("n1")
    stage.submit("n1", "x", "y")
    stage.run(400)
    stage.cut("n2", "n3")
    stage.submit("n2", "a", "b")
    stage.run(10)
    assert stage.replica("n2").commit == 0
    stage.crash("n3")
    stage.heal()
    stage.cut("n2", "n1")  # n1 can join n2 but hears nothing of it
    stage.leave_for("n1", 4)
    stage.run(60)
    assert stage.replica("n2").view == 4
    assert stage.replica("n2").commit == 0, "committed what only n2 holds"


def old_votes_are_forgotten() -> None:
    """Two hiccups far apart are not a majority."""
    stage = formed()
    stage.cut("n1", "n3")
    stage.run(170)
    stage.heal()
    stage.run(2_000)
    stage.cut("n1", "n2")
    stage.run(170)
    stage.heal()
    stage.run(500)
    assert [stage.replica(name).view for name in ("n1", "n2", "n3")] == [0, 0, 0]


def the_one_in_a_higher_view_is_fetched() -> None:
    """A replica that left alone (its fellow voter stayed) must not stay outside for ever."""
    stage = formed()
    stage.leave_for("n2", 4)
    stage.run(1_500)
    views = {stage.replica(name).view for name in ("n1", "n2", "n3")}
    assert len(views) == 1
    assert all(stage.replica(name).status is Status.NORMAL for name in ("n1", "n2", "n3"))


def one_voter_stays() -> None:
    """One link is down; the third sees both: nobody leaves, and the log comes through the third."""
    stage = formed()
    stage.cut("n1", "n3")
    stage.cut("n3", "n1")
    stage.submit("n1", "a")
    stage.run(1_000)
    assert [stage.replica(name).view for name in ("n1", "n2", "n3")] == [0, 0, 0]
    assert stage.payloads("n3") == ["a"]
    assert stage.replica("n3").commit == 1


def a_late_loop_blames_nobody() -> None:
    """Rule 7: after its own pause a node waits before it suspects."""
    stage = formed()
    stage.hold("n1", "n3")
    stage.hold("n2", "n3")
    stage.frozen = ["n3"]
    stage.run(400)
    stage.frozen = []
    stage.lines.clear()
    stage.run(20)
    stage.release("n1", "n3")
    stage.run(200)
    assert not any("ExitView" in line for line in stage.lines)


def old_views_are_not_heeded() -> None:
    """A delayed join of an earlier view says nothing in this one."""
    stage = formed("n1", "n2")
    stage.hold("n3", "n2")
    stage.leave_for("n3", 1)  # its join with an empty log is under way to n2
    old = stage.held.pop(("n3", "n2"))
    stage.run(1_000)
    name = stage.primary
    stage.attach(name)
    stage.run(30)
    stage.isolate("n2")
    stage.submit(name, "a")
    stage.run(30)
    stage.leave_for("n2", stage.replica("n2").next_view_of("n2"))
    for incarnation, messages in old:
        stage.receive("n3", "n2", incarnation, messages)
    stage.run(60)
    assert not stage.replica("n2").leads


# --- the log ---


def gaps_are_fetched() -> None:
    """An op that was lost on the way is asked for, not skipped."""
    stage = formed()
    stage.cut("n1", "n3")
    stage.submit("n1", "a")
    stage.deliver()
    stage.heal()
    stage.submit("n1", "b")
    stage.run(60)
    assert stage.payloads("n3") == ["a", "b"]


def divergent_tails_are_replaced() -> None:
    """What an isolated primary wrote alone goes when it comes back."""
    stage = formed("n1", "n2")
    stage.submit("n1", "a")
    stage.deliver()
    stage.isolate("n1")
    stage.submit("n1", "x", "y")
    stage.run(400)
    stage.submit("n2", "b", "c", "d")
    stage.run(30)
    stage.heal()
    stage.run(400)
    assert stage.payloads("n1") == ["a", "b", "c", "d"]
    assert stage.sets["n1"].counters["tails_replaced"] == 1


def only_the_archived_is_truncated() -> None:
    """Rule 11, and the base jump of one who was away."""
    stage = formed()
    stage.isolate("n3")
    for number in range(20):
        stage.submit("n1", f"p{number}")
    stage.run(60)
    assert stage.replica("n1").log.base == 0
    stage.sets["n1"].archived(0, 18, stage.now)  # type: ignore[arg-type]
    stage.run(60)
    assert stage.replica("n1").log.base == 14
    assert stage.replica("n2").log.base == 14
    stage.heal()
    stage.run(300)
    assert stage.replica("n3").log.base == 14
    assert stage.payloads("n3") == [f"p{number}" for number in range(14, 20)]


# --- recovery ---


def a_wiped_replica_has_no_voice() -> None:
    """Rule 8: n3 acked what it no longer has; with n2, which never had it, it is no majority."""
    stage = formed()
    stage.isolate("n2")
    stage.submit("n1", "a")
    stage.deliver()
    stage.crash("n1")
    stage.crash("n3")
    stage.wipe("n3")
    stage.heal()
    stage.restart("n3")
    stage.run(1_000)
    assert not stage.primary
    assert stage.replica("n3").status is Status.RECOVERING
    stage.restart("n1")
    stage.run(1_500)
    assert stage.replica("n3").status is Status.NORMAL
    stage.check_all_committed_is_there()


def recovery_needs_both_peers() -> None:
    """Rule 8: one peer alone may be the one that knows nothing."""
    stage = formed()
    stage.isolate("n2")
    stage.submit("n1", "a")
    stage.deliver()
    stage.crash("n3")
    stage.wipe("n3")
    stage.heal()
    stage.isolate("n1")
    stage.restart("n3")
    stage.run(600)
    assert stage.replica("n3").status in (Status.BLANK, Status.RECOVERING)


def recovery_needs_normal_peers() -> None:
    """Rule 8: n1 is NORMAL in a view long over, n2 knows better but is in a view change."""
    stage = formed("n1", "n2")
    stage.isolate("n1")
    stage.run(400)
    stage.submit("n2", "a")
    stage.run(30)
    assert stage.truth[1].payload == b"a"
    stage.crash("n3")
    stage.wipe("n3")
    stage.heal()
    stage.cut("n1", "n2")
    stage.cut("n2", "n1")
    stage.leave_for("n2", 4)
    stage.restart("n3")
    stage.run(400)
    assert stage.replica("n3").status is Status.RECOVERING


def _old_join_after_recovery(unheard: bool) -> None:
    """n3's old life promised n2 a view and that message is still under way when n3 is new."""
    stage = formed()
    if unheard:  # no peer ever heard of the life that promises
        stage.crash("n3")
        stage.isolate("n3")
        stage.restart("n3")
        stage.cuts.pop(("n3", "n2"))
    stage.hold("n3", "n2")
    stage.leave_for("n3", 1)
    stage.run(20)
    old = stage.held.pop(("n3", "n2"))
    assert any(type(m).__name__ == "JoinView" for _, messages in old for m in messages)
    stage.crash("n3")
    stage.wipe("n3")
    stage.heal()
    stage.restart("n3")
    stage.run(1_000)
    assert stage.replica("n3").status is Status.NORMAL
    assert stage.primary == "n1"
    stage.cut("n1", "n2")
    stage.submit("n1", "a")
    stage.deliver()
    assert stage.replica("n1").commit == 1
    for incarnation, messages in old:
        stage.receive("n3", "n2", incarnation, messages)
    stage.deliver()
    assert not stage.replica("n2").leads, "n2 leads with a promise of a life that is over"
    stage.heal()
    stage.run(1_000)
    stage.check_all_committed_is_there()


def an_old_life_cannot_join() -> None:
    """Rule 8: the peers dropped it by its incarnation."""
    _old_join_after_recovery(unheard=False)


def an_old_life_nobody_heard_of_cannot_join() -> None:
    """The same for a life whose incarnation no peer had recorded: max + 1 would be equal to it."""
    _old_join_after_recovery(unheard=True)


def both_peers_write_the_incarnation_down() -> None:
    """Rule 8: NORMAL again only when both have the new incarnation on disk."""
    stage = formed()
    stage.crash("n3")
    stage.wipe("n3")
    stage.hold_disk("n2")
    stage.restart("n3")
    stage.run(500)
    assert stage.replica("n3").status is Status.RECOVERING
    stage.write("n2")
    stage.run(500)
    assert stage.replica("n3").status is Status.NORMAL


def answers_to_old_questions_do_not_count() -> None:
    """Rule 8: an answer counts for its nonce, given by one who knew the incarnation that asked."""
    stage = formed()
    stage.crash("n3")
    stage.wipe("n3")
    stage.restart("n3")
    stage.hold("n2", "n3")
    stage.run(20)
    stage.cut("n3", "n2")
    first = stage.held.pop(("n2", "n3"))
    stage.run(200)
    for incarnation, messages in first:
        stage.receive("n2", "n3", incarnation, messages)
    stage.run(400)
    known = stage.sets["n2"].recorded("n3") == stage.sets["n3"].incarnation
    assert known or stage.replica("n3").status in (Status.BLANK, Status.RECOVERING)


def a_blank_disk_is_no_first_start() -> None:
    """Rule 9: the first primary comes back blank and finds a backup that knows of nothing yet."""
    stage = formed()
    stage.isolate("n3")
    stage.submit("n1", "a")
    stage.deliver()
    stage.crash("n1")
    stage.crash("n2")
    stage.wipe("n1")
    stage.heal()
    stage.restart("n1")
    stage.run(1_000)
    assert not stage.primary


# --- workers and reads ---


def nothing_runs_before_the_inherited() -> None:
    """Rule 4: no grant while an inherited entry has not committed in this view."""
    stage = formed("n1", "n2")
    stage.cut("n1", "n3")
    stage.cut("n2", "n1")
    stage.submit("n1", "a")
    stage.deliver()
    stage.crash("n1")
    stage.run(200)
    stage.hold_disk("n3")
    stage.hold("n3", "n2")
    stage.run(60)
    stage.release("n3", "n2")
    stage.run(100)
    if stage.replica("n2").leads and stage.replica("n2").commit < 1:
        assert not stage.grant("n2")
    stage.write("n3")
    stage.run(400)
    granted = [e for e in stage.told("n2", Role) if isinstance(e, Role) and e.role is WorkerRole.PRIMARY]
    assert len(granted) == 1


def old_grants_are_refused() -> None:
    """Rule 5: the worker before this one cannot submit."""
    stage = formed()
    old = stage.grant("n1")
    stage.attach("n1")
    stage.run(20)
    assert stage.grant("n1") not in (0, old)
    stage.submit("n1", "a", grant=old)
    stage.run(20)
    assert stage.payloads("n1") == []
    assert len(stage.told("n1", Refused)) == 1


def gaps_are_refused() -> None:
    """Rule 5: a SUBMIT follows the head, or what it repeats is skipped."""
    stage = formed()
    stage.submit("n1", "b", first_op=2)
    assert stage.payloads("n1") == []
    stage.submit("n1", "a", first_op=1)
    stage.submit("n1", "a", "b", first_op=1)
    assert stage.payloads("n1") == ["a", "b"]


def reads_need_a_living_majority() -> None:
    """Rule 6: an isolated primary proves nothing."""
    stage = formed()
    stage.barrier("n1", 1)
    stage.deliver()
    assert len(stage.told("n1", BarrierPassed)) == 1
    stage.isolate("n1")
    stage.barrier("n1", 2)
    stage.run(100)
    assert len(stage.told("n1", BarrierPassed)) == 1


def barriers_of_an_earlier_life_do_not_count() -> None:
    """Rule 6: an ack that was under way while the primary restarted proves nothing now."""
    stage = formed()
    for token in range(1, 6):
        stage.barrier("n1", token)
        stage.deliver()
    stage.hold("n2", "n1")
    stage.run(40)
    old = stage.held.pop(("n2", "n1"))
    stage.crash("n1")
    stage.restart("n1")
    stage.effects.clear()
    stage.isolate("n1")
    stage.attach("n1")
    stage.run(20)
    if stage.grant("n1"):
        stage.barrier("n1", 9)
    for incarnation, messages in old:
        stage.receive("n2", "n1", incarnation, messages)
    assert not stage.told("n1", BarrierPassed)


TRACES = [
    acks_wait_for_the_disk,
    the_primary_waits_for_its_own_disk,
    joins_wait_for_the_promise,
    a_view_begins_on_disk,
    promises_survive_restarts,
    half_an_install_is_none,
    the_old_tail_stays_until_replaced,
    a_late_install_is_not_a_view,
    damage_is_not_absence,
    a_later_view_beats_a_longer_log,
    a_restarted_primary_steps_back,
    a_join_is_no_ack,
    old_votes_are_forgotten,
    the_one_in_a_higher_view_is_fetched,
    one_voter_stays,
    a_late_loop_blames_nobody,
    old_views_are_not_heeded,
    gaps_are_fetched,
    divergent_tails_are_replaced,
    only_the_archived_is_truncated,
    a_wiped_replica_has_no_voice,
    recovery_needs_both_peers,
    recovery_needs_normal_peers,
    an_old_life_cannot_join,
    an_old_life_nobody_heard_of_cannot_join,
    both_peers_write_the_incarnation_down,
    answers_to_old_questions_do_not_count,
    a_blank_disk_is_no_first_start,
    nothing_runs_before_the_inherited,
    old_grants_are_refused,
    gaps_are_refused,
    reads_need_a_living_majority,
    barriers_of_an_earlier_life_do_not_count,
]
