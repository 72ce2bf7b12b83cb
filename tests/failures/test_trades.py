"""Trade between shards while what serves it is killed; `scripts/chaos --workload trade` does more."""

from __future__ import annotations

import pytest

from tests.failures import trades
from tests.failures.nodes import new_world

pytestmark = pytest.mark.integration

KILLS = 5


@pytest.mark.timeout(240)
def test_gold_and_things_only_change_hands_whatever_dies() -> None:
    with new_world(plugin=trades.WORLD) as world:
        world.up()
        done = list(trades.rounds(world, KILLS))
    assert sum(one.kills for one in done) == KILLS
    for one in done:
        assert one.verdict.good, "\n".join(one.verdict.reasons)
