"""Where a lost group goes on: the best log, or the archive, or a sentence that says what to do first."""

from __future__ import annotations

import pytest

from connserver.cli.recovery import Archive, Choice, Holding, choose
from connserver.errors import ClusterError

REPLICAS = ("n1", "n2", "n3")
ARCHIVE = Archive(era=1, view=3, op=80)


def held(
    node: str,
    status: str = "view_change",
    *,
    era: int = 1,
    view: int = 4,
    log_view: int = 3,
    head: int = 100,
    commit: int = 95,
    base: int = 10,
) -> Holding:
    return Holding(node, status, era, view, log_view, head, commit, base)


def lost(node: str, *, era: int = 1, status: str = "recovering") -> Holding:
    return Holding(node, status, era, 0, -1, 0, 0, 0)


def chosen(*holdings: Holding, archive: Archive = ARCHIVE, **wish: str | bool) -> Choice:
    return choose(2, REPLICAS, holdings, archive, **wish)  # type: ignore[arg-type]


def refused(*holdings: Holding, archive: Archive = ARCHIVE, **wish: str | bool) -> str:
    with pytest.raises(ClusterError) as caught:
        chosen(*holdings, archive=archive, **wish)
    return str(caught.value)


class TestTheLog:
    def test_the_one_that_is_left_goes_on(self) -> None:
        choice = chosen(lost("n1"), held("n2"), lost("n3"))
        assert (choice.node, choice.archive, choice.op, choice.above) == ("n2", False, 100, (1, 4))
        assert choice.missing == (
            "everything up to op 100 goes on; what n1 and n3 may have committed after it is lost"
        )
        assert choice.source == "the log of n2"

    def test_it_is_taken_although_the_archive_cannot_be_read(self) -> None:
        choice = chosen(lost("n1"), held("n2"), lost("n3"), archive=Archive(error="no connection"))
        assert not choice.archive and "could not be compared (no connection)" in choice.missing

    def test_what_is_known_to_be_missing_is_counted(self) -> None:
        behind = held("n2", head=90, commit=88)
        ahead = Holding("n3", "recovering", 1, 6, -1, 0, 97, 0)
        assert "7 committed operations after it are LOST" in chosen(lost("n1"), behind, ahead).missing

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (
                held("n1", era=1, log_view=9, head=900),
                held("n2", era=2, log_view=1, head=5, commit=5, base=0),
            ),
            (held("n1", log_view=3, head=900), held("n2", log_view=4, head=100)),
            (held("n1", head=99), held("n2", head=100)),
        ],
        ids=["era", "log_view", "head"],
    )
    def test_the_best_is_by_era_then_log_view_then_head(self, first: Holding, second: Holding) -> None:
        five = ("n1", "n2", "n3", "n4", "n5")
        gone = [lost(name) for name in five[2:]]
        for rows in ([first, second, *gone], [*gone, second, first]):
            assert choose(2, five, rows, Archive(era=1, view=1, op=50)).node == "n2"

    def test_a_wish_for_a_node_is_kept_if_it_has_a_log(self) -> None:
        five = ("n1", "n2", "n3", "n4", "n5")
        rows = [held("n1", head=99), held("n2"), *map(lost, five[2:])]
        assert choose(2, five, rows, ARCHIVE, node="n1").node == "n1"
        with pytest.raises(ClusterError, match="n3 holds no log of group 2; n1 and n2 does"):
            choose(2, five, rows, ARCHIVE, node="n3")

    def test_one_that_begins_after_the_archive_is_of_no_use(self) -> None:
        words = refused(lost("n1"), held("n2", base=90), lost("n3"))
        assert "begins after op 90" in words and "restore a newer backup" in words


class TestTheArchive:
    def test_it_is_taken_when_no_log_is_left(self) -> None:
        choice = chosen(*map(lost, REPLICAS))
        assert (choice.archive, choice.op) == (True, 80)
        assert "up to op 80 goes on; what was committed after it is lost" in choice.missing
        assert chosen(lost("n1"), lost("n3")).archive, "one may be gone for good"
        assert chosen(lost("n3")).node == "n3", "or two"

    def test_it_is_taken_when_the_log_does_not_contain_it(self) -> None:
        assert chosen(lost("n1"), held("n2", head=70, commit=70), lost("n3")).archive
        older = held("n2", log_view=2, commit=79)
        assert chosen(lost("n1"), older, lost("n3")).archive, "its op 80 may be another one"
        assert not chosen(lost("n1"), held("n2", log_view=2, commit=80), lost("n3")).archive

    def test_a_named_log_that_does_not_contain_it_is_refused(self) -> None:
        words = refused(lost("n1"), held("n2", head=70, commit=70), lost("n3"), node="n2")
        assert "does not fit the log of n2" in words and "--archive" in words

    def test_it_is_taken_by_wish_and_what_is_lost_is_counted(self) -> None:
        choice = chosen(lost("n1"), held("n2"), lost("n3"), from_archive=True)
        assert choice.archive and "15 committed operations after it are LOST" in choice.missing

    def test_when_it_cannot_be_read_there_is_nothing_to_go_on_from(self) -> None:
        down = Archive(error="no connection")
        words = refused(*map(lost, REPLICAS), archive=down)
        assert "no reachable node holds a log" in words and "no connection" in words
        assert "cannot be read" in refused(
            lost("n1"), held("n2"), lost("n3"), archive=down, from_archive=True
        )

    def test_a_later_era_than_any_node_knows_asks_for_the_nodes_that_know_it(self) -> None:
        later = Archive(era=3, view=0, op=200)
        words = refused(lost("n1"), lost("n3"), archive=later)
        assert "of era 3" in words and "start n2 first" in words
        choice = chosen(lost("n1"), lost("n3"), archive=later, from_archive=True)
        assert (choice.archive, choice.above) == (True, (3, 0))
        assert chosen(*map(lost, REPLICAS), archive=later).above == (3, 0), "nobody is left to wait for"

    def test_an_archive_ahead_of_a_majority_that_is_fine_is_gone_on_from(self) -> None:
        fresh = [held(name, "normal", log_view=0, head=0, commit=0, base=0) for name in REPLICAS]
        assert chosen(*fresh).archive, "all disks were lost at once, and the group was made anew"


class TestWhatNeedsNoNewEra:
    def test_a_majority_that_is_fine(self) -> None:
        words = refused(held("n1", "normal"), held("n2", "normal"), lost("n3"))
        assert "a majority of group 2 holds its log (n1, n2)" in words

    def test_a_group_that_only_misses_nodes(self) -> None:
        assert "start n2 and n3 first" in refused(held("n1"))
        assert "can be reached: start n1 and n2 and n3" in refused()

    def test_a_lost_disk_with_another_node_down(self) -> None:
        words = refused(held("n1"), lost("n2"))
        assert "complete again once n3 is there" in words

    def test_a_group_that_is_being_made(self) -> None:
        forming = [lost("n1", status="blank"), lost("n2", status="forming"), lost("n3", status="blank")]
        assert "is being made" in refused(*forming, archive=Archive())

    def test_one_replica_alone(self) -> None:
        with pytest.raises(ClusterError, match="nothing to recover"):
            choose(0, ("n1",), [held("n1", "normal")], ARCHIVE)
        assert choose(0, ("n1",), [lost("n1")], ARCHIVE).archive
