"""A node's own record, and the book of the others'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connserver.limits import GOSSIP_ASK_MS, GOSSIP_RECORD_MS
from connserver.messages import GatewayRecord, GroupPosition, NodeRecord, RecordVersion
from gossip.node_records import OwnRecord, RecordBook, empty_record
from tests.unit.gossip.mesh import Mesh

SECOND = GOSSIP_RECORD_MS / 1000


def with_gateway(clients: int, name: str = "gw") -> NodeRecord:
    gateway = GatewayRecord(name, 1, "127.0.0.1:9000", clients, 0.0)
    return replace(empty_record("n1", 1), gateways=[gateway])


@pytest.fixture
def own() -> OwnRecord:
    """A record with one gateway, put at time 10."""
    own = OwnRecord("n1", 1, 0.0)
    assert own.put(with_gateway(5), 10.0)
    return own


def test_what_others_act_on_is_urgent_at_any_time(own: OwnRecord) -> None:
    assert own.put(with_gateway(5, "other"), 10.0)
    assert own.put(replace(with_gateway(5, "other"), refusal="no"), 10.0)
    assert own.put(replace(with_gateway(5, "other"), incarnation=2), 10.0)
    assert own.record.version == 5


def test_numbers_wait_for_their_time_and_say_so(own: OwnRecord) -> None:
    assert not own.put(with_gateway(6), 10.0 + SECOND - 0.1)
    assert own.deferred and own.record.gateways[0].clients == 5
    assert not own.put(with_gateway(6), 10.0 + SECOND)
    assert not own.deferred and own.record.gateways[0].clients == 6
    assert own.record.version == 3


POSITION = GroupPosition(3, 1, 0, "normal", 10, 9, 0, 5, True, "")


@pytest.mark.parametrize(
    "changed",
    [
        {"era": 2},
        {"view": 1},
        {"status": "view_change"},
        {"ready": False},
        {"problem": "its disk is mixed up"},
    ],
)
def test_where_a_replica_stands_is_urgent(own: OwnRecord, changed: dict[str, Any]) -> None:
    assert own.put(replace(with_gateway(5), positions=[POSITION]), 10.0)
    assert own.put(replace(with_gateway(5), positions=[replace(POSITION, **changed)]), 10.0)


@pytest.mark.parametrize("running", ["head", "commit", "base", "archived"])
def test_how_far_it_has_come_waits(own: OwnRecord, running: str) -> None:
    assert own.put(replace(with_gateway(5), positions=[POSITION]), 10.0)
    changed: dict[str, Any] = {running: 99}
    later = replace(with_gateway(5), positions=[replace(POSITION, **changed)])
    assert not own.put(later, 10.0)
    assert own.deferred and own.record.positions == [POSITION]
    assert not own.put(later, 10.0 + SECOND)
    assert own.record.positions == later.positions


def test_the_same_again_is_no_new_version(own: OwnRecord) -> None:
    assert not own.put(with_gateway(5), 99.0)
    assert (own.record.version, own.deferred) == (2, False)


def test_numbers_that_had_to_wait_are_told_without_being_reported_again() -> None:
    mesh = Mesh()
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.report("n2", b"worker:1:20001", 1, 1)
    mesh.run(2.0)
    mesh.die("n2", 20002)
    mesh.report("n2", b"worker:1:20001", 99, 7)
    mesh.now += 0.2
    mesh.die("n3", 30000)  # another node's change settles this one before its second is over
    mesh.run(2.5)
    rows = mesh.hosts["n1"].machine.book.records["n2"].workers
    assert [row.commit for row in rows if row.group == 1] == [99]


def test_a_newer_record_is_asked_for_once_and_again_when_it_does_not_come() -> None:
    book = RecordBook(("n2", "n3"), 4)
    newer = [RecordVersion("n2", 1, 3), RecordVersion("nx", 1, 1), RecordVersion("n1", 1, 1)]
    assert book.behind(newer, 0.0) == ["n2"]
    assert book.behind(newer, 0.1) == []
    assert book.behind(newer, GOSSIP_ASK_MS / 1000) == ["n2"]
    assert book.offer(replace(empty_record("n2", 1), version=3)) == ""
    assert book.behind(newer, 9.0) == []
    assert book.behind([RecordVersion("n2", 1, 4)], 9.0) == ["n2"], "asked for at once, it is another one"
    assert book.behind([RecordVersion("n2", 2, 1)], 99.0) == ["n2"]


def test_the_greater_incarnation_and_version_wins_in_any_order() -> None:
    book = RecordBook(("n2",), 4)
    newest = replace(empty_record("n2", 2), version=1, refusal="new")
    assert book.offer(newest) == ""
    assert book.offer(replace(empty_record("n2", 1), version=9)) is None
    assert book.offer(newest) is None
    assert book.records["n2"] is newest
    assert book.versions() == [RecordVersion("n2", 2, 1)]
