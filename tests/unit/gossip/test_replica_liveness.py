"""What keeps a group moving: asking again, handing over, idling, and whom silence is held against."""

from __future__ import annotations

from gossip.protocol import (
    BarrierPassed,
    ExitView,
    Fetch,
    GetView,
    Prepare,
    PrepareOk,
    RecoverResponse,
    Refusal,
    Refused,
    Status,
)
from gossip.records import Blank, Formed, Lost, NodeIncarnation, Opened
from gossip.replica_state import Timing
from gossip.wal import restore
from tests.simulation.directed import formed
from tests.simulation.directed_eras import two_disks_lost
from tests.simulation.stage import GROUP, NAMES, Stage

STEP_MS = Timing().tick_ms


def until(stage: Stage, condition: str, most_ms: int = 500) -> int:
    """Let time pass until an expression over `stage` holds; how many milliseconds that took."""
    for passed in range(0, most_ms, STEP_MS):
        if eval(condition, {"stage": stage, "Status": Status}):
            return passed
        stage.run(STEP_MS)
    raise AssertionError(f"not within {most_ms} ms: {condition}")


# --- view changes ---


def test_a_primary_elect_fetches_what_it_lacks() -> None:
    """n2 is next in line and knows less than n3: view 1 begins under it all the same."""
    stage = formed("n1", "n2", "n3")
    stage.isolate("n2")
    stage.submit("n1", "a", "b")
    stage.run(20)
    stage.crash("n1")
    stage.leave_for("n2", 1)
    stage.leave_for("n3", 1)
    assert stage.payloads("n2") == []
    stage.heal()
    stage.run(100)
    assert (stage.primary, stage.replica("n2").view) == ("n2", 1)
    assert stage.payloads("n2") == ["a", "b"]


def test_a_lost_fetch_is_repeated() -> None:
    """n3 knows that the view has begun, and its question for the log was lost."""
    stage = formed("n1", "n2", "n3")
    stage.submit("n1", "a")
    stage.run(60)
    stage.hold("n3", "n2")
    stage.hold("n3", "n1")
    stage.leave_for("n2", 1)
    stage.leave_for("n1", 1)
    stage.run(40)
    assert stage.primary == "n2"
    assert stage.replica("n3").status is Status.VIEW_CHANGE
    asked = [type(m) for _, messages in stage.held.pop(("n3", "n2")) for m in messages]
    assert Fetch in asked
    stage.held.clear()  # what was held is lost
    assert until(stage, "stage.replica('n3').status is Status.NORMAL") <= 60
    assert stage.replica("n3").view == 1


def test_a_lost_join_is_repeated() -> None:
    """The primary-elect hears it late, and the view begins without another suspicion."""
    stage = formed("n1", "n2", "n3")
    stage.isolate("n1")
    stage.cut("n3", "n2")
    stage.leave_for("n3", 1)
    stage.leave_for("n2", 1)
    stage.run(60)
    assert not stage.replica("n2").leads
    stage.cuts.pop(("n3", "n2"))
    assert until(stage, "stage.replica('n2').leads") <= 50
    assert stage.replica("n2").view == 1


def test_a_vote_of_a_life_that_is_over_does_not_count() -> None:
    """n3 suspected, restarted, and does not suspect any more when n2 does."""
    stage = formed()
    stage.cut("n1", "n3")
    stage.run(30)
    stage.cut("n1", "n2")
    stage.run(100)
    assert stage.replica("n2").peers["n3"].vote_until > stage.now, "it has voted"
    stage.cuts.pop(("n1", "n3"))
    stage.crash("n3")
    stage.restart("n3")
    stage.receive("n3", "n2", stage.sets["n3"].incarnation, ())  # of another group, say
    stage.run(30)
    assert stage.replica("n2").suspicious()
    stage.heal()
    stage.run(300)
    assert [stage.replica(name).view for name in NAMES] == [0, 0, 0]


