"""The wheel of deadlines."""

from __future__ import annotations

from gateway.deadlines import LOOKS_PER_TURN, STEP_S, Deadlines


def test_nothing_is_early_and_nothing_later_than_a_step() -> None:
    deadlines: Deadlines[str] = Deadlines(100.0)
    deadlines.at("a", 101.1)
    assert deadlines.due(101.0) == []
    assert deadlines.due(101.1 + STEP_S) == ["a"]
    assert deadlines.due(200.0) == []


def test_what_is_past_is_due_at_the_next_step() -> None:
    deadlines: Deadlines[str] = Deadlines(100.0)
    assert deadlines.due(150.0) == []
    deadlines.at("late", 10.0)
    assert deadlines.due(150.0 + STEP_S) == ["late"]


def test_many_at_once_come_in_parts() -> None:
    deadlines: Deadlines[int] = Deadlines(0.0)
    for key in range(LOOKS_PER_TURN + 5):
        deadlines.at(key, 1.0)
    first = deadlines.due(2.0)
    assert len(first) == LOOKS_PER_TURN and deadlines.waiting
    assert first + deadlines.due(2.0) == list(range(LOOKS_PER_TURN + 5))
    assert not deadlines.waiting
