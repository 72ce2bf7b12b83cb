"""Routes: what each entry says when something is missing, and how things are looked up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from connserver.ids import named_id, partition_of
from connserver.messages import GroupPosition, NodeRecord, ProcessRecord, RouteEntry, WorkerRecord
from gossip.node_records import empty_record
from gossip.picture import Picture
from gossip.placement import compute
from gossip.routing import find, table

NAMES = ("n1", "n2", "n3")


def worker(group: int, grant: int, state: str = "serving", **more: str) -> WorkerRecord:
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


def position(view: int = 0, status: str = "normal", era: int = 1, problem: str = "") -> GroupPosition:
    """A replica of group 1."""
    return GroupPosition(1, era, view, status, 9, 9, 0, 5, True, problem)


def record(node: str, *workers: WorkerRecord, incarnation: int = 1, **more: object) -> NodeRecord:
    """What a node says; without more, its replica of group 1 is in view 0."""
    facts = {"positions": [position()], **more}
    return replace(empty_record(node, incarnation), workers=list(workers), **facts)  # type: ignore[arg-type]


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
    """The entry of group 1, whose first primary is n2, then n3, then n1."""
    return table(picture(*records, states=states))[1]


def at(view: int, *records: NodeRecord, states: dict[str, str] | None = None) -> RouteEntry:
    """The same with all replicas in a view."""
    given = {name: record(name) for name in NAMES} | {row.node: row for row in records}
    moved = [replace(row, positions=[position(view)]) for row in given.values()]
    return second(*moved, states=states)


# --- where a group is served ------------------------------------------------------------------------------


def test_a_ready_entry() -> None:
    entry = second(record("n2", worker(1, 44)))
    assert (entry.group, entry.node, entry.endpoint, entry.state) == (1, "n2", "ipc://w1", "ready")
    assert (entry.era, entry.view, entry.grant) == (1, 0, 44)
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


@pytest.mark.parametrize(("view", "node"), [(0, "n2"), (1, "n3"), (2, "n1"), (3, "n2"), (70, "n3")])
def test_the_view_decides_who_is_primary(view: int, node: str) -> None:
    workers = [record(name, worker(1, 10 + index)) for index, name in enumerate(NAMES)]
    entry = at(view, *workers)
    assert (entry.view, entry.node, entry.state) == (view, node, "ready")
    assert entry.grant == 10 + NAMES.index(node)


def test_one_replica_that_is_ahead_is_enough() -> None:
    ahead = record("n3", worker(1, 9), positions=[position(4)])
    behind = record("n1", positions=[position(2)])
    entry = second(ahead, behind, record("n2", worker(1, 44)))
    assert (entry.view, entry.node, entry.state) == (4, "n3", "ready")


def test_an_era_outweighs_any_view() -> None:
    old, new = record("n3", positions=[position(70)]), record("n1", positions=[position(0, era=2)])
    entry = second(old, new)
    assert (entry.era, entry.view) == (2, 0)


@pytest.mark.parametrize("status", ["blank", "forming", "recovering"])
def test_a_replica_that_takes_no_part_moves_nobody(status: str) -> None:
    odd = record("n3", worker(1, 9), positions=[position(4, status, era=2)])
    entry = second(odd, record("n2", worker(1, 44)))
    assert (entry.era, entry.view, entry.node, entry.state) == (1, 0, "n2", "ready")


def test_a_lost_disk_while_another_node_is_down_is_named_with_what_to_do() -> None:
    lost = record("n3", positions=[position(0, "recovering")])
    entry = second(lost, record("n2", worker(1, 44, "ready")), states={"n1": "dead"})
    assert entry.state == "unavailable"
    assert entry.reason == (
        "n3 lost its log and gets it back only when all other replicas of group 1 are there: "
        "node n1 is dead: start it again (cs-cluster up); if a disk is lost there as well, "
        "see `cs-cluster recover 1`"
    )
    assert second(lost, record("n2", worker(1, 44))).state == "ready", "two are enough"


def test_while_all_change_views_the_last_one_stands() -> None:
    changing = [position(4, "view_change")]
    rows = [record(name, worker(1, 9, "ready"), positions=changing) for name in NAMES]
    entry = second(*rows)
    assert (entry.view, entry.node, entry.grant, entry.state) == (4, "n3", 9, "starting")


def test_the_position_of_a_node_that_serves_nothing_does_not_count() -> None:
    odd = record("n3", positions=[position(4)], refusal="its placement differs")
    assert second(odd).view == 0


def test_a_node_that_holds_no_replica_has_no_say() -> None:
    four = ("n1", "n2", "n3", "n4")
    rows = {name: record(name) for name in NAMES} | {"n4": record("n4", positions=[position(7)])}
    many = replace(
        picture(),
        states=dict.fromkeys(four, "alive"),
        incarnations=dict.fromkeys(four, 1),
        records=rows,
    )
    assert table(many)[1].view == 0


# --- what is missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "words"),
    [("dead", "node n2 is dead"), ("stopped", "n2 was stopped"), ("refused", "n2 is refused")],
)
def test_a_primary_that_is_away_is_about_to_be_replaced(state: str, words: str) -> None:
    entry = second(record("n2", worker(1, 44)), states={"n2": state})
    assert entry.state == "starting" and words in entry.reason
    assert "another replica of group 1 takes over" in entry.reason
    assert (entry.grant, entry.endpoint) == (44, "ipc://w1"), "its last grant stands in"


def test_a_backup_that_is_away_changes_nothing() -> None:
    assert second(record("n2", worker(1, 44)), states={"n3": "dead"}).state == "ready"


def test_without_a_majority_nothing_is_served_and_the_nodes_are_named() -> None:
    entry = second(record("n2", worker(1, 44)), states={"n1": "dead", "n3": "stopped"})
    assert entry.state == "unavailable"
    assert entry.reason.startswith("group 1 needs 2 of its nodes: ")
    assert "node n3 was stopped" in entry.reason and "node n1 is dead" in entry.reason
    assert "n2" not in entry.reason


def test_a_suspected_primary_still_serves() -> None:
    assert second(record("n2", worker(1, 44)), states={"n2": "suspect"}).state == "ready"


def test_what_a_node_said_in_an_earlier_life_does_not_count() -> None:
    old = picture(record("n2", worker(1, 44)))
    entry = table(replace(old, incarnations={**old.incarnations, "n2": 2}))[1]
    assert (entry.state, entry.endpoint) == ("starting", "")
    assert "has not named its workers yet" in entry.reason


def test_a_primary_that_serves_nothing_says_why() -> None:
    entry = at(0, record("n2", worker(1, 44), refusal="its placement differs"))
    assert entry.state == "starting" and "node n2 serves nothing: its placement differs" in entry.reason


def test_two_that_serve_nothing_are_a_majority() -> None:
    rows = [record(name, refusal=f"{name} is odd") for name in ("n1", "n3")]
    entry = second(record("n2", worker(1, 44)), *rows)
    assert entry.state == "unavailable"
    assert "n1 serves nothing: n1 is odd" in entry.reason and "n3 serves nothing" in entry.reason


def test_a_problem_is_the_reason_when_too_few_replicas_are_able() -> None:
    lost = [position(status="recovering", problem="two replicas lost their disks: see `recover`")]
    entry = second(record("n2", positions=lost), record("n3", positions=lost))
    assert (entry.state, entry.reason) == ("unavailable", "two replicas lost their disks: see `recover`")


def test_a_problem_of_one_replica_stops_nobody() -> None:
    odd = [position(status="recovering", problem="its disk is mixed up")]
    assert second(record("n3", positions=odd), record("n2", worker(1, 44))).state == "ready"


def test_the_problem_of_a_node_that_is_away_is_not_the_reason() -> None:
    odd = [position(status="recovering", problem="its disk is mixed up")]
    coming = [position(status="recovering")]
    rows = [record("n3", positions=odd), record("n1", positions=coming), record("n2", worker(1, 44))]
    entry = second(*rows, states={"n3": "dead"})
    assert entry.state == "unavailable" and "mixed up" not in entry.reason
    assert entry.reason.startswith("n1 lost its log") and "node n3 is dead" in entry.reason


def test_a_group_that_was_never_open_names_the_node_it_waits_for() -> None:
    forming, blank = [position(status="forming")], [position(era=0, status="blank")]
    rows = [record("n2", worker(1, 0, "ready"), positions=forming), record("n1", positions=blank)]
    entry = second(*rows, record("n3", positions=[]), states={"n3": "dead"})
    assert entry.state == "starting"
    assert "begins when all of its nodes are there for the first time: node n3 is dead" in entry.reason


def test_a_worker_that_loads_names_the_storage_it_waits_for() -> None:
    row = worker(1, 44, "loading", storage="down", storage_error="connection refused")
    entry = second(record("n2", row))
    assert entry.state == "starting"
    assert entry.reason == "w-n2-1 is loading the objects of group 1; storage: connection refused"


def test_a_worker_without_a_grant_is_not_ready() -> None:
    entry = second(record("n2", worker(1, 44, "ready")))
    assert (entry.state, entry.reason) == ("starting", "w-n2-1 is attached and not primary yet")


def test_a_worker_that_is_gone_is_starting_until_the_supervisor_gives_up() -> None:
    gone = worker(1, 44, "gone")
    row = ProcessRecord("n2", "worker", "w-n2-1", 0, "backoff", 1, "", "killed by SIGKILL")
    entry = second(record("n2", gone, processes=[row]))
    assert (entry.state, entry.grant) == ("starting", 44)
    assert "killed by SIGKILL" in entry.reason
    failed = replace(row, state="failed", reason="left down after 5 deaths in a minute")
    entry = second(record("n2", gone, processes=[failed]))
    assert entry.state == "unavailable" and "left down after 5 deaths" in entry.reason


def test_a_worker_that_never_was_there() -> None:
    entry = second()
    assert (entry.state, entry.reason, entry.grant) == ("starting", "w-n2-1 has not attached yet", 0)


# --- looking something up -----------------------------------------------------------------------------------


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
