"""What a replica does not do: answer before its promise, believe who has no say, wait longer than it must."""

from __future__ import annotations

import pytest

from gossip.protocol import (
    Entries,
    Entry,
    ExitView,
    Fetch,
    FormOk,
    JoinView,
    Prepare,
    Status,
    entry_crc,
)
from gossip.records import NodeIncarnation
from gossip.repair import Transfer
from gossip.replica import Replica
from gossip.replica_log import ReplicaLog
from gossip.replica_state import Timing
from gossip.view_change import MOST_PATIENCE
from tests.simulation.directed import formed
from tests.simulation.stage import GROUP, NAMES, Stage

STEP_MS = Timing().tick_ms


def entry(op: int, view: int, text: str = "x") -> Entry:
    """An entry that a primary of `view` wrote."""
    payload = text.encode()
    return Entry(op, view, entry_crc(op, payload), payload)


def said(stage: Stage, source: str, target: str, kind: str) -> int:
    """How many messages of a kind have arrived."""
    return sum(line.startswith(f"{source} > {target}: {kind} ") for line in stage.lines)


def heard(stage: Stage, source: str, target: str, message: object) -> None:
    """Something arrives that no replica of this stage would send now."""
    stage.receive(source, target, stage.sets[source].incarnation, (message,))  # type: ignore[arg-type]
    stage.deliver()


# --- repair ---


def test_nothing_is_served_before_the_promise_is_written() -> None:
    """n3 has left view 0, its disk does not know it yet, and n2 already asks for its log."""
    stage = formed()
    stage.hold_disk("n3")
    stage.leave_for("n3", 1)
    question = Fetch(GROUP, 1, 1, stage.replica("n2").log.outline(0))
    heard(stage, "n2", "n3", question)
    assert not said(stage, "n3", "n2", "Entries")
    stage.write("n3")
    heard(stage, "n2", "n3", question)
    assert said(stage, "n3", "n2", "Entries") == 1


def test_a_joined_log_is_for_the_primary_elect_alone() -> None:
    """n3 waits for view 1 under n2; n1 asks in that view and is nobody in it."""
    stage = formed()
    stage.isolate("n2")
    stage.leave_for("n3", 1)
    heard(stage, "n1", "n3", Fetch(GROUP, 1, 1, stage.replica("n1").log.outline(0)))
    assert not said(stage, "n3", "n1", "Entries")


def test_a_question_of_the_primary_in_a_view_that_goes_on_is_no_sign_of_a_new_one() -> None:
    """Only a primary-elect that gathers logs makes the next view change wait longer."""
    stage = formed()
    heard(stage, "n1", "n3", Fetch(GROUP, 1, 0, stage.replica("n1").log.outline(0)))
    assert said(stage, "n3", "n1", "Entries") == 1
    assert not stage.replica("n3").forming_seen


def test_entries_out_of_the_blue_change_no_log() -> None:
    """n3 is between two views and has asked nobody."""
    stage = formed()
    stage.isolate("n2")
    stage.leave_for("n3", 1)
    replica = stage.replica("n3")
    assert (replica.status, replica.transfer) == (Status.VIEW_CHANGE, None)
    heard(stage, "n1", "n3", Entries(GROUP, 1, 1, 1, 0, 0, (entry(1, 1),), False, 1, 0))
    assert stage.payloads("n3") == []


@pytest.mark.parametrize(("sender", "log_view"), [("n1", 0), ("n3", 5)])
def test_a_transfer_takes_only_the_log_it_is_for(sender: str, log_view: int) -> None:
    """n2 gathers n3's log of view 0 for view 1: only n3 has that, and no other log will do."""
    stage = formed()
    stage.isolate("n1")
    stage.isolate("n2")
    stage.leave_for("n2", 1)
    replica = stage.replica("n2")
    replica.now = stage.now
    replica.begin_transfer("n3", 0, 1)
    heard(stage, sender, "n2", Entries(GROUP, 1, 1, log_view, 0, 0, (entry(1, 0),), False, 1, 0))
    assert replica.transfer is not None and replica.transfer.prev_op == -1
    assert stage.payloads("n2") == []


