"""Worker ↔ the gossip process of its node: attaching, roles, and the group's log.

The order of what a worker hears is part of the meaning: `Deliver`, `Committed` and `Role` come in the
order in which the replica made them, so a Role "primary" comes after everything to be applied before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connserver.codec import message

NO_STATE = -1
"""`applied` of a worker that has not loaded its group."""


@message(30)
@dataclass(frozen=True, slots=True)
class Attach:
    """A worker is there and listens at `endpoint`; said until a Role comes, and to begin anew.

    With `applied` (not NO_STATE) its state is that after op `applied` of `era`, nothing uncommitted in
    it, and it wants the entries after op `after` (at most `applied`: of those up to `applied` it keeps
    the outputs only). `attempt` rises whenever it wants to begin anew; the same one again is a repeat.
    """

    group: int
    pid: int
    endpoint: str
    attempt: int
    era: int
    applied: int
    after: int


PRIMARY, DRAINING, BACKUP = "primary", "draining", "backup"
"""A primary executes; one that drains hands in what it executed and takes nothing in; a backup applies."""


@message(31)
@dataclass(frozen=True, slots=True)
class Role:
    """What a worker is from now on; repeated every ROLE_MS.

    `grant` 0: it may not execute. `attached`: the replica delivers to it; if not, and it has a state, it
    attaches. `commit` and `archived` are the group's, as this node knows them. `gossip` is the boot of
    the gossip process: another one has forgotten everything about this worker.
    """

    group: int
    grant: int
    role: str
    era: int
    view: int
    attached: bool
    commit: int
    archived: int
    gossip: int


@message(32)
@dataclass(frozen=True, slots=True)
class WorkerReport:
    """Once a second, for `status`: positions, storage and plugins of one worker."""

    group: int
    grant: int
    commit: int
    archived: int
    storage: str
    storage_error: str
    details: dict[str, Any]


# --- worker → gossip: the group's log -------------------------------------------------------------


@message(20)
@dataclass(frozen=True, slots=True)
class Submit:
    """What the worker executed under this grant: packed Entries, from `first_op` on.

    Ops that the log has already are skipped. Answered by Committed or Refused.
    """

    group: int
    grant: int
    first_op: int
    payloads: list[bytes]


@message(21)
@dataclass(frozen=True, slots=True)
class GetBarrier:
    """Say when a majority has confirmed, after this was asked, that the grant still held."""

    group: int
    grant: int
    token: int


@message(22)
@dataclass(frozen=True, slots=True)
class Drained:
    """The worker told "draining" has nothing left to submit."""

    group: int
    grant: int


@message(23)
@dataclass(frozen=True, slots=True)
class Archived:
    """Entries up to `op` are in the archive, and no gateway waits for outputs of them."""

    group: int
    op: int


# --- gossip → worker ------------------------------------------------------------------------------


@message(24)
@dataclass(frozen=True, slots=True)
class Deliver:
    """Committed entries for a worker without a grant, dense, from `first_op` on."""

    group: int
    era: int
    first_op: int
    payloads: list[bytes]


@message(25)
@dataclass(frozen=True, slots=True)
class Committed:
    """Everything submitted under this grant up to `op` is committed."""

    grant: int
    op: int


STALE_GRANT, GAP, OVERLOADED = "stale_grant", "gap", "overloaded"
"""Reasons of Refused: not the present grant; submit again from head + 1; try again later."""


@message(26)
@dataclass(frozen=True, slots=True)
class Refused:
    """A Submit (or, with `first_op` 0, a GetBarrier) was not taken; the log ends at `head`."""

    grant: int
    first_op: int
    reason: str
    head: int


@message(27)
@dataclass(frozen=True, slots=True)
class BarrierPassed:
    """Reads that were executed before this barrier was asked for were current."""

    grant: int
    token: int


@message(28)
@dataclass(frozen=True, slots=True)
class Rebase:
    """The log begins after `op` of `era` now: a worker whose state is older loads a newer snapshot."""

    group: int
    era: int
    op: int
