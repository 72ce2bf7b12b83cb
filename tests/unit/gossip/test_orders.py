"""What a node's gossip process does with its replica when an administrator says so, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connserver.errors import ClusterError
from connserver.ids import GroupId
from connserver.messages import GroupPosition
from gossip.orders import orders
from gossip.protocol import Status
from gossip.replica import ReplicaStatus
from tests.unit.gossip.test_members import NAMES, picture, row

HELD = ReplicaStatus(
    group=GroupId(0),
    era=1,
    view=3,
    log_view=3,
    status=Status.NORMAL,
    primary="n1",
    head=12,
    commit=10,
    base=2,
    archived_op=8,
    log_bytes=0,
    worker_ready=True,
    grant=5,
    placement=NAMES,
    peers=(),
    problem="",
)


class Story:
    """Node n1, which holds `held` of group 0 and thinks `rows` of all nodes."""

    def __init__(self) -> None:
        self.held: ReplicaStatus | None = HELD
        self.rows: dict[str, GroupPosition] = {name: row() for name in NAMES}
        self.archive: dict[str, Any] = {"state": "known", "era": 1, "view": 3, "op": 8}
        self.done: list[tuple[Any, ...]] = []
        self.refusal = ""
        self._orders = orders("n1", lambda: picture(self.rows), self, lambda group: self.archive)

    def holds(self, group: int) -> ReplicaStatus | None:
        return self.held

    def resign(self, group: int, target: str | None) -> str:
        self.done.append(("resign", group, target))
        return self.refusal

    def begin_era(self, group: int, base: int | None, above: tuple[int, int]) -> str:
        self.done.append(("begin_era", group, base))
        if self.held is not None and not self.refusal:
            self.held = replace(self.held, era=max(self.held.era, above[0]) + 1)
        return self.refusal

    def order(self, command: str, **arguments: Any) -> Any:
        _, carry_out = self._orders[command]
        return carry_out(0, arguments, 0.0)

    def lose(self, *names: str) -> None:
        self.rows |= {name: row("recovering") for name in names}


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_handoff_to_whoever_is_ready_or_to_one_that_is_named(story: Story) -> None:
    assert story.order("failover") == {"group": 0, "from": "n1", "view": 3}
    story.order("failover", to="n3")
    assert story.done == [("resign", 0, None), ("resign", 0, "n3")]


def test_a_handoff_that_cannot_be_is_refused_in_words(story: Story) -> None:
    with pytest.raises(ClusterError, match="led by n1 already"):
        story.order("failover", to="n1")
    with pytest.raises(ClusterError, match="`to` is missing or no text"):
        story.order("failover", to=3)
    story.refusal = "n9 is not another replica"
    with pytest.raises(ClusterError, match="n9 is not another replica"):
        story.order("failover", to="n9")
    story.held = replace(HELD, placement=("n1",))
    with pytest.raises(ClusterError, match="has one replica, on n1"):
        story.order("failover")
    story.held = None
    with pytest.raises(ClusterError, match="n1 has no replica of group 0 yet"):
        story.order("failover")


def test_looking_tells_what_is_held_and_where_the_archive_stands(story: Story) -> None:
    assert story.order("recover.look") == {
        "node": "n1",
        "era": 1,
        "view": 3,
        "log_view": 3,
        "status": "normal",
        "head": 12,
        "commit": 10,
        "base": 2,
        "archive": {"state": "known", "era": 1, "view": 3, "op": 8},
    }


def test_no_new_era_while_a_majority_is_fine(story: Story) -> None:
    story.lose("n3")
    with pytest.raises(ClusterError, match=r"a majority of group 0 holds its log \(n1, n2\)"):
        story.order("recover.begin")
    with pytest.raises(ClusterError, match="nothing to recover"):
        story.order("recover.begin", archive=True)
    assert story.done == []


def test_a_new_era_with_the_log_that_is_left(story: Story) -> None:
    story.lose("n2", "n3")
    assert story.order("recover.begin") == {"group": 0, "node": "n1", "era": 2}
    assert story.done == [("begin_era", 0, None)]


def test_a_new_era_from_a_log_does_not_need_the_archive(story: Story) -> None:
    story.lose("n2", "n3")
    story.archive = {"state": "failed", "error": "no connection"}
    assert story.order("recover.begin")["era"] == 2
    with pytest.raises(ClusterError, match="cannot be read: no connection"):
        story.order("recover.begin", archive=True)


def test_a_new_era_from_the_archive_when_no_log_is_left(story: Story) -> None:
    story.lose(*NAMES)
    story.held = replace(HELD, status=Status.RECOVERING, head=0, commit=0, base=0)
    story.archive = {"state": "asked"}
    with pytest.raises(ClusterError, match="try again in a moment"):
        story.order("recover.begin", archive=True)
    story.archive = {"state": "known", "era": 1, "view": 3, "op": 70}
    assert story.order("recover.begin", archive=True)["era"] == 2
    assert story.done == [("begin_era", 0, 70)]


def test_an_archive_that_is_ahead_of_a_healthy_log_is_gone_on_from(story: Story) -> None:
    story.archive = {"state": "known", "era": 1, "view": 3, "op": 99}
    with pytest.raises(ClusterError, match="nothing to recover"):
        story.order("recover.begin")
    assert story.order("recover.begin", archive=True)["era"] == 2
    assert story.done == [("begin_era", 0, 99)]


def test_no_number_of_an_era_is_used_twice(story: Story) -> None:
    story.lose(*NAMES)
    story.archive = {"state": "known", "era": 4, "view": 0, "op": 99}
    with pytest.raises(ClusterError, match=r"era 4\) does not fit the log of n1"):
        story.order("recover.begin")
    assert story.order("recover.begin", archive=True)["era"] == 5
    story.held, story.archive = HELD, {"state": "failed", "error": "down"}
    assert story.order("recover.begin", above=[7, 2])["era"] == 8
    with pytest.raises(ClusterError, match="`above`"):
        story.order("recover.begin", above=[-1, 0])


@pytest.mark.parametrize(
    ("view", "op", "fits"), [(9, 10, True), (9, 11, False), (3, 12, True), (3, 13, False), (2, 12, True)]
)
def test_a_log_goes_on_only_if_the_archive_is_surely_part_of_it(
    story: Story, view: int, op: int, fits: bool
) -> None:
    story.lose("n2", "n3")
    story.archive = {"state": "known", "era": 1, "view": view, "op": op}
    if fits:
        assert story.order("recover.begin")["era"] == 2
    else:
        with pytest.raises(ClusterError, match="does not fit"):
            story.order("recover.begin")


def test_what_the_replica_refuses_is_passed_on(story: Story) -> None:
    story.lose("n2", "n3")
    story.refusal = "group 0: n1 holds no log of it"
    with pytest.raises(ClusterError, match="holds no log of it"):
        story.order("recover.begin")