def test_a_gap_begins_a_transfer_anew_and_a_repetition_does_not() -> None:
    """What has come stays good while it is only told again."""
    stage = formed()
    replica = stage.replica("n2")
    transfer = replica.transfer = Transfer("n3", 0, 9)

    def entries(prev: int, ops: range) -> Entries:
        return Entries(GROUP, 1, 0, 0, prev, 0, tuple(entry(op, 0) for op in ops), False, 9, 0)

    assert replica.stage(transfer, entries(0, range(1, 4)))
    assert not replica.stage(transfer, entries(1, range(2, 3)))
    assert replica.transfer is transfer and transfer.head == 3
    assert not replica.stage(transfer, entries(5, range(6, 8)))
    assert replica.transfer is not transfer
    assert (replica.transfer.source, replica.transfer.target, replica.transfer.head) == ("n3", 9, -1)


def test_logs_match_where_both_end_or_not_at_all() -> None:
    """Also where the other one ends in another view than it began, and right at our base."""
    stage = formed()
    replica = stage.replica("n2")
    replica.log = ReplicaLog(2, 0)
    for known in (entry(3, 0), entry(4, 1)):
        replica.log.append(known)
    assert replica.prev_matches(2, 0, (entry(3, 0), entry(4, 1)))
    assert not replica.prev_matches(2, 0, (entry(3, 0), entry(4, 2)))
    assert replica.prev_matches(1, 0, (entry(2, 0),))
    assert not replica.prev_matches(1, 0, (entry(2, 7),)), "it ends at our base, in another view"
    assert replica.prev_matches(0, 0, (entry(1, 7),)), "all of it is below our base"


def test_a_follower_asks_the_other_one_in_time() -> None:
    """n2 began view 1 and falls silent: n3 asks it again after two heartbeats, not before, at n1."""
    stage = formed("n1", "n2", "n3")
    stage.submit("n1", "a")
    stage.run(60)
    stage.isolate("n2")
    replica = stage.replica("n3")
    stage.leave_for("n3", 1)
    replica.begin_transfer("n2", 1, 1)
    asked = []
    start = stage.now

    def send(node: str, message: object) -> None:
        if type(message) is Fetch:
            asked.append((node, round((stage.now - start) * 1000)))

    replica.send = send  # type: ignore[method-assign]
    stage.run(50)
    assert asked == [("n1", 40)]


def test_a_log_is_truncated_in_steps() -> None:
    """A quarter of the tail at a time: each step is a record."""
    stage = Stage(Timing(tail_entries=16))
    stage.form()
    stage.attach("n1")
    stage.run(50)
    stage.submit("n1", *map(str, range(40)))
    stage.run(60)
    bases = []
    for archived in (19, 20, 23, 24):
        stage.sets["n1"].archived(GROUP, archived, stage.now)
        stage._perform("n1")
        bases.append(stage.replica("n1").log.base)
    assert bases == [0, 4, 4, 8]


# --- who has a say ---


def test_a_prepare_of_one_who_is_not_primary_is_no_prepare() -> None:
    """n3 is a backup of view 0 like n2."""
    stage = formed()
    heard(stage, "n3", "n2", Prepare(GROUP, 1, 0, 0, 0, (entry(1, 0),), 1, (1, 0), 0))
    assert stage.payloads("n2") == [] and stage.replica("n2").commit == 0


def test_a_join_for_somebody_else_s_view_is_not_followed() -> None:
    """View 2 is n3's: n1 has nothing to begin in it."""
    stage = formed()
    heard(stage, "n2", "n1", JoinView(GROUP, 1, 2, 0, stage.replica("n2").log.outline(0)))
    assert (stage.replica("n1").view, stage.replica("n1").status) == (0, Status.NORMAL)


def forming() -> Stage:
    """n1 has the record of the first era on disk, and has heard of nobody else who has."""
    stage = Stage()
    while stage.replica("n1").status is not Status.FORMING:
        assert stage.now < 102
        stage.run(STEP_MS)
    stage.isolate("n1")
    stage.run(2 * STEP_MS)
    assert stage.replica("n1").status is Status.FORMING
    return stage


