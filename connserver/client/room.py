"""A room as a program holds it: what is said in it, and what its members last showed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from connserver.client.rooms import Track
from connserver.client.streams import RoomStream
from connserver.model import Message, Value

Ask = Callable[[str, Message], Awaitable[Message]]


class Room:
    """A room that this client is in; `Client.join` gives it. Its calls raise what `Client.call` raises."""

    def __init__(self, name: str, ask: Ask, track: Callable[[str], Track | None], most: int) -> None:
        self.name = name
        self._ask = ask
        self._track = track
        self.stream = RoomStream(most)

    def events(self) -> RoomStream:
        """What happens in the room, for `async for`: RoomMessage in order, RoomGap, RoomChange, RoomLost.

        One reader at a time. It ends when the room is left; if the session ends it raises that SessionOver.
        """
        return self.stream

    @property
    def state(self) -> Mapping[str, Mapping[str, Value]]:
        """The latest volatile values: key → sender's name → value. Kept up to date; not to be changed."""
        track = self._track(self.name)
        return MappingProxyType(track.values if track is not None else {})

    @property
    def seq(self) -> int:
        """The `seq` of the newest event that was put into `events()`."""
        track = self._track(self.name)
        return (track.last or 0) if track is not None else 0

    async def send(self, **fields: Value) -> int:
        """Say something to all members, in the room's one order; its `seq`."""
        seq = (await self._ask("room.send", {"room": self.name, **fields})).get("seq")
        return seq if type(seq) is int else 0

    async def update(self, key: str, value: Value) -> None:
        """Show all members a value: only the latest of a sender and key counts. None takes it away."""
        await self._ask("room.update", {"room": self.name, "key": key, "value": value})

    async def who(self) -> list[str]:
        """The names of the members, in order."""
        names: list[str] = []
        more: Value = True
        while more:
            after: Message = {"after": names[-1]} if names else {}
            page = await self._ask("room.who", {"room": self.name, **after})
            members = page.get("members")
            found = [name for name in members if isinstance(name, str)] if isinstance(members, list) else []
            names += found
            more = page.get("more") if found else False
        return names

    async def leave(self) -> None:
        """Leave it."""
        await self._ask("room.leave", {"room": self.name})
