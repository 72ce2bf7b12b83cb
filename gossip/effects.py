"""What the gossip machine asks of its shell, performed in the order given.

Guards one rule: a Keep is on the disk before anything that follows it in the list leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connserver.messages import Attach
from gossip.placement import Placement


@dataclass(frozen=True, slots=True)
class Publish:
    """To all subscribers of a topic of this node's PUB socket."""

    topic: bytes
    message: Any


@dataclass(frozen=True, slots=True)
class SendPeer:
    """To the gossip process of another node. What cannot be sent is reported by `not_sent`."""

    peer: str
    message: Any


@dataclass(frozen=True, slots=True)
class SendLocal:
    """To a process on the local socket. What cannot be sent is reported by `not_sent`."""

    identity: bytes
    message: Any


@dataclass(frozen=True, slots=True)
class WatchProcess:
    """Report `process_died` when this process is dead, also if it is already."""

    pid: int


@dataclass(frozen=True, slots=True)
class UnwatchProcess:
    """Nobody waits for this process's death any more."""

    pid: int


@dataclass(frozen=True, slots=True)
class KeepIncarnation:
    """Write down a raised incarnation; a failure ends the process."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class KeepPlacement:
    """Write down the placement; a failure ends the process."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Close the sockets to a silent peer and make new ones."""

    peer: str


@dataclass(frozen=True, slots=True)
class Place:
    """This node holds replicas of these groups, on these nodes: for the replicated logs."""

    groups: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Hired:
    """The one worker process of a group says this: for the replica of the group."""

    identity: bytes
    said: Attach


@dataclass(frozen=True, slots=True)
class Gone:
    """The worker process of a group is dead and reaped: for the replica of the group."""

    group: int


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log: `level` "info" or "warning"."""

    level: str
    event: str
    facts: dict[str, Any] = field(default_factory=dict)


Effect = (
    Publish
    | SendPeer
    | SendLocal
    | WatchProcess
    | UnwatchProcess
    | KeepIncarnation
    | KeepPlacement
    | Reconnect
    | Place
    | Hired
    | Gone
    | Note
)