def test_a_vote_counts_only_while_it_is_meant() -> None:
    """n2 suspected and then heard the primary again: n3's vote finds nobody to join."""
    stage = formed()
    stage.cut("n1", "n2")
    stage.run(150)
    assert stage.replica("n2").voted_at > stage.now - 0.05
    stage.heal()
    stage.run(30)
    assert not stage.replica("n2").suspicious()
    vote = ExitView(GROUP, 1, 0)
    stage.receive("n3", "n2", stage.sets["n3"].incarnation, (vote,))
    assert stage.replica("n2").view == 0


def test_an_answer_that_comes_twice_begins_no_second_transfer() -> None:
    """n3's recovery is being written; the answers that led to it arrive again."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(60)
    stage.crash("n3")
    stage.wipe("n3")
    stage.restart("n3")
    for _ in range(60):
        stage.run(STEP_MS)
        replica = stage.replica("n3")
        if replica.status is Status.RECOVERING and replica.transfer:
            break
        stage.hold("n1", "n3")
        stage.hold("n2", "n3")
        for name in ("n1", "n2"):
            bundles, stage.held[(name, "n3")] = stage.held[(name, "n3")], []
            for incarnation, messages in bundles:
                stage.receive(name, "n3", incarnation, messages)
    stage.hold_disk("n3")
    answers = dict(replica.answers)
    stage.release("n1", "n3")
    stage.release("n2", "n3")
    stage.run(20)
    assert replica.install_write
    for name, answer in answers.items():
        replica.handle(name, answer, stage.now)
    assert replica.transfer is None
    stage.write("n3")
    stage.run(60)
    assert replica.status is Status.NORMAL
    stage.submit("n1", "b")
    stage.run(60)
    assert stage.payloads("n3") == ["a", "b"]


def test_strangers_say_nothing() -> None:
    """What sounds like the primary, from a node outside the placement, keeps nobody from suspecting."""
    stage = formed("n1", "n2", "n3")
    stage.run(300)
    heartbeat = stage.replica("n1")._prepared
    assert heartbeat is not None
    stage.crash("n1")
    for _ in range(40):
        stage.run(STEP_MS)
        for name in ("n2", "n3"):
            stage.receive("n4", name, 4_096, (heartbeat,))
    assert stage.primary == "n2"


def test_nothing_is_said_in_a_life_that_is_not_on_disk() -> None:
    """A crash would make the next life the same one, and this one's words are under way."""
    stage = formed("n1", "n2", "n3")
    stage.crash("n2")
    stage.hold_disk("n2")
    stage.restart("n2")
    stage.isolate("n1")
    stage.lines.clear()
    stage.run(400)
    assert not any(line.startswith("n2 >") for line in stage.lines)
    assert any(line.startswith("n3 > n2") for line in stage.lines)
    stage.write("n2")
    stage.run(400)
    assert stage.primary in ("n2", "n3")


def test_answers_of_a_life_that_is_over_do_not_count() -> None:
    """Only a word about the incarnation itself is heard in any; with another nonce it is an answer."""
    stage = formed()
    stage.crash("n3")
    stage.wipe("n3")
    stage.restart("n3")
    stage.run(30)
    for name in ("n1", "n2"):
        stage.isolate(name)
    stage.run(200)
    replica = stage.replica("n3")
    recorded = stage.sets["n3"].incarnation
    answer = RecoverResponse(GROUP, 1, 0, replica.nonce, recorded, Status.NORMAL, 0, NAMES)
    stage.receive("n1", "n3", 1, (answer,))
    assert not replica.answers
    stage.receive("n1", "n3", stage.sets["n1"].incarnation, (answer,))
    assert list(replica.answers) == ["n1"]


