"""The drill's verdict: each way in which something can be lost or doubled makes it fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connserver.cli.drill import report
from connserver.cli.drill_judge import Judge, Verdict, percentile

ROOMS = {"s0": "r", "s1": "r", "witness": "r", "other": "q"}


def good(count: int = 10) -> Judge:
    """Two senders in turn, every member given everything, an acknowledgement each 100 ms."""
    judge = Judge(ROOMS)
    for name in ("s0", "s1", "witness"):
        judge.joined(name, 0)
    for number in range(1, count + 1):
        one(judge, number, at=number / 10)
    return judge


def one(judge: Judge, number: int, at: float, *, given: tuple[str, ...] = ("s0", "s1", "witness")) -> None:
    judge.acked(f"s{number % 2}", f"op{number}", number, at)
    for name in given:
        judge.saw(name, number, f"op{number}")


def verdict(judge: Judge) -> Verdict:
    return judge.verdict(0.5, 1.0, ["s0", "s1"])


def test_all_well() -> None:
    found = verdict(good())
    assert found.good
    assert (found.acked, found.lost, found.duplicated, found.examples) == (10, 0, 0, ())


def test_nothing_done_is_not_good() -> None:
    assert not verdict(Judge(ROOMS)).good


def lost_for_all(judge: Judge) -> None:
    one(judge, 11, 1.1, given=())


def lost_for_one(judge: Judge) -> None:
    one(judge, 11, 1.1, given=("s0", "witness"))
    one(judge, 12, 1.2)


def lost_at_the_end_for_one(judge: Judge) -> None:
    one(judge, 11, 1.1, given=("s0", "witness"))


def acknowledged_elsewhere(judge: Judge) -> None:
    judge.acked("s0", "op11", 12, 1.1)
    for name in ("s0", "s1", "witness"):
        judge.saw(name, 11, "op11")
        judge.saw(name, 12, "x")


def overwritten(judge: Judge) -> None:
    for name in ("s0", "s1", "witness"):
        judge.saw(name, 10, "another")


def hole_that_nobody_acknowledged(judge: Judge) -> None:
    one(judge, 12, 1.2)


@pytest.mark.parametrize(
    "harm",
    [
        lost_for_all,
        lost_for_one,
        lost_at_the_end_for_one,
        acknowledged_elsewhere,
        overwritten,
        hole_that_nobody_acknowledged,
    ],
)
def test_what_is_lost_is_counted_once(harm: Callable[[Judge], None]) -> None:
    judge = good()
    harm(judge)
    found = verdict(judge)
    assert (found.lost, found.duplicated) == (1, 0), found.examples
    assert not found.good and len(found.examples) == 1


def given_twice(judge: Judge) -> None:
    judge.saw("witness", 7, "op7")


def run_twice(judge: Judge) -> None:
    for name in ("s0", "s1", "witness"):
        judge.saw(name, 11, "op10")


@pytest.mark.parametrize("harm", [given_twice, run_twice])
def test_what_is_doubled_is_counted(harm: Callable[[Judge], None]) -> None:
    judge = good()
    harm(judge)
    found = verdict(judge)
    assert (found.lost, found.duplicated) == (0, 1), found.examples
    assert not found.good


def test_a_member_that_was_told_of_a_gap_has_lost_nothing() -> None:
    judge = good()
    for number in (11, 12, 13):
        one(judge, number, 1.1, given=("s0", "witness"))
    judge.skipped("s1", 11, 12)
    judge.saw("s1", 13, "op13")
    assert verdict(judge).good


def test_a_member_that_began_anew_is_owed_what_comes_after() -> None:
    judge = good()
    one(judge, 11, 1.1, given=("s0", "witness"))
    judge.joined("s1", 11)
    one(judge, 12, 1.2)
    assert verdict(judge).good
    one(judge, 13, 1.3, given=("s0", "witness"))
    assert verdict(judge).lost == 1


def test_what_is_in_doubt_is_neither_lost_nor_acknowledged() -> None:
    judge = good()
    judge.doubted("op11")
    judge.refused("op12", "forbidden")
    found = verdict(judge)
    assert (found.good, found.doubted, found.refused) == (True, 1, 1)
    words = report(found, "w-n1-0")
    assert "in doubt    1" in words and "refused     1" in words and "killed      w-n1-0" in words


def test_the_pause_is_the_longest_gap_that_ended_after_the_strike() -> None:
    judge = Judge(ROOMS)
    for at in (0.0, 2.0, 2.1, 2.5, 2.6, 2.7):
        judge.acked("s0", f"a{at}", 1, at)
    for at in (2.0, 2.1, 2.2):
        judge.acked("s1", f"b{at}", 1, at)
    found = judge.verdict(2.05, 2.75, ["s0", "s1"])
    assert found.pause_ms == (400, 550, 550), "s1 was never answered again"
    assert judge.acked_since(2.05, ["s0", "s1"]) and not judge.acked_since(2.3, ["s0", "s1"])
    assert judge.verdict(2.05, 2.75, ["witness"]).pause_ms == (700, 700, 700), "never answered at all"


def test_ranks() -> None:
    numbers = list(range(1, 201))
    assert [percentile(numbers, percent) for percent in (50, 99, 100)] == [100, 198, 200]
    assert percentile([], 99) == 0
    assert percentile([5], 50) == percentile([5], 100) == 5
