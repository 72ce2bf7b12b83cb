"""What keeps a group moving: asking again, handing over, idling, and whom silence is held against."""

from __future__ import annotations

from gossip.protocol import Fetch, Prepare, PrepareOk, Refusal, Refused, Status
from gossip.replica_state import Timing
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
    stage.heal()
    stage.run(220)
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
    stage.run(30)
    assert stage.replica("n2").suspicious()
    stage.heal()
    stage.run(300)
    assert [stage.replica(name).view for name in NAMES] == [0, 0, 0]


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


# --- idling ---


def test_an_idle_replica_needs_no_ticks() -> None:
    """Until the moment at which it would suspect: 64 idle groups cost nothing."""
    stage = formed("n1", "n2", "n3")
    stage.run(500)
    for name in NAMES:
        assert stage.replica(name).idle_until > stage.now + 0.05, name


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


# --- handing over ---


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


def test_backing_off_doubles_up_to_a_limit_and_ends_with_a_grant() -> None:
    """Primacy without a worker is passed on more and more slowly, until there is one."""
    stage = formed("n1")
    replica = stage.replica("n1")
    first = replica.pass_backoff
    assert first == Timing().suspicion
    waits = []
    for _ in range(9):
        replica.back_off()
        waits.append(replica.pass_at - replica.now)
    most = Timing().pass_backoff_most_ms / 1000
    assert waits[:4] == [first, 2 * first, 4 * first, 8 * first]
    assert waits[-1] == most
    stage.attach("n1")
    assert stage.grant("n1")
    assert replica.pass_backoff == first


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
