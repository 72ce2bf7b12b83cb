"""What every node says of itself: one record per node, and how all gossip processes get the same ones.

Guards two rules. Only a node itself changes its record, and of two the greater (incarnation, version)
is the newer, so records need no order of arrival. And nothing rests on a message that may be lost:
each heartbeat lists the versions its sender has, and whoever has less asks it directly, again and
again, so that a late subscriber misses nothing. Pure; times in monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from connserver.limits import (
    GOSSIP_ASK_MS,
    GOSSIP_RECORD_MS,
    INCARNATION_LIMIT,
    RECORD_ROWS,
    RECORD_TEXT_CHARS,
)
from connserver.messages import (
    GatewayRecord,
    GroupPosition,
    NodeRecord,
    ProcessRecord,
    RecordVersion,
    WorkerRecord,
)
from gossip.protocol import Status
from gossip.workers import is_plugin_row

WORKER_STATES = frozenset({"serving", "ready", "loading", "gone"})
REPLICA_STATES = frozenset(status.value for status in Status)
_LARGEST = (1 << 63) - 1


def empty_record(node: str, incarnation: int) -> NodeRecord:
    """What a node that has just started says of itself."""
    return NodeRecord(node, incarnation, 1, "", [], [], [], [], {}, [])


class OwnRecord:
    """This node's record: replaced as a whole, its version rising when something is different.

    What others act on leaves at once; numbers that only `status` shows wait for GOSSIP_RECORD_MS.
    """

    def __init__(self, node: str, incarnation: int, now: float) -> None:
        self.record = empty_record(node, incarnation)
        self.deferred = False
        """Whether the last `put` brought numbers that wait for their time; put them again then."""
        self._changed_at = now

    def put(self, record: NodeRecord, now: float) -> bool:
        """Take what the node says now (its version is set here); True: others should know at once."""
        urgent = record.incarnation != self.record.incarnation or _structure(record) != _structure(
            self.record
        )
        self.deferred = False
        if replace(record, version=self.record.version) == self.record:
            return False
        self.deferred = not urgent and now - self._changed_at < GOSSIP_RECORD_MS / 1000
        if self.deferred:
            return False
        self.record = replace(record, version=self.record.version + 1)
        self._changed_at = now
        return urgent


def _structure(record: NodeRecord) -> object:
    """The part of a record that routes and states follow from, without the numbers that only run."""
    return (
        record.refusal,
        [(row.group, row.era, row.view, row.status, row.ready, row.problem) for row in record.positions],
        [(row.group, row.pid, row.endpoint, row.grant, row.state, row.storage) for row in record.workers],
        [(row.name, row.pid, row.endpoint) for row in record.gateways],
        record.processes,
        [(row.severity, row.about, row.text) for row in record.alerts],
    )


class RecordBook:
    """The newest record of every other node."""

    def __init__(self, peers: Iterable[str], groups: int) -> None:
        self._peers = frozenset(peers)
        self._groups = groups
        self._asked_at: dict[str, float] = {}
        self.records: dict[str, NodeRecord] = {}

    def versions(self) -> list[RecordVersion]:
        """What this node has, for its heartbeats."""
        return [_version(record) for record in self.records.values()]

    def behind(self, versions: Iterable[RecordVersion], now: float) -> list[str]:
        """Nodes whose record the sender of these has newer; each is asked for once per GOSSIP_ASK_MS."""
        wanted = []
        for version in versions:
            known = self.records.get(version.node)
            if version.node not in self._peers or (known and _order(version) <= _order(known)):
                continue
            if now - self._asked_at.get(version.node, float("-inf")) >= GOSSIP_ASK_MS / 1000:
                self._asked_at[version.node] = now
                wanted.append(version.node)
        return wanted

    def offer(self, record: NodeRecord) -> str | None:
        """Take a record if it is newer: "" taken, None not newer, else a sentence about its fault."""
        fault = record_fault(record, self._peers, self._groups)
        if fault:
            return fault
        known = self.records.get(record.node)
        if known and _order(record) <= _order(known):
            return None
        self.records[record.node] = record
        self._asked_at.pop(record.node, None)
        return ""

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        for name, record in self.records.items():
            assert name == record.node and name in self._peers
            assert not record_fault(record, self._peers, self._groups)


def _order(record: NodeRecord | RecordVersion) -> tuple[int, int]:
    return record.incarnation, record.version


def _version(record: NodeRecord) -> RecordVersion:
    return RecordVersion(record.node, record.incarnation, record.version)


# --- checks of what came from another process -----------------------------------------------------------


def record_fault(record: NodeRecord, peers: frozenset[str], groups: int) -> str:
    """What is wrong with a record that another node sent, "" if nothing is."""
    if record.node not in peers:
        return f"a record of {record.node[:40]!r}, which is no other node of this cluster"
    if not (0 < record.incarnation < INCARNATION_LIMIT and 0 < record.version <= _LARGEST):
        return f"incarnation {record.incarnation} or version {record.version} is out of range"
    for name in ("positions", "workers", "gateways", "processes", "alerts"):
        if len(getattr(record, name)) > RECORD_ROWS:
            return f"more than {RECORD_ROWS} {name}"
    if len(record.storage) > 64:
        return "more than 64 facts about storage"
    seen = [row.group for row in record.workers] + [row.group for row in record.positions]
    if any(not 0 <= group < groups for group in seen):
        return f"a partition group outside 0..{groups - 1}"
    if len({row.group for row in record.workers}) != len(record.workers):
        return "two workers of one group"
    if len({row.group for row in record.positions}) != len(record.positions):
        return "two replicas of one group"
    for row in record.positions:
        numbers = (row.era, row.view, row.head, row.commit, row.base, row.archived)
        if not all(0 <= number <= _LARGEST for number in numbers) or row.status not in REPLICA_STATES:
            return f"a replica of group {row.group} that cannot be"
    # written so that a rate that is no number at all fails it too
    if not all(row.clients >= 0 and 0 <= row.messages_per_s <= _LARGEST for row in record.gateways):
        return "a gateway's numbers out of range"
    return _workers_fault(record) or _texts_fault(record)


def _workers_fault(record: NodeRecord) -> str:
    for row in record.workers:
        if row.state not in WORKER_STATES:
            return f"worker state {row.state[:20]!r}"
        if len(row.plugins) > RECORD_ROWS or not all(map(is_plugin_row, row.plugins)):
            return f"plugins of group {row.group} that cannot be shown"
        if len(row.quarantined) > RECORD_ROWS or not all(map(is_plugin_row, row.quarantined)):
            return f"what is quarantined in group {row.group} cannot be shown"
        if not (0 <= row.parked_calls <= _LARGEST and 0 <= row.held_timers <= _LARGEST):
            return f"what waits in group {row.group} cannot be"
        if not 0 <= row.grant <= _LARGEST:
            return f"a grant of group {row.group} that cannot be"
    return ""


def _texts_fault(record: NodeRecord) -> str:
    texts = [record.refusal]
    for alert in record.alerts:
        texts += [alert.severity, alert.text, alert.about]
    texts += _texts(record.positions, ("status", "problem"))
    texts += _texts(record.workers, ("endpoint", "storage", "storage_error"))
    texts += _texts(record.gateways, ("name", "endpoint"))
    texts += _texts(record.processes, ("node", "role", "name", "state", "endpoint", "reason"))
    if any(len(text) > RECORD_TEXT_CHARS for text in texts):
        return f"a text of more than {RECORD_TEXT_CHARS} characters"
    return ""


def _texts(
    rows: Sequence[WorkerRecord | GatewayRecord | ProcessRecord | GroupPosition], names: tuple[str, ...]
) -> list[str]:
    return [getattr(row, name) for row in rows for name in names]
