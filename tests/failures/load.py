"""The load: clients on plain sockets that ask in waves, resume elsewhere and ask again what was open.

Guards three rules. Every wave fills a client's window, so that at any fault at least eight requests per
client are under way. A client resends under the same id and never gives up an id silently. And it decides
nothing: all bytes go to the transcript.

It runs in a thread of its own, so that whoever breaks the cluster may block.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from tests.failures import workloads
from tests.failures.transcript import LOST, OPENED, RECEIVED, SENT, Part, Transcript
from tests.failures.wire import Cutter, Fields, frame

Address = tuple[str, int]

WINDOW: Final = 8
STALL_S: Final = 2.0
"""A client that waits for an answer and hears nothing for this long tries another gateway."""
AGAIN_S: Final = 0.05
"""Between two attempts to connect, longer with each that fails."""
LONGEST_AGAIN_S: Final = 0.5


class Line(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.opened(self)

    def data_received(self, data: bytes) -> None:
        self.client.received(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        self.client.lost(self, str(error or "closed by the gateway"))

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Client:
    """One session: over as many connections as it takes. All methods run in the load's loop."""

    def __init__(self, load: Load, part: Part, random: Random) -> None:
        self.part = part
        self.is_ready = False
        self.asked = 0
        self.open: OrderedDict[int, bytes] = OrderedDict()
        self.room_seq: int | None = None
        self._load = load
        self._random = random
        self._gateway = part.number
        self._line: Line | None = None
        self._connections = self._refusals = 0
        self._cutter = Cutter(part.encoding)
        self._token = ""
        self._heard = 0.0
        self._events = 0
        self._asked_at: dict[int, float] = {}
        self._answered_asked = 0.0

    # --- connections ---

    def connect(self) -> None:
        """Try the next gateway."""
        self._connections += 1
        self._gateway += 1
        self._cutter = Cutter(self.part.encoding)
        self._line = Line(self, self._connections)
        self._heard = time.monotonic()
        self._load.run(self._connect(self._line))

    async def _connect(self, line: Line) -> None:
        number = self._gateway
        if line.number == 1 and self._load.first_gateway is not None:
            number = self._load.first_gateway
        address = self._load.gateways[number % len(self._load.gateways)]
        self._write_down(OPENED, "{}:{}".format(*address).encode())
        try:
            async with asyncio.timeout(self._load.stall_s):
                await self._load.loop.create_connection(lambda: line, *address)
        except (OSError, TimeoutError) as error:
            self.lost(line, str(error) or "no connection in time")

    def opened(self, line: Line) -> None:
        """Say who we are."""
        self._refusals = 0
        if line is not self._line:
            line.drop()
            return
        if not self._token:
            self._say({"msg": "login", "user": self.part.user})
            return
        seen: Fields = {"msg": "session.resume", "resume": self._token, "n": self._events}
        if self.room_seq is not None:
            seen["rooms"] = [{"room": self.part.room, "seq": self.room_seq}]
        self._say(seen)

    def lost(self, line: Line, why: str) -> None:
        """Try again a little later, elsewhere."""
        if line is not self._line:
            return
        self._line = None
        self.is_ready = False
        self._write_down(LOST, why.encode())
        if not self._load.is_closing:
            self._refusals += 1
            wait_s = min(AGAIN_S * self._refusals, LONGEST_AGAIN_S)
            self._load.loop.call_later(wait_s * self._random.uniform(0.5, 1.5), self.connect)

    def look(self, now: float) -> None:
        """Leave a gateway that says nothing although something was asked."""
        waits = bool(self.open) or not self.is_ready
        if self._line is not None and waits and now - self._heard > self._load.stall_s:
            line = self._line
            self.lost(line, "silent for too long")
            line.drop()

    def answered_after(self, since: float) -> bool:
        """Whether something that left after this was answered."""
        return self._answered_asked > since

    def close(self) -> None:
        """The end of the trial."""
        if self._line is not None:
            self._line.drop()

    # --- what is said ---

    def wave(self) -> None:
        """Fill the window."""
        if not self.is_ready or len(self.open) >= self._load.window:
            return
        if not any(self.open):
            self._heard = time.monotonic()
        self._say(*[self._next() for _ in range(self._load.window - len(self.open))])

    def _next(self) -> Fields:
        self.asked += 1
        asked = workloads.request(self.part, self.asked, self._random)
        self.open[self.asked] = frame(self.part.encoding, asked)
        self._asked_at[self.asked] = time.monotonic()
        return asked

    def _say(self, *messages: Fields) -> None:
        self._send(b"".join(frame(self.part.encoding, message) for message in messages))

    def _send(self, data: bytes) -> None:
        assert self._line is not None
        self._write_down(SENT, data)
        self._line.write(data)

    def _write_down(self, what: str, data: bytes) -> None:
        self._load.transcript.add(time.monotonic(), self.part.number, self._connections, what, data)

    # --- what is heard ---

    def received(self, line: Line, data: bytes) -> None:
        """Bytes of the present connection."""
        if line is not self._line:
            return
        self._heard = time.monotonic()
        self._load.transcript.add(self._heard, self.part.number, line.number, RECEIVED, data)
        for message in self._cutter.feed(data):
            if "status" in message:
                self._answered(line, message)
            elif message["msg"] == "room.message" and message["room"] == self.part.room:
                self.room_seq = int(message["seq"])
            elif "n" in message:
                self._events = int(message["n"])

    def _answered(self, line: Line, reply: Fields) -> None:
        if reply["msg"] in ("login", "session.resume"):
            self._entered(line, reply)
            return
        number = int(reply.get("id", 0))
        self.open.pop(number, None)
        if reply["status"] == 0:
            self._answered_asked = max(self._answered_asked, self._asked_at.pop(number, 0.0))
        if reply["msg"] == "room.join" and self.room_seq is None and reply["status"] == 0:
            self.room_seq = int(reply["seq"])
        if self.room_seq is not None or not self.part.room:
            self.is_ready = True

    def _entered(self, line: Line, reply: Fields) -> None:
        if reply["status"] != 0:
            if reply["error"] == "session_expired":
                self._begin_anew()
            line.drop()
            return
        self._token = str(reply["resume"])
        if self.open:
            self._send(b"".join(self.open.values()))
        if self.part.room and self.room_seq is None:
            if not self.open:
                self.asked += 1
                join = {"msg": "room.join", "room": self.part.room, "id": self.asked}
                self.open[self.asked] = frame(self.part.encoding, join)
                self._say(join)
            return
        self.is_ready = True

    def _begin_anew(self) -> None:
        """The session is lost; its open requests stay without an answer."""
        self._token = ""
        self.open.clear()
        self.room_seq = None
        self._events = 0


