"""A byte stream whose encoding shows in its first bytes: a plain socket, or binary WebSocket frames.

Guards one rule: a connection keeps the encoding it began with. The stream only tells what it found
(`found`); what is no encoding (HTTP, TLS, a policy request) is its owner's to answer.
"""

from __future__ import annotations

from connserver.encodings import Encoding
from gateway.detection import Speaks, detect, skip
from gateway.framing import Detected, Event, Frames, Splitter, too_large


class Stream:
    """Detects, then splits. `found` is what the stream speaks once that is known; `splitter` is set once
    that is an encoding."""

    __slots__ = ("_first", "_limit", "found", "splitter")

    def __init__(self, limit: int) -> None:
        self.found: Speaks | None = None
        self._limit = limit
        self._first = b""
        self.splitter: Splitter | None = None

    @property
    def limit(self) -> int:
        """The size limit of a message, in bytes; counts for what is fed afterwards."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        if self.splitter is not None:
            self.splitter.limit = limit

    @property
    def encoding(self) -> Encoding | None:
        """The encoding, once it is known."""
        return self.splitter.encoding if self.splitter is not None else None

    @property
    def terminator(self) -> bytes:
        """What ends a message to this client; nothing before the encoding is known."""
        return self.splitter.terminator if self.splitter is not None else b""

    @property
    def is_pending(self) -> bool:
        """Whether something has begun, a first message or a later one, that is not finished."""
        return self.splitter.is_pending if self.splitter is not None else bool(self._first)

    def feed(self, data: bytes) -> list[Event]:
        """Detected, Frames and Refuse, as these bytes have it."""
        events: list[Event] = []
        splitter = self.splitter
        if splitter is None:
            splitter = self._detect(data, events)
            if splitter is None:
                return events
            data, self._first = self._first, b""
        payloads = splitter.feed(data)
        if payloads:
            events.append(Frames(splitter.encoding, payloads))
        if splitter.overflowed:
            events.append(too_large(splitter.limit))
        return events

    def take_first(self) -> bytes:
        """The first bytes, without blanks, once `found` is no encoding; they are forgotten here."""
        first, self._first = self._first, b""
        return first

    def _detect(self, data: bytes, events: list[Event]) -> Splitter | None:
        self._first += data
        self.found = detect(self._first)
        if self.found is None:
            return None
        self._first = skip(self._first)
        if not isinstance(self.found.value, Encoding):
            return None
        self.splitter = Splitter(self.found.value, self._limit)
        events.append(Detected(self.found.value))
        return self.splitter
