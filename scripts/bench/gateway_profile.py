"""What one echo or one delivery costs a gateway: a real gateway between a fake worker and real sockets.

    python scripts/bench/gateway_profile.py [--clients 50] [--seconds 5] [--encoding json] [--profile]

`--rate N` sends N messages a second over all clients instead of as many as come back; `--fan-out N`
lets one client shout to all others N times a second. `--profile` runs the gateway under cProfile and
prints where its time went. Prints the CPU time of the gateway process per message.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import os
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import uvloop

from connserver import sockets
from connserver.codec import decode, encode
from connserver.config import ClusterConfig, Overrides, Places, load_cluster
from connserver.driver import Port
from connserver.encodings import Encoding
from connserver.encodings import encode as encode_message
from connserver.ids import group_range
from connserver.messages import (
    GetRoutes,
    OpenStream,
    OutputKind,
    Outputs,
    RequestKind,
    Requests,
    RouteEntry,
    Routes,
    StreamOpened,
)
from connserver.model import Message, pack, unpack
from connserver.process import ProcessOptions
from connserver.stream import Duplex
from connserver.telemetry import configure

GRANT = 1
ENDS = {Encoding.JSON: b"\n", Encoding.CLASSIC: b"\0", Encoding.XML: b"\0"}


def cluster(folder: Path, port: int) -> ClusterConfig:
    """One node, one group, no rate limits to speak of."""
    file = folder / "cluster.toml"
    file.write_text(
        f'[cluster]\nname = "bench"\npartition_groups = 1\n[[nodes]]\nname = "n1"\n'
        f'gateways = ["127.0.0.1:{port}"]\n[limits]\nmessages_per_s = 1000000\nbytes_per_s = 1000000000\n'
        "connections_per_address = 65536\nlogin_ms = 60000\n"
    )
    return load_cluster(file, environ={}, flags=Overrides(state_dir=folder))


class Worker:
    """Gossip and worker in one: opens streams, echoes, shouts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: ClusterConfig) -> None:
        places, context = Places(config), sockets.context()
        self._gossip_socket, self._socket = sockets.router(context), sockets.router(context)
        sockets.bind(self._gossip_socket, places.gossip_endpoint("n1"))
        endpoint = sockets.bind(self._socket, places.worker_endpoint("n1", 0))
        first, last = group_range(0, 1)
        entry = RouteEntry(0, first, last, 1, 0, GRANT, "n1", endpoint, ["n1"], "ready", "")
        self._routes = encode(Routes("bench", "n1", 1, [entry]))
        self._gossip = Port(loop, self._gossip_socket, self._ask)
        self._port = Port(loop, self._socket, self._receive)
        self._bound: list[int] = []
        self._duplex: Duplex | None = None
        self._loop = loop
        self._tick()

    def _tick(self) -> None:
        if self._duplex is not None:
            self._duplex.tick(self._loop.time(), greet=True)
        self._loop.call_later(0.2, self._tick)

    def _ask(self, frames: list[bytes]) -> None:
        if isinstance(decode(frames[1]), GetRoutes):
            self._gossip.send([frames[0], self._routes])

    def _receive(self, frames: list[bytes]) -> None:
        identity, payload = frames
        message = decode(payload)
        if isinstance(message, OpenStream):
            self._port.send([identity, encode(StreamOpened(GRANT))])
            self._duplex = Duplex(GRANT, lambda data: self._port.send([identity, data]), self._loop.time())
        elif self._duplex is None:
            return
        elif not isinstance(message, Requests):
            self._duplex.control(message, self._loop.time())
        elif self._duplex.accept(message.number, message.acked, self._loop.time()):
            self._requests(self._duplex, message)

    def _requests(self, duplex: Duplex, message: Requests) -> None:
        targets: list[list[int]] = []
        kinds: list[int] = []
        answers: list[int] = []
        bodies: list[bytes] = []
        rows = zip(message.connections, message.kinds, message.sequences, message.bodies, strict=True)

        def put(connections: list[int], kind: int, answer: int, body: bytes) -> None:
            targets.append(connections)
            kinds.append(int(kind))
            answers.append(answer)
            bodies.append(body)

        for connection, kind, sequence, body in rows:
            if kind == RequestKind.LOGIN:
                self._bound.append(connection)
                put([connection], OutputKind.BOUND, 0, pack({"user": "u", "resume": f"{connection:016x}.s"}))
            elif kind == RequestKind.CALL:
                fields = unpack(body)
                put([connection], OutputKind.REPLY, sequence, pack({"status": 0, **fields}))
                if fields["msg"] == "shout":
                    put(list(self._bound), OutputKind.EVENT, 0, pack({**fields, "msg": "shouted"}))
            elif kind == RequestKind.GONE and connection in self._bound:
                self._bound.remove(connection)
        if targets:
            duplex.post(
                lambda number, acked: Outputs(GRANT, number, acked, 0, 0, targets, kinds, answers, bodies),
                self._loop.time(),
            )


