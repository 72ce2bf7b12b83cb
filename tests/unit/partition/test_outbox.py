"""Parcels between groups: exactly once over a carrier that loses and repeats, across reloads."""

import random

import pytest

from partition.outbox import Outbox
from tests.unit.partition.worlds import Kept


class Side:
    """One group: its outbox, and what has taken effect in it."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.kept = Kept()
        self.outbox = Outbox(self.kept.ledger, partition)
        self.effects: list[bytes] = []

    def reload(self) -> None:
        self.kept = self.kept.reopen()
        self.outbox = Outbox(self.kept.ledger, self.partition)
        self.outbox.load()


@pytest.mark.parametrize("seed", range(40))
def test_each_parcel_takes_effect_once_and_in_order(seed: int) -> None:
    dice = random.Random(seed)
    source, target = Side(0), Side(30000)
    for number in range(60):
        source.outbox.send(1, b"%d" % number)
        if dice.random() < 0.3:
            source.reload()
        if dice.random() < 0.3:
            target.reload()
        _exchange(source, target, dice, loss=0.5)
    _exchange(source, target, dice, loss=0.0)
    assert target.effects == [b"%d" % number for number in range(60)]
    assert source.outbox.waiting() == []
    for side in (source, target):
        side.outbox.check_invariants()


def _exchange(source: Side, target: Side, dice: random.Random, loss: float) -> None:
    for _, number, body in source.outbox.waiting():
        if dice.random() >= loss and target.outbox.accept(0, number):
            target.effects.append(body)
    for _, upto in target.kept.turn.finish().done:
        if dice.random() >= loss:
            source.outbox.confirmed(1, upto)


def test_only_the_next_number_is_taken() -> None:
    target = Side(0)
    assert not target.outbox.accept(5, 2)
    assert target.outbox.accept(5, 1)
    assert not target.outbox.accept(5, 1)
    assert target.outbox.accept(5, 2)
    assert target.kept.turn.finish().done == [(5, 2)]


def test_a_target_that_forgot_its_last_parcels_goes_on_with_the_next() -> None:
    source, target = Side(0), Side(1)
    for number in range(1, 6):
        source.outbox.send(1, b"%d" % number)
        assert target.outbox.accept(0, number)
    source.outbox.confirmed(1, 5)
    loaded = Side(1)  # nothing of it was archived
    source.outbox.send(1, b"6")
    ((_, first, _),) = source.outbox.waiting()
    assert loaded.outbox.begins(0, first) == 5
    assert loaded.outbox.accept(0, 6)
    assert loaded.outbox.begins(0, 1) == 0
    assert not loaded.outbox.accept(0, 8)


def test_a_source_that_forgot_its_last_parcels_gives_their_numbers_to_no_other() -> None:
    source, target = Side(0), Side(1)
    source.outbox.send(1, b"1")
    source.reload()  # the rest of its first life was not archived
    assert all(target.outbox.accept(0, number) for number in range(1, 5))
    source.outbox.send(1, b"new")
    source.kept.turn.finish()
    assert source.outbox.met(1, target.outbox.cursor(0))
    assert source.outbox.waiting() == [(1, 5, b"new")]
    assert source.kept.turn.finish().parcels == [(1, 5, b"new")], "it leaves under its new number"
    assert target.outbox.accept(0, 5)
    assert not source.outbox.met(1, 5)
    assert source.outbox.waiting() == []
    source.outbox.send(1, b"newer")
    assert source.outbox.waiting() == [(1, 6, b"newer")]
    source.outbox.check_invariants()
