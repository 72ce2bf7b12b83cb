"""A connection as its session's worker knows it, and the batch in which requests leave for a worker."""

from __future__ import annotations

from math import inf
from typing import Final, TypeAlias

from connserver.limits import BATCH_ITEMS
from connserver.messages import RequestKind, Requests
from connserver.model import pack

BATCH_BYTES: Final = 4 << 20
"""Bodies in one message to a worker: what it reads in one go, far below WIRE_MESSAGE_BYTES."""

Pending: TypeAlias = tuple[int, bytes, float]
"""(kind, body, since) of a request that has no answer."""

LOGINS: Final = (int(RequestKind.LOGIN), int(RequestKind.RESUME))
"""Requests that begin a session on a connection."""


class Line:
    """One connection, with its unanswered requests by sequence, in order.

    `token` is the session's newest resume token, "" while there is no session; `last_event` the number
    of the last direct event the client was sent; `link_attempt` says which attempt of its link has been told
    all this.
    """

    __slots__ = (
        "encoding",
        "group",
        "last_event",
        "link_attempt",
        "number",
        "pending",
        "sequence",
        "token",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.group = -1
        self.sequence = 0
        self.pending: dict[int, Pending] = {}
        self.token = ""
        self.encoding = 0
        self.last_event = 0
        self.link_attempt = 0

    @property
    def oldest(self) -> float:
        """Since when the oldest unanswered request waits; infinite if there is none."""
        return next(iter(self.pending.values()))[2] if self.pending else inf

    def bind(self, token: str, n: int) -> None:
        """The connection has this session now; of another one its direct events are counted anew, after
        the `n` that its client had before."""
        if token.partition(".")[0] != self.token.partition(".")[0]:
            self.last_event = n
        self.token = token

    def rebind(self) -> bytes:
        """What a new grant is told of this connection's session."""
        return pack(
            {
                "resume": self.token,
                "rebind": True,
                "encoding": self.encoding,
                "n": self.last_event,
            }
        )


class Batch:
    """What a loop turn has for one worker, as the parallel arrays of `Requests`."""

    __slots__ = ("_bodies", "_connections", "_kinds", "_sequences", "_size")

    def __init__(self) -> None:
        self._connections: list[int] = []
        self._kinds: list[int] = []
        self._sequences: list[int] = []
        self._bodies: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def is_full(self) -> bool:
        """Whether one message should not take more."""
        return len(self._connections) >= BATCH_ITEMS or self._size >= BATCH_BYTES

    def add(self, connection: int, kind: int, sequence: int, body: bytes) -> None:
        """One more request."""
        self._connections.append(connection)
        self._kinds.append(kind)
        self._sequences.append(sequence)
        self._bodies.append(body)
        self._size += len(body)

    def cuts(self) -> list[tuple[int, int]]:
        """The batch as (first, after) of parts not over BATCH_ITEMS and not much over BATCH_BYTES."""
        count = len(self._connections)
        if count <= BATCH_ITEMS and self._size <= BATCH_BYTES:
            return [(0, count)] if count else []
        parts, first, size = [], 0, 0
        for index, body in enumerate(self._bodies):
            if index > first and (index - first >= BATCH_ITEMS or size + len(body) > BATCH_BYTES):
                parts.append((first, index))
                first, size = index, 0
            size += len(body)
        return [*parts, (first, count)]

    def requests(self, first: int, after: int, grant: int, number: int, acked: int) -> Requests:
        """One part as a message of the stream."""
        return Requests(
            grant,
            number,
            acked,
            self._connections[first:after],
            self._kinds[first:after],
            self._sequences[first:after],
            self._bodies[first:after],
        )
