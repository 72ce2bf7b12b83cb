"""What a client is told without having asked: one frozen dataclass per kind of event.

Guards one rule: nothing that is ordered is lost in silence. Where events are missing, whoever lost them,
the program gets an event that says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from connserver.errors import ClientError
from connserver.model import Message, Value


class Loss(Enum):
    """Why events are missing."""

    GONE = "gone"
    """The cluster does not keep them any more: this client was away for too long."""
    SKIPPED = "skipped"
    """They never came, though later ones did."""
    OVERFLOW = "overflow"
    """They came, and this program did not read them in time."""


@dataclass(frozen=True, slots=True)
class DirectEvent:
    """An event for this user alone, such as a plugin's `ctx.tell`. `number` rises by one; 0: has none."""

    name: str
    number: int
    fields: Message


@dataclass(frozen=True, slots=True)
class EventsLost:
    """The direct events `first` to `last` are missing."""

    first: int
    last: int
    cause: Loss


@dataclass(frozen=True, slots=True)
class LoggedInAgain:
    """The former session has expired and this is a new one; its rooms are being joined again."""


@dataclass(frozen=True, slots=True)
class RoomMessage:
    """An ordered event of a room. `seq` rises by one; `sender` is a user's name."""

    room: str
    seq: int
    sender: str
    fields: Message


@dataclass(frozen=True, slots=True)
class RoomGap:
    """The events `first` to `last` of the room are missing."""

    room: str
    first: int
    last: int
    cause: Loss


@dataclass(frozen=True, slots=True)
class Change:
    """A sender's volatile value under a key is now this; None: it is gone."""

    sender: str
    key: str
    value: Value


@dataclass(frozen=True, slots=True)
class RoomChange:
    """Volatile values of a room have changed; `time` in Unix seconds, the cluster's."""

    room: str
    time: float
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class RoomLost:
    """After a new login the room could not be joined again."""

    room: str
    error: ClientError


ClientEvent: TypeAlias = DirectEvent | EventsLost | LoggedInAgain
RoomEvent: TypeAlias = RoomMessage | RoomGap | RoomChange | RoomLost
Event: TypeAlias = ClientEvent | RoomEvent
