"""A client for programs that wait: one TCP connection to a gateway, in a text encoding of protocol 1.

Used by `cs-cluster send` and `client`. What a gateway sends is checked like anything from outside.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Final

from connserver.encodings import Encoding, decode, encode
from connserver.errors import ClientError, ClusterError
from connserver.limits import CLIENT_MESSAGE_BYTES, Limits
from connserver.model import Message

TERMINATORS: Final = {Encoding.CLASSIC: b"\0", Encoding.XML: b"\0", Encoding.JSON: b"\n"}
"""What ends a message each way; a gateway answers with the terminator it was spoken to with."""
REPLY_LIMITS: Final = Limits(nesting_levels=64, fields=100_000)
"""Replies may hold more than requests; their size is bounded by CLIENT_MESSAGE_BYTES."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the gateway: as it came, and as it reads."""

    raw: bytes
    message: Message

    @property
    def is_reply(self) -> bool:
        """Every reply has a `status`, no event has."""
        return "status" in self.message

    @property
    def failed(self) -> bool:
        """Whether this is an error reply; texts, because classic and XML have no numbers."""
        return self.is_reply and str(self.message["status"]) != "0"


def encoding_of(text: str) -> Encoding:
    """The encoding that a gateway would detect for this text."""
    first = text.lstrip()[:1]
    return Encoding.XML if first == "<" else Encoding.JSON if first == "{" else Encoding.CLASSIC


class Client:
    """A connection. `timeout_s` bounds connecting and every send; ClusterError says what went wrong."""

    def __init__(self, host: str, port: int, encoding: Encoding, *, timeout_s: float = 5.0) -> None:
        if encoding not in TERMINATORS:
            raise ValueError(f"{encoding.name} is spoken through a WebSocket only")
        self.encoding = encoding
        self.closed = False
        self._where = f"{host}:{port}"
        self._terminator = TERMINATORS[encoding]
        self._received = b""
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise ClusterError(
                f"no gateway can be reached at {self._where} ({error.strerror or error}); "
                "`cs-cluster status` lists those that run"
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select; look at `buffered` before waiting."""
        return self._socket.fileno()

    @property
    def buffered(self) -> bool:
        """Whether a whole message is here already."""
        return self._terminator in self._received

    def send(self, message: Message) -> None:
        """Send a message of the model."""
        self.send_raw(encode(self.encoding, message))

    def send_raw(self, data: bytes) -> None:
        """Send a message that is already encoded, without its terminator."""
        try:
            self._socket.sendall(data + self._terminator)
        except OSError as error:
            raise ClusterError(f"the connection to {self._where} broke: {error.strerror or error}") from None

    def finish(self) -> None:
        """Say that nothing more will be sent; the gateway answers what it has, then closes."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive(self, timeout_s: float) -> Received | None:
        """The next message, or None when there was none in time or the gateway has closed (`closed`)."""
        until = time.monotonic() + timeout_s
        while True:
            raw, found, rest = self._received.partition(self._terminator)
            if found:
                self._received = rest
                if raw.strip():
                    return self._read(raw)
                continue  # empty messages mean nothing
            if not self._fill(until - time.monotonic()):
                return None

    def call(self, message: Message, timeout_s: float) -> tuple[Received, list[Received]]:
        """Send a message; its reply, and the events that came before it."""
        self.send(message)
        return self.reply(timeout_s)

    def reply(self, timeout_s: float) -> tuple[Received, list[Received]]:
        """The next reply, and the events that came before it."""
        until = time.monotonic() + timeout_s
        events: list[Received] = []
        while (received := self.receive(until - time.monotonic())) is not None:
            if received.is_reply:
                return received, events
            events.append(received)
        if self.closed:
            raise ClusterError(f"the gateway at {self._where} closed the connection without a reply")
        raise ClusterError(f"no reply from {self._where} within {timeout_s:g} s; look at `cs-cluster status`")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _fill(self, seconds: float) -> bool:
        if seconds <= 0 or self.closed:
            return False
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(65_536)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        self.closed = not data
        self._received += data
        if len(self._received) > CLIENT_MESSAGE_BYTES:
            raise ClusterError(f"{self._where} sends a message of more than {CLIENT_MESSAGE_BYTES} bytes")
        return bool(data)

    def _read(self, raw: bytes) -> Received:
        raw = raw.removesuffix(b"\r")
        try:
            return Received(raw, decode(self.encoding, raw, REPLY_LIMITS, require_msg=False))
        except ClientError as error:
            raise ClusterError(
                f"{self._where} sends what is no message of protocol 1: {error.reason}"
            ) from None
