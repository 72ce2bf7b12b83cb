"""The clients of scripts/bench/rooms: very many sockets in one process, read with epoll.

What is read is only counted, by its terminators, but for some members whose messages are taken apart for
latency: the load must cost less than what it measures. Times are when a message was due.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import select
import socket
import time
from collections.abc import Iterator

LOGINS_AT_ONCE = 200
WITNESSES = 300
"""Members, spread over all gateways, of which each message's time is taken."""
STAMP = b'"due":'
PATIENCE_S = 120.0


class Client:
    """One connection."""

    __slots__ = ("due", "number", "rest", "sock", "waiting")

    def __init__(self, number: int, address: tuple[str, int]) -> None:
        self.number = number
        self.rest = b""
        self.waiting = 0
        self.due = 0.0
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)

    def send(self, *messages: dict[str, object]) -> None:
        """Messages that are answered."""
        self.waiting += len(messages)
        self.sock.send(b"".join(json.dumps(message).encode() + b"\0" for message in messages))


class Load:
    """All clients, and what they have read."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.all: list[Client] = []
        self.received = self.bytes = 0
        self.latencies: list[float] = []
        self.witnesses: set[int] = set()

    def open(self, count: int) -> Iterator[list[Client]]:
        """Logged-in clients, some at a time."""
        addresses = [address.rsplit(":", 1) for address in self.options.gateways]
        for start in range(0, count, LOGINS_AT_ONCE):
            some = []
            for number in range(start, min(start + LOGINS_AT_ONCE, count)):
                host, port = addresses[number % len(addresses)]
                client = Client(number, (host, int(port)))
                self.clients[client.sock.fileno()] = client
                self.epoll.register(client.sock.fileno(), select.EPOLLIN)
                client.send({"msg": "login", "user": f"member{number}", "id": 1})
                some.append(client)
            self.answered(some)
            self.all += some
            yield some

    def answered(self, clients: list[Client]) -> None:
        """Read until these clients have all their answers."""
        until = time.monotonic() + PATIENCE_S
        waiting = {client.sock.fileno() for client in clients if client.waiting}
        while waiting:
            if time.monotonic() > until:
                raise SystemExit(f"{len(waiting)} clients were not answered within {PATIENCE_S} s")
            for client in self.poll(0.5):
                if not client.waiting:
                    waiting.discard(client.sock.fileno())

    def poll(self, timeout_s: float) -> list[Client]:
        """Read what there is: the clients that got something."""
        found = []
        for number, _ in self.epoll.poll(timeout_s):
            client = self.clients[number]
            try:
                data = client.sock.recv(262_144)
            except BlockingIOError:
                continue
            if not data:
                raise SystemExit(f"client {client.number} was disconnected: {client.rest[-200:]!r}")
            self.read(client, data)
            found.append(client)
        return found

    def read(self, client: Client, data: bytes) -> None:
        """Count messages and answers; of witnesses note how late they are."""
        self.bytes += len(data)
        self.received += data.count(b"\0")
        if client.waiting:
            *frames, client.rest = (client.rest + data).split(b"\0")
            for frame in frames:
                if b'"status":' in frame:
                    if b'"status":0' not in frame:
                        raise SystemExit(f"refused: {frame.decode()}")
                    client.waiting -= 1
        elif client.number in self.witnesses:
            now = time.monotonic()
            *frames, client.rest = (client.rest + data).split(b"\0")
            for frame in frames:
                at = frame.find(STAMP)
                if at >= 0:
                    self.latencies.append(now - float(frame[at + len(STAMP) :].split(b",")[0].rstrip(b"}")))

    def measure(self, seconds: float) -> None:
        """Count from now on."""
        mark("begin")
        self.received = self.bytes = 0
        self.latencies.clear()

    def report(self, seconds: float, **more: object) -> None:
        """What was counted."""
        mark("end")
        late = sorted(self.latencies)
        found = {
            "received_per_s": round(self.received / seconds),
            "mib_per_s": round(self.bytes / seconds / (1 << 20), 2),
            "timed": len(late),
            "p50_ms": quantile(late, 0.5),
            "p99_ms": quantile(late, 0.99),
            "max_ms": quantile(late, 1.0),
        }
        print(json.dumps({**found, **more}), flush=True)


def quantile(times: list[float], part: float) -> float | None:
    """In milliseconds."""
    return round(times[min(len(times) - 1, int(len(times) * part))] * 1000, 1) if times else None


def mark(what: str) -> None:
    """Tell the caller when the measured time begins and ends."""
    print(json.dumps({"mark": what}), flush=True)


def one(load: Load) -> None:
    """All in one room; the first speaks."""
    options = load.options
    begin = time.monotonic()
    for some in load.open(options.members):
        for client in some:
            client.send({"msg": "room.join", "room": "hall", "id": 2})
        load.answered(some)
    joined_s = time.monotonic() - begin
    load.witnesses = set(range(1, options.members, max(1, options.members // WITNESSES)))
    total = speak(load, lambda: (load.all[0], "hall"), options.rate, options.seconds)
    load.report(options.seconds, members=options.members, joined_s=round(joined_s, 1), sent=total)


def many(load: Load) -> None:
    """Ten rooms for each client."""
    options = load.options
    begin = time.monotonic()
    for some in load.open(options.members):
        for client in some:
            rooms = [f"room{(client.number * 10 + place) % options.rooms}" for place in range(10)]
            client.send(*({"msg": "room.join", "room": r, "id": 2 + n} for n, r in enumerate(rooms)))
        load.answered(some)
    joined_s = time.monotonic() - begin
    load.witnesses = set(range(options.members))
    chance = random.Random(1)

    def somebody() -> tuple[Client, str]:
        client = chance.choice(load.all)
        return client, f"room{(client.number * 10 + chance.randrange(10)) % options.rooms}"

    total = speak(load, somebody, options.rate * 20, options.seconds)
    memberships = options.members * 10
    load.report(
        options.seconds,
        memberships=memberships,
        joins_per_s=round(memberships / joined_s),
        joined_s=round(joined_s, 1),
        sent=total,
    )


def speak(load: Load, who: object, rate: float, seconds: float) -> int:
    """Send at a rate for so long, and read until a while after."""
    total, warm_up = 0, 2.0
    begin = time.monotonic()
    measuring = False
    while (now := time.monotonic()) < begin + warm_up + seconds:
        if not measuring and now >= begin + warm_up:
            measuring = True
            load.measure(seconds)
        while total < (now - begin) * rate:
            client, room = who()  # type: ignore[operator]
            due = begin + total / rate
            client.sock.send(
                b'{"msg":"room.send","room":"%s","due":%.6f,"text":"%s"}\0' % (room.encode(), due, b"x" * 60)
            )
            total += 1
        load.poll(0.002)
    return int(rate * seconds)


def field(load: Load) -> None:
    """Everybody walks about, ten moves a second, and sees who is near: some twenty others."""
    options = load.options
    count = min(options.members, 1_000)
    side = (count * 3.14159 * options.radius**2 / 20) ** 0.5
    chance = random.Random(2)
    places = {}
    for some in load.open(count):
        for client in some:
            client.send({"msg": "room.join", "room": "field", "id": 2})
            places[client.number] = [chance.uniform(0, side), chance.uniform(0, side)]
        load.answered(some)
    begin = time.monotonic()
    total, rate, measuring = 0, count * 10.0, False
    while (now := time.monotonic()) < begin + 3.0 + options.seconds:
        if not measuring and now >= begin + 3.0:
            measuring = True
            moved = total
            load.measure(options.seconds)
        while total < (now - begin) * rate:
            client = load.all[total % count]
            place = places[client.number]
            place[0] = min(side, max(0.0, place[0] + chance.uniform(-2, 2)))
            place[1] = min(side, max(0.0, place[1] + chance.uniform(-2, 2)))
            client.sock.send(
                b'{"msg":"field.move","x":%.2f,"y":%.2f,"radius":%.1f}\0' % (*place, options.radius)
            )
            total += 1
        load.poll(0.002)
    load.report(options.seconds, members=count, moves_per_s=round((total - moved) / options.seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=["one", "many", "field"])
    parser.add_argument("gateways", nargs="+")
    for name, kind in (
        ("members", int),
        ("rooms", int),
        ("rate", float),
        ("seconds", float),
        ("radius", float),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given = parser.parse_args()
    {"one": one, "many": many, "field": field}[given.scenario](Load(given))
