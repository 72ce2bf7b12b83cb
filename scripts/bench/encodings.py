"""CPU per message of the encodings and of a WebSocket connection, in microseconds.

    .venv/bin/python scripts/bench/encodings.py

The message is a chat line of about 105 bytes. Best of seven rounds, CPU time of this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from connserver.encodings import Encoding, decode, encode
from connserver.limits import Limits
from connserver.model import Message, pack, unpack
from gateway.connection import Connection, Settings

ROUNDS = 7
CALLS = 20_000
MESSAGE: Message = {
    "msg": "chat.say",
    "room": "lobby",
    "text": "hello everybody out there, how are you?",
    "id": 123456,
}
LIMITS = Limits()
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: connserver.v1.json\r\n\r\n"
)


def measure(name: str, call: Callable[[], object], messages: int = 1) -> None:
    """Print the CPU time of one message, of which each call handles `messages`."""
    best = float("inf")
    calls = CALLS // messages
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(calls):
            call()
        best = min(best, time.process_time() - start)
    print(f"{name:44} {best / calls / messages * 1e6:7.2f}")


def bench_encodings() -> None:
    """Each encoding: complete decoding (parse and check) and encoding."""
    for encoding in Encoding:
        data = encode(encoding, MESSAGE)
        measure(
            f"{encoding.name} decode and check, {len(data)} bytes", partial(decode, encoding, data, LIMITS)
        )
        measure(f"{encoding.name} encode", partial(encode, encoding, MESSAGE))
    colons = encode(Encoding.JSON, {**MESSAGE, "text": ':) "a":1 and so on'})
    measure("JSON with colons that look like members", lambda: decode(Encoding.JSON, colons, LIMITS))
    packed = pack(MESSAGE)
    measure("pack", lambda: pack(MESSAGE))
    measure("unpack", lambda: unpack(packed))


def bench_connections() -> None:
    """A connection of the gateway: bytes to complete messages, and messages to the bytes of one write."""
    payload = encode(Encoding.JSON, MESSAGE)
    payloads = [payload] * 10
    connection = Connection(Settings(limits=LIMITS))
    line = payload + b"\n"
    connection.feed(line, 0.0)
    measure("socket, JSON: receive, 1 per read", lambda: connection.feed(line, 0.0))
    measure("socket, JSON: receive, 10 per read", lambda: connection.feed(line * 10, 0.0), 10)
    measure("socket, JSON: send, 10 per write", lambda: connection.send(payloads), 10)
    half = line[:50], line[50:]
    measure("socket, JSON: receive in two reads", lambda: [connection.feed(part, 0.0) for part in half])

    web = Connection(Settings(limits=LIMITS))
    web.feed(UPGRADE, 0.0)
    frame = Frame(Opcode.TEXT, payload).serialize(mask=True)
    measure("WebSocket: receive, 1 per read", lambda: web.feed(frame, 0.0))
    measure("WebSocket: receive, 10 per read", lambda: web.feed(frame * 10, 0.0), 10)
    measure("WebSocket: send, 10 per write", lambda: web.send(payloads), 10)


def bench_libraries() -> None:
    """The libraries by themselves: one frame received, one sent."""
    payload = encode(Encoding.JSON, MESSAGE)
    frame = Frame(Opcode.TEXT, payload).serialize(mask=True)
    protocol = ServerProtocol(state=State.OPEN)

    def with_websockets() -> None:
        protocol.receive_data(frame)
        protocol.events_received()
        protocol.send_text(payload)
        protocol.data_to_send()

    measure("websockets: receive and send", with_websockets)
    try:
        from wsproto.connection import Connection as Other
        from wsproto.connection import ConnectionType
        from wsproto.events import TextMessage
    except ImportError:
        print("wsproto is not installed: not measured")
        return
    other = Other(ConnectionType.SERVER)

    def with_wsproto() -> None:
        other.receive_data(frame)
        list(other.events())
        other.send(TextMessage(data=payload.decode()))

    measure("wsproto: receive and send", with_wsproto)


if __name__ == "__main__":
    bench_encodings()
    bench_connections()
    bench_libraries()
