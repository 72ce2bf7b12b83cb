"""A gateway's link to the worker of one group: numbered streams, and requests until they are answered.

Guards exactly-once on the gateway's side. A request is kept, in the order of its connection, until
its answer has come. When the group gets another worker (a new grant), the link starts new streams,
tells that worker of each connection which session it holds (a *rebind*: RESUME with `rebind`) and
sends again, in order, what is unanswered; the worker knows what already ran. Nothing waits for ever:
a group without a worker costs its clients a named error after UNAVAILABLE_S.

Outputs follow the clients over to the new worker: each OpenStream says which outputs of the group were
delivered last, under whichever grant, and the new stream begins with those after them.

An *attempt* is one ZeroMQ connection with one pair of streams. Nothing of an earlier attempt can be
taken for something of a later one, since each has a socket of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, TypeAlias

from connserver.codec import encode
from connserver.errors import ClientError
from connserver.messages import (
    OpenStream,
    Outputs,
    RequestKind,
    RouteEntry,
    StreamAck,
    StreamOpened,
    StreamProbe,
    StreamResend,
    WrongGrant,
)
from connserver.stream import Duplex
from gateway.line import LOGINS, Batch, Line, Pending
from gateway.routing import rank

UNAVAILABLE_S: Final = 10.0
"""How long requests wait for a group without a worker: several failovers long."""

OPENING_S: Final = (0.1, 1.0)
"""A worker that has not opened the stream by then is tried again over a new connection: so long at
first, since it may just not have known of its grant yet; doubled each time, since it may be busy."""

RETRY_S: Final = (0.01, 0.1)
"""Pause before a refused link is tried again with the same route, doubled each time: a route may be
known here before the worker that it names knows of its grant. A new route is tried at once."""

SILENCE_S: Final = 3.0
"""A worker greets once a second; after three missing greetings it gets a new connection."""

GREET_S: Final = 1.0
"""So often a worker is told that this gateway lives; it takes a silent one for dead."""

UNANSWERED_BYTES: Final = 64 << 20
"""Bodies kept for one group over all clients; beyond it new requests are `overloaded`."""

FAREWELL_S: Final = 30.0
"""GONE is told again to each new grant for this long: by then the log holds it or the session's end."""

FAREWELLS: Final = 65_536
"""Most of them kept; a session whose GONE is lost stays until its client resumes it."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect a fresh socket to the worker, then send `opening` until it is handed over."""

    group: int
    attempt: int
    endpoint: str
    opening: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the socket to the worker."""

    group: int


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this to the worker now."""

    group: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """The worker serves; there may be much to flush, and requests held back may go on."""

    group: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Outputs that came in their order."""

    group: int
    outputs: Outputs


Effect: TypeAlias = Connect | Disconnect | Transmit | Opened | Deliver


class State(Enum):
    """CLOSED: no worker is known to serve. OPENING: connected, not opened. OPEN: requests flow."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"


_OPEN = State.OPEN  # looked up once: the message path asks for it with every request