def test_a_bootstrap_record_of_another_order_does_not_count() -> None:
    """n3 has stored the nodes in another order: the group is not opened, and the operator is told."""
    stage = forming()
    replica = stage.replica("n1")
    assert "n3" not in replica.formed
    heard(stage, "n3", "n1", FormOk(GROUP, 1, 0, ("n1", "n3", "n2")))
    assert "n3 has placement" in replica.problem
    assert replica.status is Status.FORMING and "n3" not in replica.formed


def test_a_group_that_is_being_formed_for_the_first_time_has_nothing_to_recover() -> None:
    """An era may be begun anew by who holds its log, and here nobody holds one."""
    stage = forming()
    assert "holds no log" in stage.begin_era("n1")


def test_the_first_era_that_an_operator_begins_is_the_first() -> None:
    """A group that never came to be, begun at what an archive holds: no number is left out."""
    stage = Stage()
    for name in ("n2", "n3"):
        stage.crash(name)
    stage.run(60)
    assert stage.sets["n1"].begin_era(GROUP, stage.now, 5) == ""
    assert (stage.replica("n1").era, stage.replica("n1").view) == (1, 3)


# --- what is known of peers ---


def test_what_a_peer_said_ends_with_its_life_and_with_the_view() -> None:
    """A worker that was ready may be gone with either."""
    stage = formed("n1", "n2", "n3")
    stage.run(60)
    peer = stage.replica("n1").peers["n2"]
    assert peer.ready and peer.last_ok is not None
    stage.crash("n2")
    stage.restart("n2")
    stage.receive("n2", "n1", stage.sets["n2"].incarnation, ())
    assert not peer.ready and peer.last_ok is None and peer.match == -1
    other = stage.replica("n1").peers["n3"]
    assert other.ready
    stage.isolate("n1")
    stage.leave_for("n1", 1)
    assert not other.ready and other.last_ok is None


def test_peers_of_a_new_placement_keep_what_is_known_of_them() -> None:
    """And who was not in the one before is known as somebody who has said nothing."""
    replica = formed().replica("n2")
    known = replica.peers["n3"]
    replica.adopt_placement(("n1", "n2", "n3"))
    assert replica.peers["n3"] is known and list(replica.peers) == ["n1", "n3"]
    replica.adopt_placement(("n2", "n3", "n4"))
    assert replica.peers["n3"] is known and replica.peers["n4"].match == -1


# --- time ---


def test_what_arrives_counts_from_when_it_arrived() -> None:
    """Not from the tick before."""
    stage = formed()
    stage.now += 0.007
    stage.receive("n3", "n2", stage.sets["n3"].incarnation, (ExitView(GROUP, 1, 0),))
    assert stage.replica("n2").peers["n3"].vote_until == stage.now + Timing().suspicion


def test_a_late_loop_forgives_exactly_what_it_was_late() -> None:
    """Two ticks are the jitter of any machine; nobody is suspected for the rest, and nobody for longer."""
    stage = formed()
    stage.run(100)
    for name in NAMES:
        stage.sets[name].status(GROUP)  # what was quiet is counted now
    primary, backup = stage.replica("n1"), stage.replica("n2")
    late = 1.0 - 2 * STEP_MS / 1000
    contacts = [pytest.approx(peer.contact_at + late) for peer in primary.peers.values()]
    heard_at = pytest.approx(backup.heard_at + late)
    for name in NAMES:
        stage.sets[name].tick(stage.now + 1.0)
    assert [peer.contact_at for peer in primary.peers.values()] == contacts
    assert backup.heard_at == heard_at
    assert backup.heard_at <= backup.now and not backup.suspicious()


def test_silence_of_exactly_the_timeout_is_not_yet_suspicious() -> None:
    """In periods that a float holds exactly, at both ends."""
    stage = Stage(Timing(heartbeat_ms=250, suspicion_ms=1_000))
    stage.run(6_000)
    backup, primary = stage.replica("n2"), stage.replica("n1")
    assert primary.leads
    backup.now, backup.heard_at = 500.0, 499.0
    assert not backup.suspicious()
    backup.now = 500.125
    assert backup.suspicious()
    primary.now = 500.0
    for peer in primary.peers.values():
        peer.contact_at = 499.0
    assert not primary.unheard()
    primary.now = 500.125
    assert primary.unheard()


