"""A worker while it is primary: what leaves when, what is kept, and how a grant ends."""

from pathlib import Path

import pytest

from connserver.codec import encode
from connserver.messages import (
    GATEWAY_GONE,
    OVERLOADED,
    Deliver,
    Entry,
    Image,
    OpenStream,
    OutputBatch,
    OutputKind,
    Parcels,
    ParcelsDone,
    Refused,
    RequestKind,
    StreamOpened,
    StreamProbe,
    StreamResend,
)
from connserver.model import unpack
from connserver.running import NoteReader
from partition import retained
from partition.backup import Backup
from partition.commit import RETRY_S
from partition.objects import Store
from partition.peers import HELD_S, SILENT_S
from partition.serving import ARCHIVED_S, IDLE_TICK_S, RECEIPTS_S
from partition.suspects import Suspects
from tests.unit.partition.primary import GRANT, Archive, Primary, name_in


@pytest.fixture
def primary(tmp_path: Path) -> Primary:
    made = Primary(tmp_path)
    made.open()
    made.login()
    return made


def refuse(primary: Primary, first: int = 0) -> None:
    queue = primary.serving.queue
    primary.serving.refused(Refused(GRANT, first or queue.commit + 1, OVERLOADED, queue.commit))
    primary.loop.run()


# --- what leaves when ---


def test_a_reply_to_a_write_leaves_when_its_entry_has_committed(primary: Primary) -> None:
    at = primary.serving.queue.commit
    asked = primary.call("count.new", id=1)
    assert primary.replies() == [] and primary.log.submits[-1][0] == at + 1
    primary.serving.committed(at + 1)
    (outputs,) = primary.outputs()
    assert outputs.answers == [asked] and (outputs.op, outputs.view) == (at + 1, 4)
    assert primary.archive.ops[-1] == at + 1


@pytest.mark.parametrize("msg", ["ping", "nonsense", "count.fail", "methods"])
def test_reads_and_errors_leave_after_a_barrier(primary: Primary, msg: str) -> None:
    asked = primary.call(msg)
    assert primary.replies() == []
    assert len(primary.log.barriers) == 1 and len(primary.log.entries) == 1
    primary.pass_barrier()
    assert [sequence for sequence, _ in primary.replies()] == [asked]


def test_replies_leave_in_the_order_of_their_requests(primary: Primary) -> None:
    asked = [primary.call(msg) for msg in ("ping", "count.new", "ping", "count.new", "count.fail")]
    first = primary.serving.queue.commit + 1
    primary.serving.committed(first)
    assert [sequence for sequence, _ in primary.replies()] == asked[:2]
    primary.serving.barrier_passed(1)
    assert primary.replies() == [], "the second read came after the barrier was asked for"
    primary.serving.committed(first + 1)
    assert [sequence for sequence, _ in primary.replies()] == asked[2:4]
    primary.pass_barrier()
    assert [sequence for sequence, _ in primary.replies()] == asked[4:]


def test_an_administrators_answer_leaves_when_it_is_safe(primary: Primary) -> None:
    primary.serving.administer(1, lambda: ("seen", ""))
    primary.loop.run()
    assert primary.log.replies == []
    primary.pass_barrier()
    assert [(reply.number, reply.result) for reply in primary.log.replies] == [(1, "seen")]

    def write() -> tuple[object, str]:
        primary.group.gateway_gone(70, 1.0)
        return None, ""

    primary.serving.administer(2, write)
    primary.loop.run()
    assert len(primary.log.replies) == 1
    primary.commit()
    assert [reply.number for reply in primary.log.replies] == [1, 2]


def test_volatile_values_are_in_no_entry(primary: Primary) -> None:
    primary.call("room.join", room="hall", id=1)
    primary.commit()
    before = len(primary.log.entries)
    primary.group.update_room("hall", 1, "ann", "x", 5)
    primary.call("count.new", id=2)
    primary.taken()
    primary.loop.run(1.0)
    kinds = [kind for outputs in primary.outputs() for kind in outputs.kinds]
    primary.commit()
    kinds += [kind for outputs in primary.outputs() for kind in outputs.kinds]
    assert OutputKind.VOLATILE in kinds
    logged = [kind for entry in primary.log.entries[before:] for one in entry.outputs for kind in one.kinds]
    assert logged and OutputKind.VOLATILE not in logged


# --- streams that begin ---


def test_a_stream_begins_with_what_its_gateway_lacks(primary: Primary) -> None:
    asked = [primary.call("count.new", id=number) for number in (1, 2, 3)]
    last = primary.commit()
    primary.open(received=last - 2, identity=b"again")
    opened, outputs = (message for identity, message in primary.taken() if identity == b"again")
    assert opened == StreamOpened(GRANT)
    assert (outputs.answers, outputs.op, outputs.number) == (asked[1:], last, 1)


