"""Clients of a cluster: `Client` for asyncio programs, `connserver.client.blocking` for those that wait,
and `connserver.js`, beside this file, for browsers and node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connserver.client.events import (
    Change,
    ClientEvent,
    DirectEvent,
    Event,
    EventsLost,
    LoggedInAgain,
    Loss,
    RoomChange,
    RoomEvent,
    RoomGap,
    RoomLost,
    RoomMessage,
)
from connserver.client.machine import State
from connserver.client.room import Room
from connserver.errors import (
    ClientError,
    Refused,
    SessionClosed,
    SessionExpired,
    SessionKicked,
    SessionOver,
    SessionReplaced,
    Unreachable,
)

if TYPE_CHECKING:
    from connserver.client.shell import Client

__all__ = [
    "Change",
    "Client",
    "ClientError",
    "ClientEvent",
    "DirectEvent",
    "Event",
    "EventsLost",
    "LoggedInAgain",
    "Loss",
    "Refused",
    "Room",
    "RoomChange",
    "RoomEvent",
    "RoomGap",
    "RoomLost",
    "RoomMessage",
    "SessionClosed",
    "SessionExpired",
    "SessionKicked",
    "SessionOver",
    "SessionReplaced",
    "State",
    "Unreachable",
]


def __getattr__(name: str) -> type[Client]:
    # imported when first asked for: asyncio and websockets take longer than `cs-cluster send` needs for all
    if name == "Client":
        from connserver.client.shell import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
