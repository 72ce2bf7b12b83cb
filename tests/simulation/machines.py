"""What the simulated world is made of: nodes, their disks, and how badly they are treated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from connserver.ids import GroupId
from gossip.protocol import Message, Status
from gossip.records import Record
from gossip.replica_set import ReplicaSet
from gossip.wal import encode_record
from tests.simulation.workers import Worker


@dataclass(slots=True)
class Faults:
    """How the world treats its inhabitants; nemeses change it, healing resets it."""

    loss: float = 0.0
    duplication: float = 0.0
    slow: float = 0.0
    crash_on_promise: float = 0.0
    crash_on_install: float = 0.0
    crash_on_base: float = 0.0
    crash_on_append: float = 0.0
    crash_in_recovery: float = 0.0
    crash_before_send: float = 0.0
    strike_on_early_barrier: float = 0.0


class Disk:
    """The bytes of one node's WAL, and what was handed to it but is not there yet."""

    def __init__(self) -> None:
        self.data = b""
        self.sequence = 1
        self.waiting: list[tuple[int, bytes]] = []  # (write number, bytes)
        self.disorderly = False  # the machine went down, and written was not synced

    def encode(self, records: tuple[Record, ...]) -> bytes:
        """Bytes of these records, in their place."""
        parts = []
        for record in records:
            parts.append(encode_record(record, self.sequence))
            self.sequence += 1
        return b"".join(parts)

    def crash(self, random: Random, power: bool) -> bool:
        """The process dies: of what was under way a part arrived. True if a record was torn.

        With `power` the machine dies with it: all that was not synced is gone.
        """
        torn = False
        if power:
            self.waiting.clear()
        while self.waiting:
            _, data = self.waiting.pop(0)
            keep = random.choice((0, len(data), random.randrange(len(data) + 1)))
            self.data += data[:keep]
            if keep < len(data):
                torn = keep > 0
                break
        self.waiting.clear()
        return torn


@dataclass(slots=True)
class Node:
    """One machine: a gossip process (or none), its disk, its clock, and workers by group."""

    name: str
    rate: float
    offset: float
    disk: Disk = field(default_factory=Disk)
    set: ReplicaSet | None = None
    life: int = 0
    paused_until: float = 0.0
    stalled_until: float = 0.0
    inbox: list[Callable[[], None]] = field(default_factory=list)
    workers: dict[GroupId, Worker] = field(default_factory=dict)
    statuses: dict[GroupId, Status] = field(default_factory=dict)
    lost_disk: bool = False
    blank: bool = True  # its disk knows of no group


def describe(message: Message) -> str:
    """A message in the trace."""
    name = type(message).__name__
    detail = ""
    match name:
        case "Prepare":
            detail = f"{message.prev_op}+{len(message.entries)}c{message.commit}"  # type: ignore[union-attr]
        case "PrepareOk":
            detail = f"{message.head}"  # type: ignore[union-attr]
        case "JoinView":
            detail = f"({message.log_view},{message.outline.head})"  # type: ignore[union-attr]
        case "Entries":
            detail = f"{message.prev_op}+{len(message.entries)}of{message.head}"  # type: ignore[union-attr]
        case "RecoverResponse":
            detail = f"{message.status.value} r{message.recorded}"  # type: ignore[union-attr]
    return f"{name}[g{message.group} v{message.view} {detail}]"