def test_a_backup_that_becomes_primary_gives_what_it_has_seen_in_the_log(tmp_path: Path) -> None:
    first = Primary(tmp_path)
    first.open()
    first.login()
    first.call("count.new", id=1)
    last = first.commit()
    follower = Backup(Store(), 0, 1, 10, Archive())
    assert follower.deliver(Deliver(0, 1, 11, [encode(entry) for entry in first.log.entries]))
    second = Primary(tmp_path, backup=follower)
    second.open(received=last - 1)
    (outputs,) = second.outputs()
    assert outputs.op == last and unpack(outputs.bodies[0])["status"] == 0
    asked = second.call("count.new", id=1)
    second.pass_barrier()
    assert second.replies() == [(asked, 0)], "it ran once; the kept reply is given"
    assert second.log.entries == []


def test_nothing_that_was_not_safe_is_given_to_a_stream_that_begins(primary: Primary) -> None:
    before = primary.serving.queue.commit
    primary.call("count.new", id=1)
    primary.open(received=before, identity=b"again")
    assert primary.outputs() == []
    primary.commit()
    assert [outputs.op for outputs in primary.outputs()] == [before + 1]


def closed(primary: Primary) -> list[int]:
    return [
        connection
        for outputs in primary.outputs()
        for targets, kind in zip(outputs.targets, outputs.kinds, strict=True)
        if kind == OutputKind.CLOSE
        for connection in targets
    ]


def test_a_gateway_that_lacks_what_was_given_up_has_its_clients_begin_anew(
    primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retained, "RETAINED_BATCHES", 2)
    has = primary.serving.queue.commit
    for number in range(5):
        primary.call("count.new", id=number + 1)
        primary.commit()
    primary.taken()
    primary.open(received=has, identity=b"again")
    primary.commit()
    assert closed(primary) == [1]
    assert [session.place for session in primary.group.sessions.everyone()] == [None]


def test_a_gateway_that_knows_a_lost_history_has_its_clients_begin_anew(primary: Primary) -> None:
    primary.open(received=primary.serving.queue.commit + 50, identity=b"again")
    primary.commit()
    assert closed(primary) == [1]


# --- what gateways have ---


def test_what_a_gateway_has_goes_along_with_the_next_entry(primary: Primary) -> None:
    primary.ack(1)
    login = primary.serving.queue.commit
    primary.call("count.new", id=1)
    assert primary.log.entries[-1].received == [[70, login]]
    assert primary.backup.retained.oldest == login, "kept until that has committed"
    primary.commit()
    assert primary.backup.retained.oldest == login + 1


def test_an_idle_group_says_it_by_itself_and_then_rests(primary: Primary) -> None:
    login = primary.serving.queue.commit
    primary.ack(1)
    primary.loop.run(RECEIPTS_S + IDLE_TICK_S)
    assert [entry.received for entry in primary.log.entries[1:]] == [[[70, login]]]
    primary.commit()
    assert primary.backup.retained.oldest == 0
    primary.ack(1)
    primary.loop.run(2.0)
    assert len(primary.log.entries) == 2


def test_a_silent_gateway_is_said_to_be_dead(primary: Primary) -> None:
    primary.loop.run(SILENT_S + 2 * IDLE_TICK_S)
    last = primary.log.entries[-1]
    assert last.received == [[70, GATEWAY_GONE]] and last.images
    primary.commit()
    assert primary.backup.retained.is_gone(70)


def test_outputs_for_a_gateway_that_never_comes_do_not_hold_the_log(tmp_path: Path) -> None:
    follower = Backup(Store(), 0, 1, 10, Archive())
    batch = OutputBatch(71, [[1]], [1], [0], [b"event"])
    follower.deliver(Deliver(0, 1, 11, [encode(Entry([], [batch]))]))
    made = Primary(tmp_path, backup=follower)
    made.archive.archived_op = 11
    made.loop.run(HELD_S - 1)
    assert made.log.archives == [10]
    made.loop.run(2.0)
    made.commit()
    made.loop.run(ARCHIVED_S + IDLE_TICK_S)
    assert made.log.entries[-1].received == [[71, GATEWAY_GONE]]
    assert made.log.archives[-1] == 11


def test_the_log_may_forget_what_is_archived_and_no_gateway_waits_for(primary: Primary) -> None:
    login = primary.serving.queue.commit
    primary.archive.archived_op = login
    primary.loop.run(1.0)
    assert primary.log.archives == [login - 1]
    primary.ack(1)
    primary.loop.run(2.0)
    primary.commit()
    primary.loop.run(1.0)
    assert primary.log.archives == [login - 1, login]


