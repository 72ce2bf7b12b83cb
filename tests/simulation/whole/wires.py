"""ZeroMQ between the processes of the whole world, with all that it loses.

The shipped `connserver.sockets` and `connserver.driver.Port` run above these sockets, so they behave as
libzmq 4.3.5 was found to: the descriptor is edge-triggered, and a send swallows the edge; a ROUTER refuses
an unknown peer and hands an identity over to the newest; a DEALER without a connection takes nothing;
what is in flight when a connection breaks is gone; PUB drops without a word. A message arrives whole, in
the order of its connection, or not at all.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.whole.processes import Process
    from tests.simulation.world import World

DELAY_S = (5e-5, 6e-4)
CONNECT_S = (0.0005, 0.004)
AGAIN_S = (0.005, 0.03)
"""Between two attempts to connect."""
CUT_LOOK_S = 0.02
"""What is on a cut link is looked at again so often; TCP goes on when the link does."""

Frames = list[bytes]


class Wires:
    """Everything that is bound, and what may go wrong on the way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bound: dict[str, Socket] = {}
        self.pipes: dict[int, Pipe] = {}
        self.choke = 0.0
        """How often a queue is full for a moment."""
        self.loss = 0.0
        """How often a publication is dropped."""
        self.heard: Callable[[Process, Process, Frames], None] = lambda source, target, frames: None
        """Told of every message that is sent, with the one whom it will reach."""
        self._numbers = count(1)

    def number(self) -> int:
        """Fresh."""
        return next(self._numbers)

    def is_cut(self, one: Process, other: Process) -> bool:
        """Whether nothing passes from one process to the other now."""
        return self.world.cuts.get((one.node.name, other.node.name), False)

    def stall_some(self, share: float, seconds: float) -> None:
        """Connections stand still for a while; what is on them comes later, unless they end."""
        for pipe in list(self.pipes.values()):
            if self.world.random.random() < share:
                self.world.coverage["connections_stalled"] += 1
                until = self.world.now + seconds * self.world.random.random()
                pipe.stalled = {pipe.near: until, pipe.far: until}

    def break_some(self, share: float) -> None:
        """Connections between processes break; what is on them is lost."""
        for pipe in list(self.pipes.values()):
            if self.world.random.random() < share:
                self.world.coverage["connections_broken"] += 1
                pipe.snap()


class Context:
    """`zmq.Context` of one process."""

    def __init__(self, wires: Wires, process: Process) -> None:
        self._wires, self._process = wires, process

    def socket(self, kind: int, socket_class: type[object] = object) -> Socket:
        """A socket of a kind; how the binding wraps it is no matter here."""
        return Socket(self._wires, self._process, kind)

    def destroy(self, linger: int = 0) -> None:
        """Close every socket of the process."""
        for socket in list(self._process.sockets):
            socket.close()

    def term(self) -> None:
        """Nothing waits here."""


class Pipe:
    """One connection between a DEALER or SUB and what it connected to. Two directions, each in order."""

    def __init__(self, wires: Wires, near: Socket, far: Socket) -> None:
        self._wires = wires
        self.near, self.far = near, far
        self.number = wires.number()
        self.identity = near.identity
        self.broken = False
        self.stalled = {near: 0.0, far: 0.0}
        """What is for this end stands still until then."""
        self._flying: dict[Socket, deque[tuple[float, Frames]]] = {near: deque(), far: deque()}
        self._pumped: dict[Socket, bool] = {near: False, far: False}
        wires.pipes[self.number] = self

    def send(self, source: Socket, frames: Frames) -> None:
        """Put a message on the way to the other end."""
        world = self._wires.world
        target = self.far if source is self.near else self.near
        flying = self._flying[target]
        at = world.now + world.random.uniform(*DELAY_S)
        if flying:
            at = max(at, flying[-1][0])
        flying.append((at, frames))
        self._wires.heard(source.process, target.process, frames)
        self._pump(target)

    def _pump(self, target: Socket) -> None:
        if self._pumped[target] or not self._flying[target]:
            return
        self._pumped[target] = True
        world = self._wires.world
        world.after(max(0.0, self._flying[target][0][0] - world.now), lambda: self._arrive(target))

    def _arrive(self, target: Socket) -> None:
        self._pumped[target] = False
        flying = self._flying[target]
        if not flying:
            return
        source = self.near if target is self.far else self.far
        world = self._wires.world
        if self._wires.is_cut(source.process, target.process):
            flying[0] = (world.now + CUT_LOOK_S, flying[0][1])
        elif self.stalled[target] > world.now:
            flying[0] = (self.stalled[target], flying[0][1])
        elif flying[0][0] <= world.now:
            _, frames = flying.popleft()
            target.arrived(self, frames)
        self._pump(target)

    def snap(self) -> None:
        """Broken: both ends notice, what was on the way is gone."""
        if not self.broken:
            self.broken = True
            self._wires.pipes.pop(self.number, None)
            for flying in self._flying.values():
                flying.clear()
            self.near.disconnected(self)
            self.far.disconnected(self)

    def end(self, closing: Socket) -> None:
        """One end was closed: a part of what it sent still arrives, then the other end notices."""
        world = self._wires.world
        other = self.far if closing is self.near else self.near
        self._flying[closing].clear()
        flying = self._flying[other]
        for _ in range(world.random.randint(0, len(flying)) if flying else 0):
            flying.pop()
        last = max(flying[-1][0], self.stalled[other]) if flying else world.now
        world.after(max(0.0, last - world.now) + CUT_LOOK_S, self.snap)


