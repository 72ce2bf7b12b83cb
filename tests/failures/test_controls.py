"""The judge is tried with bugs put into real workers, and with requests sent twice by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.failures import network, trial
from tests.failures.catalogue import FAULTS, NEED_CUTS
from tests.failures.controls import CATCHERS, with_control
from tests.failures.line import Line
from tests.failures.nodes import World, new_world
from tests.failures.wire import CLASSIC, JSON

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", sorted(CATCHERS))
def test_a_bug_that_was_put_in_is_caught(name: str) -> None:
    workload, fault = CATCHERS[name]
    if fault in NEED_CUTS and not network.possible():
        pytest.skip("needs network namespaces, which only root may make")
    kinds: set[str] = set()
    with new_world(**with_control(name)) as world:
        world.up()
        for turn in range(3):
            found = trial.run(world, workload, FAULTS[fault](), tag=f"t{turn}", seed=turn, period_s=0.03)
            assert not found.bite, found.bite
            kinds = set(found.verdict.found) - {"weak"}
            if kinds:
                break
    assert kinds, f"{name} was not caught"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as made:
        yield made.up()


@pytest.mark.parametrize("encoding", [JSON, CLASSIC])
def test_a_request_that_is_sent_twice_runs_once(world: World, encoding: str) -> None:
    """On the same connection, and after a resume through another gateway."""
    first = Line(world.gateways[0], encoding)
    token = first.ask({"msg": "login", "user": f"twice-{encoding}"})["resume"]
    assert [first.ask({"msg": "count.add", "id": 1})["value"] for _ in range(2)] == [1, 1]
    first.close()
    second = Line(world.gateways[1], encoding)
    assert second.ask({"msg": "session.resume", "resume": token})["status"] == 0
    assert [second.ask({"msg": "count.add", "id": number})["value"] for number in (1, 2, 2)] == [1, 2, 2]
    second.close()