class Load:
    """All clients of a trial, in a thread. Begins to ask when `start` has returned."""

    def __init__(
        self,
        gateways: list[Address],
        parts: list[Part],
        *,
        seed: int = 1,
        window: int = WINDOW,
        period_s: float = 0.06,
        stall_s: float = STALL_S,
        first_gateway: int | None = None,
    ) -> None:
        self.gateways = gateways
        self.window = window
        self.stall_s = stall_s
        self.first_gateway = first_gateway
        """Where all begin; else they are spread over all."""
        self.is_closing = False
        self.transcript = Transcript(list(parts))
        self.loop = asyncio.new_event_loop()
        self.clients = [Client(self, part, Random(seed * 1_000 + part.number)) for part in parts]
        self._period_s = period_s
        self._asks = False
        self._when_full: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)

    def start(self) -> None:
        """Connect all clients; use `ready` to wait for them."""
        self._thread.start()

    def ask(self) -> None:
        """Begin the waves."""
        self._asks = True

    def ready(self) -> bool:
        """Whether every client has a session and is in its room now."""
        return all(client.is_ready for client in self.clients)

    def when_full(self, work: Callable[[], None], timeout_s: float) -> bool:
        """Do this, in the load's thread, in the moment in which every client's window is open in full;
        whether that came in time. Nothing is heard between the two."""
        done = threading.Event()

        def both() -> None:
            work()
            done.set()

        self._when_full = both
        return done.wait(timeout_s)

    def finished(self) -> bool:
        """Whether nothing is open any more (after `ask_no_more`)."""
        return self.ready() and not any(client.open for client in self.clients)

    def ask_no_more(self) -> None:
        """End the waves; what is open is still waited for and sent again."""
        self._asks = False

    def room_seqs(self) -> dict[str, set[int]]:
        """How far the members of each room have heard."""
        found: dict[str, set[int]] = {}
        for client in self.clients:
            if client.part.room:
                found.setdefault(client.part.room, set()).add(client.room_seq or 0)
        return found

    def close(self) -> Transcript:
        """End all connections and the thread; what was said."""
        self.is_closing = True
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5)
        return self.transcript

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else, in the load's loop."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        for client in self.clients:
            self.loop.call_soon(client.connect)
        self.loop.call_soon(self._turn)
        self.loop.run_forever()
        for client in self.clients:
            client.close()
        for task in self._tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def _turn(self) -> None:
        now = time.monotonic()
        for client in self.clients:
            client.look(now)
            if self._asks:
                client.wave()
        if self._when_full and all(len(client.open) >= self.window for client in self.clients):
            work, self._when_full = self._when_full, None
            work()
        self.loop.call_later(self._period_s, self._turn)
