"""What a worker does about a Role: the rules of grants on the worker's side, as one table.

Guards: a worker executes only under a grant whose beginning it knows exactly (its state is that of
the commit at which the grant was given); whatever ends a grant ends all execution under it; and a
worker that has executed more than is safe is replaced by a new process, since nobody can take back
what plugins did. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from connserver.messages import BACKUP, DRAINING, PRIMARY, Role


class Act(Enum):
    """What to do now."""

    NOTHING = "nothing has changed"
    PROMOTE = "execute under the grant"
    DRAIN = "take no more in"
    GO_ON = "the handover was called off: take in again"
    DRAINED = "there is nothing to drain"
    LOSE = "the grant is over"
    BEGIN_ANEW = "entries are missing: attach again"
    REPEAT = "the replica does not know of this worker: say the attach again"
    ARCHIVE_AHEAD = "the archive has what the log has not: serve nothing"
    RELOAD = "the state is of another era: load a newer one"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the worker is. `applied` None: no state yet. `grant` 0: it does not execute.

    `void`: a grant that was lost, and cannot come back. `gossip`: the boot that gave the grant.
    """

    era: int = 0
    applied: int | None = None
    grant: int = 0
    gossip: int = 0
    draining: bool = False
    void: int = 0


def judge(role: Role, standing: Standing) -> Act:
    """The one thing that follows from a Role."""
    if standing.grant:
        return _executing(role, standing)
    if standing.applied is None:
        return Act.NOTHING
    if role.era > standing.era:
        return Act.RELOAD
    if role.era == standing.era and role.grant and role.grant != standing.void:
        if role.role == PRIMARY:
            return _granted(role, standing.applied)
        if role.role == DRAINING:
            return Act.DRAINED
    return Act.NOTHING if role.attached else Act.REPEAT


def _executing(role: Role, standing: Standing) -> Act:
    same = (role.grant, role.gossip, role.era) == (standing.grant, standing.gossip, standing.era)
    if not same or role.role == BACKUP:
        return Act.LOSE
    if role.role == DRAINING:
        return Act.NOTHING if standing.draining else Act.DRAIN
    return Act.GO_ON if standing.draining else Act.NOTHING


def _granted(role: Role, applied: int) -> Act:
    if role.commit < applied:
        return Act.ARCHIVE_AHEAD
    return Act.PROMOTE if role.commit == applied else Act.BEGIN_ANEW
