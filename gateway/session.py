"""One client connection as a state machine: what each of its messages leads to.

Guards three rules. Before login only what needs no session is answered, here and at once; from login
on every message, also a refused one, goes to the session's worker, so that answers come in the order
of the requests. Hostile bytes end here: what is forwarded is a checked message in canonical form. And
a client's work in one loop turn is bounded; the rest of what it sent waits, and its reads pause.

`ending`: no more is taken in (half-close, refused, draining); what was received is answered first.
"""

from __future__ import annotations

from math import inf
from typing import Final, TypeAlias

from connserver.encodings import Encoding
from connserver.errors import ClientError
from connserver.messages import RequestKind
from connserver.model import Message, pack
from gateway import greeting
from gateway.admission import Allowance
from gateway.effects import (
    Again,
    Answer,
    Effect,
    Forward,
    Hold,
    Join,
    Keepalive,
    Overdue,
    Shut,
    Write,
)
from gateway.entrance import Greeted, Rules, enter
from gateway.framing import Close, Refuse, Send
from gateway.reading import read_message
from gateway.states import TRANSITIONS, Home, State

FRAMES_PER_TURN: Final = 64
"""Messages taken from one client in a loop turn before others have theirs."""

BYTES_PER_TURN: Final = 65_536
"""Bytes of messages decoded for one client in a loop turn: about a millisecond of XML."""

REFILL_S: Final = 0.05
"""Allowances that are not used up are brought up to date no more often than this."""

LOGIN_ATTEMPTS: Final = 8
"""Refused logins on one connection before it is closed."""

ANSWER_S: Final = 30.0
"""A request that its worker has not answered by then is answered `timeout` by the gateway."""

RETRY_AFTER_MS: Final = 1_000
"""When a client may try again what was refused for lack of room."""

POLICY, TOO_LARGE, DRAINING, OVERLOADED = 1008, 1009, 1012, 1013
"""Close codes (RFC 6455 and its registry); the events of other sockets carry the same numbers."""

_CLOSE_CODES: Final = {"too_large": TOO_LARGE, "overloaded": OVERLOADED}


# members are looked up once: in Python 3.11 each `State.OPEN` costs as much as reading a small message
_OPEN, _CLOSED, _SERVES = State.OPEN, State.CLOSED, Home.SERVES
_CALL, _REJECTED = int(RequestKind.CALL), int(RequestKind.REJECTED)


class HalfClosed:
    """Stands in the backlog where the client ended its side."""


HALF_CLOSED: Final = HalfClosed()

Received: TypeAlias = bytes | Send | Refuse | Close | HalfClosed