class Socket:
    """`zmq.Socket`, as far as `connserver.sockets` and `Port` use it."""

    def __init__(self, wires: Wires, process: Process, kind: int) -> None:
        self.process, self.kind = process, kind
        self.identity = b""
        self.closed = False
        self._wires = wires
        self._fd = wires.number()
        self._endpoint = ""
        self._topics: list[bytes] = []
        self._pipes: dict[bytes, Pipe] = {}
        self._inbox: deque[Frames] = deque()
        self._reading: Frames = []
        self._parts: Frames = []
        self._armed = True
        self._edge: asyncio.Handle | None = None
        process.sockets.append(self)

    # --- options ---

    def setsockopt(self, option: int, value: Any) -> None:
        if option == zmq.IDENTITY:
            self.identity = value
        elif option == zmq.SUBSCRIBE:
            self._topics.append(value)

    def getsockopt(self, option: int) -> int:
        assert option == zmq.FD
        return self._fd

    def getsockopt_string(self, option: int) -> str:
        return self._endpoint

    def get(self, option: int) -> int:
        if option == zmq.RCVMORE:
            return int(bool(self._reading))
        if not self._inbox:
            self._armed = True
        return int(zmq.POLLIN) if self._inbox else 0

    # --- connections ---

    def bind(self, endpoint: str) -> None:
        self._endpoint = f"{endpoint[:-1]}{self._fd}" if endpoint.endswith("*") else endpoint
        self._wires.bound[self._endpoint] = self

    def connect(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._again(CONNECT_S)

    def _again(self, seconds: tuple[float, float]) -> None:
        self._wires.world.after(self._wires.world.random.uniform(*seconds), self._try)

    def _try(self) -> None:
        if self.closed or not self.process.alive or self._pipes:
            return
        far = self._wires.bound.get(self._endpoint)
        if far is None or far.closed or self._wires.is_cut(self.process, far.process):
            self._again(AGAIN_S)
            return
        pipe = Pipe(self._wires, self, far)
        self._pipes[b""] = pipe
        far.connected(pipe)

    def connected(self, pipe: Pipe) -> None:
        """Somebody has connected here; the newest has an identity, the one before another name."""
        name = pipe.identity or b"\0%d" % pipe.number
        former = self._pipes.get(name)
        if former is not None:
            former.identity = b"\0%d" % former.number
            self._pipes[former.identity] = former
        pipe.identity = name
        self._pipes[name] = pipe

    def disconnected(self, pipe: Pipe) -> None:
        """A connection is broken."""
        if self.closed:
            return
        if pipe.near is self:
            self._pipes.clear()
            self._again(AGAIN_S)
        elif self._pipes.get(pipe.identity) is pipe:
            del self._pipes[pipe.identity]

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self in self.process.sockets:
            self.process.sockets.remove(self)
        if self._wires.bound.get(self._endpoint) is self:
            del self._wires.bound[self._endpoint]
        for pipe in list(self._pipes.values()):
            pipe.end(self)
        self._pipes.clear()

    # --- messages ---

    def send(self, frame: bytes, flags: int = 0) -> None:
        if not self._parts and self.kind == zmq.ROUTER and frame not in self._pipes:
            raise zmq.ZMQError(errno.EHOSTUNREACH)
        if not self._parts and self._is_full():
            raise zmq.Again
        self._parts.append(frame)
        if flags & zmq.SNDMORE:
            return
        frames, self._parts = self._parts, []
        if self.kind == zmq.ROUTER:
            self._pipes[frames[0]].send(self, frames[1:])
        elif self.kind == zmq.PUB:
            for pipe in list(self._pipes.values()):
                if any(frames[0].startswith(topic) for topic in pipe.near._topics):
                    self._publish(pipe, frames)
        else:
            self._pipes[b""].send(self, frames)
        if self._edge is not None:  # commands were looked at: the descriptor is not readable any more
            self._edge.cancel()
            self._edge = None
            self._armed = not self._inbox

    def _is_full(self) -> bool:
        if self.kind == zmq.PUB:
            return False
        wires = self._wires
        return not self._pipes or (wires.choke > 0 and wires.world.random.random() < wires.choke)

    def _publish(self, pipe: Pipe, frames: Frames) -> None:
        if self._wires.world.random.random() >= self._wires.loss:
            pipe.send(self, frames)

    def arrived(self, pipe: Pipe, frames: Frames) -> None:
        """A message is there."""
        if self.closed or not self.process.alive:
            return
        self._inbox.append([pipe.identity, *frames] if self.kind == zmq.ROUTER else list(frames))
        if self._armed:
            self._armed = False
            self._edge = self.process.loop.readable(self._fd)

    def recv(self, flags: int = 0) -> bytes:
        if not self._reading:
            if not self._inbox:
                self._armed = True
                self._edge = None
                raise zmq.Again
            self._reading = self._inbox.popleft()
        return self._reading.pop(0)
