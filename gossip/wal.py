"""The bytes of the write-ahead log: records to bytes and back, pure.

Guards rule 10. A segment is a header and records; a record is a header with a checksum of its own,
then its body with another. So a reader can tell three things apart: a record cut off by the end of
the last segment (torn: it was never reported as written), a damaged body behind a good header (the
reader knows whose it was and goes on), and a damaged header (nothing behind it can be trusted).
Damage is never taken for absence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, get_type_hints
from zlib import crc32

import msgpack

from connserver.ids import GroupId
from gossip.protocol import Entry
from gossip.records import (
    KEEP_LOG,
    UNKNOWN_PLACEMENT,
    Append,
    Base,
    Blank,
    Boot,
    Damaged,
    DurableGroup,
    DurableNode,
    Formed,
    GroupState,
    Install,
    Lost,
    NodeIncarnation,
    Opened,
    PeerIncarnation,
    Phase,
    Promise,
    Record,
    Replay,
    Staged,
)

FORMAT = 2
"""Raised whenever an older reader would misread a segment."""
MAGIC = b"CSWAL\x00\x00" + bytes((FORMAT,))
_SEGMENT = Struct("<8sQI")  # magic, segment number, crc of both
_HEADER = Struct("<IIIQBI")  # body length, body crc, group, sequence, kind, crc of all before
_ENTRY = Struct("<QQI")  # op, view, crc

SEGMENT_HEADER_BYTES = _SEGMENT.size
RECORD_HEADER_BYTES = _HEADER.size
NODE_WIDE = 0xFFFFFFFF
"""In place of a group, for what concerns the node."""
NAMED_GROUPS = 20
"""So many are named in a sentence; an alert has room for a few lines."""
RECORD_BODY_BYTES = 64 << 20
"""Largest body that is believed; a longer one in a valid header is damage all the same."""

_KINDS: dict[int, type] = {
    1: NodeIncarnation,
    2: PeerIncarnation,
    3: Boot,
    4: Formed,
    5: Opened,
    6: Lost,
    7: Blank,
    8: Promise,
    9: Append,
    10: Staged,
    11: Install,
    12: Base,
    13: GroupState,
    14: Damaged,
}
_NUMBERS = {cls: kind for kind, cls in _KINDS.items()}
_NODE_RECORDS = (NodeIncarnation, PeerIncarnation, Boot, Damaged)
_TYPES: dict[type, tuple[type, ...]] = {cls: tuple(get_type_hints(cls).values()) for cls in _KINDS.values()}


def segment_header(number: int) -> bytes:
    """The first bytes of segment `number`."""
    head = _SEGMENT.pack(MAGIC, number, 0)[:-4]
    return head + crc32(head).to_bytes(4, "little")


def other_format(data: bytes) -> int:
    """The format of a sound segment that is not of this one; 0: it is, or nobody can tell."""
    head = data[:SEGMENT_HEADER_BYTES]
    if len(head) < SEGMENT_HEADER_BYTES or not head.startswith(MAGIC[:-1]) or head[7] == FORMAT:
        return 0
    return head[7] if crc32(head[:-4]).to_bytes(4, "little") == head[-4:] else 0


def encode_record(record: Record, sequence: int) -> bytes:
    """A record as it lies in a segment. `sequence` rises by one per record, over all segments."""
    kind = _NUMBERS[type(record)]
    if type(record) is Append or type(record) is Staged:
        op, view, crc, payload = record.entry
        body = _ENTRY.pack(op, view, crc) + payload
        group: int = record.group
    elif isinstance(record, _NODE_RECORDS):
        body = msgpack.packb(tuple(record))
        group = NODE_WIDE
    else:
        body = msgpack.packb(tuple(record))
        group = record[0]
    head = _HEADER.pack(len(body), crc32(body), group, sequence, kind, 0)[:-4]
    return b"".join((head, crc32(head).to_bytes(4, "little"), body))


@dataclass(slots=True)
class Reading:
    """What a segment says. `good_bytes`: up to where it may be appended to.

    `damaged_groups`: groups with a record that cannot be read; `broken_at`: where a bad header makes
    the rest unreadable, -1 if none does; `torn`: the end of the file cut a record.
    """

    records: list[Record] = field(default_factory=list)
    good_bytes: int = 0
    next_sequence: int = 1
    torn: bool = False
    broken_at: int = -1
    damaged_groups: set[int] = field(default_factory=set)


def read_segment(data: bytes, number: int, first_sequence: int | None, last: bool) -> Reading:
    """Read one segment. `first_sequence` None: the oldest, whatever it begins with is right."""
    reading = Reading(next_sequence=first_sequence or 1)
    if len(data) < SEGMENT_HEADER_BYTES and last:
        reading.torn = True
        return reading
    if data[:SEGMENT_HEADER_BYTES] != segment_header(number):
        reading.broken_at = 0
        return reading
    at = reading.good_bytes = SEGMENT_HEADER_BYTES
    expected = first_sequence
    while at < len(data):
        if len(data) - at < RECORD_HEADER_BYTES:
            return _cut(reading, at, last)
        head = data[at : at + RECORD_HEADER_BYTES]
        length, body_crc, group, sequence, kind, head_crc = _HEADER.unpack(head)
        out_of_order = expected is not None and sequence != expected
        if crc32(head[:-4]) != head_crc or out_of_order or length > RECORD_BODY_BYTES:
            reading.broken_at = at
            return reading
        body = data[at + RECORD_HEADER_BYTES : at + RECORD_HEADER_BYTES + length]
        if len(body) < length:
            return _cut(reading, at, last)
        record = _decode(kind, group, body) if crc32(body) == body_crc else None
        if record is None:
            reading.damaged_groups.add(group)
        else:
            reading.records.append(record)
        at += RECORD_HEADER_BYTES + length
        reading.good_bytes = at
        expected = reading.next_sequence = sequence + 1
    return reading


def _cut(reading: Reading, at: int, last: bool) -> Reading:
    if last:
        reading.torn = True
    else:
        reading.broken_at = at
    return reading


def _decode(kind: int, group: int, body: bytes) -> Record | None:
    cls = _KINDS.get(kind)
    if cls is Append or cls is Staged:
        if len(body) < _ENTRY.size:
            return None
        op, view, crc = _ENTRY.unpack_from(body)
        return cls(GroupId(group), Entry(op, view, crc, body[_ENTRY.size :]))
    if cls is None:
        return None
    try:
        values = msgpack.unpackb(body, use_list=False)
    except (ValueError, msgpack.UnpackException):
        return None
    types = _TYPES[cls]
    if type(values) is not tuple or len(values) != len(types):
        return None
    if not all(_fits(value, wanted) for value, wanted in zip(values, types, strict=True)):
        return None
    return cls(*values)  # type: ignore[no-any-return]


def _fits(value: Any, wanted: Any) -> bool:
    if wanted in (int, str, bool):
        return type(value) is wanted
    if hasattr(wanted, "__supertype__"):
        return type(value) is int
    return type(value) is tuple and len(value) in (1, 3) and all(type(name) is str for name in value)


@dataclass(frozen=True, slots=True)
class Restored:
    """All segments together. `damage`: what an operator is told; empty if there is none."""

    node: DurableNode
    next_segment: int
    next_sequence: int
    last_good_bytes: int
    highest: dict[int, dict[GroupId, int]]
    damage: tuple[str, ...]


def restore(segments: Iterable[tuple[int, bytes]]) -> Restored:
    """Read segments (number, bytes), oldest first, and replay them.

    A group with a damaged record, and every group once a header is damaged or a segment is missing,
    comes back LOST: it recovers from its peers.
    """
    listed = list(segments)
    state = Replay()
    damage: list[str] = []
    lost_groups: set[int] = set()
    highest: dict[int, dict[GroupId, int]] = {}
    sequence: int | None = None
    everything = False
    good = 0
    for position, (number, data) in enumerate(listed):
        last = position == len(listed) - 1
        if position and number != listed[position - 1][0] + 1:
            damage.append(f"segment {listed[position - 1][0] + 1} is missing")
            everything = True
        reading = read_segment(data, number, sequence, last)
        for record in reading.records:
            state.apply(record)
        highest[number] = highest_ops(reading.records)
        good, sequence = reading.good_bytes, reading.next_sequence
        if reading.damaged_groups:
            damage.append(f"segment {number}: damaged records of {_whose(reading.damaged_groups)}")
            lost_groups |= reading.damaged_groups
        if reading.broken_at >= 0:
            damage.append(f"segment {number}: damaged header at byte {reading.broken_at}")
            everything = True
            break
    node = state.finish()
    if everything or NODE_WIDE in lost_groups:
        lose_everything(node)
    for group in sorted(lost_groups - {NODE_WIDE}):
        # setdefault: without it a group whose every record is damaged would look new
        durable = node.groups.setdefault(GroupId(group), DurableGroup(UNKNOWN_PLACEMENT))
        durable.void(durable.era, Phase.LOST, durable.placement)
    next_segment = listed[-1][0] + 1 if listed else 1
    return Restored(node, next_segment, sequence or 1, good, highest, tuple(damage))


def _whose(groups: set[int]) -> str:
    if NODE_WIDE in groups:
        return "the node itself"
    named = [str(group) for group in sorted(groups)]
    more = f" and {len(named) - NAMED_GROUPS} more" if len(named) > NAMED_GROUPS else ""
    return f"groups {', '.join(named[:NAMED_GROUPS])}{more}"


def lose_everything(node: DurableNode) -> None:
    """Some records may be missing and nobody knows which: no group, and no incarnation, can be trusted."""
    for durable in node.groups.values():
        durable.void(durable.era, Phase.LOST, durable.placement)
    node.incarnation = 0
    node.damaged = True


def highest_ops(records: Iterable[Record]) -> dict[GroupId, int]:
    """The highest op of each group with an entry among these records."""
    highest: dict[GroupId, int] = {}
    for record in records:
        if isinstance(record, Append | Staged):
            highest[record.group] = max(record.entry.op, highest.get(record.group, 0))
    return highest


def survivors(node: DurableNode) -> list[Record]:
    """The whole state with all entries, for a new log after a damaged one was set aside."""
    records = _node_state(node)
    for group, state in node.groups.items():
        records.append(_group_state(group, state)._replace(head=state.base))
        records += [Append(group, entry) for entry in state.dense_entries() or []]
    return records


def _node_state(node: DurableNode) -> list[Record]:
    records: list[Record] = [Damaged("")] if node.damaged else []
    if node.boot:
        records.append(node.boot)
    if node.incarnation:
        records.append(NodeIncarnation(node.incarnation))
    return records + [PeerIncarnation(name, number) for name, number in node.peer_incarnations.items()]


def _group_state(group: GroupId, state: DurableGroup) -> GroupState:
    return GroupState(
        group, state.era, state.view, state.log_view, state.base, state.base_view, state.head,
        state.phase.value, state.seeded, state.coordinator, state.placement,
    )  # fmt: skip


class Tracker:
    """Which segments are still needed, and what a new segment has to begin with.

    A segment can go when no group has an entry in it above its base, but for logs that are void. Each
    new segment begins with the whole state but for the entries: nothing else in the old ones is needed.
    """

    def __init__(self, node: DurableNode, highest: dict[int, dict[GroupId, int]]) -> None:
        self._replay = Replay()
        self._replay.node = node
        self._highest = highest
        self._segment = max(highest, default=0)

    def begin(self, segment: int) -> list[Record]:
        """The records with which this segment begins."""
        self._segment = segment
        self._highest[segment] = {}
        node = self._replay.node
        records = _node_state(node)
        for group, state in node.groups.items():
            records.append(_group_state(group, state))
        return records

    def note(self, record: Record) -> None:
        """A record was put into the current segment."""
        self._replay.apply(record)
        if isinstance(record, Blank | Lost) or (isinstance(record, Formed) and record.base != KEEP_LOG):
            for held in self._highest.values():
                held.pop(record.group, None)  # void: its ops may begin below those
        if isinstance(record, Append | Staged):
            highest = self._highest.setdefault(self._segment, {})
            highest[record.group] = max(record.entry.op, highest.get(record.group, 0))

    def removable(self) -> list[int]:
        """Segments that can go, oldest first; never the current one."""
        found = []
        for segment in sorted(self._highest):
            if segment == self._segment or not self._empty(segment):
                break
            found.append(segment)
        return found

    def forget(self, segment: int) -> None:
        """It is gone."""
        del self._highest[segment]

    def _empty(self, segment: int) -> bool:
        groups = self._replay.node.groups
        return all(
            group in groups and op <= groups[group].base for group, op in self._highest[segment].items()
        )
