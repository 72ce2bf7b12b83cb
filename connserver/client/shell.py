"""The asyncio client: connections, clocks and futures around the machine that decides.

Guards one rule: whatever the machine is told is told in the loop's thread, with the number of the
connection it is about, and all that it wants is done before it is told anything else.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import ssl
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, assert_never

from websockets.exceptions import WebSocketException

from connserver.client.addresses import Address
from connserver.client.events import (
    ClientEvent,
    DirectEvent,
    Event,
    EventsLost,
    LoggedInAgain,
    RoomChange,
    RoomGap,
    RoomLost,
    RoomMessage,
)
from connserver.client.machine import (
    Answered,
    Became,
    Deliver,
    Effect,
    Failed,
    Machine,
    Open,
    Options,
    Over,
    Send,
    Shut,
    State,
)
from connserver.client.room import Room
from connserver.client.streams import Stream, direct_loss
from connserver.client.transports import Framed, Transport, open_transport, reason_of
from connserver.encodings import Encoding, encode
from connserver.errors import ClientError, SessionClosed, SessionOver, Unreachable
from connserver.limits import CLIENT_EVENTS, CLIENT_IN_FLIGHT, CLIENT_ROOMS
from connserver.model import Message, Value, check_message

ENCODINGS: Final = {"json": Encoding.JSON, "msgpack": Encoding.MSGPACK}


class Client:
    """One user's session with a cluster, over whichever of the gateways takes it.

    >>> async with Client("127.0.0.1:9000", "127.0.0.1:9001", user="alice") as me:
    ...     room = await me.join("lobby", history=20)
    ...     await room.send(text="hi")
    ...     async for event in room.events():
    ...         print(event)

    `gateways`: `host:port` (JSON lines over TCP), `tls://…`, `ws://…` or `wss://…`; they are tried in turn.
    `user`, `token`: what `login` is given; a `token` that is a function is asked at each login.
    `encoding`: "json" or, through WebSockets only, "msgpack", which also carries bytes.
    `login_again`: when the session has expired, begin another one and join its rooms again
    (LoggedInAgain among the events); otherwise the client ends with SessionExpired.
    `patience_s`: for so long a call that is answered "not now" (rate_limited, overloaded, unavailable,
    timeout) is tried again, no sooner than the cluster says, before that error is raised.
    `in_flight`: calls under way at once, at most 64; the next one waits. `events`: events kept of each room,
    and for this user, while the program does not read them. `silence_s`: a connection that is silent for so
    long counts as dead; else twice the gateway's keepalive. `on_state` is told whenever the client becomes
    READY, WAITING (for another connection; calls wait with it) or OVER.
    """

    def __init__(
        self,
        *gateways: str,
        user: str | None = None,
        token: str | Callable[[], str] | None = None,
        encoding: str = "json",
        login_again: bool = False,
        patience_s: float = 0.0,
        in_flight: int = CLIENT_IN_FLIGHT,
        events: int = CLIENT_EVENTS,
        silence_s: float | None = None,
        tls: ssl.SSLContext | None = None,
        on_state: Callable[[State], None] | None = None,
    ) -> None:
        if not gateways:
            raise ValueError("a client needs the address of a gateway, such as 127.0.0.1:9000")
        self._addresses = [Address.parse(gateway) for gateway in gateways]
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding: one of {', '.join(ENCODINGS)} is wanted, not {encoding!r}")
        self._encoding = ENCODINGS[encoding]
        if self._encoding is not Encoding.JSON and not all(one.is_websocket for one in self._addresses):
            raise ValueError(f"{encoding} is spoken through WebSockets only: write ws:// or wss:// addresses")
        self._user, self._token, self._tls = user, token, tls
        options = Options(
            addresses=len(gateways),
            login_again=login_again,
            patience_s=patience_s,
            in_flight=in_flight,
            silence_s=silence_s,
        )
        self._machine = Machine(options, self._login, random.random)
        self._most = events
        self._on_state = on_state
        self._futures: dict[int, asyncio.Future[Message]] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._rooms: dict[str, Room] = {}
        self._stream: Stream[ClientEvent] = Stream(events, direct_loss)
        self._transport: Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[None] | None = None
        self._over: asyncio.Event = asyncio.Event()
        self._error: SessionOver | ClientError | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def _login(self) -> Message:
        token = self._token() if callable(self._token) else self._token
        given = {"user": self._user, "token": token}
        return {name: value for name, value in given.items() if value is not None}

    # --- coming and going -----------------------------------------------------------------------------------

    async def open(self, timeout_s: float = 10.0) -> Client:
        """Log in. Unreachable if no gateway takes us in time, ClientError if the login is refused."""
        if self._ready is not None:
            raise RuntimeError("a client is opened once; make another one")
        self._ready = asyncio.get_running_loop().create_future()
        self._do(self._machine.start(self._now()))
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), timeout_s)
        except TimeoutError:
            await self.close()
            tried = ", ".join(map(str, self._addresses))
            raise Unreachable(
                f"no session at {tried} within {timeout_s:g} s: {self._machine.last_failure}"
            ) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Log out and close. Calls that are under way raise SessionClosed; rooms are left."""
        if self._machine.state is not State.OVER:
            self._do(self._machine.close(self._now()))
            await self._over.wait()
        while self._closing:
            await asyncio.wait(self._closing)

    async def __aenter__(self) -> Client:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def state(self) -> State:
        """How the client is doing."""
        return self._machine.state

    @property
    def user(self) -> str | None:
        """The name this client is logged in under: a guest's is the cluster's choice."""
        return self._machine.user

    @property
    def oid(self) -> str | None:
        """The id of the user's object, as 16 hex digits."""
        return self._machine.oid

    # --- calls ----------------------------------------------------------------------------------------------

    async def call(self, method: str, /, **fields: Value) -> Message:
        """Call a method; the fields of its result.

        It runs once, also when connections break or gateways and workers die meanwhile; bound the wait with
        `asyncio.timeout`. Raises Refused (the plugin said no: `code`), another ClientError (`error`,
        `reason`, `retry_after_ms`, `incident`), or SessionOver (`may_have_run`).
        """
        return await self._ask(method, fields)

    async def _ask(self, method: str, fields: Message) -> Message:
        message: Message = {**fields, "msg": method}
        self._check(message)
        await self._turn()
        ticket, effects = self._machine.call(message, self._now())
        future = self._futures[ticket] = asyncio.get_running_loop().create_future()
        self._do(effects)
        try:
            result: Message = await future
            return result
        finally:
            if self._futures.pop(ticket, None) is not None and future.cancelled():
                self._machine.cancel(ticket)
                self._do([])

    def _check(self, message: Message) -> None:
        """Refuse here what the gateway would refuse without saying which call it was."""
        if "id" in message:
            raise ClientError("bad_argument", "id: the client numbers its calls itself")
        limits = self._machine.limits
        check_message(message, limits)
        size = len(encode(self._encoding, {**message, "id": 2**53 - 1}))
        if size > limits.message_bytes:
            raise ClientError("too_large", f"a message of {size} bytes; {limits.message_bytes} are taken")

    async def _turn(self) -> None:
        """Wait until one more call may be under way, in the order of asking."""
        if self._ready is None:
            raise RuntimeError("the client is not open: `async with` it, or `await client.open()`")
        if self._waiting or (self._machine.state is not State.OVER and self._machine.is_full):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._waiting.remove(turn)
                self._next_turn()
                raise
            self._waiting.remove(turn)
        if self._error is not None:
            raise self._error.about_call(sent=False) if isinstance(self._error, SessionOver) else self._error

    def _next_turn(self) -> None:
        """Wake the first that waits; it takes its place itself, and wakes the next by what it does."""
        over = self._machine.state is State.OVER
        for turn in list(self._waiting) if over else itertools.islice(self._waiting, 1):
            if not turn.done() and (over or not self._machine.is_full):
                turn.set_result(None)

    # --- rooms and events -----------------------------------------------------------------------------------

    async def join(self, room: str, *, history: int = 0) -> Room:
        """Join a room; its last `history` events (at most 256) come first in `events()`."""
        held = room in self._rooms
        self.room(room)
        try:
            await self._ask("room.join", {"room": room, "history": history})
        except BaseException:
            if not held:
                self._rooms.pop(room, None)
            raise
        return self.room(room)

    def room(self, name: str) -> Room:
        """A room that this client is in already, such as one that a plugin has taken its user into."""
        if name not in self._rooms:
            self._rooms[name] = Room(name, self._ask_room, self._machine.rooms.get, self._most)
        return self._rooms[name]

    async def _ask_room(self, method: str, fields: Message) -> Message:
        result = await self._ask(method, fields)
        if method == "room.leave":
            left = self._rooms.pop(str(fields["room"]), None)
            if left is not None:
                left.stream.end(None)
        return result

    def events(self) -> Stream[ClientEvent]:
        """What is for this user alone, for `async for`: DirectEvent in order, EventsLost, LoggedInAgain.

        One reader at a time. It ends when the client is closed; if the session ends otherwise it raises
        that SessionOver.
        """
        return self._stream

    def _deliver(self, event: Event) -> None:
        match event:
            case DirectEvent() | EventsLost() | LoggedInAgain():
                self._stream.put(event)
            case RoomMessage() | RoomGap() | RoomChange() | RoomLost():
                if event.room in self._rooms or len(self._rooms) < CLIENT_ROOMS:
                    self.room(event.room).stream.put(event)
            case _:
                assert_never(event)

    # --- the machine ----------------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _do(self, effects: list[Effect]) -> None:
        """Perform what the machine wants, and set the clock for when it wants to be asked again."""
        for effect in effects:
            match effect:
                case Send():
                    if self._transport is not None:
                        self._transport.send(effect.message)
                case Answered():
                    future = self._futures.get(effect.ticket)
                    if future is not None and not future.done():
                        future.set_result(effect.result)
                case Failed():
                    future = self._futures.get(effect.ticket)
                    if future is not None and not future.done():
                        future.set_exception(effect.error)
                case Deliver():
                    self._deliver(effect.event)
                case Open():
                    self._connecting = asyncio.create_task(self._open(effect))
                    self._keep(self._connecting)
                case Shut():
                    self._shut()
                case Became():
                    self._became(effect.state)
                case Over():
                    self._ended(effect.error)
                case _:
                    assert_never(effect)
        self._next_turn()
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self._machine.deadline
        if self._timer is not None:
            if self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if deadline != float("inf"):
            self._timer = asyncio.get_running_loop().call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._do(self._machine.tick(self._now()))

    async def _open(self, wanted: Open) -> None:
        attempt, address = wanted.attempt, self._addresses[wanted.address]

        def received(message: Message) -> None:
            self._do(self._machine.received(attempt, message, self._now()))

        def lost(reason: str, code: int) -> None:
            self._do(self._machine.lost(attempt, f"{address}: {reason}", self._now(), code))

        try:
            transport = await open_transport(address, self._encoding, self._tls, received, lost)
        except (OSError, WebSocketException, TimeoutError, EOFError) as error:
            lost(reason_of(error), 0)
            return
        self._transport = transport
        if isinstance(transport, Framed):
            self._keep(asyncio.create_task(transport.ended()))
        self._do(self._machine.opened(attempt, self._now()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _shut(self) -> None:
        if self._connecting is not None and self._connecting is not asyncio.current_task():
            self._connecting.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _became(self, state: State) -> None:
        if state is State.READY and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        if self._on_state is not None:
            self._on_state(state)

    def _ended(self, error: SessionOver | ClientError) -> None:
        self._error = error
        asked_for = None if isinstance(error, SessionClosed) else error
        for room in self._rooms.values():
            room.stream.end(asked_for)
        self._stream.end(asked_for)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # whoever waits for it gets it; nobody has to
        self._over.set()
