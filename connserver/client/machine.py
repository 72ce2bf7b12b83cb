"""A client's side of protocol 1 as a pure machine: what happens goes in, what is to be done comes out.

Guards four rules. A session outlives its connections: it is resumed, on whichever gateway, with what was
seen, and begun anew only when the cluster says that it is over and the program wants that. A call runs
once: it is sent again with its id until it is answered. What is ordered is passed on once, in order, or
named as missing. And every wait ends: silence, a slow login and a broken gateway lead to the next one.

Times are monotonic seconds; `attempt` numbers connections, so that nothing of an earlier one is mistaken
for something of this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final, TypeAlias

from connserver import __version__
from connserver.client.calls import Call, Calls
from connserver.client.events import DirectEvent, Event, EventsLost, LoggedInAgain, Loss, RoomLost
from connserver.client.reading import error_of, result_of, text, whole
from connserver.client.rooms import REJOIN_HISTORY, Rooms
from connserver.errors import (
    ClientError,
    SessionClosed,
    SessionExpired,
    SessionKicked,
    SessionOver,
    SessionReplaced,
)
from connserver.limits import (
    CLIENT_BACKOFF_S,
    CLIENT_CONNECTIONS,
    CLIENT_ENTER_S,
    CLIENT_IN_FLIGHT,
    CLIENT_LOGOUT_S,
    PROTOCOL_VERSION,
    Limits,
)
from connserver.model import Message, Value

PUT_OFF: Final = frozenset({"unavailable", "overloaded", "rate_limited", "timeout"})
"""Errors that say "not now"."""
NEVER_RAN: Final = "rate_limited"
"""The one of them that is kept as the call's reply: it is tried again under a new id."""
RETRY_S: Final = 0.1
"""Before such a call is sent again, where the error names no time."""
KEEPALIVE_S: Final = 30.0
"""Until `hello` says otherwise."""
KICKED, REPLACED, DRAINING = 4003, 4002, 1012
_HANDLED: Final = frozenset({"keepalive", "goodbye"})


class State(Enum):
    """How far a client has come."""

    NEW = "new"
    WAITING = "waiting"
    CONNECTING = "connecting"
    ENTERING = "entering"
    READY = "ready"
    LEAVING = "leaving"
    OVER = "over"


_TRANSITIONS: Final[dict[tuple[State, str], State]] = {
    (State.NEW, "connect"): State.CONNECTING,
    (State.WAITING, "connect"): State.CONNECTING,
    (State.CONNECTING, "opened"): State.ENTERING,
    (State.ENTERING, "enter again"): State.ENTERING,
    (State.ENTERING, "entered"): State.READY,
    (State.CONNECTING, "lost"): State.WAITING,
    (State.ENTERING, "lost"): State.WAITING,
    (State.READY, "lost"): State.WAITING,
    (State.READY, "leave"): State.LEAVING,
    **{(state, "end"): State.OVER for state in State if state is not State.OVER},
}


@dataclass(frozen=True, slots=True)
class Open:
    """Connect to the gateway with this index; what becomes of it is told with the attempt's number."""

    attempt: int
    address: int


@dataclass(frozen=True, slots=True)
class Shut:
    """Close the connection of this attempt; nothing of it is wanted any more."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send this on the present connection."""

    message: Message


@dataclass(frozen=True, slots=True)
class Answered:
    """A call's result."""

    ticket: int
    result: Message


@dataclass(frozen=True, slots=True)
class Failed:
    """A call's error."""

    ticket: int
    error: ClientError | SessionOver


@dataclass(frozen=True, slots=True)
class Deliver:
    """An event for the program."""

    event: Event


@dataclass(frozen=True, slots=True)
class Became:
    """The client is in this state now: READY, WAITING or OVER."""

    state: State


@dataclass(frozen=True, slots=True)
class Over:
    """The client has ended, with this error unless the program wanted it."""

    error: SessionOver | ClientError


Effect: TypeAlias = Open | Shut | Send | Answered | Failed | Deliver | Became | Over


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a client behaves. `silence_s`: None for twice the gateway's keepalive."""

    addresses: int = 1
    login_again: bool = False
    patience_s: float = 0.0
    in_flight: int = CLIENT_IN_FLIGHT
    silence_s: float | None = None