def test_who_asks_for_the_view_it_is_in_is_answered() -> None:
    """It may have left alone and not know that the view has begun."""
    stage = formed()
    question = GetView(GROUP, 1, 0, stage.replica("n3").log.outline(0))
    stage.lines.clear()
    stage.receive("n3", "n1", stage.sets["n3"].incarnation, (question,))
    stage.deliver()
    assert any(line.startswith("n1 > n3: View ") for line in stage.lines)


def test_an_era_begins_without_what_was_suffered_in_the_one_before() -> None:
    """Nor with a claim to more than nothing, where the log is empty."""
    stage = two_disks_lost()
    stage.replica("n1").patience = 8
    assert stage.begin_era("n1") == ""
    assert stage.replica("n1").patience == 1
    other = two_disks_lost()
    assert other.begin_era("n2", 1) == ""
    assert (other.replica("n2").log_view, other.replica("n2").commit) == (0, 1)


# --- idling ---


def test_an_idle_replica_needs_no_ticks() -> None:
    """Until the moment at which it would suspect: 64 idle groups cost nothing."""
    stage = formed("n1", "n2", "n3")
    stage.run(500)
    for name in NAMES:
        assert stage.replica(name).idle_until > stage.now, name
        assert stage.sets[name].counters["quiet_bundles"] > 10, name


def test_one_node_needs_no_ticks_and_no_heartbeats() -> None:
    """It has nobody to suspect, with or without a worker."""
    stage = Stage(names=("n1",))
    stage.run(500)
    assert stage.replica("n1").idle_until == float("inf")
    stage.attach("n1")
    stage.submit("n1", "a")
    assert stage.replica("n1").sent_op == 1
    stage.run(500)
    assert stage.replica("n1").idle_until == float("inf")
    assert not stage.replica("n1").beat_due


# --- acks ---


def test_a_base_jump_is_acked_at_once() -> None:
    """The primary need not wait for the next heartbeat to know that its backup is there."""
    stage = formed()
    stage.isolate("n3")
    stage.submit("n1", *map(str, range(20)))
    stage.run(60)
    stage.sets["n1"].archived(GROUP, 18, stage.now)
    stage.run(60)
    stage.heal()
    until(stage, "stage.replica('n3').log.base == 14")
    assert stage.replica("n1").peers["n3"].match == 20


def test_a_follower_acks_at_once() -> None:
    """What a view inherited commits when its second replica has it, not a heartbeat later."""
    stage = formed("n1", "n2", "n3")
    stage.cut("n2", "n1")
    stage.cut("n3", "n1")
    stage.submit("n1", "a")
    stage.deliver()
    assert stage.replica("n1").commit == 0
    stage.crash("n1")
    until(stage, "stage.replica('n3').status is Status.NORMAL and stage.replica('n3').view == 1")
    assert stage.replica("n2").commit == 1


def test_an_idle_backup_has_nothing_to_ack() -> None:
    """One ack per heartbeat; a quiet turn owes nothing."""
    stage = formed("n1", "n2", "n3")
    stage.run(300)
    assert not stage.replica("n2").ack_due
    assert not stage.replica("n1").beat_due


def test_a_written_entry_is_acked_at_once() -> None:
    """A slow disk delays by its own time and by nothing else."""
    stage = formed()
    stage.isolate("n3")
    stage.hold_disk("n2")
    stage.submit("n1", "a")
    stage.run(30)
    assert stage.replica("n1").commit == 0
    stage.write("n2")
    stage.deliver()
    assert stage.replica("n1").commit == 1


def test_repeated_words_are_one_object() -> None:
    """Heartbeats and acks that say the same again are the same: codec and receiver recognise them."""
    stage = formed("n1", "n2", "n3")
    stage.run(100)
    said = [stage.replica("n1")._prepared, stage.replica("n2")._acked]
    stage.run(300)
    assert stage.replica("n1")._prepared is said[0]
    assert stage.replica("n2")._acked is said[1]
    assert (type(said[0]), type(said[1])) == (Prepare, PrepareOk)