# --- a log that takes nothing ---


def test_while_the_log_takes_nothing_clients_are_refused_at_once(primary: Primary) -> None:
    stuck = primary.call("count.new", id=1)
    refuse(primary)
    objects = len(primary.group.store)
    refused = primary.call("count.new", id=2)
    ((sequence, status),) = primary.replies()
    assert (sequence, status) == (refused, 1) and len(primary.group.store) == objects
    primary.loop.run(RETRY_S)
    assert primary.log.submits[-1][0] == primary.serving.queue.commit + 1
    primary.commit()
    assert primary.replies() == [(stuck, 0)]
    again = primary.call("count.new", id=2)
    primary.commit()
    assert primary.replies() == [(again, 0)]


def test_a_refused_login_is_answered_and_a_lost_connection_noted(primary: Primary) -> None:
    primary.call("count.new", id=1)
    refuse(primary)
    primary.taken()
    body = {"user": "bob", "roles": [], "encoding": 3, "message": {"msg": "login", "id": "x"}}
    asked = primary.send(RequestKind.LOGIN, body, connection=2)
    assert primary.replies() == [(asked, 1)] and len(primary.group.sessions) == 1
    primary.send(RequestKind.GONE, {}, connection=1)
    assert [session.place for session in primary.group.sessions.everyone()] == [None]


# --- handing over and losing the grant ---


def test_draining_takes_nothing_in_and_tells_when_all_is_safe(primary: Primary) -> None:
    asked = primary.call("count.new", id=1)
    primary.serving.drain()
    primary.loop.run()
    assert primary.log.drains == 0
    primary.call("count.new", id=2)
    primary.commit()
    assert primary.replies() == [(asked, 0)]
    assert primary.log.drains == 1
    primary.loop.run(1.0)
    assert primary.log.drains == 1 and primary.serving.queue.at_rest


def test_when_a_handover_is_called_off_nothing_that_came_meanwhile_is_lost(primary: Primary) -> None:
    ran: list[str] = []
    primary.serving.drain()
    primary.call("count.new", id=1)
    primary.serving.when_active(lambda: ran.append("background"))
    primary.serving.administer(5, lambda: ("never", ""))
    assert "handed over" in primary.log.replies[0].error and ran == []
    primary.serving.go_on()
    assert ran == ["background"]
    primary.taken()
    primary.serving.receive(b"gw", StreamProbe(GRANT, 2))
    assert (b"gw", StreamResend(GRANT, 2)) in primary.taken(), "the gateway is asked for it again"


def test_whoever_executed_more_than_is_safe_ends_ahead(primary: Primary) -> None:
    assert not primary.serving.ends_ahead()
    primary.call("ping")
    assert not primary.serving.ends_ahead()
    primary.call("count.new", id=1)
    assert primary.serving.ends_ahead()
    primary.commit()
    assert not primary.serving.ends_ahead()
    primary.group.gateway_gone(70, 1.0)
    assert primary.serving.ends_ahead(), "also with a turn that has not ended"


def test_after_the_grant_nothing_happens_any_more(primary: Primary) -> None:
    primary.call("count.new", id=1)
    primary.loop.run()
    primary.serving.when_active(lambda: primary.group.gateway_gone(70, 1.0))
    primary.serving.stop()
    said = len(primary.log.submits), len(primary.taken())
    primary.serving.when_active(lambda: pytest.fail("it ran"))
    primary.loop.run(30.0)
    assert (len(primary.log.submits), len(primary.taken())) == (said[0], 0)


# --- other groups ---


@pytest.fixture
def pair(tmp_path: Path) -> Primary:
    made = Primary(tmp_path, groups=2)
    made.open()
    made.login(name_in(0, 2))
    return made


def test_parcels_leave_when_they_have_committed(pair: Primary) -> None:
    pair.call("count.elsewhere", name=name_in(1, 2), id=1)
    assert pair.delivered == [] and pair.serving.committed_parcels(1) == []
    pair.commit()
    ((number, _),) = pair.delivered[0][1]
    assert number == 1 and [one for one, _ in pair.serving.committed_parcels(1)] == [1]


def test_parcels_of_an_earlier_grant_are_safe(pair: Primary, tmp_path: Path) -> None:
    pair.call("count.elsewhere", name=name_in(1, 2), id=1)
    pair.backup.resume(pair.commit())
    again = Primary(tmp_path, groups=2, backup=pair.backup)
    assert [number for number, _ in again.serving.committed_parcels(1)] == [1]


