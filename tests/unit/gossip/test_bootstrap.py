"""How a node without a placement comes to one: taken if anyone has it, else computed by all or most."""

from __future__ import annotations

import pytest

from gossip.bootstrap import Bootstrap, Placing
from gossip.peering import Identity
from gossip.placement import compute

NAMES = ("n1", "n2", "n3")
PLACEMENT = compute("demo", NAMES, 4)
OTHER = compute("demo", ("n3", "n2", "n1"), 4)


def bootstrap(names: tuple[str, ...] = NAMES, *, damaged: bool = False) -> Bootstrap:
    return Bootstrap("demo", names, "n1", 4, damaged=damaged, now=0.0)


def identity(groups: int = 4) -> Identity:
    return Identity(cluster="demo", node="n1", names=NAMES, groups=groups, digest="d", sections={})


def test_alone_in_the_file_it_computes_at_once() -> None:
    assert bootstrap(("n1",)).decide(0.0).placement == compute("demo", ("n1",), 4)


def test_at_the_first_start_of_all_it_computes_at_once() -> None:
    machine = bootstrap()
    assert machine.decide(0.0).placement is None
    machine.said("n2", "")
    assert machine.decide(0.1).placement is None
    machine.said("n3", "")
    assert machine.decide(0.1).placement == PLACEMENT


def test_a_majority_computes_after_it_has_waited_for_the_rest() -> None:
    machine = bootstrap()
    machine.said("n2", "")
    waiting = machine.decide(4.9)
    assert waiting.placement is None and "waits for n3" in waiting.wait
    assert machine.decide(5.0).placement == PLACEMENT


def test_a_minority_never_computes() -> None:
    waiting = bootstrap().decide(3600.0)
    assert waiting.placement is None
    assert "waits for n2, n3, with a majority of the nodes," in waiting.wait


def test_what_anyone_holds_is_taken_and_never_computed_anew() -> None:
    machine = bootstrap()
    machine.said("n2", "")
    machine.said("n3", OTHER.digest)
    decision = machine.decide(0.0)
    assert (decision.placement, decision.ask) == (None, ("n3",))
    assert machine.decide(100.0).placement is None
    machine.offered(OTHER)
    assert machine.decide(0.1).placement == OTHER


def test_an_offer_that_nobody_announced_is_not_taken() -> None:
    machine = bootstrap()
    machine.offered(OTHER)
    machine.said("n2", PLACEMENT.digest)
    assert machine.decide(0.0).ask == ("n2",)


def test_two_different_ones_leave_it_to_a_person() -> None:
    machine = bootstrap()
    machine.said("n2", PLACEMENT.digest)
    machine.said("n3", OTHER.digest)
    machine.offered(PLACEMENT)
    machine.offered(OTHER)
    decision = machine.decide(60.0)
    assert decision.placement is None and "n2, n3 hold different placements" in decision.wait


def test_a_damaged_file_is_never_made_up_for_by_computing() -> None:
    machine = bootstrap(damaged=True)
    machine.said("n2", "")
    machine.said("n3", "")
    assert "damaged" in machine.decide(3600.0).wait
    machine.said("n3", PLACEMENT.digest)
    machine.offered(PLACEMENT)
    assert machine.decide(3601.0).placement == PLACEMENT


def test_a_kept_placement_is_used_whatever_the_file_says() -> None:
    placing = Placing(identity(), OTHER, damaged=False, now=0.0)
    assert placing.decide(0.0).placement is None
    assert placing.placement == OTHER and placing.usable == OTHER
    assert placing.refusal({}) == "" and placing.alerts({}) == []


def test_a_kept_placement_that_the_file_contradicts_serves_nothing() -> None:
    placing = Placing(identity(groups=8), PLACEMENT, damaged=False, now=0.0)
    assert placing.usable is None
    assert "partition_groups = 8" in placing.refusal({})
    (alert,) = placing.alerts({})
    assert alert.severity == "critical" and "partition_groups = 8" in alert.text


def test_the_odd_one_out_serves_nothing_and_the_others_say_why() -> None:
    odd = Placing(identity(), OTHER, damaged=False, now=0.0)
    others = {"n2": PLACEMENT.digest, "n3": PLACEMENT.digest}
    assert odd.refusal(others) == "its placement differs from that of n2, n3"
    assert "n1 serves nothing" in odd.alerts(others)[0].text
    most = Placing(identity(), PLACEMENT, damaged=False, now=0.0)
    others = {"n2": OTHER.digest, "n3": PLACEMENT.digest}
    assert most.refusal(others) == ""
    (alert,) = most.alerts(others)
    assert "n1 and n2 hold different placements" in alert.text and "serves nothing" not in alert.text


def test_rows_that_are_no_placement_are_refused() -> None:
    placing = Placing(identity(), None, damaged=False, now=0.0)
    with pytest.raises(ValueError, match="group 0"):
        placing.offered([["n1", "n1", "n1"]])
    placing.offered([])
    assert placing.digest == ""
