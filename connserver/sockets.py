"""The only module that makes ZeroMQ sockets, so that their options are decided once.

What is guarded (libzmq 4.3.5, each found by trial): a ROUTER drops for an unknown peer and at its
high-water mark unless ROUTER_MANDATORY; a DEALER queues for a peer that is not there unless
IMMEDIATE; a second peer of the same identity is ignored unless ROUTER_HANDOVER; reconnecting takes
100 ms unless RECONNECT_IVL is small; nothing that was in flight then arrives, so every protocol
above numbers its messages; a socket left with LINGER holds its process at exit.
"""

from __future__ import annotations

from enum import Enum

import zmq

from connserver.limits import SOCKET_HIGH_WATER, WIRE_MESSAGE_BYTES

# pyzmq's send_multipart and recv_multipart cost as much again as what they call, and so do flags put
# together with each message
_NOW, _MORE = zmq.NOBLOCK, zmq.NOBLOCK | zmq.SNDMORE
_RCVMORE = zmq.RCVMORE

RECONNECT_MS = 10
RECONNECT_MAX_MS = 200

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


class _Plain(zmq.Socket[bytes]):
    """Without what pyzmq puts around `send`: options not used here, for three times its cost."""

    send = zmq.backend.Socket.send  # type: ignore[assignment]


class Sent(Enum):
    """What became of a message given to a socket."""

    YES = "handed to the peer's queue"
    UNREACHABLE = "no such peer now"
    FULL = "the peer's queue is full"


def context() -> Context:
    """One per process; made after the fork, never before."""
    return zmq.Context()


def _make(ctx: Context, kind: int) -> Socket:
    socket: Socket = ctx.socket(kind, socket_class=_Plain)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.SNDHWM, SOCKET_HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, SOCKET_HIGH_WATER)
    socket.setsockopt(zmq.MAXMSGSIZE, WIRE_MESSAGE_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    return socket


def bind(socket: Socket, endpoint: str) -> str:
    """Bind and return the endpoint peers connect to (a wildcard port is filled in)."""
    socket.bind(endpoint)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def router(ctx: Context) -> Socket:
    """Many peers, each by its identity; sending to one that is not there says so."""
    socket = _make(ctx, zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return socket


def dealer(ctx: Context, identity: bytes, endpoint: str) -> Socket:
    """One connection to a ROUTER; `identity` (1–255 bytes, not starting with NUL) names this end."""
    socket = _make(ctx, zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.connect(endpoint)
    return socket


def publisher(ctx: Context) -> Socket:
    """Multicast to whoever subscribes; drops for slow subscribers without a word."""
    return _make(ctx, zmq.PUB)


def subscriber(ctx: Context, endpoint: str, topics: list[bytes]) -> Socket:
    """One SUB per publisher, so that a dead one can be closed alone."""
    socket = _make(ctx, zmq.SUB)
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    socket.connect(endpoint)
    return socket


def send(socket: Socket, frames: list[bytes]) -> Sent:
    """Send without blocking; the outcome is a value, never an exception."""
    try:
        for frame in frames[:-1]:
            socket.send(frame, _MORE)
        socket.send(frames[-1], _NOW)
    except zmq.Again:
        return Sent.FULL
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return Sent.UNREACHABLE
        raise
    return Sent.YES


def receive(socket: Socket) -> list[bytes] | None:
    """The next message's frames, or None when there is none now."""
    try:
        frames = [socket.recv(_NOW)]
    except zmq.Again:
        return None
    while socket.get(_RCVMORE):  # a message is there as a whole or not at all
        frames.append(socket.recv(_NOW))
    return frames