def test_records_that_a_history_hangs_on_are_synced_in_every_mode() -> None:
    """A first start, a new era, a lost disk: what is agreed with others must outlive the machine."""
    stage = two_disks_lost()
    assert {Formed, Opened, Lost, NodeIncarnation} <= stage.synced["n2"]
    for name in NAMES:
        stage.synced[name].clear()
    assert stage.begin_era("n1") == ""
    assert stage.synced["n1"] == {Formed}
    stage.run(600)
    assert {Formed, Opened} <= stage.synced["n2"]
    assert {Blank} & (stage.synced["n2"] | stage.synced["n3"])


def test_a_truncated_log_is_truncated_on_disk_too() -> None:
    """Else the segments that hold it could never go."""
    stage = formed()
    stage.submit("n1", *map(str, range(20)))
    stage.run(60)
    stage.sets["n1"].archived(GROUP, 18, stage.now)
    stage.run(60)
    for name in NAMES:
        assert restore([(1, stage.disks[name])]).node.groups[GROUP].base == 14


def test_barriers_count_under_a_primary_of_a_lower_incarnation() -> None:
    """n1 has restarted and n2 has not: what was heard of n1's barriers means nothing under n2."""
    stage = formed("n1", "n2", "n3")
    stage.crash("n1")
    stage.restart("n1")
    stage.attach("n1")
    stage.run(300)
    stage.leave_for("n1", 3)
    stage.leave_for("n3", 3)
    stage.run(200)
    assert stage.primary == "n1"
    stage.barrier("n1", 1)
    stage.run(60)
    assert len(stage.told("n1", BarrierPassed)) == 1
    assert stage.sets["n1"].incarnation > stage.sets["n2"].incarnation
    stage.attach("n2")
    stage.leave_for("n2", 4)
    stage.leave_for("n3", 4)
    stage.run(60)
    stage.crash("n1")
    assert stage.primary == "n2"
    stage.barrier("n2", 1)
    stage.run(60)
    assert len(stage.told("n2", BarrierPassed)) == 1


# --- handing over ---


def test_a_ready_worker_is_known_to_the_primary_at_once() -> None:
    """It may be waiting for somebody to hand over to."""
    stage = formed("n1")
    stage.run(300)
    assert not stage.replica("n1").peers["n2"].ready
    stage.attach("n2")
    stage.deliver()
    assert stage.replica("n1").peers["n2"].ready
    stage.sets["n2"].detach(GROUP, stage.now)
    stage._perform("n2")
    stage.deliver()
    assert not stage.replica("n1").peers["n2"].ready


def test_a_full_disk_keeps_looking_for_a_successor() -> None:
    """The handoff was called off: nobody was ready. Without a worker it goes on as soon as one is."""
    stage = formed("n1")
    stage.sets["n1"].set_disk_full(True, stage.now)
    stage._perform("n1")
    stage.run(Timing().handoff_ms + 100)
    assert stage.grant("n1"), "called off: the worker stays"
    stage.attach("n2")
    stage.run(300)
    assert stage.primary == "n1", "its worker may have executed something: nothing is taken from it"
    stage.submit("n1", "a")
    assert [e.reason for e in stage.told("n1", Refused) if isinstance(e, Refused)] == [Refusal.OVERLOADED]
    stage.sets["n1"].detach(GROUP, stage.now)
    stage._perform("n1")
    stage.run(60)
    assert stage.primary == "n2"


def test_with_full_disks_everywhere_the_worker_of_whoever_leads_serves_and_refuses() -> None:
    """Primacy went to a node whose disk is full, too, before that was known: it stays, and reads go on."""
    stage = formed("n1", "n2", "n3")
    for name in NAMES:
        stage.sets[name].set_disk_full(True, stage.now)
    stage.sets["n1"].drained(GROUP, stage.grant("n1"), stage.now)
    stage.run(60)
    leader = stage.primary
    assert leader in ("n2", "n3") and not stage.grant(leader), "it looks for somebody with room first"
    stage.run(Timing().suspicion_ms + 100)
    assert stage.primary == leader and stage.grant(leader)
    stage.submit(leader, "a")
    assert [e.reason for e in stage.told(leader, Refused) if isinstance(e, Refused)] == [Refusal.OVERLOADED]