class Link:
    """Everything between this gateway and the current worker of one group."""

    __slots__ = (
        "_batch",
        "_boot",
        "_duplex",
        "_farewells",
        "_greet_at",
        "_name",
        "_open_by",
        "_out",
        "_overflowed",
        "_received",
        "_refused",
        "_retry_at",
        "_untold",
        "attempt",
        "down_since",
        "group",
        "lines",
        "route",
        "state",
        "unanswered_bytes",
    )

    def __init__(self, group: int, name: str, boot: int, now: float) -> None:
        self.group = group
        self.state = State.CLOSED
        self.route: RouteEntry | None = None
        self.lines: dict[int, Line] = {}
        self.attempt = 0
        self.down_since = now
        self.unanswered_bytes = 0
        self._name = name
        self._boot = boot
        self._open_by = self._retry_at = self._greet_at = now
        self._refused = 0  # attempts in a row with the same route that were not opened
        self._received = 0  # the op of the outputs that were delivered last
        self._overflowed = False
        self._farewells: deque[tuple[int, int, float]] = deque()
        self._untold: deque[int] = deque()
        self._batch = Batch()
        self._out: list[Effect] = []
        self._duplex = Duplex(0, self._transmit, now)

    def _transmit(self, data: bytes) -> None:
        self._out.append(Transmit(self.group, data))

    def _effects(self) -> list[Effect]:
        effects, self._out = self._out, []
        return effects

    # --- the connection to the worker -------------------------------------------------------------------

    def routed(self, entry: RouteEntry, now: float) -> list[Effect]:
        """The route of this group is now this one.

        A worker that answers is kept whatever is said about it under the same grant: one whose
        gossip process died goes on serving.
        """
        known, self.route = self.route, entry
        same = known is not None and rank(known) == rank(entry) and known.endpoint == entry.endpoint
        if not same or self.state is State.CLOSED:
            self._refused = 0
            self._close(now)
            self._open(now)
        return self._effects()

    def tick(self, now: float) -> list[Effect]:
        """Retries, greetings, probes, and noticing that a worker has gone quiet."""
        if self.state is State.OPEN:
            if self._overflowed or now - self._duplex.heard >= SILENCE_S:
                self._close(now)
                self._open(now)
            else:
                greet = now >= self._greet_at
                if greet:
                    self._greet_at = now + GREET_S
                self._duplex.tick(now, greet=greet)
        elif self.state is State.OPENING:
            if now >= self._open_by:
                self._refused += 1
                self._close(now)
                self._open(now)
        elif now >= self._retry_at:
            self._open(now)
        return self._effects()

    @property
    def opening(self) -> bool:
        """Whether a worker is there that has yet to open the streams, so that ticks should be short."""
        return self.state is not _OPEN and self.route is not None and self.route.state == "ready"

    @property
    def at_rest(self) -> bool:
        """Whether nothing is waited for that a tick would hasten."""
        return self.state is _OPEN and self._duplex.at_rest

    @property
    def _grant(self) -> int:
        return self.route.grant if self.route is not None else 0

    def _open(self, now: float) -> None:
        if self.route is None or self.route.state != "ready":
            return
        self.attempt += 1
        self.state = State.OPENING
        self._open_by = now + _doubled(OPENING_S, self._refused)
        opening = encode(OpenStream(self._name, self._boot, self._grant, self._received))
        self._out.append(Connect(self.group, self.attempt, self.route.endpoint, opening))

    def _close(self, now: float) -> None:
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN:
            self.down_since = now
        self.state = State.CLOSED
        self._retry_at = now + _doubled(RETRY_S, self._refused)
        self._untold.clear()
        self._batch = Batch()
        self._out.append(Disconnect(self.group))

    # --- what the worker says ---------------------------------------------------------------------------

    def receive(self, message: object, now: float) -> list[Effect]:
        """A message of the current attempt; anything that does not belong to its grant is dropped."""
        if self.state is State.CLOSED or getattr(message, "grant", None) != self._grant:
            return []
        match message:
            case StreamOpened() if self.state is State.OPENING:
                self._opened(now)
            case WrongGrant():
                self._close(now)
                self._refused += 1
            case Outputs() if self.state is State.OPEN:
                if self._duplex.accept(message.number, message.acked, now):
                    # not the greatest: in a new era of the group ops begin lower
                    self._received = message.op
                    self._out.append(Deliver(self.group, message))
            case StreamAck() | StreamProbe() | StreamResend() if self.state is State.OPEN:
                self._duplex.control(message, now)
            case _:
                pass
        return self._effects()

    def _opened(self, now: float) -> None:
        self.state = State.OPEN
        self._refused = 0
        self._duplex = Duplex(self._grant, self._transmit, now)
        self._overflowed = False
        self._greet_at = now + GREET_S
        while self._farewells and now - self._farewells[0][2] >= FAREWELL_S:
            self._farewells.popleft()
        for number, sequence, _ in self._farewells:
            self._batch.add(number, RequestKind.GONE, sequence, b"")
        self._untold.extend(self.lines)
        self._out.append(Opened(self.group))

    # --- requests ---------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether so much waits for this group that new requests are refused."""
        return self.unanswered_bytes >= UNANSWERED_BYTES

    def join(self, line: Line) -> None:
        """A connection has its home here from now on."""
        assert not line.pending and line.group == -1
        line.group = self.group
        line.link_attempt = self.attempt if self.state is _OPEN else 0
        self.lines[line.number] = line

    def add(self, line: Line, items: list[tuple[int, bytes]], now: float) -> None:
        """The next requests of a connection, as (kind, body); each is kept until answered."""
        sequence, pending = line.sequence, line.pending
        batch = self._batch if line.link_attempt == self.attempt and self.state is _OPEN else None
        for kind, body in items:
            sequence += 1
            pending[sequence] = (kind, body, now)
            self.unanswered_bytes += len(body)
            if batch is not None:
                batch.add(line.number, kind, sequence, body)
        line.sequence = sequence

    def answered(self, line: Line, sequence: int) -> Pending | None:
        """The request that this answers; None if it was answered before."""
        pending = line.pending.pop(sequence, None)
        if pending is not None:
            self.unanswered_bytes -= len(pending[1])
        return pending

    def give_up(self, line: Line) -> list[Pending]:
        """Take back everything unanswered of a connection."""
        given_up = list(line.pending.values())
        line.pending.clear()
        self.unanswered_bytes -= sum(len(body) for _, body, _ in given_up)
        return given_up

    def leave(self, line: Line, now: float, *, gone: bool) -> None:
        """The connection has no home here any more. `gone`: it is closed, and its worker is told."""
        self.give_up(line)
        del self.lines[line.number]
        line.group = -1
        line.token = ""
        if not gone:
            return
        line.sequence += 1
        self._farewells.append((line.number, line.sequence, now))
        if len(self._farewells) > FAREWELLS or now - self._farewells[0][2] >= 2 * FAREWELL_S:
            self._farewells.popleft()
        if line.link_attempt == self.attempt and self.state is _OPEN:
            self._batch.add(line.number, RequestKind.GONE, line.sequence, b"")

    def expire(self, now: float) -> list[tuple[Line, list[Pending]]]:
        """What has waited too long for a group without a worker, by connection.

        With a login goes everything after it: it was meant for the session that is not there.
        """
        if self.state is _OPEN or now - self.down_since < UNAVAILABLE_S:
            return []
        expired = []
        for line in self.lines.values():
            if now - line.oldest >= UNAVAILABLE_S:
                expired.append((line, self.overdue(line, now - UNAVAILABLE_S)))
        return expired

    def overdue(self, line: Line, limit: float) -> list[Pending]:
        """Take back what a connection has asked before `limit`; all it has asked if a login is among it."""
        due = [sequence for sequence, pending in line.pending.items() if pending[2] <= limit]
        if any(line.pending[sequence][0] in LOGINS for sequence in due):
            return self.give_up(line)
        return [pending for sequence in due if (pending := self.answered(line, sequence)) is not None]

    def unavailable(self) -> ClientError:
        """Why nothing was answered, for the client."""
        why = self.route.reason or self.route.state if self.route is not None else "no node knows its worker"
        return ClientError(
            "unavailable",
            f"partition group {self.group} has no worker that answers ({why}); "
            "whether the request ran is not known: send it again with the same integer id",
        )

    # --- sending ----------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Rebind connections and repeat their requests, as many as one batch takes."""
        while self._untold and not self._batch.is_full:
            line = self.lines.get(self._untold.popleft())
            if line is None or line.link_attempt == self.attempt:
                continue
            line.link_attempt = self.attempt
            if line.token:
                self._batch.add(line.number, RequestKind.RESUME, 0, line.rebind())
            for sequence, (kind, body, _) in line.pending.items():
                self._batch.add(line.number, kind, sequence, body)

    def flush(self, now: float) -> list[Effect]:
        """Everything for the worker since the last flush, in as few messages as allowed."""
        if self.state is not State.OPEN:
            return []
        if self._untold:
            self._tell()
        if self._batch:
            batch, self._batch = self._batch, Batch()
            for first, after in batch.cuts():
                make = partial(batch.requests, first, after, self._grant)
                self._overflowed |= not self._duplex.post(make, now)
        return self._effects()

    @property
    def unflushed(self) -> bool:
        """Whether another flush has something to send."""
        return self.state is _OPEN and bool(self._untold or self._batch)

    @property
    def settled(self) -> bool:
        """Whether the worker has everything that was said to it."""
        return self.state is not State.OPEN or not (self._duplex.sender.kept or self.unflushed)

    def check_invariants(self) -> None:
        """Lines are at home here, their requests in order, and the bytes add up."""
        self._duplex.sender.check_invariants()
        assert not self._out
        kept = 0
        for number, line in self.lines.items():
            assert line.number == number and line.group == self.group
            assert list(line.pending) == sorted(line.pending)
            kept += sum(len(body) for _, body, _ in line.pending.values())
        assert kept == self.unanswered_bytes, (kept, self.unanswered_bytes)


def _doubled(bounds: tuple[float, float], times: int) -> float:
    """The first bound, doubled so many times, but not over the second."""
    return min(bounds[0] * (1 << min(times, 8)), bounds[1])
