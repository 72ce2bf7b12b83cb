"""What a replica writes down, and what it is after reading that again.

`replay` is the whole meaning of the WAL: records in, durable state out, no files. It guards the
atomic install (rule 3): staged entries mean nothing until the Install record that names them, with
a checksum over them, is there; without it the old log stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias
from zlib import crc32

from connserver.ids import GroupId
from gossip.protocol import NEVER_INSTALLED, Entry, Placement

KEEP_LOG = -1
"""`base` of a bootstrap record that leaves the log as it is."""


class NodeIncarnation(NamedTuple):
    """This life of the node; every start raises it."""

    incarnation: int


class PeerIncarnation(NamedTuple):
    """The highest life of a peer that was heard of; lower ones are not listened to."""

    node: str
    incarnation: int


class Formed(NamedTuple):
    """The bootstrap record: this era, with this placement, begins in `view`.

    `seeded`: an era raised by `recover`; one replica (`coordinator`) has the log with which it begins:
    the one it held before, or, with a `base` other than KEEP_LOG, an empty one after that op.
    """

    group: GroupId
    era: int
    view: int
    placement: Placement
    seeded: bool
    coordinator: str
    base: int = KEEP_LOG


class Opened(NamedTuple):
    """All agreed on the bootstrap record: the group may work."""

    group: GroupId


class Lost(NamedTuple):
    """This replica holds nothing of this era and must recover from both peers."""

    group: GroupId
    era: int
    placement: Placement


class Blank(NamedTuple):
    """An era above ours exists; whatever was here is void."""

    group: GroupId
    era: int
    placement: Placement


class Promise(NamedTuple):
    """Never act below this view again."""

    group: GroupId
    view: int


class Append(NamedTuple):
    """The next entry of the log."""

    group: GroupId
    entry: Entry


class Staged(NamedTuple):
    """An entry of an install that is not complete yet."""

    group: GroupId
    entry: Entry


class Install(NamedTuple):
    """The last `head - prev_op` staged entries replace everything above prev_op.

    With `jump` they replace the whole log and (prev_op, prev_view) is the new base.
    """

    group: GroupId
    log_view: int
    prev_op: int
    prev_view: int
    head: int
    jump: bool
    crc: int


class Base(NamedTuple):
    """Everything up to `op` is archived and may be forgotten."""

    group: GroupId
    op: int
    view: int


class GroupState(NamedTuple):
    """Where a group stands at the beginning of a segment, so that older segments can go."""

    group: GroupId
    era: int
    view: int
    log_view: int
    base: int
    base_view: int
    head: int
    phase: str
    seeded: bool
    coordinator: str
    placement: Placement


class Damaged(NamedTuple):
    """Records were lost here before: a group of which nothing is known is lost, not new."""

    why: str


class Boot(NamedTuple):
    """A start of the process: the kernel's boot id, whether acks wait for fdatasync, and whose log it is."""

    boot_id: str
    power: bool
    cluster: str
    node: str


GroupRecord: TypeAlias = (
    Formed | Opened | Lost | Blank | Promise | Append | Staged | Install | Base | GroupState
)
NodeRecord: TypeAlias = NodeIncarnation | PeerIncarnation | Boot | Damaged
Record: TypeAlias = GroupRecord | NodeRecord


UNKNOWN_PLACEMENT: Placement = ("", "", "")
"""Of a group whose first record was damaged."""


class Phase(Enum):
    """How far a group got: BLANK → FORMING → OPEN, and LOST when a disk failed it."""

    BLANK = "blank"
    FORMING = "forming"
    OPEN = "open"
    LOST = "lost"


@dataclass(slots=True)
class DurableGroup:
    """A replica as its disk knows it. `gap` is set when entries are missing that should be there."""

    placement: Placement
    era: int = 0
    view: int = 0
    log_view: int = NEVER_INSTALLED
    base: int = 0
    base_view: int = 0
    head: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    phase: Phase = Phase.BLANK
    seeded: bool = False
    coordinator: str = ""
    gap: bool = False

    def void(self, era: int, phase: Phase, placement: Placement) -> None:
        """Forget the log; what comes next is of `era`."""
        self.placement, self.era, self.phase = placement, era, phase
        self.view, self.log_view = 0, NEVER_INSTALLED
        self.base = self.base_view = self.head = 0
        self.entries.clear()
        self.gap = False

    def dense_entries(self) -> list[Entry] | None:
        """Entries base + 1 … head; None if one is missing."""
        found = [self.entries.get(op) for op in range(self.base + 1, self.head + 1)]
        return None if None in found else found  # type: ignore[return-value]


@dataclass(slots=True)
class DurableNode:
    """Everything a node's WAL says. `incarnation` 0: not known, because blank or `damaged`."""

    incarnation: int = 0
    peer_incarnations: dict[str, int] = field(default_factory=dict)
    groups: dict[GroupId, DurableGroup] = field(default_factory=dict)
    boot: Boot | None = None
    damaged: bool = False