class Machine:
    """One client. `login` gives the fields of a login (user, token); `random` numbers from 0 to 1."""

    def __init__(self, options: Options, login: Callable[[], Message], random: Callable[[], float]) -> None:
        self.state = State.NEW
        self.rooms = Rooms()
        self.limits = Limits()
        self.user: str | None = None
        self.oid: str | None = None
        self.last_failure = "no gateway was tried"
        self._options = options
        self._login = login
        self._random = random
        self._calls = Calls(options.in_flight)
        self._attempt = 0
        self._address = 0
        self._failures = 0
        self._tickets = 0
        self._token = ""
        self._had_session = False
        self._last_direct = 0
        self._keepalive_s = KEEPALIVE_S
        self._wake_at = inf
        """WAITING: when to connect. CONNECTING, ENTERING, LEAVING: when to give this connection up."""
        self._told = ""
        """The error without an id that the gateway gave before it closed."""
        self._ready_since = 0.0
        self._heard_at = 0.0
        self._probed = False
        self._out: list[Effect] = []

    # --- what the program wants -----------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Connect."""
        self._connect(now)
        return self._effects()

    @property
    def is_full(self) -> bool:
        """Whether as many calls are under way as may be; the next waits for an answer."""
        return self._calls.is_full

    def call(self, message: Message, now: float) -> tuple[int, list[Effect]]:
        """A message of the model, without id; its ticket comes back with its answer. Not while `is_full`."""
        assert not self._calls.is_full and self.state is not State.OVER
        self._tickets += 1
        self._begin(Call(self._tickets, message, now + self._options.patience_s))
        return self._tickets, self._effects()

    def cancel(self, ticket: int) -> None:
        """Nobody waits for this call any more: it may have run, or run yet, but is not repeated."""
        self._calls.forget(ticket)

    def close(self, now: float) -> list[Effect]:
        """Log out and end."""
        if self.state is State.READY:
            self._step("leave")
            self._send({"msg": "logout"})
            self._wake_at = now + CLIENT_LOGOUT_S
        elif self.state not in (State.LEAVING, State.OVER):
            self._end(SessionClosed("the client was closed"))
        return self._effects()

    # --- what happens ---------------------------------------------------------------------------------------

    def opened(self, attempt: int, now: float) -> list[Effect]:
        """The connection is there."""
        if attempt == self._attempt and self.state is State.CONNECTING:
            self._step("opened")
            self._heard_at, self._wake_at = now, now + CLIENT_ENTER_S
            client = f"connserver-python/{__version__}"
            self._send({"msg": "hello", "protocol": PROTOCOL_VERSION, "client": client})
            self._enter()
        return self._effects()

    def lost(self, attempt: int, reason: str, now: float, code: int = 0) -> list[Effect]:
        """The connection could not be made, or is gone; `code`: of the gateway's close, if it gave one."""
        if attempt == self._attempt:
            self._closed(code, reason, now)
        return self._effects()

    def received(self, attempt: int, message: Message, now: float) -> list[Effect]:
        """A reply or an event."""
        if attempt == self._attempt and self.state in (State.ENTERING, State.READY, State.LEAVING):
            self._heard_at, self._probed = now, False
            if "status" in message:
                self._reply(message, now)
            else:
                self._event(message, now)
        return self._effects()

    def tick(self, now: float) -> list[Effect]:
        """Whatever is due; `deadline` says when that is."""
        if now >= self._wake_at:
            match self.state:
                case State.WAITING:
                    self._connect(now)
                case State.CONNECTING | State.ENTERING:
                    self._give_up(f"no session within {CLIENT_ENTER_S:g} s", now)
                case State.LEAVING:
                    self._end(SessionClosed("the client was closed"))
        if self.state is State.READY:
            self._listen(now)
        if self.state is State.READY:
            for call in self._calls.due(now):
                self._send_call(call)
        return self._effects()

    @property
    def deadline(self) -> float:
        """When to call `tick`; inf: not before something happens."""
        if self.state is not State.READY:
            return self._wake_at
        patience = self._silence_s / (1 if self._probed else 2)
        return min(self._heard_at + patience, self._calls.next_due)

    @property
    def _silence_s(self) -> float:
        return self._options.silence_s or 2 * self._keepalive_s

    def _listen(self, now: float) -> None:
        silence = now - self._heard_at
        if silence >= self._silence_s:
            self._give_up(f"nothing was heard for {silence:.1f} s", now)
        elif silence >= self._silence_s / 2 and not self._probed:
            self._probed = True
            self._send({"msg": "ping"})

    # --- connections ----------------------------------------------------------------------------------------

    def _step(self, event: str) -> None:
        state = _TRANSITIONS.get((self.state, event))
        assert state is not None, f"{event} in state {self.state.value}"
        self.state = state

    def _connect(self, now: float) -> None:
        self._step("connect")
        self._attempt += 1
        self._told = ""
        self._wake_at = now + CLIENT_ENTER_S
        self._out.append(Open(self._attempt, self._address))

    def _give_up(self, reason: str, now: float, wait_s: float = 0.0) -> None:
        self._out.append(Shut(self._attempt))
        self._closed(0, reason, now, wait_s)

    def _closed(self, code: int, reason: str, now: float, wait_s: float = 0.0) -> None:
        """The connection is gone: the end, or the next gateway after a while."""
        self.last_failure = self._told or reason or f"closed with code {code}"
        match self.state:
            case State.LEAVING:
                self._end(SessionClosed("the client was closed"))
            case State.OVER | State.WAITING | State.NEW:
                pass
            case State.READY if code == KICKED:
                self._end(SessionKicked("the session was ended by the cluster (kicked)"))
            case State.READY if code == REPLACED:
                self._end(SessionReplaced("another connection has taken the session over"))
            case before:
                self._step("lost")
                least, most = CLIENT_BACKOFF_S
                if before is State.READY:
                    # one that takes clients and drops them at once is no better than one that is away
                    self._failures = 0 if now - self._ready_since >= most else self._failures
                    self._out.append(Became(State.WAITING))
                longest = min(most, least * 2 ** min(self._failures, 16))
                self._failures += 1
                self._address = (self._address + 1) % self._options.addresses
                self._wake_at = now + max(wait_s, longest * self._random())

    def _end(self, error: SessionOver | ClientError) -> None:
        if self.state not in (State.NEW, State.WAITING):
            self._out.append(Shut(self._attempt))
        self._step("end")
        self._wake_at = inf
        for call in self._calls.take_all():
            if call.ticket:
                sent = error.about_call(sent=call.sends > 0) if isinstance(error, SessionOver) else error
                self._out.append(Failed(call.ticket, sent))
        self._out += [Became(State.OVER), Over(error)]

    # --- sessions -------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        if not self._token:
            self._send({"msg": "login", **self._login()})
            return
        told, _ = self.rooms.resume_list()
        message: Message = {"msg": "session.resume", "resume": self._token, "n": self._last_direct}
        self._send({**message, "rooms": told})

    def _entry(self, reply: Message, now: float) -> None:
        """The answer to login or session.resume."""
        if reply["status"] == 0 and text(reply, "resume"):
            self._ready_since = now
            self._entered(reply, resumed=bool(self._token))
            return
        error = error_of(reply)
        if error.error in PUT_OFF:
            self._give_up(str(error), now, (error.retry_after_ms or 0) / 1000)
        elif not self._token:
            self._end(error)
        elif self._options.login_again:
            self._forget_session(error.reason)
            self._step("enter again")
            self._enter()
        else:
            self._end(SessionExpired(error.reason))

    def _entered(self, reply: Message, *, resumed: bool) -> None:
        self._step("entered")
        self._wake_at = inf
        again = self._had_session and not resumed
        self._token = text(reply, "resume")
        self._had_session = True
        self.user, self.oid = text(reply, "user"), text(reply, "oid")
        self._out.append(Became(State.READY))
        if again:
            self._out.append(Deliver(LoggedInAgain()))
            self._join_all_again()
        else:
            for call in self._calls.in_order():
                self._send_again(call)
        if resumed:
            self._catch_up()

    def _forget_session(self, reason: str) -> None:
        """Calls that were sent are in doubt for ever; the others, and joins, go to the next session."""
        self._token, self._last_direct = "", 0
        kept = []
        for call in self._calls.take_all():
            if not call.ticket:
                continue
            if call.sends and call.room_joined is None:
                self._out.append(Failed(call.ticket, SessionExpired(reason, may_have_run=True)))
            else:
                kept.append(call)
        for call in kept:
            self._calls.number(call)

    def _join_all_again(self) -> None:
        waiting = self._calls.take_all()
        for room in self.rooms.forget_session():
            self._join_again(room, REJOIN_HISTORY)
        for call in waiting:
            self._begin(call)

    def _catch_up(self) -> None:
        """After a resume: rooms that did not fit into it, and all rooms' values, which nobody repeats."""
        _, rest = self.rooms.resume_list()
        for room in self.rooms.entered():
            self._join_again(room, REJOIN_HISTORY if room in rest else 0)

    def _join_again(self, room: str, history: int) -> None:
        self._begin(Call(0, {"msg": "room.join", "room": room, "history": history}, inf))

    # --- calls ----------------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        self._calls.number(call)
        room = call.room_joined
        if room is not None and call.ticket:
            self.rooms.join_sent(room)
        elif call.message["msg"] == "room.leave":
            self.rooms.leave_sent(str(call.message.get("room")))
        if self.state is State.READY:
            self._send_call(call)

    def _send_again(self, call: Call) -> None:
        """On another connection."""
        call.connections += call.sends > 0
        if call.connections < CLIENT_CONNECTIONS:
            self._send_call(call)
            return
        self._calls.answered(call.id)
        reason = f"{call.message['msg']!s} had no answer on {call.connections} connections; it may have run"
        self._fail(call, ClientError("timeout", reason))

    def _send_call(self, call: Call) -> None:
        call.sends += 1
        call.again_at = inf
        self._send({**call.message, "id": call.id})

    def _reply(self, reply: Message, now: float) -> None:
        number = reply.get("id")
        if type(number) is int:
            call = self._calls.get(number)
            if call is not None and self.state is State.READY:
                self._call_reply(call, reply, now)
            return
        match reply.get("msg"):
            case "hello" if reply["status"] == 0:
                self._greeted(reply)
            case "login" | "session.resume" if self.state is State.ENTERING:
                self._entry(reply, now)
            case "logout" if self.state is State.LEAVING:
                self._end(SessionClosed("the client was closed"))
            case "error":
                self._told = str(error_of(reply))

    def _greeted(self, reply: Message) -> None:
        self._keepalive_s = max(1.0, whole(reply, "keepalive_ms", int(KEEPALIVE_S * 1000)) / 1000)
        limits = reply.get("limits")
        if isinstance(limits, dict):
            usual = Limits()
            self.limits = Limits(
                message_bytes=whole(limits, "message_bytes", usual.message_bytes),
                fields=whole(limits, "fields", usual.fields),
                nesting_levels=whole(limits, "nesting_levels", usual.nesting_levels),
            )

    def _call_reply(self, call: Call, reply: Message, now: float) -> None:
        error = None if reply["status"] == 0 else error_of(reply)
        if error is not None and error.error in PUT_OFF:
            at = now + max(RETRY_S, (error.retry_after_ms or 0) / 1000)
            if at <= call.until:
                if error.error == NEVER_RAN:
                    self._calls.put_off(call, at)
                else:
                    call.again_at = at
                return
        self._calls.answered(call.id)
        if error is not None:
            self._fail(call, error)
            return
        if call.room_joined is not None:
            if call.sends > 1:
                # this may be the kept reply of a former connection, and what followed it went there
                self._begin(Call(call.ticket, call.message, call.until))
                return
            self._deliver(*self.rooms.joined(call.room_joined, whole(reply, "seq"), call.history))
        elif call.message["msg"] == "room.leave":
            self.rooms.left(str(call.message.get("room")))
        if call.ticket:
            self._out.append(Answered(call.ticket, result_of(reply)))

    def _fail(self, call: Call, error: ClientError) -> None:
        if call.room_joined is not None:
            self.rooms.join_refused(call.room_joined)
        elif call.message["msg"] == "room.leave":
            self.rooms.left(str(call.message.get("room")))
        if call.ticket:
            self._out.append(Failed(call.ticket, error))
        elif call.room_joined is not None:
            self.rooms.left(call.room_joined)
            self._deliver(RoomLost(call.room_joined, error))

    # --- events ---------------------------------------------------------------------------------------------

    def _event(self, message: Message, now: float) -> None:
        name = text(message, "msg")
        if name == "goodbye":
            self._out.append(Shut(self._attempt))
            self._closed(whole(message, "code"), text(message, "reason"), now)
        elif name.startswith("room.") and "room" in message:
            self._deliver(*self.rooms.received(message))
        elif name == "session.gap":
            self._direct_gap(whole(message, "from"), whole(message, "to"), Loss.GONE)
        elif name not in _HANDLED:
            self._direct(name, message)

    def _direct(self, name: str, message: Message) -> None:
        n = whole(message, "n")
        if n:
            if n <= self._last_direct:
                return
            self._direct_gap(self._last_direct + 1, n - 1, Loss.SKIPPED)
            self._last_direct = n
        fields: dict[str, Value] = {key: value for key, value in message.items() if key not in ("msg", "n")}
        self._deliver(DirectEvent(name, n, fields))

    def _direct_gap(self, first: int, last: int, cause: Loss) -> None:
        first = max(first, self._last_direct + 1)
        if last >= first:
            self._last_direct = last
            self._deliver(EventsLost(first, last, cause))

    # --- effects --------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._out.append(Send(message))

    def _deliver(self, *events: Event) -> None:
        self._out += [Deliver(event) for event in events]

    def _effects(self) -> list[Effect]:
        effects, self._out = self._out, []
        return effects

    def check_invariants(self) -> None:
        """Called after each test."""
        self._calls.check_invariants()
        self.rooms.check_invariants()
        assert not self._out, "effects were left behind"
        assert self.state is not State.OVER or not len(self._calls)
        assert self.state is not State.READY or self._token
        assert (self._wake_at < inf) == (self.state not in (State.NEW, State.READY, State.OVER))
