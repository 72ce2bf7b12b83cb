"""Outputs of workers on their way to clients: encoded once, joined per client, bounded per client.

Guards three rules. A broadcast is encoded once per encoding, however many clients get it. All that a
loop turn has for a client leaves in one write. And a client that does not read costs nobody else
anything: its volatile values are replaced by newer ones instead of queueing, and beyond the unsent
limit it is disconnected with code 1013 (its session can be resumed).
"""

from __future__ import annotations

from typing import Final

from connserver.encodings import Encoding, encode
from connserver.model import Message, Value, unpack_checked

VOLATILE_ROOMS: Final = 64
"""Rooms whose state is kept for a client that does not keep up; of more, the oldest are left out."""

VOLATILE_CHANGES: Final = 1_024
"""Changes kept of one room for such a client; beyond it the room's state is left out until it reads."""


class Broadcast:
    """One payload of a worker in every form it is wanted in, each made when first asked for."""

    __slots__ = ("_body", "_encoded", "_message")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._message: Message | None = None
        self._encoded: dict[Encoding, bytes] = {}

    @property
    def message(self) -> Message:
        """The payload as a message; WireError if it is none."""
        if self._message is None:
            self._message = unpack_checked(self._body)
        return self._message

    def encoded(self, encoding: Encoding) -> bytes:
        """The payload for clients of this encoding; WireError or TypeError if it is no message."""
        data = self._encoded.get(encoding)
        if data is None:
            data = self._encoded[encoding] = encode(encoding, self.message)
        return data


class Outbox:
    """What waits for the end of the turn, and (volatile) for a slow client to read again."""

    __slots__ = ("_states", "queue")

    def __init__(self) -> None:
        self.queue: list[bytes] = []
        self._states: dict[str, Message] | None = None

    def put(self, payload: bytes) -> None:
        """Queue an encoded message."""
        self.queue.append(payload)

    def take(self) -> list[bytes]:
        """All that is queued, for one write."""
        queue, self.queue = self.queue, []
        return queue

    @property
    def size(self) -> int:
        """Bytes of what is queued; asked for only where a client is behind."""
        return sum(map(len, self.queue))

    def check_invariants(self) -> None:
        """What is kept for a slow client is bounded."""
        assert len(self._states or ()) <= VOLATILE_ROOMS

    def keep_state(self, message: Message) -> None:
        """A volatile message for a client that is behind: the latest change of each key counts."""
        states = self._states
        if states is None:
            states = self._states = {}
        room = str(message.get("room", ""))
        kept = states.pop(room, None)
        merged = _merged(kept, message) if kept is not None else message
        if merged is None:
            return
        states[room] = merged
        if len(states) > VOLATILE_ROOMS:
            del states[next(iter(states))]

    def take_states(self) -> list[Message]:
        """What a client that reads again has missed of volatile values, brought up to date."""
        states, self._states = self._states, None
        return list(states.values()) if states else []


def _merged(older: Message, newer: Message) -> Message | None:
    """One state with the latest change of each sender and key; None if there are too many.

    One that says all there is (`all`) needs nothing before it, and what follows it keeps that word.
    """
    if newer.get("all"):
        return newer
    changes: dict[tuple[object, object], Value] = {}
    for message in (older, newer):
        listed = message.get("changes")
        for change in listed if isinstance(listed, list) else []:
            if isinstance(change, dict):
                changes[str(change.get("from")), str(change.get("key"))] = change
    if len(changes) > VOLATILE_CHANGES:
        return None
    whole: Message = {"all": True} if older.get("all") else {}
    return {**newer, **whole, "changes": list(changes.values())}
