"""The placement: dealt out evenly, equal everywhere, and compared with care."""

from __future__ import annotations

from collections import Counter

import pytest

from gossip.placement import Verdict, compute, from_rows, misfit, verdict

NAMES = ("n1", "n2", "n3")


def test_four_groups_on_three_nodes() -> None:
    placement = compute("demo", NAMES, 4)
    assert placement.groups == (
        ("n1", "n2", "n3"),
        ("n2", "n3", "n1"),
        ("n3", "n1", "n2"),
        ("n1", "n3", "n2"),
    )
    assert [placement.primary(0, view) for view in range(4)] == ["n1", "n2", "n3", "n1"]
    assert placement.groups_of("n2") == {0, 1, 2, 3}


def test_one_node_holds_everything_once() -> None:
    placement = compute("demo", ("n1",), 2)
    assert placement.groups == (("n1",), ("n1",))
    assert placement.primary(0, 5) == "n1"


@pytest.mark.parametrize("nodes", [3, 4, 5, 7])
@pytest.mark.parametrize("groups", [1, 4, 64])
def test_primaries_and_replicas_are_balanced(nodes: int, groups: int) -> None:
    names = [f"n{number}" for number in range(nodes)]
    placement = compute("demo", names, groups)
    primaries = Counter(dict.fromkeys(names, 0))
    primaries.update(replicas[0] for replicas in placement.groups)
    replicas = Counter(dict.fromkeys(names, 0))
    replicas.update(name for row in placement.groups for name in row)
    assert max(primaries.values()) - min(primaries.values()) <= 1
    assert max(replicas.values()) - min(replicas.values()) <= 3
    assert all(len(set(row)) == 3 for row in placement.groups)


def test_a_dead_nodes_groups_go_to_both_neighbours() -> None:
    placement = compute("demo", NAMES, 64)
    successors = Counter(row[1] for row in placement.groups if row[0] == "n1")
    assert successors["n2"] == successors["n3"] == 11


def test_equal_input_gives_an_equal_digest_and_other_input_another() -> None:
    digests = {
        compute(cluster, names, groups).digest
        for cluster in ("demo", "other")
        for names in (NAMES, ("n1", "n3", "n2"))
        for groups in (4, 5)
    }
    assert len(digests) == 8
    assert compute("demo", NAMES, 4).digest == compute("demo", list(NAMES), 4).digest


def test_it_survives_travelling() -> None:
    placement = compute("demo", NAMES, 4)
    assert from_rows("demo", placement.rows()) == placement


@pytest.mark.parametrize(
    "rows", [[], [[]], [["n1", "n2"]], [["n1", "n1", "n2"]], [["n1", "n2", "n3", "n4"]], [["n1"], []]]
)
def test_rows_that_can_be_no_placement(rows: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=r"placement|placed"):
        from_rows("demo", rows)


def test_a_file_that_was_changed_after_the_first_start() -> None:
    placement = compute("demo", NAMES, 4)
    assert misfit(placement, "demo", NAMES, 4) == ""
    assert misfit(placement, "demo", (*NAMES, "n4"), 4) == ""
    assert "'other'" in misfit(placement, "other", NAMES, 4)
    assert "partition_groups = 8" in misfit(placement, "demo", NAMES, 8)
    assert "has no node n2, n3" in misfit(placement, "demo", ("n1", "n4"), 4)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, Verdict(True, ())),
        ({"n2": "", "n3": ""}, Verdict(True, ())),
        ({"n2": "a", "n3": "b"}, Verdict(True, ("n3",))),
        ({"n2": "b", "n3": "b"}, Verdict(False, ("n2", "n3"))),
        ({"n2": "b"}, Verdict(False, ("n2",))),
        ({"n2": "b", "n3": "c"}, Verdict(False, ("n2", "n3"))),
    ],
)
def test_who_serves_when_nodes_hold_different_ones(others: dict[str, str], expected: Verdict) -> None:
    assert verdict("a", others) == expected
