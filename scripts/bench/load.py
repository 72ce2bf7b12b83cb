"""The load generator: a process of its own, so that its cost is not the server's.

    python scripts/bench/load.py SCENARIO ENDPOINT[,ENDPOINT]... [--seconds S] [--clients N] [--rate R]

Scenarios, each printing one JSON line:

* `echo`: N clients, each with W requests in flight (or, with --rate, R requests a second over all
  of them, sent when they are due whether or not the last was answered).
* `deliver`: N clients in one room, one of them sends R a second; every receipt counts.
* `idle`: N clients log in and stay until standard input ends.
* `connect`: clients connect, log in and leave, W at a time.

`--plain` speaks to a server that only echoes or fans out bytes: no login, no rooms.
Latencies are in milliseconds, measured per message from when it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import deque
from typing import Any

import uvloop

PADDING = "x" * 60


class Client(asyncio.Protocol):
    """One connection that counts NUL-terminated frames and times those it waits for."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.number = number
        self.due: deque[float] = deque()
        self.ready = asyncio.get_running_loop().create_future()
        self.sent = 0
        self.rest = b""
        self.starting = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self.load.plain:
            self.starting = False
            self.ready.set_result(None)
            return
        user = f"load-{self.load.tag}-{self.number}"
        messages = [{"msg": "login", "user": user, "id": 1}]
        if self.load.room:
            messages.append({"msg": "room.join", "room": self.load.room, "id": 2})
        for message in messages:
            self.transport.write(json.dumps(message).encode() + b"\0")  # type: ignore[attr-defined]
        self.wanted = len(messages)

    def data_received(self, data: bytes) -> None:
        if self.starting:
            self._start(data)
            return
        count = data.count(b"\0")
        if self.load.counting:
            self.load.received += count
        now = time.perf_counter()
        due = self.due
        for _ in range(min(count, len(due))):
            self.load.latencies.append(now - due.popleft())
        if self.load.window and count and not self.load.stopping:
            self.ask(count)

    def _start(self, data: bytes) -> None:
        frames = (self.rest + data).split(b"\0")
        self.rest = frames.pop()
        for frame in frames:
            reply = json.loads(frame)
            if reply.get("status") == 1:
                raise SystemExit(f"the server refused: {frame.decode()}")
            if "status" in reply:
                self.wanted -= 1
        if self.wanted == 0 and not self.ready.done():
            self.starting = False
            self.ready.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(SystemExit(f"connection lost at the start: {error}"))
        elif not self.load.stopping:
            self.load.lost += 1

    def ask(self, count: int) -> None:
        """Send requests; each is due now."""
        now = time.perf_counter()
        self.due.extend([now] * count)
        parts = []
        for _ in range(count):
            self.sent += 1
            parts.append(self.load.request(self.sent))
        self.transport.write(b"".join(parts))  # type: ignore[attr-defined]


class Load:
    """What all clients of a run share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.plain = options.plain
        self.tag = options.tag
        self.window = options.window if options.scenario == "echo" and not options.rate else 0
        self.room = "bench" if options.scenario == "deliver" and not options.plain else ""
        self.options = options
        self.received = 0
        self.lost = 0
        self.counting = False
        self.stopping = False
        self.latencies: list[float] = []
        pairs = [one.rpartition(":") for one in options.endpoint.split(",")]
        self.addresses = [(host, int(port)) for host, _, port in pairs]

    def request(self, number: int) -> bytes:
        """About 105 bytes, as a game's message is."""
        if self.room:
            return b'{"msg":"room.send","room":"bench","text":"%s"}\0' % PADDING.encode()
        return b'{"msg":"ping","id":%d,"text":"%s"}\0' % (number + 1, PADDING.encode())

    async def connect(self, number: int) -> Client:
        """One client, ready."""
        loop = asyncio.get_running_loop()
        host, port = self.addresses[number % len(self.addresses)]
        _, client = await loop.create_connection(lambda: Client(self, number), host, port)
        await client.ready
        return client

    async def clients(self, count: int) -> list[Client]:
        """Many, fifty at a time."""
        found: list[Client] = []
        for start in range(0, count, 50):
            numbers = range(start, min(start + 50, count))
            found += await asyncio.gather(*[self.connect(number) for number in numbers])
        return found

    async def measure(self, seconds: float) -> dict[str, Any]:
        """Count and time for a while."""
        mark("begin")
        self.latencies.clear()
        self.received, self.counting = 0, True
        begin = time.perf_counter()
        await asyncio.sleep(seconds)
        self.counting = False
        took = time.perf_counter() - begin
        mark("end")
        times = sorted(self.latencies)
        return {
            "received": self.received,
            "seconds": round(took, 3),
            "per_s": round(self.received / took, 1),
            "p50_ms": quantile(times, 0.5),
            "p99_ms": quantile(times, 0.99),
            "lost_connections": self.lost,
        }


def quantile(times: list[float], part: float) -> float:
    """In milliseconds; 0 where nothing was timed."""
    return round(times[min(len(times) - 1, int(len(times) * part))] * 1000, 3) if times else 0.0


def mark(what: str) -> None:
    """Tell the caller when the measured time begins and ends."""
    print(json.dumps({"mark": what}), flush=True)


async def pace(clients: list[Client], rate: float, load: Load) -> None:
    """Send `rate` a second over the clients in turn, at the times they are due."""
    gc.disable()  # a collection here would be measured as the server's
    begin, number = time.perf_counter(), 0
    while not load.stopping:
        due = int((time.perf_counter() - begin) * rate)
        while number < due:
            clients[number % len(clients)].ask(1)
            number += 1
        await asyncio.sleep(0.001)


async def main(options: argparse.Namespace) -> None:
    load = Load(options)
    if options.scenario == "connect":
        print(json.dumps(await connect_rate(load)), flush=True)
        return
    clients = await load.clients(options.clients)
    if options.scenario == "idle":
        mark("begin")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        return
    pacing = None
    if options.scenario == "deliver":
        pacing = asyncio.create_task(pace(clients[:1], options.rate or 50, load))
    elif options.rate:
        pacing = asyncio.create_task(pace(clients, options.rate, load))
    else:
        for client in clients:
            client.ask(load.window)
    await asyncio.sleep(options.warm_up)
    print(json.dumps(await load.measure(options.seconds)), flush=True)
    load.stopping = True
    if pacing:
        await pacing


async def connect_rate(load: Load) -> dict[str, Any]:
    """Clients that log in and leave, `window` at a time."""
    done = 0
    end = time.perf_counter() + load.options.seconds
    load.stopping = True

    async def one(lane: int) -> None:
        nonlocal done
        number = lane
        while time.perf_counter() < end:
            client = await load.connect(number)
            client.transport.close()  # type: ignore[attr-defined]
            number += load.options.window
            done += 1

    mark("begin")
    begin = time.perf_counter()
    await asyncio.gather(*[one(lane) for lane in range(load.options.window)])
    took = time.perf_counter() - begin
    mark("end")
    return {"received": done, "seconds": round(took, 3), "per_s": round(done / took, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=["echo", "deliver", "idle", "connect"])
    parser.add_argument("endpoint")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--tag", default="a")
    uvloop.run(main(parser.parse_args()))
