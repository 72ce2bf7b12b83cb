"""Clients for tests, over sockets of their own: one face for all four encodings, and an operator.

Nothing of the gateway is used here but the codecs, and `values` brings what came back from an encoding
without types to the same texts as from one that has them. Every wait is bounded by PATIENCE_S.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.typing import Subprotocol

from connserver.cli.find import Admin
from connserver.config import Overrides, Places, load_cluster
from connserver.conversion import to_text
from connserver.encodings import Encoding, decode, encode
from connserver.ids import group_of, named_id, partition_of
from connserver.limits import Limits
from tests.integration.cluster import Cluster

PATIENCE_S = 15.0
"""For one answer, also from a group whose worker has just died."""
LENIENT = Limits(nesting_levels=64, fields=100_000)
TERMINATORS = {Encoding.CLASSIC: b"\0", Encoding.XML: b"\0", Encoding.JSON: b"\n"}

Message = dict[str, Any]


class Closed(Exception):
    """The gateway has closed the connection."""


class Plain:
    """A TCP socket with terminated messages."""

    def __init__(self, address: tuple[str, int], terminator: bytes) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._terminator = terminator
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data + self._terminator)

    def receive(self, until: float) -> bytes:
        while True:
            found, terminator, rest = self._rest.partition(self._terminator)
            if terminator:
                self._rest = rest
                return found
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                raise Closed
            self._rest += data

    def close(self) -> None:
        self.socket.close()


class Framed:
    """A WebSocket with binary frames, which msgpack needs."""

    def __init__(self, address: tuple[str, int], subprotocol: str) -> None:
        host, port = address
        self._opened = contextlib.ExitStack()
        self.socket = self._opened.enter_context(
            connect(
                f"ws://{host}:{port}/",
                subprotocols=[Subprotocol(subprotocol)],
                compression=None,
                proxy=None,
                close_timeout=1,
            )
        )

    def send(self, data: bytes) -> None:
        self.socket.send(data)

    def receive(self, until: float) -> bytes:
        data = self.socket.recv(timeout=max(0.0, until - time.monotonic()))
        return data.encode() if isinstance(data, str) else data

    def close(self) -> None:
        self._opened.close()


class Voice:
    """One client. What comes before the reply that is waited for is kept in `events`."""

    def __init__(self, address: tuple[str, int], encoding: Encoding = Encoding.JSON) -> None:
        self.encoding = encoding
        self.transport: Plain | Framed
        if encoding is Encoding.MSGPACK:
            self.transport = Framed(address, "connserver.v1.msgpack")
        else:
            self.transport = Plain(address, TERMINATORS[encoding])
        self.events: deque[Message] = deque()

    def __enter__(self) -> Voice:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    def send(self, msg: str, **fields: Any) -> None:
        self.transport.send(encode(self.encoding, {"msg": msg, **fields}))

    def receive(self, timeout_s: float = PATIENCE_S) -> Message:
        """The next message, whatever it is."""
        until = time.monotonic() + timeout_s
        while not (raw := self.transport.receive(until)):
            pass
        return decode(self.encoding, raw, LENIENT, require_msg=False)

    def reply(self, timeout_s: float = PATIENCE_S) -> Message:
        """The next reply."""
        until = time.monotonic() + timeout_s
        while "status" not in (message := self.receive(until - time.monotonic())):
            self.events.append(message)
        return message

    def call(self, msg: str, **fields: Any) -> Message:
        """Send, and the next reply."""
        self.send(msg, **fields)
        reply = self.reply()
        assert reply["msg"] == msg, reply
        return reply

    def good(self, msg: str, **fields: Any) -> Message:
        """The same for what has to succeed."""
        reply = self.call(msg, **fields)
        assert str(reply["status"]) == "0", reply
        return reply

    def event(self, msg: str, timeout_s: float = PATIENCE_S) -> Message:
        """The next event of this name; others before it are dropped."""
        until = time.monotonic() + timeout_s
        while True:
            message = self.events.popleft() if self.events else self.receive(until - time.monotonic())
            assert "status" not in message, message
            if message["msg"] == msg:
                return message


def login(address: tuple[str, int], user: str, encoding: Encoding = Encoding.JSON) -> Voice:
    """A client that is logged in as this user."""
    voice = Voice(address, encoding)
    voice.good("login", user=user)
    return voice


def values(value: Any) -> Any:
    """A value with its leaves as texts, as an encoding without types gives them."""
    if isinstance(value, dict):
        return {name: values(member) for name, member in value.items()}
    if isinstance(value, list):
        return [values(item) for item in value]
    return value if value is None or isinstance(value, str) else to_text(value)


def names_in_groups(kind: str, prefix: str, groups: int) -> list[str]:
    """A name for each partition group that is at home there."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < groups:
        name = f"{prefix}{number}"
        found.setdefault(group_of(partition_of(named_id(kind, name)), groups), name)
        number += 1
    return [found[group] for group in range(groups)]


@contextlib.contextmanager
def operator(cluster: Cluster) -> Iterator[Admin]:
    """What the command line's commands speak through."""
    config = load_cluster(cluster.file, flags=Overrides(state_dir=Path(cluster.folder) / "state"))
    with Admin(config, Places(config)) as admin:
        yield admin
