"""What the archiver's machine says: outcomes for the worker, actions for the shell, and its status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from connserver.messages import Image

ArchiveState = Literal["standby", "ok", "lagging", "down", "deposed", "stopped"]


# --- what the worker hears ------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Flushed:
    """Everything up to `op` is in PostgreSQL."""

    op: int


@dataclass(frozen=True, slots=True)
class Deposed:
    """PostgreSQL knows a newer view or another era; this archiver writes no more until promoted."""

    view: int
    era: int


@dataclass(frozen=True, slots=True)
class Behind:
    """PostgreSQL has more operations of this group than were added here; nothing is written meanwhile."""

    archived_op: int


@dataclass(frozen=True, slots=True)
class Down:
    """PostgreSQL does not take writes (said once per outage); images are kept, attempts go on."""

    error: str


@dataclass(frozen=True, slots=True)
class WentBack:
    """PostgreSQL has less than it had (a restored backup?): `readd_all` is awaited. Raise an alert."""

    archived_op: int


@dataclass(frozen=True, slots=True)
class Overflowed:
    """Images up to `op` were given up for lack of room while PostgreSQL was away: `readd_all` is awaited."""

    op: int


Outcome = Flushed | Deposed | Behind | Down | WentBack | Overflowed


# --- what the shell is to do ----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Open:
    """Connect and read the group's row; answer with `opened` or `failed`."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write these images, fenced, in one transaction; answer with `written`, `refused`, `receded`, `failed`.

    `expected_op` is what PostgreSQL must have reached already; `whole` means: these are all objects of
    the group, whatever else lies in its range goes.
    """

    op: int
    view: int
    expected_op: int
    images: Mapping[int, tuple[int, Image]]
    whole: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Give the connection back."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Close, and end the thread."""


Action = Open | Write | Close | Finish


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group's row in `partition_groups`."""

    era: int
    view: int
    archived_op: int


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """How the archive of a group stands, for `status`; `error` is free of secrets."""

    state: ArchiveState
    committed_op: int
    archived_op: int
    lag_ops: int
    dirty_objects: int
    dirty_bytes: int
    error: str
