"""Routes: what each entry says when something is missing, and how things are looked up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from connserver.ids import named_id, partition_of
from connserver.messages import GroupPosition, NodeRecord, ProcessRecord, RouteEntry, WorkerRecord
from gossip.grants import make_grant
from gossip.node_records import empty_record
from gossip.picture import Picture
from gossip.placement import compute
from gossip.routing import find, table

NAMES = ("n1", "n2", "n3")


def worker(group: int, grant: int, state: str = "ready", **more: str) -> WorkerRecord:
    return WorkerRecord(
        group=group,
        pid=10,
        endpoint=f"ipc://w{group}",
        grant=grant,
        state=state,
        commit=0,
        archived=0,
        storage=more.get("storage", "ok"),
        storage_error=more.get("storage_error", ""),
        plugins=[],
    )


def record(node: str, *workers: WorkerRecord, incarnation: int = 1, **more: object) -> NodeRecord:
    return replace(empty_record(node, incarnation), workers=list(workers), **more)  # type: ignore[arg-type]


def picture(*records: NodeRecord, states: dict[str, str] | None = None, placed: bool = True) -> Picture:
    everyone = {name: record(name) for name in NAMES} | {row.node: row for row in records}
    return Picture(
        cluster="demo",
        node="n1",
        groups=3,
        states=dict.fromkeys(NAMES, "alive") | (states or {}),
        incarnations=dict.fromkeys(NAMES, 1),
        records=everyone,
        placement=compute("demo", NAMES, 3) if placed else None,
        waiting="" if placed else "n2 is awaited",
    )


def second(*records: NodeRecord, states: dict[str, str] | None = None) -> RouteEntry:
    """The entry of group 1, whose first primary is n2."""
    return table(picture(*records, states=states))[1]


def test_a_ready_entry() -> None:
    entry = second(record("n2", worker(1, make_grant(1, 4))))
    assert (entry.group, entry.node, entry.endpoint, entry.state) == (1, "n2", "ipc://w1", "ready")
    assert (entry.era, entry.view, entry.grant) == (1, 0, make_grant(1, 4))
    assert entry.replicas == ["n2", "n3", "n1"] and entry.reason == ""
    assert (entry.first_partition, entry.last_partition) == (21846, 43690)


def test_all_partitions_are_routed_once() -> None:
    entries = table(picture())
    assert entries[0].first_partition == 0 and entries[-1].last_partition == 65535
    for before, after in pairwise(entries):
        assert after.first_partition == before.last_partition + 1


def test_without_a_placement_every_group_is_starting() -> None:
    entries = table(picture(placed=False))
    assert {(entry.state, entry.reason, entry.node) for entry in entries} == {
        ("starting", "n2 is awaited", "")
    }
    assert [entry.replicas for entry in entries] == [[], [], []]


@pytest.mark.parametrize(
    ("state", "words"),
    [("dead", "n2, primary of group 1, is dead"), ("stopped", "was stopped"), ("refused", "is refused")],
)
def test_a_primary_that_is_away_is_unavailable_with_its_last_grant(state: str, words: str) -> None:
    entry = second(record("n2", worker(1, make_grant(1, 4))), states={"n2": state})
    assert entry.state == "unavailable" and words in entry.reason
    assert (entry.grant, entry.endpoint) == (make_grant(1, 4), "ipc://w1")


def test_a_suspected_primary_still_serves() -> None:
    assert second(record("n2", worker(1, make_grant(1, 4))), states={"n2": "suspect"}).state == "ready"


def test_what_a_node_said_in_an_earlier_life_does_not_count() -> None:
    old = picture(record("n2", worker(1, make_grant(1, 4))))
    entry = table(replace(old, incarnations={**old.incarnations, "n2": 2}))[1]
    assert (entry.state, entry.endpoint, entry.grant) == ("starting", "", make_grant(2, 0))
    assert "has not named its workers yet" in entry.reason


def test_a_node_that_serves_nothing_says_why() -> None:
    entry = second(record("n2", worker(1, make_grant(1, 4)), refusal="its placement differs"))
    assert entry.state == "unavailable" and "its placement differs" in entry.reason


def test_a_worker_that_loads_names_the_storage_it_waits_for() -> None:
    row = worker(1, make_grant(1, 4), "loading", storage="down", storage_error="connection refused")
    entry = second(record("n2", row))
    assert entry.state == "starting"
    assert entry.reason == "w-n2-1 is loading the objects of group 1; storage: connection refused"


def test_a_worker_that_is_gone_is_starting_until_the_supervisor_gives_up() -> None:
    gone = worker(1, make_grant(1, 4), "gone")
    row = ProcessRecord("n2", "worker", "w-n2-1", 0, "backoff", 1, "", "killed by SIGKILL")
    entry = second(record("n2", gone, processes=[row]))
    assert (entry.state, entry.grant) == ("starting", make_grant(1, 4))
    assert "killed by SIGKILL" in entry.reason
    failed = replace(row, state="failed", reason="left down after 5 deaths in a minute")
    entry = second(record("n2", gone, processes=[failed]))
    assert entry.state == "unavailable" and "left down after 5 deaths" in entry.reason


def test_a_worker_that_never_was_there() -> None:
    entry = second()
    assert (entry.state, entry.reason, entry.grant) == (
        "starting",
        "w-n2-1 has not attached yet",
        make_grant(1, 0),
    )


def test_a_worker_without_a_grant_is_not_ready() -> None:
    assert second(record("n2", worker(1, 0))).state == "starting"


def test_the_highest_position_of_a_replica_decides_the_primary() -> None:
    ahead = record("n3", worker(1, make_grant(1, 9)), positions=[GroupPosition(1, 1, 4)])
    behind = record("n1", positions=[GroupPosition(1, 1, 2)])
    entry = second(ahead, behind, record("n2", worker(1, make_grant(1, 4))))
    assert (entry.view, entry.node, entry.state) == (4, "n3", "ready")


def test_an_era_outweighs_any_view() -> None:
    entry = second(
        record("n3", positions=[GroupPosition(1, 1, 70)]), record("n1", positions=[GroupPosition(1, 2, 0)])
    )
    assert (entry.era, entry.view) == (2, 0)


def test_the_position_of_a_node_that_serves_nothing_does_not_count() -> None:
    odd = record("n3", positions=[GroupPosition(1, 1, 4)], refusal="its placement differs")
    assert second(odd).view == 0


@pytest.mark.parametrize(
    ("target", "oid", "partition"),
    [
        ("ffff000000000001", 0xFFFF000000000001, 65535),
        ("0001000000000002", 0x0001000000000002, 1),
        ("7:12", 7 << 48 | 12, 7),
        ("65535", None, 65535),
        ("0", None, 0),
        ("room:lobby", named_id("room", "lobby"), partition_of(named_id("room", "lobby"))),
        ("user:a:b c", named_id("user", "a:b c"), partition_of(named_id("user", "a:b c"))),
    ],
)
def test_what_route_can_look_up(target: str, oid: int | None, partition: int) -> None:
    found = find(target)
    assert (found.oid, found.partition) == (oid, partition)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("65536", "not within 0..65535"),
        ("70000:1", "not within 0..65535"),
        ("zone:lobby", "room:NAME or user:NAME"),
        ("room:", "room:NAME or user:NAME"),
        ("", "room:NAME or user:NAME"),
        ("-1", "room:NAME or user:NAME"),
        ("room:" + "x" * 400, "at most 300"),
    ],
)
def test_what_it_cannot(target: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find(target)
