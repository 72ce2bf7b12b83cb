"""The clock of a worker: Unix time that does not jump when the machine's clock is set.

Guards one rule: timers, expiry and what plugins see as the time go on evenly. A clock that is set, forwards
or backwards, must neither end sessions and fire timers of the next hour, nor hold timers up for one; so the
difference is made good little by little. Pure but for the two clocks it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

CATCH_UP: Final = 0.05
"""Share of the time that passes by which this clock may run faster or slower than it should."""


class SteadyClock:
    """Called, gives Unix seconds; never less than before. One for each worker process.

    `wall`: Unix seconds, may jump; `steady`: seconds since any moment, never jumps.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._looked = steady()
        self._ahead = wall() - self._looked

    def __call__(self) -> float:
        steady = self._steady()
        most = CATCH_UP * (steady - self._looked)
        off = self._wall() - steady - self._ahead
        self._ahead += min(max(off, -most), most)
        self._looked = steady
        return steady + self._ahead