def test_backing_off_doubles_up_to_a_limit_and_ends_with_a_grant() -> None:
    """Primacy without a worker is passed on more and more slowly, until there is one."""
    stage = formed("n1")
    replica = stage.replica("n1")
    first = replica.pass_backoff
    assert first == Timing().suspicion
    replica.back_off()
    assert replica.pass_at - replica.now == Timing().first_worker_ms / 1000, "the first of all primaries"
    stage.attach("n1")
    assert stage.grant("n1")
    assert replica.pass_backoff == first
    replica.view = 3
    waits = []
    for _ in range(9):
        replica.back_off()
        waits.append(round(replica.pass_at - replica.now, 6))
    most = Timing().pass_backoff_most_ms / 1000
    assert waits[:4] == [first, 2 * first, 4 * first, 8 * first]
    assert waits[-1] == most


def test_a_stale_barrier_is_refused() -> None:
    """The worker before this one learns that nothing it asks will be answered."""
    stage = formed()
    old = stage.grant("n1")
    stage.attach("n1")
    stage.barrier("n1", 7, old)
    stage.run(30)
    assert stage.told("n1", Refused) == [Refused(GROUP, old, 0, Refusal.STALE_GRANT, 0)]


def test_the_coordinator_s_placement_wins_at_the_first_start() -> None:
    """n3 has computed another order; all three store the one that was offered."""
    stage = Stage()
    stage.replica("n3").adopt_placement(("n1", "n3", "n2"))
    stage.run(600)
    assert stage.primary == "n1"
    for name in NAMES:
        assert stage.replica(name).placement == ("n1", "n2", "n3")
        assert stage.replica(name).status is Status.NORMAL


# --- the operator ---


def test_what_was_wrong_is_not_said_any_more_when_an_era_has_begun() -> None:
    """n2 has heard of era 2, and has not been offered it yet."""
    stage = two_disks_lost()
    assert stage.problem("n2") != ""
    stage.hold("n2", "n1")
    assert stage.begin_era("n1") == ""
    stage.run(40)
    assert stage.replica("n2").status is Status.BLANK
    assert stage.problem("n2") == ""


def test_a_placement_without_this_node_is_said_aloud() -> None:
    """A disk in the wrong machine must not take part."""
    stage = formed()
    stage.crash("n3")
    stage.wipe("n3")
    for name in ("n1", "n2"):
        stage.replica(name).placement = ("n1", "n2", "n4")
    stage.restart("n3")
    stage.run(300)
    assert "does not name n3" in stage.problem("n3")
    assert stage.replica("n3").status is Status.BLANK


def test_a_coordinator_asks_nobody_for_what_it_has() -> None:
    """It waits for the others, and tells them."""
    stage = formed()
    for name in ("n2", "n3"):
        stage.crash(name)
    stage.run(300)
    nonce = stage.replica("n1").nonce
    assert stage.begin_era("n1") == ""
    stage.run(500)
    assert stage.replica("n1").status is Status.FORMING
    assert stage.replica("n1").nonce == nonce


def test_status_is_of_now() -> None:
    """Also of an idle group: how long each peer has been silent."""
    stage = formed("n1", "n2", "n3")
    stage.run(300)
    silent = [peer.silent_ms for peer in stage.sets["n1"].status(GROUP).peers]
    assert max(silent) <= 40
    stage.crash("n3")
    stage.run(100)
    silent = [peer.silent_ms for peer in stage.sets["n1"].status(GROUP).peers]
    assert silent[0] <= 40
    assert 80 <= silent[1] <= 140