class Session:
    """The machine of one connection.

    `backlog`: what came in and is not worked on yet, in order; `is_deaf`: nothing more is to come in.
    """

    __slots__ = (
        "_answers",
        "_end",
        "_items",
        "_out",
        "_refused_logins",
        "_refusing",
        "_since",
        "allowance",
        "backlog",
        "encoding",
        "is_deaf",
        "number",
        "state",
    )

    def __init__(self, number: int, rules: Rules, now: float) -> None:
        self.number = number
        self.state = State.DETECTING
        self.encoding: Encoding | None = None
        self.allowance = Allowance(rules.rates, now)
        self.backlog: list[Received] = []
        self.is_deaf = False
        self._since = now
        self._refusing: ClientError | None = None
        self._refused_logins = 0
        self._end: Shut | None = None
        self._out: list[Effect] = []
        self._answers: list[Message] | None = None
        self._items: list[tuple[int, bytes]] | None = None

    @property
    def ending(self) -> bool:
        """Whether the connection closes once everything received is answered."""
        return self._end is not None

    @property
    def is_closed(self) -> bool:
        """Whether nothing is received or answered any more."""
        return self.state is _CLOSED

    def _step(self, event: str) -> None:
        state = TRANSITIONS.get((self.state, event))
        assert state is not None, f"{event} in state {self.state.value}"
        self.state = state

    # --- what happens to the connection -------------------------------------------------------------------

    def refuse(self, error: ClientError) -> None:
        """The connection is not admitted: as soon as its encoding is known it is told so."""
        self._refusing = error

    def detected(self, encoding: Encoding) -> list[Effect]:
        """The client's encoding is known; one that was not admitted is now told so."""
        self.encoding = encoding
        self._step("detected")
        if self._refusing is None:
            return []
        self._say(greeting.refusal(None, self._refusing))
        self._shut(Shut(OVERLOADED, self._refusing.reason, spoken=False))
        return self._effects()

    def bound(self) -> None:
        """The worker has bound this connection to a session."""
        if self.state in (State.LOGGING_IN, State.BOUND):
            self._step("bound")

    def login_refused(self, now: float) -> list[Effect]:
        """The worker did not bind it."""
        if self.state is not State.LOGGING_IN:
            return []
        self._step("refused")
        self._since = now
        self._count_refused_login()
        return self._effects()

    def _count_refused_login(self) -> None:
        self._refused_logins += 1
        if self._refused_logins >= LOGIN_ATTEMPTS:
            self._shut(Shut(POLICY, "too many refused logins", spoken=True))

    def end(self, code: int, reason: str) -> None:
        """Take nothing more in (the gateway stops); call `work` for what follows."""
        if self._end is None:
            self._end = Shut(code, reason, spoken=True)
            self.is_deaf = True

    def closed(self) -> None:
        """The connection is gone."""
        self.state = _CLOSED
        self.is_deaf = True
        self.backlog.clear()

    # --- what the client sent -----------------------------------------------------------------------------

    def work(self, rules: Rules, now: float, in_flight: int, home: Home) -> list[Effect]:
        """Go on with the backlog as far as this turn, the rates and the requests in flight allow.

        `in_flight`: requests of this connection without an answer.
        """
        allowance, backlog = self.allowance, self.backlog
        if now - allowance.since >= REFILL_S or allowance.messages < 1 or allowance.bytes < 0:
            allowance.refill(rules.rates, now)
        index, waiting = 0, False
        most = min(len(backlog), FRAMES_PER_TURN)
        while index < most and self.state is not _CLOSED:
            received = backlog[index]
            if type(received) is not bytes:
                assert not isinstance(received, bytes)
                if self.state is _OPEN and in_flight and not isinstance(received, (Send, Close)):
                    waiting = True
                    break
                in_flight += self._happened(received)
                index += 1
            elif allowance.messages < 1:
                break
            elif self.state is _OPEN:
                if in_flight:
                    # `methods` was asked: what comes after it is answered after it
                    waiting = True
                    break
                allowance.messages -= 1
                in_flight += self._enter(received, rules)
                index += 1
            else:
                if in_flight >= rules.in_flight and home is _SERVES:
                    waiting = True
                    break
                index, in_flight = self._pass_on(rules, index, most, in_flight, home)
                if index < most and type(backlog[index]) is bytes:
                    break
        del backlog[:index]
        self._go_on(rules, in_flight, waiting)
        return self._effects()

    def _pass_on(self, rules: Rules, index: int, most: int, in_flight: int, home: Home) -> tuple[int, int]:
        """Messages for the worker, one after the other: where that ended, and the requests in flight.

        This is the path of nearly every message, so it is one loop.
        """
        backlog, limits, encoding = self.backlog, rules.limits, self.encoding
        assert encoding is not None
        bound = 0 if home is Home.FULL else rules.in_flight
        left, size, items = self.allowance.messages, 0, self._requests()
        while index < most and left >= 1 and size < BYTES_PER_TURN:
            payload = backlog[index]
            if type(payload) is not bytes or (in_flight >= bound and home is _SERVES):
                break
            left -= 1
            index += 1
            size += len(payload)
            try:
                message = read_message(encoding, payload, limits)
            except ClientError as error:
                in_flight += self._refuse(error, in_flight < bound)
                continue
            if in_flight < bound:
                items.append((_CALL, pack(message)))
                in_flight += 1
            else:
                self._say(greeting.refusal(message, overloaded("the worker of this session is behind")))
        self.allowance.messages = left
        return index, in_flight

    def _go_on(self, rules: Rules, in_flight: int, waiting: bool) -> None:
        """Say when to come back: never, next turn, after a while, or with the next answer."""
        if self.state is _CLOSED:
            self.backlog.clear()
            return
        hold = self.allowance.wait_s(rules.rates) if self.backlog or self.allowance.bytes < 0 else 0.0
        if hold > 0:
            self._flush()
            self._out.append(Hold(hold))
        elif self.backlog and not waiting:
            self._flush()
            self._out.append(Again())
        if self._end is not None and not self.backlog and not in_flight:
            self._shut(self._end)

    def _enter(self, payload: bytes, rules: Rules) -> int:
        """A message before login; returns how many requests are in flight because of it."""
        assert self.encoding is not None
        try:
            message = read_message(self.encoding, payload, rules.limits)
        except ClientError as error:
            return self._refuse(error, True)
        return self._before_login(message, rules)

    def _happened(self, received: Send | Refuse | Close | HalfClosed) -> int:
        match received:
            case Send():
                self._flush()
                self._out.append(Write(received.data))
            case Refuse():
                if received.close and self._end is None:
                    code = _CLOSE_CODES.get(received.error, POLICY)
                    self._end = Shut(code, received.reason, spoken=False)
                return self._refuse(ClientError(received.error, received.reason), True)
            case Close():
                self._shut(Shut(received.code, received.reason, spoken=False))
            case HalfClosed():
                if self._end is None:
                    self._end = Shut(1000, "", spoken=False)
        return 0

    def _refuse(self, error: ClientError, through_worker: bool) -> int:
        """Refuse what could not be read; through the worker if it can be, so that it comes in its order."""
        body = greeting.refusal(None, error)
        if through_worker and self.state in (State.LOGGING_IN, State.BOUND):
            self._requests().append((_REJECTED, pack(body)))
            return 1
        if self.encoding is not None:
            self._say(body)
        return 0

    def _before_login(self, message: Message, rules: Rules) -> int:
        assert self.encoding is not None
        try:
            step = enter(message, self.number, self.encoding, rules)
        except ClientError as error:
            self._say(greeting.refusal(message, error))
            if message["msg"] in ("login", "session.resume"):
                self._count_refused_login()
            return 0
        if isinstance(step, Greeted):
            self._say(step.answer)
            return 0
        self._out.append(Join(step.group))
        if step.login:
            self._step("login")
        self._requests().extend(step.items)
        return len(step.items)

    # --- time ---------------------------------------------------------------------------------------------

    def look(
        self, rules: Rules, now: float, *, unfinished: float | None, oldest: float, sent: float
    ) -> tuple[list[Effect], float]:
        """Whatever is due by now, and when to look again.

        `unfinished`: since when a message has begun and not ended; `oldest`: since when the oldest
        request waits for its answer (inf: none); `sent`: when something was last sent.
        """
        limits = rules.limits
        next_look = sent + rules.keepalive_ms / 1000
        if self.state is _CLOSED:
            return [], inf
        if now >= next_look:
            if self.encoding is not None:
                self._out.append(Keepalive())
            next_look = now + rules.keepalive_ms / 1000
        if self.state in (State.DETECTING, State.OPEN) and oldest == inf:
            login_by = self._since + limits.login_ms / 1000
            if now >= login_by:
                self._late(f"not logged in within {limits.login_ms} ms")
            next_look = min(next_look, login_by)
        if unfinished is not None:
            finish_by = unfinished + limits.message_ms / 1000
            if now >= finish_by:
                self._late(f"a message was not finished within {limits.message_ms} ms")
            next_look = min(next_look, finish_by)
        if oldest != inf:
            if now - oldest >= ANSWER_S:
                self._out.append(Overdue())
            else:
                next_look = min(next_look, oldest + ANSWER_S)
        return self._effects(), next_look

    def _late(self, reason: str) -> None:
        if self.encoding is not None:
            self._say(greeting.refusal(None, ClientError("timeout", reason)))
        self._shut(Shut(POLICY, reason, spoken=False))

    # --- effects ------------------------------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        if self._answers is None:
            self._answers = [message]
            self._out.append(Answer(self._answers))
        else:
            self._answers.append(message)

    def _requests(self) -> list[tuple[int, bytes]]:
        """Where requests for the worker go."""
        if self._items is None:
            self._items = []
            self._out.append(Forward(self._items))
        return self._items

    def _flush(self) -> None:
        self._answers = self._items = None

    def _shut(self, effect: Shut) -> None:
        if self.state is not _CLOSED:
            self.state = _CLOSED
            self.is_deaf = True
            self._flush()
            self._out.append(effect)

    def _effects(self) -> list[Effect]:
        effects, self._out = self._out, []
        self._flush()
        return effects

    def check_invariants(self) -> None:
        """Nothing is left unsaid between events, and what is known fits the state."""
        assert not self._out and self._answers is None and self._items is None
        assert self.state is _CLOSED or (self.encoding is None) == (self.state is State.DETECTING)


def overloaded(reason: str) -> ClientError:
    """No room for this now."""
    return ClientError("overloaded", reason, retry_after_ms=RETRY_AFTER_MS)
