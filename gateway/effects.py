"""What the machine of a connection asks its shell to do, in the order in which it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from connserver.model import Message


@dataclass(frozen=True, slots=True)
class Answer:
    """Send these messages to the client."""

    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Join:
    """What is forwarded from here on belongs to this group."""

    group: int


@dataclass(slots=True)  # one for nearly every read: freezing would cost five times as much
class Forward:
    """Requests for the connection's group, as (kind, body), in order."""

    items: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Hold:
    """The client is over its rate: take nothing more for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Again:
    """There is more to do for this client in the next loop turn."""


@dataclass(frozen=True, slots=True)
class Shut:
    """Send what is queued, then close. `spoken`: say why where there is no close frame for it."""

    code: int
    reason: str
    spoken: bool


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Nothing was sent for keepalive_ms: say that the line lives."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """The worker has not answered for ANSWER_S."""


@dataclass(frozen=True, slots=True)
class Write:
    """These bytes as they are, after what is queued."""

    data: bytes


Effect: TypeAlias = Answer | Join | Forward | Hold | Again | Shut | Write | Keepalive | Overdue