def test_a_vote_counts_up_to_its_last_moment() -> None:
    """Ours and theirs."""
    stage = Stage(Timing(heartbeat_ms=250, suspicion_ms=1_000))
    stage.run(6_000)
    replica = stage.replica("n2")
    replica.heard_at, replica.now, replica.voted_at = 400.0, 500.0, 499.0
    assert replica.live_votes() == [0]
    replica.now = 500.125
    assert replica.live_votes() == []
    replica.heard_at, replica.now, replica.voted_at = 500.0, 500.0, 500.0
    peer = replica.peers["n3"]
    peer.vote_view, peer.vote_until = 3, 500.0
    assert sorted(replica.live_votes()) == [0, 3], "a vote for a higher view is joined by ours"
    replica.now = 500.125
    assert replica.live_votes() == []


def test_a_slow_disk_at_the_end_of_a_recovery_is_nobody_else_s_silence() -> None:
    """n3's install took longer than a suspicion timeout: it does not begin with a vote."""
    stage = formed()
    stage.submit("n1", "a")
    stage.run(60)
    stage.crash("n3")
    stage.wipe("n3")
    stage.restart("n3")
    replica = stage.replica("n3")
    for _ in range(100):
        if replica.transfer is not None and replica.status is Status.RECOVERING:
            break
        stage.hold("n1", "n3")
        stage.hold("n2", "n3")
        stage.run(STEP_MS)
        for name in ("n1", "n2"):
            for incarnation, messages in stage.held.pop((name, "n3")):
                stage.receive(name, "n3", incarnation, messages)
    stage.hold_disk("n3")
    stage.deliver()
    stage.run(60)
    assert replica.install_write
    stage.isolate("n3")
    stage.run(500)
    stage.write("n3")
    assert replica.status is Status.NORMAL and not replica.suspicious()


# --- patience ---


def failed_view(replica: Replica, at_work: bool) -> int:
    """The patience after one more view that did not begin, though its primary-elect was at work, or not."""
    replica.forming_seen = at_work
    replica.leave_for(replica.view + 1)
    return replica.patience


def test_patience_doubles_while_primaries_elect_are_at_work() -> None:
    """And ends with one who was not."""
    stage = formed()
    stage.isolate("n3")
    stage.leave_for("n3", 1)
    replica = stage.replica("n3")
    assert [failed_view(replica, True) for _ in range(5)] == [2, 4, 8, MOST_PATIENCE, MOST_PATIENCE]
    assert failed_view(replica, False) == 1


def test_a_primary_elect_that_asks_for_logs_is_at_work() -> None:
    """Seen by who has joined it, and by itself."""
    stage = formed()
    stage.isolate("n1")
    stage.hold("n3", "n2")
    stage.leave_for("n2", 1)
    stage.leave_for("n3", 1)
    heard(stage, "n2", "n3", Fetch(GROUP, 1, 1, stage.replica("n2").log.outline(0)))
    assert stage.replica("n3").forming_seen
    assert not stage.replica("n2").forming_seen
    stage.hold_disk("n2")
    stage.release("n3", "n2")
    assert stage.replica("n2").forming_seen


def test_a_view_that_has_begun_ends_the_patience_of_the_ones_before() -> None:
    """Of its primary and of its followers."""
    stage = formed()
    stage.crash("n1")
    stage.hold("n3", "n2")
    for name in ("n2", "n3"):
        stage.leave_for(name, 1)
        stage.replica(name).patience = 4
    stage.release("n3", "n2")
    stage.run(60)
    assert [stage.replica(name).view for name in ("n2", "n3")] == [1, 1]
    assert [stage.replica(name).status for name in ("n2", "n3")] == [Status.NORMAL] * 2
    assert [stage.replica(name).patience for name in ("n2", "n3")] == [1, 1]


# --- what costs nothing ---


