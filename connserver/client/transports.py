"""The two ways to a gateway: JSON lines on a TCP or TLS connection, and a WebSocket.

Guards one rule: what a gateway sends is checked like anything from outside, and bounded; bytes that are no
message of protocol 1 end the connection. A transport tells its end once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from connserver.client.addresses import Address
from connserver.encodings import Encoding, decode, encode
from connserver.errors import ClientError
from connserver.limits import CLIENT_MESSAGE_BYTES, Limits
from connserver.model import Message

REPLY_LIMITS: Final = Limits(nesting_levels=64, fields=100_000)
"""Replies may hold more than requests; their size is bounded by CLIENT_MESSAGE_BYTES."""

Received = Callable[[Message], None]
Lost = Callable[[str, int], None]
"""Told once: why the connection ended, and the gateway's close code (0: none)."""


class Transport(Protocol):
    """A connection that is there."""

    def send(self, message: Message) -> None:
        """Send a message; nothing happens on a connection that is gone."""

    def close(self) -> None:
        """End it, sending what was given to it before."""


async def open_transport(
    address: Address, encoding: Encoding, context: ssl.SSLContext | None, received: Received, lost: Lost
) -> Transport:
    """Connect; OSError, ssl.SSLError or WebSocketException say why that did not work."""
    if address.is_encrypted and context is None:
        context = ssl.create_default_context()
    if not address.is_encrypted:
        context = None
    if address.is_websocket:
        return await _open_websocket(address, encoding, context, received, lost)
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(
        lambda: Lines(received, lost), address.host, address.port, ssl=context
    )
    return made


def reason_of(error: BaseException) -> str:
    """A failure to connect in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class Lines(asyncio.Protocol):
    """JSON lines."""

    def __init__(self, received: Received, lost: Lost) -> None:
        self._received = received
        self._lost: Lost | None = lost
        self._rest = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Some of what the gateway says."""
        self._rest += data
        if b"\n" not in data:
            if len(self._rest) > CLIENT_MESSAGE_BYTES:
                self._broken(f"a message of more than {CLIENT_MESSAGE_BYTES} bytes")
            return
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        for line in lines:
            if self._lost is None:
                return
            if line.strip():
                self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            message = decode(Encoding.JSON, line, REPLY_LIMITS, require_msg=False)
        except ClientError as error:
            self._broken(f"no message of protocol 1: {error.reason}")
            return
        self._received(message)

    def _broken(self, what: str) -> None:
        self._tell(f"the gateway sends {what}")
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._tell(reason_of(exc) if exc else "the gateway closed the connection")

    def _tell(self, reason: str) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(reason, 0)

    def send(self, message: Message) -> None:
        """Send a message."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(Encoding.JSON, message) + b"\n")

    def close(self) -> None:
        """End it."""
        self._lost = None
        if self._transport is not None:
            self._transport.close()


async def _open_websocket(
    address: Address, encoding: Encoding, context: ssl.SSLContext | None, received: Received, lost: Lost
) -> Transport:
    wanted = Subprotocol(f"connserver.v1.{encoding.name.lower()}")
    connection = await connect(
        str(address),
        ssl=context,
        subprotocols=[wanted],
        compression=None,
        max_size=CLIENT_MESSAGE_BYTES,
        ping_interval=None,  # the machine listens for silence, on every transport
        close_timeout=1,
        proxy=None,
    )
    if connection.subprotocol != wanted:
        await connection.close()
        raise ConnectionError(f"no gateway of protocol 1 is there: it does not take {wanted}")
    return Framed(connection, encoding, received, lost)


class Framed:
    """Messages in WebSocket frames: text for JSON, binary for msgpack."""

    def __init__(
        self, connection: ClientConnection, encoding: Encoding, received: Received, lost: Lost
    ) -> None:
        self._connection = connection
        self._encoding = encoding
        self._lost: Lost | None = lost
        self._received = received
        self._unsent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    def send(self, message: Message) -> None:
        """Send a message."""
        self._unsent.put_nowait(encode(self._encoding, message))

    def close(self) -> None:
        """End it."""
        self._lost = None
        self._unsent.put_nowait(None)

    async def _read(self) -> None:
        reason, code = "", 0
        try:
            async for data in self._connection:
                raw = data.encode() if isinstance(data, str) else data
                message = decode(self._encoding, raw, REPLY_LIMITS, require_msg=False)
                if self._lost is None:
                    break
                self._received(message)
        except ClientError as error:
            reason = f"the gateway sends no message of protocol 1: {error.reason}"
        except ConnectionClosed:
            pass
        closed = self._connection.close_code
        if not reason:
            code, reason = closed or 0, self._connection.close_reason or "the gateway closed the connection"
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(reason, code)
        self._unsent.put_nowait(None)

    async def _write(self) -> None:
        text = self._encoding is Encoding.JSON
        with contextlib.suppress(ConnectionClosed, WebSocketException, OSError):
            while (data := await self._unsent.get()) is not None:
                await self._connection.send(data, text=text)
        await self._connection.close()

    async def ended(self) -> None:
        """Wait until nothing of it is left."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
