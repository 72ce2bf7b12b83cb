"""How a grant is made: unique and rising on a node, over restarts as well.

Guards one rule: a grant names the incarnation it was given in, so a node that comes back grants
nothing that could be mistaken for a right of its former life.
"""

from __future__ import annotations

from connserver.limits import GRANTS_PER_INCARNATION

_COUNT_BITS = GRANTS_PER_INCARNATION.bit_length() - 1


def make_grant(incarnation: int, count: int) -> int:
    """The `count`-th grant (from 1) of an incarnation; count 0 lies above all earlier ones."""
    assert 0 <= count < GRANTS_PER_INCARNATION
    return incarnation << _COUNT_BITS | count


def incarnation_of(grant: int) -> int:
    """The incarnation in which a grant was given."""
    return grant >> _COUNT_BITS
