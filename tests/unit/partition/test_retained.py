"""Outputs that gateways have not got."""

import pytest

from connserver.messages import GATEWAY_GONE, OutputBatch
from partition import retained
from partition.retained import Receipts, Retained


def batch(gateway: int, *bodies: bytes) -> OutputBatch:
    count = len(bodies)
    return OutputBatch(gateway, [[number] for number in range(count)], [1] * count, [0] * count, [*bodies])


def kept(found: list[tuple[int, OutputBatch]]) -> list[tuple[int, list[bytes]]]:
    return [(op, one.bodies) for op, one in found]


def filled() -> Retained:
    held = Retained()
    held.add(5, [batch(70, b"five"), batch(71, b"other")])
    held.add(7, [batch(70, b"seven")])
    held.add(9, [batch(70, b"nine")])
    return held


def test_a_gateway_begins_with_what_it_lacks_in_order() -> None:
    held = filled()
    assert kept(held.after(70, 5)) == [(9, [b"seven", b"nine"])]
    assert kept(held.after(70, 0)) == [(9, [b"five", b"seven", b"nine"])]
    assert held.after(70, 9) == [] == held.after(72, 0)
    assert not held.lacks(70, 0)
    held.check_invariants()


def test_what_waits_is_joined_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained, "JOINED_BYTES", 150)
    held = filled()
    assert kept(held.after(70, 0)) == [(7, [b"five", b"seven"]), (9, [b"nine"])]


def test_what_a_gateway_has_is_kept_no_longer_and_bounds_what_the_log_may_forget() -> None:
    held = filled()
    assert held.oldest == 5
    held.received([[70, 7]])
    assert kept(held.after(70, 0)) == [(9, [b"nine"])]
    assert held.oldest == 5, "the other gateway's"
    held.received([[71, 5], [70, 20]])
    assert held.oldest == 0 and held.boots == frozenset()
    held.check_invariants()


def test_nothing_is_kept_for_the_dead_and_what_they_lack_is_known_when_they_come_back() -> None:
    held = filled()
    held.received([[70, GATEWAY_GONE]])
    assert held.boots == {71} and held.is_gone(70)
    held.add(11, [batch(70, b"eleven")])
    assert held.oldest == 5 and held.after(70, 0) == []
    assert held.lacks(70, 9) and held.lacks(70, 10) and not held.lacks(70, 11)
    held.received([[70, 9]])
    assert not held.is_gone(70) and held.lacks(70, 9)
    held.add(13, [batch(70, b"thirteen")])
    assert kept(held.after(70, 9)) == [(13, [b"thirteen"])]
    held.received([[70, 13]])
    assert not held.lacks(70, 12), "it has seen more since"
    held.check_invariants()


@pytest.mark.parametrize(("limit", "value"), [("RETAINED_BATCHES", 2), ("RETAINED_BYTES", 150)])
def test_past_its_bound_a_gateways_outputs_are_given_up(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(retained, limit, value)
    held = Retained()
    overflowed = [held.add(op, [batch(70, b"text")]) for op in (5, 7, 9)]
    assert overflowed == [[], [], [70]]
    assert held.after(70, 0) == [] and held.lacks(70, 8) and not held.lacks(70, 9)
    assert not held.is_gone(70)
    held.add(11, [batch(70, b"later")])
    assert kept(held.after(70, 9)) == [(11, [b"later"])]
    held.check_invariants()


def test_of_the_dead_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained, "GATEWAYS", 2)
    held = Retained()
    for boot in (1, 2, 3):
        held.add(boot, [batch(boot, b"text")])
        held.received([[boot, GATEWAY_GONE]])
    assert [held.is_gone(boot) for boot in (1, 2, 3)] == [False, True, True]


def test_replicas_that_see_the_same_entries_keep_the_same() -> None:
    one, other = filled(), filled()
    for held in (one, other):
        held.received([[70, 5], [71, GATEWAY_GONE]])
        held.add(12, [batch(71, b"x"), batch(72, b"y")])
    for boot in (70, 71, 72):
        assert one.after(boot, 0) == other.after(boot, 0)
        assert one.lacks(boot, 0) == other.lacks(boot, 0)


def test_the_log_hears_once_of_what_gateways_have_and_only_if_somebody_keeps_it() -> None:
    receipts = Receipts(filled())
    receipts.has(70, 4)
    receipts.has(72, 9)
    assert not receipts.any and receipts.take() == []
    receipts.has(70, 5)
    receipts.has(70, 7)
    assert receipts.any
    assert receipts.take() == [[70, 7]]
    assert receipts.take() == []
    receipts.gone(71)
    assert receipts.take() == [[71, GATEWAY_GONE]]


def test_a_gateway_that_is_back_is_said_to_live() -> None:
    held = filled()
    receipts = Receipts(held)
    receipts.gone(70)
    held.received(receipts.take())
    receipts.back(70, 3)
    assert receipts.take() == [[70, 3]]
    receipts.gone(71)
    receipts.back(71, 0)
    assert receipts.take() == [], "nobody was told that it was dead"