def work(folder: Path, port: int) -> None:
    """The fake worker's process."""
    loop = uvloop.new_event_loop()
    Worker(loop, cluster(folder, port))
    loop.run_forever()


def serve(folder: Path, port: int, profile: bool) -> None:
    """The gateway's process."""
    from gateway.server import main

    config = cluster(folder, port)
    configure(role="gateway", node="n1", name="gw", level="warning")
    options = ProcessOptions(
        role="gateway", node="n1", name="gw", config=config, places=Places(config), listen=f"127.0.0.1:{port}"
    )
    if not profile:
        main(options)
        return
    profiler = cProfile.Profile()
    profiler.runcall(main, options)
    profiler.dump_stats(folder / "gateway.prof")


class Caller(asyncio.Protocol):
    """One client. With a window it keeps so many requests under way."""

    def __init__(self, encoding: Encoding, window: int) -> None:
        self.end = ENDS[encoding]
        message: Message = {
            "msg": "echo",
            "room": "lobby",
            "text": "hello there, how are you",
            "x": 12.5,
            "n_": 7,
        }
        self.request = encode_message(encoding, message) + self.end
        self.shout = encode_message(encoding, {**message, "msg": "shout"}) + self.end
        self.window = window
        self.got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        transport.write(self.request * max(1, self.window))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        count = data.count(self.end)
        self.got += count
        if self.window:
            self.transport.write(self.request * count)


async def _call(port: int, options: argparse.Namespace, gateway: psutil.Process) -> None:
    loop, encoding = asyncio.get_running_loop(), Encoding[options.encoding.upper()]
    window = 0 if options.rate or options.fan_out else options.window
    callers = []
    before_memory = gateway.memory_info().rss
    for _ in range(options.clients):
        _, caller = await loop.create_connection(lambda: Caller(encoding, window), "127.0.0.1", port)
        callers.append(caller)
    while not all(caller.got for caller in callers):
        await asyncio.sleep(0.05)
    memory = (gateway.memory_info().rss - before_memory) / options.clients
    await asyncio.sleep(1)
    got, cpu, begin = sum(c.got for c in callers), sum(gateway.cpu_times()[:2]), time.perf_counter()
    end = begin + options.seconds
    position = 0
    while (now := time.perf_counter()) < end:
        if options.rate:
            due = int((now - begin) * options.rate)
            while position < due:
                callers[position % len(callers)].transport.write(callers[0].request)
                position += 1
            await asyncio.sleep(0.0005)
        elif options.fan_out:
            callers[0].transport.write(callers[0].shout)
            await asyncio.sleep(1 / options.fan_out)
        else:
            await asyncio.sleep(0.1)
    passed = time.perf_counter() - begin
    count = sum(c.got for c in callers) - got
    used = sum(gateway.cpu_times()[:2]) - cpu
    print(
        f"{count / passed:,.0f} messages/s, {used / count * 1e6:.1f} µs of the gateway's CPU each, "
        f"{used / passed:.0%} of a core, {memory / 1024:.1f} KiB per client"
    )
    for caller in callers:
        caller.transport.close()


def main() -> None:
    """Start the three processes and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--window", type=int, default=1, help="requests under way per client")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--encoding", choices=["json", "xml", "classic"], default="json")
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--fan-out", type=int, default=0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    port = 20_000 + os.getpid() % 20_000
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = spawn.Process(target=work, args=(folder, port), daemon=True)
        worker.start()
        gateway = spawn.Process(target=serve, args=(folder, port, options.profile), daemon=True)
        gateway.start()
        _wait_for(port)
        assert gateway.pid is not None
        uvloop.run(_call(port, options, psutil.Process(gateway.pid)))
        gateway.terminate()
        gateway.join()
        worker.terminate()
        worker.join()
        if options.profile:
            pstats.Stats(str(folder / "gateway.prof")).sort_stats("tottime").print_stats(45)


def _wait_for(port: int) -> None:
    import socket

    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the gateway did not start")


if __name__ == "__main__":
    main()
