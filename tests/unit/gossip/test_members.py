"""What `status` says of each replica of a group, and why a group is not served."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from connserver.messages import GroupPosition, NodeRecord, RouteEntry
from gossip.members import group_commit, members, positions, why
from gossip.picture import Picture
from gossip.placement import Placement

NAMES = ("n1", "n2", "n3")


def row(
    status: str = "normal", head: int = 10, commit: int = 10, *, era: int = 1, ready: bool = True, **more: str
) -> GroupPosition:
    return GroupPosition(0, era, 0, status, head, commit, 0, 7, ready, more.get("problem", ""))


def picture(
    rows: dict[str, GroupPosition], states: dict[str, str] | None = None, old: Sequence[str] = ()
) -> Picture:
    """`old`: nodes whose record is of an earlier life."""
    records = {
        name: NodeRecord(name, 2 if name in old else 3, 1, "", [at], [], [], [], {}, [])
        for name, at in rows.items()
    }
    return Picture(
        cluster="demo",
        node="n1",
        groups=1,
        states=dict.fromkeys(NAMES, "alive") | (states or {}),
        incarnations=dict.fromkeys(NAMES, 3),
        records=records,
        placement=Placement("demo", (NAMES,)),
        waiting="",
    )


def entry(state: str = "ready", reason: str = "") -> RouteEntry:
    return RouteEntry(0, 0, 65535, 1, 0, 5, "n1", "ipc://w", list(NAMES), state, reason)


def test_each_replica_has_its_row_in_the_order_of_the_placement() -> None:
    rows = {"n3": row(head=8, commit=6), "n1": row(head=12, commit=10), "n2": row(head=11, commit=9)}
    shown = members(picture(rows), entry())
    assert [(member["node"], member["lag"], member["commit"]) for member in shown] == [
        ("n1", 0, 10),
        ("n2", 0, 9),
        ("n3", 2, 6),
    ]
    assert shown[0] == {
        "node": "n1",
        "status": "normal",
        "commit": 10,
        "head": 12,
        "lag": 0,
        "archived": 7,
        "ready": True,
        "problem": "",
    }


def test_there_is_no_word_of_the_dead_and_of_earlier_lives() -> None:
    rows = dict.fromkeys(NAMES, row())
    seen = picture(rows, {"n2": "dead"}, old=["n3"])
    assert list(positions(seen, entry())) == ["n1"]
    unknown = members(seen, entry())[1:]
    assert [member["status"] for member in unknown] == ["unknown", "unknown"]
    assert {member["lag"] for member in unknown} == {None} and not any(m["ready"] for m in unknown)


def test_the_commit_is_that_of_the_newest_era() -> None:
    assert group_commit({"n1": row(commit=90), "n2": row(commit=5, era=2)}) == 5
    assert group_commit({}) == 0


def test_a_group_that_is_served_needs_no_reason() -> None:
    rows = {"n1": row(), "n2": row(), "n3": row("recovering", problem="it lost its disk")}
    assert why(picture(rows), entry()) == ""


@pytest.mark.parametrize(
    ("rows", "reason", "wanted"),
    [
        (
            {"n1": row("recovering"), "n2": row("recovering"), "n3": row("view_change")},
            "w-n1-0 has not attached yet",
            "w-n1-0 has not attached yet; n1 and n2 have lost their logs: see `cs-cluster recover 0`",
        ),
        (
            {"n1": row(problem="the archive is ahead"), "n2": row()},
            "w-n1-0 is loading",
            "w-n1-0 is loading; n1: the archive is ahead",
        ),
        (
            {"n1": row("recovering", problem="see `recover`"), "n2": row("recovering")},
            "see `recover`",
            "see `recover`",
        ),
        (
            {name: row(ready=False) for name in NAMES},
            "w-n1-0 has not attached yet",
            "w-n1-0 has not attached yet; no worker is ready to take over",
        ),
        ({"n1": row(), "n2": row(ready=False)}, "another replica takes over", "another replica takes over"),
        ({}, "there is no placement yet", "there is no placement yet"),
    ],
)
def test_why_a_group_is_not_served(rows: dict[str, GroupPosition], reason: str, wanted: str) -> None:
    assert why(picture(rows), entry("unavailable", reason)) == wanted
