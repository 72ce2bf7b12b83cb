"""The trade of the `world` sample, with a death before each of its effects."""

from __future__ import annotations

from functools import cache

import pytest

from tests.simulation.whole import trade
from tests.simulation.whole.failpoints import in_the_source

SOON_S = 0.1
"""Virtual seconds: a first call to another group waits for a connection, and for no interval."""

PARTS = 4


@cache
def calm() -> trade.Trade:
    """What a trade does."""
    return trade.calm()


def die(numbers: list[int], kill: trade.Kill) -> set[str]:
    """Die before each of these effects; the failpoints that were reached."""
    calm_hits = calm().failpoints.hits
    reached: set[str] = set()
    for number in numbers:
        hits = trade.deadly(number, kill).hits
        assert hits[:number] == calm_hits[:number], "the same trade, up to the death"
        reached |= {name for _, name in hits}
    return reached


reached_by_dying: set[str] = set()


def test_a_first_call_to_another_group_does_not_wait_for_an_interval() -> None:
    """Nobody dies."""
    assert calm().took_s < SOON_S


@pytest.mark.parametrize("part", range(PARTS))
def test_a_worker_dies_before_each_effect(part: int) -> None:
    """No coin and no thing is lost or doubled, and nothing stays pending."""
    numbers = trade.apart(calm().failpoints.hits)
    reached_by_dying.update(die(numbers[part::PARTS], trade.kill_worker))


def test_a_node_dies_before_each_commit() -> None:
    """The same, and its gossip process and gateway die too."""
    hits = calm().failpoints.hits
    numbers = [at for at, (_, name) in enumerate(hits, start=1) if name.endswith((".submit", ".committed"))]
    reached_by_dying.update(die([at for at in numbers if "queue" not in hits[at - 1][1]], trade.kill_node))


def test_no_failpoint_is_left_out() -> None:
    """Each that is in the code is reached, or it is said what else reaches it. Needs the tests above."""
    if not reached_by_dying:
        pytest.skip("the deaths were not asked for")
    reached = reached_by_dying | {name for _, name in calm().failpoints.hits}
    assert set(in_the_source().values()) - reached == set(trade.NOT_OF_A_TRADE)
