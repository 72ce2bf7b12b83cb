"""Gossip and workers as a gateway sees them, in the test's own process: real sockets, simple minds.

A fake worker speaks the whole stream protocol. Its group's state (what ran, what was answered) outlives
it, as a replicated log would, so that a second worker can take over. Methods: `echo` gives its fields
back; `count` adds one to a number and gives it; `hold` is answered when the test says so; `shout` is an
event to everybody; `tick` the same but volatile; `kick` closes the connection; `sleep` is never answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

from connserver import sockets
from connserver.codec import decode, encode
from connserver.config import ClusterConfig, Places
from connserver.ids import format_oid, group_range, named_id
from connserver.messages import (
    GatewayReport,
    GetRoutes,
    OpenStream,
    OutputKind,
    Outputs,
    RequestKind,
    Requests,
    RouteEntry,
    Routes,
    StreamAck,
    StreamOpened,
    StreamProbe,
    StreamResend,
    WrongGrant,
)
from connserver.model import Message, pack, unpack
from connserver.stream import Duplex

TICK_S = 0.02


@dataclass
class GroupState:
    """What the workers of a group have in common."""

    ran: dict[tuple[int, int, int], Message | None] = field(default_factory=dict)
    calls: list[Message] = field(default_factory=list)
    bound: dict[tuple[int, int], str] = field(default_factory=dict)
    logins: list[Message] = field(default_factory=list)
    rebinds: list[Message] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    held: list[tuple[int, int, int, Message]] = field(default_factory=list)
    count: int = 0
    sessions: int = 0


class FakeWorker:
    """One worker with one grant, on an endpoint of its own. `deaf`: it reads nothing."""

    def __init__(
        self, context: sockets.Context, endpoint: str, grant: int, group: int, state: GroupState
    ) -> None:
        self.socket = sockets.router(context)
        self.endpoint = sockets.bind(self.socket, endpoint)
        self.grant = grant
        self.group = group
        self.state = state
        self.deaf = False
        self.lose = 0
        """So many messages are lost on arrival."""
        self.lose_out = 0
        """So many messages are lost on the way out."""
        self.messages = 0
        self.items = 0
        self._duplexes: dict[bytes, Duplex] = {}
        self._boots: dict[bytes, int] = {}

    def receive(self) -> None:
        while not self.deaf and (frames := sockets.receive(self.socket)) is not None:
            identity, payload = frames
            message = decode(payload)
            if isinstance(message, OpenStream):
                self._open(identity, message)
                continue
            if self.lose > 0:
                self.lose -= 1
                continue
            duplex = self._duplexes.get(identity)
            now = time.monotonic()
            if duplex is None or message.grant != self.grant:
                sockets.send(self.socket, [identity, encode(WrongGrant(message.grant, self.grant))])
            elif isinstance(message, Requests):
                if duplex.accept(message.number, message.acked, now):
                    self._requests(identity, message)
            elif isinstance(message, StreamAck | StreamProbe | StreamResend):
                duplex.control(message, now)

    def _open(self, identity: bytes, message: OpenStream) -> None:
        if message.grant != self.grant:
            sockets.send(self.socket, [identity, encode(WrongGrant(message.grant, self.grant))])
            return
        self._boots[identity] = message.boot
        sockets.send(self.socket, [identity, encode(StreamOpened(self.grant))])
        self._duplexes[identity] = Duplex(
            self.grant, lambda data: self._send(identity, data), time.monotonic()
        )

    def _send(self, identity: bytes, data: bytes) -> None:
        if self.lose_out > 0:
            self.lose_out -= 1
            return
        sockets.send(self.socket, [identity, data])

    def tick(self, greet: bool) -> None:
        if not self.deaf:
            for duplex in self._duplexes.values():
                duplex.tick(time.monotonic(), greet=greet)

    def _requests(self, identity: bytes, requests: Requests) -> None:
        boot = self._boots[identity]
        out: list[tuple[list[int], int, int, Message]] = []
        self.messages += 1
        self.items += len(requests.connections)
        rows = zip(requests.connections, requests.kinds, requests.sequences, requests.bodies, strict=True)
        for connection, kind, sequence, body in rows:
            self._item(boot, connection, kind, sequence, body, out)
        self.output(out, identity)

    def output(self, out: list[tuple[list[int], int, int, Message]], identity: bytes | None = None) -> None:
        """Send items (targets, kind, answer, message) to one or to all gateways."""
        if not out:
            return
        columns = [list(column) for column in zip(*out, strict=True)]
        targets, kinds, answers, messages = columns
        bodies = [pack(message) for message in messages]
        for peer in [identity] if identity is not None else list(self._duplexes):
            self._duplexes[peer].post(
                lambda number, acked: Outputs(
                    self.grant, number, acked, 0, 0, targets, [int(kind) for kind in kinds], answers, bodies
                ),
                time.monotonic(),
            )

    def _item(
        self, boot: int, connection: int, kind: int, sequence: int, body: bytes, out: list[Any]
    ) -> None:
        state, place = self.state, (boot, connection)
        if kind == RequestKind.GONE:
            state.gone.append(connection)
            state.bound.pop(place, None)
            return
        message = unpack(body)
        key = (boot, connection, sequence)
        if kind == RequestKind.RESUME and message.get("rebind"):
            state.rebinds.append(message)
        elif kind == RequestKind.REJECTED:
            out.append(([connection], OutputKind.REPLY, sequence, message))
        elif key in state.ran:
            if state.ran[key] is not None:
                out.append(([connection], OutputKind.REPLY, sequence, state.ran[key]))
        elif kind == RequestKind.LOGIN:
            self._login(message, place, sequence, out)
        elif kind == RequestKind.RESUME:
            self._resume(message, place, sequence, out)
        else:
            state.calls.append(message)
            state.ran[key] = self._call(message, place, sequence, out)

    def _login(self, body: Message, place: tuple[int, int], sequence: int, out: list[Any]) -> None:
        state, (boot, connection) = self.state, place
        state.logins.append(body)
        user, message = str(body["user"]), body.get("message")
        oid = format_oid(named_id("user", user))
        answer: Message = {"msg": "login"}
        if isinstance(message, dict) and "id" in message:
            answer["id"] = message["id"]
        if user == "nobody":
            answer.update({"status": 1, "error": "conflict", "reason": "not this one"})
        else:
            state.sessions += 1
            session = format_oid(named_id("user", user) - state.sessions)
            token = f"{session}.secret{state.sessions}"
            state.bound[place] = user
            bound: Message = {"session": session, "user": user, "oid": oid, "resume": token}
            out.append(([connection], OutputKind.BOUND, 0, bound))
            answer.update({"status": 0, "oid": oid, "resume": token, "resume_window_s": 120})
        if message is not None:
            state.ran[boot, connection, sequence] = answer
            out.append(([connection], OutputKind.REPLY, sequence, answer))

    def _resume(self, body: Message, place: tuple[int, int], sequence: int, out: list[Any]) -> None:
        state, (_, connection) = self.state, place
        state.bound[place] = "resumed"
        bound: Message = {"session": "", "user": "resumed", "oid": "", "resume": str(body["resume"]) + "x"}
        out.append(([connection], OutputKind.BOUND, 0, bound))
        answer: Message = {"msg": "session.resume", "status": 0, "resume": bound["resume"]}
        out.append(([connection], OutputKind.REPLY, sequence, answer))

    def _call(
        self, message: Message, place: tuple[int, int], sequence: int, out: list[Any]
    ) -> Message | None:
        state, (boot, connection) = self.state, place
        answer: Message = {"msg": message["msg"]}
        if "id" in message:
            answer["id"] = message["id"]
        answer["status"] = 0
        fields = {name: value for name, value in message.items() if name not in ("msg", "id")}
        everybody = [number for gateway, number in state.bound if gateway == boot]
        if place not in state.bound and message["msg"] != "methods":
            answer.update({"status": 1, "error": "unauthorized", "reason": "needs a login"})
        elif message["msg"] == "count":
            state.count += 1
            answer["count"] = state.count
        elif message["msg"] in ("hold", "sleep"):
            if message["msg"] == "hold":
                state.held.append((boot, connection, sequence, {**answer, **fields}))
            return None
        elif message["msg"] in ("shout", "tick"):
            kind = OutputKind.EVENT if message["msg"] == "shout" else OutputKind.VOLATILE
            event: Message = {"msg": f"{message['msg']}ed", **fields}
            out.append(([connection], OutputKind.REPLY, sequence, answer))
            out.append((everybody, kind, 0, event))
            return answer
        elif message["msg"] == "kick":
            out.append(([connection], OutputKind.REPLY, sequence, answer))
            out.append(([connection], OutputKind.CLOSE, 0, {"code": 4003, "reason": "kicked"}))
            return answer
        else:
            answer.update(fields)
        out.append(([connection], OutputKind.REPLY, sequence, answer))
        return answer


class FakeCluster:
    """Gossip of node n1 and the workers of all groups, served by one thread."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.places = Places(config)
        self.groups = config.cluster.partition_groups
        self.states = [GroupState() for _ in range(self.groups)]
        self.reports: list[GatewayReport] = []
        self._context = sockets.context()
        self._lock = threading.Lock()
        self._stopping = False
        self._grant = 100
        self._version = 0
        self.workers: dict[int, FakeWorker] = {}
        self._reasons: dict[int, str] = {}
        self._gossip = sockets.router(self._context)
        sockets.bind(self._gossip, self.places.gossip_endpoint("n1"))
        self._publisher = sockets.publisher(self._context)
        sockets.bind(self._publisher, self.places.publish_endpoint("n1"))
        self._thread = threading.Thread(target=self._run, name="fake cluster", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        for worker in self.workers.values():
            worker.socket.close()
        self._gossip.close()
        self._publisher.close()
        self._context.term()

    # --- what a test does -------------------------------------------------------------------------------

    def start_worker(self, group: int) -> FakeWorker:
        """A (new) worker for a group; one that was there goes on listening with its old grant."""
        with self._lock:
            self._grant += 1
            name = f"w-{group}-{self._grant}"
            endpoint = f"ipc://{self.places.run_dir()}/{name}.sock"
            worker = FakeWorker(self._context, endpoint, self._grant, group, self.states[group])
            self.workers[group] = worker
            self._publish()
            return worker

    def stop_worker(self, group: int) -> None:
        """The worker is gone; the routes say so."""
        with self._lock:
            self.workers[group].socket.close()
            self._reasons[group] = "its worker died"
            self._publish()
            del self.workers[group]

    def do(self, action: Callable[[], Any]) -> Any:
        """Run something between two steps of the thread."""
        with self._lock:
            return action()

    def release(self, group: int) -> None:
        """Answer everything that is held."""
        with self._lock:
            state, worker = self.states[group], self.workers[group]
            held, state.held = state.held, []
            for boot, connection, sequence, answer in held:
                state.ran[boot, connection, sequence] = answer
                worker.output([([connection], OutputKind.REPLY, sequence, answer)])

    # --- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        next_tick = next_greeting = 0.0
        while not self._stopping:
            watched = [self._gossip, *(worker.socket for worker in list(self.workers.values()))]
            for socket in watched:
                if not socket.closed:
                    poller.register(socket, zmq.POLLIN)
            try:
                poller.poll(round(1000 * TICK_S))
            except zmq.ZMQError:
                pass  # a worker's socket was closed meanwhile
            for socket in watched:
                poller.unregister(socket)
            with self._lock:
                self._serve_gossip()
                for worker in self.workers.values():
                    worker.receive()
                now = time.monotonic()
                if now >= next_tick:
                    next_tick, greet = now + TICK_S, now >= next_greeting
                    if greet:
                        next_greeting = now + 1.0
                        self._publish()
                    for worker in self.workers.values():
                        worker.tick(greet)

    def _serve_gossip(self) -> None:
        while (frames := sockets.receive(self._gossip)) is not None:
            message = decode(frames[1])
            if isinstance(message, GetRoutes):
                sockets.send(self._gossip, [frames[0], encode(self._routes())])
            elif isinstance(message, GatewayReport):
                self.reports.append(message)

    def _publish(self) -> None:
        self._version += 1
        sockets.send(self._publisher, [b"routes", encode(self._routes())])

    def _routes(self) -> Routes:
        entries = []
        for group in range(self.groups):
            worker = self.workers.get(group)
            first, last = group_range(group, self.groups)
            ready = worker is not None and not worker.socket.closed
            entries.append(
                RouteEntry(
                    group,
                    first,
                    last,
                    1,
                    0,
                    worker.grant if worker is not None else self._grant,
                    "n1",
                    worker.endpoint if worker is not None and ready else "",
                    ["n1"],
                    "ready" if ready else "unavailable",
                    "" if ready else self._reasons.get(group, "no worker yet"),
                )
            )
        return Routes(self.config.cluster.name, "n1", self._version, entries)
