"""Events on their way to the program that reads them.

Guards two rules. What waits is bounded: a program that does not read loses the oldest ordered events, and
is told which. And volatile values never wait in line: of each, only the latest is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from connserver.client.events import (
    Change,
    ClientEvent,
    DirectEvent,
    EventsLost,
    Loss,
    RoomChange,
    RoomEvent,
    RoomGap,
    RoomMessage,
)

E = TypeVar("E")


class Stream(Generic[E]):
    """Iterate with `async for`; one reader at a time. Ends with what it is of, or raises its error.

    At most `most` events wait; `lost` makes the event that names those given up: the newest, and all before.
    """

    def __init__(self, most: int, lost: Callable[[E, E | None], E | None]) -> None:
        self._most = most
        self._lost = lost
        self._queue: deque[E] = deque()
        self._loss: E | None = None
        self._end: BaseException | None = None
        self._is_over = False
        self._reader: asyncio.Future[None] | None = None

    def put(self, event: E) -> None:
        """One more event."""
        self._queue.append(event)
        if len(self._queue) > self._most:
            self._loss = self._lost(self._queue.popleft(), self._loss)
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """Nothing comes any more: after what waits the reader's loop ends, or gets this error."""
        if not self._is_over:
            self._is_over, self._end = True, error
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> Stream[E]:
        return self

    async def __anext__(self) -> E:
        while True:
            event = self.take()
            if event is not None:
                return event
            if self._is_over:
                if self._end is not None:
                    raise self._end
                raise StopAsyncIteration
            if self._reader is not None:
                raise RuntimeError("these events have a reader already; read them in one place")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def take(self) -> E | None:
        """The next event if there is one now."""
        if self._loss is not None:
            loss, self._loss = self._loss, None
            return loss
        return self._queue.popleft() if self._queue else None


class RoomStream(Stream[RoomEvent]):
    """The events of a room; its volatile changes come when no ordered event waits, merged."""

    def __init__(self, most: int) -> None:
        super().__init__(most, room_loss)
        self._changes: dict[tuple[str, str], Change] = {}
        self._changed: RoomChange | None = None

    def put(self, event: RoomEvent) -> None:
        """One more event; a volatile one is merged with those that were not read yet."""
        if not isinstance(event, RoomChange):
            super().put(event)
            return
        for change in event.changes:
            self._changes[change.sender, change.key] = change
        self._changed = event
        self._wake()

    def take(self) -> RoomEvent | None:
        """The next event if there is one now."""
        event = super().take()
        if event is None and self._changed is not None:
            last, self._changed = self._changed, None
            changes, self._changes = tuple(self._changes.values()), {}
            return RoomChange(last.room, last.time, changes)
        return event


def room_loss(event: RoomEvent, before: RoomEvent | None) -> RoomEvent | None:
    """The gap that dropping this event makes, together with the one before it."""
    match event:
        case RoomMessage():
            first, last = event.seq, event.seq
        case RoomGap():
            first, last = event.first, event.last
        case _:
            return before
    if isinstance(before, RoomGap):
        first, last = min(first, before.first), max(last, before.last)
    return RoomGap(event.room, first, last, Loss.OVERFLOW)


def direct_loss(event: ClientEvent, before: ClientEvent | None) -> ClientEvent | None:
    """The same for direct events."""
    match event:
        case DirectEvent():
            first, last = event.number, event.number
        case EventsLost():
            first, last = event.first, event.last
        case _:
            return before
    if isinstance(before, EventsLost):
        first, last = min(first, before.first), max(last, before.last)
    return EventsLost(first, last, Loss.OVERFLOW)
