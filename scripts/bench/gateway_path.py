"""What the gateway's own code costs per message, without sockets: the least CPU time of many repetitions.

    python scripts/bench/gateway_path.py [--repeat 200]

Played are the client's transport, the worker's socket and the loop; everything between them is the
shipped code. So these figures bear a busy machine, which those of whole processes do not; what the
kernel, uvloop and ZeroMQ cost comes on top, and after every wake-up a multiple of it, since caches
are cold then.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from connserver import route_feed, sockets
from connserver.codec import decode, encode
from connserver.config import Overrides, Places, load_cluster
from connserver.ids import group_range
from connserver.limits import FLUSH_DELAY_MS
from connserver.messages import OutputKind, Outputs, Requests, RouteEntry, StreamOpened
from connserver.model import pack, unpack
from connserver.process import ProcessOptions
from connserver.sockets import Sent
from connserver.telemetry import configure
from gateway import cluster
from gateway.client import Client
from gateway.server import Gateway

CLIENTS = 200
REQUEST = b'{"msg":"echo","id":%d,"text":"' + b"x" * 60 + b'"}\n'


class Loop:
    """Runs what is to be called soon when it is told to."""

    def __init__(self) -> None:
        self.soon: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def time(self) -> float:
        return time.monotonic()

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self.soon.append((callback, arguments))

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> Any:
        if delay <= FLUSH_DELAY_MS / 1000:
            self.soon.append((callback, arguments))
        return type("Timer", (), {"cancel": lambda self: None})()

    def turn(self) -> None:
        while self.soon:
            callback, arguments = self.soon.popleft()
            callback(*arguments)


class Transport:
    """Takes everything at once."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += 1

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class Port:
    """Keeps what is sent; `on_message` is what the gateway wants to be called with."""

    made: ClassVar[list[Port]] = []

    def __init__(self, loop: Any, socket: Any, on_message: Callable[[list[bytes]], None]) -> None:
        self.on_message = on_message
        self.sent: list[bytes] = []
        Port.made.append(self)

    def send(self, frames: list[bytes]) -> Sent:
        self.sent.append(frames[-1])
        return Sent.YES

    def close(self) -> None:
        pass


class Bench:
    """A gateway with one group and CLIENTS clients that are logged in."""

    def __init__(self, folder: Path) -> None:
        for module in (cluster, route_feed):
            vars(module)["Port"] = Port
        vars(sockets)["dealer"] = lambda *arguments: None
        file = folder / "cluster.toml"
        file.write_text(
            '[cluster]\nname = "bench"\npartition_groups = 1\n[[nodes]]\nname = "n1"\n'
            'gateways = ["127.0.0.1:9"]\n[limits]\nmessages_per_s = 1000000\nbytes_per_s = 1000000000\n'
            "connections_per_address = 65536\nlogin_ms = 60000\n"
        )
        config = load_cluster(file, environ={}, flags=Overrides(state_dir=folder))
        configure(role="gateway", node="n1", name="gw", level="error")
        options = ProcessOptions(
            role="gateway", node="n1", name="gw", config=config, places=Places(config), listen="127.0.0.1:9"
        )
        loop: Any = Loop()
        self.loop = loop
        self.gateway = Gateway(loop, options)
        first, last = group_range(0, 1)
        route = RouteEntry(0, first, last, 1, 0, 1, "n1", "ipc://played", ["n1"], "ready", "")
        self.gateway._cluster._routed([route])
        self.port = Port.made[-1]
        self.port.on_message([encode(StreamOpened(1))])
        self.port.sent.clear()
        self.number = 0
        self.clients: list[Any] = []
        for _ in range(CLIENTS):
            client = Client(self.gateway)
            client.connection_made(Transport())  # type: ignore[arg-type]
            self.clients.append(client)
        for client in self.clients:
            client.data_received(REQUEST % 1)
        self.answer()

    def answer(self, kind: str = "") -> None:
        """What the worker says to all requests since."""
        self.loop.turn()
        rows: list[tuple[list[int], int, int, bytes]] = []
        for data in self.port.sent:
            message = decode(data)
            if isinstance(message, Requests):
                items = zip(
                    message.connections, message.kinds, message.sequences, message.bodies, strict=True
                )
                for connection, kind_, sequence, body in items:
                    fields = unpack(body)
                    if kind_ == 1:
                        bound = pack({"user": "u", "resume": f"{connection:016x}.s"})
                        rows.append(([connection], int(OutputKind.BOUND), 0, bound))
                    else:
                        reply = pack({"status": 0, **fields})
                        rows.append(([connection], int(OutputKind.REPLY), sequence, reply))
        self.port.sent.clear()
        self.output(rows)
        self.loop.turn()

    def output(self, rows: list[tuple[list[int], int, int, bytes]]) -> None:
        self.port.on_message([self.outputs(rows)])

    def outputs(self, rows: list[tuple[list[int], int, int, bytes]]) -> bytes:
        self.number += 1
        targets, kinds, answers, bodies = (list(column) for column in zip(*rows, strict=True))
        # no client's request is acknowledged here: the stream's sender is emptied by the caller
        sender = self.gateway._cluster.links[0]._duplex.sender
        return encode(Outputs(1, self.number, sender.next - 1, 0, 0, targets, kinds, answers, bodies))

    def measure(self, clients: int, per_read: int, repeat: int) -> tuple[float, float]:
        """Least µs a message for requests in, and for their answers out."""
        best_in = best_out = 1e9
        some = self.clients[:clients]
        count = clients * per_read
        for _ in range(repeat):
            data = (REQUEST % 5) * per_read
            begin = time.thread_time_ns()
            for client in some:
                client.data_received(data)
            self.loop.turn()
            best_in = min(best_in, time.thread_time_ns() - begin)
            rows = []
            for sent in self.port.sent:
                message = decode(sent)
                if isinstance(message, Requests):
                    for connection, sequence, body in zip(
                        message.connections, message.sequences, message.bodies, strict=True
                    ):
                        reply = pack({"status": 0, **unpack(body)})
                        rows.append(([connection], int(OutputKind.REPLY), sequence, reply))
            self.port.sent.clear()
            assert len(rows) == count
            encoded = self.outputs(rows)
            begin = time.thread_time_ns()
            self.port.on_message([encoded])
            self.loop.turn()
            best_out = min(best_out, time.thread_time_ns() - begin)
        return best_in / count / 1000, best_out / count / 1000

    def fan_out(self, repeat: int) -> float:
        """Least µs a receipt of one event to all."""
        best = 1e9
        everybody = [client.number for client in self.clients]
        body = pack({"msg": "room.message", "room": "lobby", "seq": 5, "from": "u", "text": "x" * 60})
        for _ in range(repeat):
            encoded = self.outputs([(everybody, int(OutputKind.EVENT), 0, body)])
            begin = time.thread_time_ns()
            self.port.on_message([encoded])
            self.loop.turn()
            best = min(best, time.thread_time_ns() - begin)
        return best / len(everybody) / 1000


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        for clients, per_read, times in ((1, 1, 20), (5, 1, 10), (50, 1, 2), (50, 8, 1)):
            came, went = bench.measure(clients, per_read, options.repeat * times)
            print(f"{clients:3} clients, {per_read} a read: {came:6.2f} µs in, {went:6.2f} µs out")
        print(f"one event to {CLIENTS} clients: {bench.fan_out(options.repeat):.2f} µs each")


if __name__ == "__main__":
    main()
