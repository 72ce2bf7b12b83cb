"""The worker's clock over machines whose clock is set."""

from __future__ import annotations

import pytest

from partition.clock import CATCH_UP, SteadyClock


class Machine:
    """Two clocks, of which one can be set."""

    def __init__(self) -> None:
        self.steady, self.set_by = 100.0, 1_000_000.0

    def wall(self) -> float:
        return self.steady + self.set_by


@pytest.mark.parametrize("jump", [3_600.0, 1.0, -1.0, -3_600.0])
def test_a_clock_that_is_set_is_followed_little_by_little(jump: float) -> None:
    machine = Machine()
    clock = SteadyClock(machine.wall, lambda: machine.steady)
    before = clock()
    machine.set_by += jump
    assert clock() == before
    for _ in range(10):
        machine.steady += 0.1
        clock()
    followed = clock() - before - 1.0
    assert abs(followed) == pytest.approx(min(abs(jump), CATCH_UP))
    assert followed * jump > 0


def test_the_time_is_that_of_the_machine_once_it_has_been_followed() -> None:
    machine = Machine()
    clock = SteadyClock(machine.wall, lambda: machine.steady)
    machine.set_by -= 1.0
    told = []
    for _ in range(300):
        machine.steady += 0.1
        told.append(clock())
    assert told == sorted(told)
    assert told[-1] == pytest.approx(machine.wall())