def staged_crc(entries: Iterable[Entry]) -> int:
    """What an Install record says about the entries before it."""
    crc = 0
    for entry in entries:
        crc = crc32(b"%d %d %d;" % (entry.op, entry.view, entry.crc), crc)
    return crc


class Replay:
    """Applies records one by one; `node` is the state after those applied so far."""

    def __init__(self) -> None:
        self.node = DurableNode()
        self._staged: dict[GroupId, list[Entry]] = {}

    def apply(self, record: Record) -> None:
        """The meaning of one record."""
        if type(record) is Append:  # nearly all of them
            group = self._group(record)
            entry = record.entry
            group.gap |= entry.op != group.head + 1
            group.entries[entry.op] = entry
            group.head = entry.op
            return
        match record:
            case NodeIncarnation(incarnation):
                self.node.incarnation = max(self.node.incarnation, incarnation)
            case PeerIncarnation(name, incarnation):
                known = self.node.peer_incarnations.get(name, 0)
                self.node.peer_incarnations[name] = max(known, incarnation)
            case Damaged():
                self.node.damaged = True
            case Boot():
                self.node.boot = record
                self._staged.clear()
            case _:
                self._apply_to_group(record)

    def _apply_to_group(self, record: GroupRecord) -> None:
        group = self._group(record)
        match record:
            case GroupState():
                if group.phase is Phase.BLANK and group.era == 0:
                    self._begin(group, record)
            case Formed():
                if record.base != KEEP_LOG:
                    group.void(record.era, Phase.FORMING, record.placement)
                    group.base = group.head = record.base
                    group.log_view = 0
                group.era, group.view, group.placement = record.era, record.view, record.placement
                group.seeded, group.coordinator = record.seeded, record.coordinator
                group.phase = Phase.FORMING
            case Opened():
                open_group(group)
            case Lost(_, era, placement):
                group.void(era, Phase.LOST, placement)
            case Blank(_, era, placement):
                group.void(era, Phase.BLANK, placement)
            case Promise(_, view):
                group.view = max(group.view, view)
            case Staged(_, entry):
                self._staged.setdefault(record.group, []).append(entry)
            case Install():
                self._install(group, record)
            case Base(_, op, view):
                for old in range(group.base + 1, op + 1):
                    group.entries.pop(old, None)
                group.base, group.base_view = op, view
                group.head = max(group.head, op)

    def _group(self, record: GroupRecord) -> DurableGroup:
        found = self.node.groups.get(record.group)
        if found is None:
            found = self.node.groups[record.group] = DurableGroup(UNKNOWN_PLACEMENT)
        return found

    @staticmethod
    def _begin(group: DurableGroup, state: GroupState) -> None:
        group.era, group.view, group.log_view = state.era, state.view, state.log_view
        group.base, group.base_view, group.head = state.base, state.base_view, state.head
        group.phase, group.seeded, group.coordinator = Phase(state.phase), state.seeded, state.coordinator
        group.placement = state.placement

    def _install(self, group: DurableGroup, record: Install) -> None:
        staged = self._staged.pop(record.group, [])
        count = record.head - record.prev_op
        entries = staged[len(staged) - count :] if count else []
        if len(entries) != count or staged_crc(entries) != record.crc:
            group.gap = True  # a complete Install without its entries: the disk lost some
            return
        if record.jump:
            group.entries.clear()
            group.base, group.base_view = record.prev_op, record.prev_view
        else:
            for op in range(record.prev_op + 1, group.head + 1):
                group.entries.pop(op, None)
        group.entries.update((entry.op, entry) for entry in entries)
        group.head, group.log_view = record.head, record.log_view
        group.phase = Phase.OPEN

    def finish(self) -> DurableNode:
        """The state after the last record; groups whose entries do not join are LOST."""
        for group in self.node.groups.values():
            if group.gap or group.dense_entries() is None:
                group.void(group.era, Phase.LOST, group.placement)
        return self.node


def new_era(group: GroupId, durable: DurableGroup, node: str) -> Formed:
    """The record with which `recover` begins a new history from what `node` holds of a group.

    Appended to that node's WAL while it is down; uncommitted entries at its end become part of the
    history. ValueError if there is nothing to begin with.
    """
    if durable.phase is not Phase.OPEN or node not in durable.placement:
        raise ValueError(
            f"group {group}: {node} holds no log of it ({durable.phase.value}); take another node's"
        )
    view = durable.view + 1
    while durable.placement[view % len(durable.placement)] != node:
        view += 1
    return Formed(group, durable.era + 1, view, durable.placement, True, node, KEEP_LOG)


def open_group(group: DurableGroup) -> None:
    """The end of forming: without a seed the log is empty by agreement, so it is good in this view."""
    group.phase = Phase.OPEN
    if not group.seeded:
        group.log_view = group.view


def replay(records: Iterable[Record]) -> DurableNode:
    """The durable state that these records add up to."""
    state = Replay()
    for record in records:
        state.apply(record)
    return state.finish()
