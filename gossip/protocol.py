"""What replicas say to each other, and what they ask of their shell.

Messages and entries are named tuples and not dataclasses: thousands pass through an idle node every
second, a tuple is built in a third of the time, and msgpack writes it as it is. Each message
begins with (group, era, view); sender and incarnation belong to the bundle that carries it.
Effects are frozen dataclasses. Both lists are closed: a name that is missing here does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, NewType, TypeAlias
from zlib import crc32

from connserver.ids import GroupId

if TYPE_CHECKING:
    from gossip.records import Record

Placement: TypeAlias = tuple[str, ...]
"""The nodes that hold a group, one or three; the primary of view v is number v modulo their count."""

Barrier: TypeAlias = tuple[int, int]
"""(incarnation of the primary, number). The incarnation keeps an ack of an earlier life from counting."""

NO_BARRIER: Barrier = (0, 0)
NEVER_INSTALLED = -1
"""`log_view` of a replica that holds no log of its era: it can never win a view change."""


class Entry(NamedTuple):
    """One operation of the log. `view` is the one in which it was first written, for ever."""

    op: int
    view: int
    crc: int
    payload: bytes


def entry_crc(op: int, payload: bytes) -> int:
    """The checksum an entry carries from its primary to every disk; covers its place in the log too."""
    return crc32(payload, op & 0xFFFFFFFF)


class Outline(NamedTuple):
    """The shape of a log, small enough for every question about it: where does whose view begin.

    Two logs that agree on the view of an op agree on everything up to it, so two outlines give the
    point where two logs part, without asking back. `runs` are (first op, view), newest last and
    bounded; `commit` is an anchor for the case that they do not reach far enough down.
    """

    base: int
    base_view: int
    commit: int
    commit_view: int
    runs: tuple[tuple[int, int], ...]
    head: int


class Status(Enum):
    """What a replica may take part in. Only NORMAL acks; NORMAL and VIEW_CHANGE vote and join."""

    BLANK = "blank"
    FORMING = "forming"
    NORMAL = "normal"
    VIEW_CHANGE = "view_change"
    RECOVERING = "recovering"


class WorkerRole(Enum):
    """PRIMARY may execute; DRAINING hands in what it executed and takes no more; BACKUP applies."""

    PRIMARY = "primary"
    DRAINING = "draining"
    BACKUP = "backup"


class Refusal(Enum):
    """Why a SUBMIT was not taken."""

    STALE_GRANT = "stale_grant"
    GAP = "gap"
    OVERLOADED = "overloaded"


Grant = NewType("Grant", int)
"""Leave to execute; fresh per gossip start, view and worker attach, compared for equality only."""

NO_GRANT = Grant(0)


def new_grant(incarnation: int, count: int, index: int) -> Grant:
    """The `count`-th grant of this gossip start; `index` (of the node) keeps nodes' grants apart."""
    return Grant(incarnation << 34 | count << 2 | index)


# --- messages -----------------------------------------------------------------------------------


class Prepare(NamedTuple):
    """The primary's stream; without entries a heartbeat. `archived` lets backups truncate as well."""

    group: GroupId
    era: int
    view: int
    prev_op: int
    prev_view: int
    entries: tuple[Entry, ...]
    commit: int
    barrier: Barrier
    archived: int


class PrepareOk(NamedTuple):
    """Everything up to `head` is on this disk, and the barrier was heard in this view."""

    group: GroupId
    era: int
    view: int
    head: int
    barrier: Barrier
    ready: bool


class Higher(NamedTuple):
    """The answer to a lower view or era: ask me. Nothing is adopted from it."""

    group: GroupId
    era: int
    view: int


class GetView(NamedTuple):
    """Send me VIEW if you are NORMAL."""

    group: GroupId
    era: int
    view: int
    outline: Outline


class ExitView(NamedTuple):
    """A suspicion vote: two of them leave the view."""

    group: GroupId
    era: int
    view: int


class JoinView(NamedTuple):
    """To the primary of `view`: my log as it stands, frozen, and I will never act below this view."""

    group: GroupId
    era: int
    view: int
    log_view: int
    outline: Outline


class View(NamedTuple):
    """The outcome of a view change: whoever holds the log up to `inherited` may become NORMAL."""

    group: GroupId
    era: int
    view: int
    inherited: int
    commit: int


class Fetch(NamedTuple):
    """Repair: send me what follows the point where our logs part."""

    group: GroupId
    era: int
    view: int
    outline: Outline


class Entries(NamedTuple):
    """The answer to FETCH. `jump`: the logs meet nowhere, so (prev_op, prev_view) is the new base."""

    group: GroupId
    era: int
    view: int
    log_view: int
    prev_op: int
    prev_view: int
    entries: tuple[Entry, ...]
    jump: bool
    head: int
    commit: int


class Recover(NamedTuple):
    """From a replica without a usable disk; exempt from the incarnation check."""

    group: GroupId
    era: int
    view: int
    nonce: int


UNASKED = 0
"""The nonce of a RECOVER_RESP to a node that speaks in too low an incarnation; exempt from the check."""


class RecoverResponse(NamedTuple):
    """`recorded` is the incarnation written down here for the one who asked."""

    group: GroupId
    era: int
    view: int
    nonce: int
    recorded: int
    status: Status
    head: int
    placement: Placement


class Form(NamedTuple):
    """The first primary's offer of a bootstrap record, to a blank replica that asked with `nonce`."""

    group: GroupId
    era: int
    view: int
    nonce: int
    placement: Placement
    seeded: bool


class FormOk(NamedTuple):
    """The bootstrap record with this placement is on this disk."""

    group: GroupId
    era: int
    view: int
    placement: Placement


Message: TypeAlias = (
    Prepare
    | PrepareOk
    | Higher
    | GetView
    | ExitView
    | JoinView
    | View
    | Fetch
    | Entries
    | Recover
    | RecoverResponse
    | Form
    | FormOk
)


# --- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Append these records to the WAL, then report `written(upto)`. `sync`: fdatasync in every mode."""

    records: tuple[Record, ...]
    upto: int
    sync: bool


@dataclass(frozen=True, slots=True)
class Publish:
    """One PUB message to all other nodes; a node that holds none of the groups skips them."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class SendTo:
    """One direct message to a node."""

    node: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """To the worker that holds the grant: everything up to `op` is committed."""

    group: GroupId
    op: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """To a worker without grant: committed entries to apply, in order, none left out."""

    group: GroupId
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """To the worker, after everything delivered before. Without a grant (0) it executes nothing.

    A worker told BACKUP after it was PRIMARY counts as detached: it attaches again at the op it has
    applied if it executed nothing beyond, else it is replaced by a new process.
    """

    group: GroupId
    grant: Grant
    role: WorkerRole
    era: int
    view: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A SUBMIT was not taken; `head` is the op after which the log would go on."""

    group: GroupId
    grant: Grant
    first_op: int
    reason: Refusal
    head: int


@dataclass(frozen=True, slots=True)
class BarrierPassed:
    """Reads that were executed before this barrier was asked for were current."""

    group: GroupId
    grant: Grant
    token: int


@dataclass(frozen=True, slots=True)
class Rebase:
    """The log begins after `op` now: the worker loads a snapshot at or above it and attaches again."""

    group: GroupId
    op: int


@dataclass(frozen=True, slots=True)
class Alert:
    """Something an operator should know; said once per cause."""

    group: GroupId
    text: str


Effect: TypeAlias = (
    Write | Publish | SendTo | Committed | Deliver | Role | Refused | BarrierPassed | Rebase | Alert
)