def test_a_follower_of_a_later_view_needs_no_ticks_either() -> None:
    """It has given nothing up that it would have to look after."""
    stage = formed("n1", "n2", "n3")
    stage.crash("n1")
    stage.run(600)
    assert stage.primary == "n2"
    assert not stage.replica("n3").resigned
    assert stage.replica("n3").idle_until > stage.now


def test_an_idle_node_says_its_heartbeats_without_asking_its_replicas() -> None:
    """However many groups it leads."""
    stage = formed("n1", "n2", "n3")
    stage.run(300)
    asked = []
    stage.replica("n1").beat = lambda: asked.append(stage.now)  # type: ignore[method-assign]
    stage.run(200)
    assert asked == []
    assert not stage.replica("n2").suspicious()


def test_an_ack_that_says_the_same_again_is_the_same_object() -> None:
    """Also one that is asked for and not remembered by the turn."""
    stage = formed()
    stage.run(60)
    replica = stage.replica("n2")
    said_before = replica._acked
    assert said_before is not None
    replica.ack_due = True
    stage.sets["n2"].mark(GROUP)
    stage._perform("n2")
    assert replica._acked is said_before


def test_a_start_costs_no_sync() -> None:
    """Its incarnation may be forgotten with the machine: nobody has heard it then."""
    stage = formed()
    stage.crash("n2")
    stage.synced["n2"].clear()
    stage.restart("n2")
    assert NodeIncarnation not in stage.synced["n2"]


# --- bounds ---


def test_the_bound_of_what_is_unwritten_may_be_reached() -> None:
    """What is above it is refused until the disk has caught up."""
    stage = Stage(Timing(unwritten_bytes=4))
    stage.form()
    stage.attach("n1")
    stage.run(50)
    stage.hold_disk("n1")
    stage.submit("n1", "abcd")
    assert not stage.replica("n1").takes_no_entries
    stage.submit("n1", "e")
    assert stage.replica("n1").takes_no_entries
    stage.write("n1")
    assert not stage.replica("n1").takes_no_entries


def test_what_an_archive_has_is_held_up_to_the_head() -> None:
    """An uncommitted end counts where the log is of that view, and its last entry too."""
    stage = formed()
    stage.isolate("n1")
    stage.submit("n1", "a", "b")
    held = stage.sets["n1"].holds_archived
    assert [held(GROUP, 0, 0), held(GROUP, 0, 2), held(GROUP, 0, 3)] == [True, True, False]
    assert [held(GROUP, 1, 0), held(GROUP, 1, 1)] == [True, False]


# --- looking in ---


@pytest.mark.parametrize(
    "happens",
    [
        lambda stage, now: stage.sets["n1"].attach(GROUP, 0, now),
        lambda stage, now: stage.sets["n1"].detach(GROUP, now),
        lambda stage, now: stage.sets["n1"].submit(GROUP, stage.grant("n1"), 1, (b"a",), now),
        lambda stage, now: stage.sets["n1"].request_barrier(GROUP, stage.grant("n1"), 1, now),
        lambda stage, now: stage.sets["n1"].archived(GROUP, 0, now),
        lambda stage, now: stage.sets["n1"].resign(GROUP, "n2", now),
        lambda stage, now: stage.sets["n1"].drained(GROUP, stage.grant("n1"), now),
        lambda stage, now: stage.sets["n1"].begin_era(GROUP, now),
        lambda stage, now: stage.sets["n1"].set_disk_full(False, now),
        lambda stage, now: stage.sets["n1"].add_group(GROUP, NAMES, now),
        lambda stage, now: stage.sets["n1"].written(0, now),
        lambda stage, now: stage.sets["n1"].flush(now),
    ],
)
def test_status_is_as_of_the_last_thing_that_happened(happens: object) -> None:
    """Whatever it was: how long peers have been silent is counted up to then."""
    stage = formed()
    stage.run(100)
    happens(stage, stage.now + 5.0)  # type: ignore[operator]
    silent = [peer.silent_ms for peer in stage.sets["n1"].status(GROUP).peers]
    assert min(silent) >= 4_900