def test_parcels_with_new_numbers_leave_when_those_have_committed(pair: Primary) -> None:
    for number in (1, 2):
        pair.call("count.elsewhere", name=name_in(1, 2), id=number)
    pair.serving.parcels_met(1, 40)
    pair.loop.run()
    assert pair.serving.committed_parcels(1) == []
    pair.commit()
    assert [[number for number, _ in parcels[1]] for parcels in pair.delivered] == [[41, 42]]
    assert [number for number, _ in pair.serving.committed_parcels(1)] == [41, 42]


def test_a_group_hears_only_of_cursors_that_have_committed(pair: Primary) -> None:
    pair.call("count.elsewhere", name=name_in(1, 2), id=1)
    pair.commit()
    body = pair.delivered[0][1][0][1]
    opening = OpenStream("group:1", 88, GRANT, 0)
    pair.serving.receive(b"g1", opening)
    pair.loop.run()
    pair.serving.receive(b"g1", Parcels(GRANT, 1, 0, 1, [1], [body]))
    pair.serving.receive(b"g1 again", opening)
    pair.loop.run()
    told = [message for _, message in pair.taken() if isinstance(message, ParcelsDone)]
    assert [done.upto for done in told] == [0]
    pair.commit()
    later = [(one, done.upto) for one, done in pair.taken() if isinstance(done, ParcelsDone)]
    assert later[-1] == (b"g1 again", 1) and all(upto == 1 for _, upto in later)


# --- the whole state ---


def test_the_whole_state_is_given_when_it_has_committed_and_before_the_next_entry(primary: Primary) -> None:
    objects = len(primary.group.store)
    primary.call("count.new", id=1)
    primary.serving.with_state(primary.archive.readd_all)
    primary.call("count.new", id=2)
    assert primary.archive.whole == []
    at = primary.serving.queue.commit
    primary.serving.committed(at + 2)
    (op, images), *more = primary.archive.whole
    assert op == at + 1 and images > objects and more == []
    primary.serving.with_state(primary.archive.readd_all)
    assert primary.archive.whole[1][0] == at + 2


def test_a_state_is_what_it_was_when_it_was_asked_for(primary: Primary) -> None:
    found: list[list[Image]] = []
    primary.call("count.new", id=1)
    count = len(primary.group.store)
    primary.serving.with_state(lambda op, images: found.append(images))
    primary.call("count.new", id=2)
    primary.commit()
    assert len(found[0]) == count < len(primary.group.store)


# --- the note ---


def test_progress_is_shown_and_nothing_is_noted_at_rest(primary: Primary, tmp_path: Path) -> None:
    reader = NoteReader(tmp_path / "w-0.running")
    before = reader.progress
    primary.call("count.new", id=1)
    primary.loop.run(2 * IDLE_TICK_S)
    assert reader.progress > before and reader.source is None
    reader.close()


def test_what_runs_is_noted_while_it_runs(
    primary: Primary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = NoteReader(tmp_path / "w-0.running")
    seen: list[object] = []
    request = primary.group.request

    def watched(*arguments: object) -> None:
        seen.append(reader.source)
        request(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(primary.group, "request", watched)
    asked = primary.call("count.new", id=1)
    assert seen == [(70, 1, asked)]
    reader.close()


def test_what_was_running_at_two_deaths_is_answered_and_not_run(tmp_path: Path) -> None:
    first = Primary(tmp_path)
    first.open()
    first.login()
    follower = Backup(Store(), 0, 1, 10, Archive())
    follower.deliver(Deliver(0, 1, 11, [encode(entry) for entry in first.log.entries]))
    words = encode(Entry([], [], [], [[70, 1, 3]]))
    follower.deliver(Deliver(0, 1, 12, [words, words]))
    second = Primary(tmp_path, backup=follower)
    second.open(received=11)
    for _ in range(2):
        second.call("count.new")
    objects = len(second.group.store)
    asked = second.call("count.new")
    assert asked == 3 and len(second.group.store) == objects
    second.commit()
    assert second.replies()[-1] == (3, 1)
    (told,) = second.quarantine.describe()
    assert told == {
        "method": "count.new",
        "plugin": "counting",
        "version": "1.0.0",
        "incident": "n1-q1",
        "deaths": 2,
    }
    (kept,) = Suspects(second.group.store).named()
    assert kept.incident == "n1-q1"  # the next primary knows it too
    assert second.quarantine.release("n1-other") == []
    assert [row["method"] for row in second.quarantine.release("n1-q1")] == ["count.new"]
    assert not Suspects(second.group.store).any
    second.commit()
