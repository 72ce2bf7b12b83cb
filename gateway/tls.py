"""TLS between the socket and the framing: encrypted bytes in, plain bytes out, and back.

Guards one rule: TLS is a layer of its own which the protocol above does not see. OpenSSL works here on
memory, not on the socket, so that the same port can first tell by a connection's first bytes whether
it speaks TLS at all, and so that reads can be paused and writes bounded as on any other connection.
"""

from __future__ import annotations

import ssl
from typing import Final

from connserver.config import GatewayConfig
from connserver.errors import ConfigError, Fault

READ_BYTES: Final = 65_536
"""Plain bytes taken from OpenSSL at once; a TLS record holds at most 16 KiB."""


class Channel:
    """One connection's TLS. After each call, `outgoing` is what is to be written to the socket."""

    __slots__ = ("_from_client", "_object", "_shaken", "_to_client", "ended")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._from_client = ssl.MemoryBIO()
        self._to_client = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._from_client, self._to_client, server_side=True)
        self._shaken = False
        self.ended = False
        """The client has closed its side (close_notify)."""

    def receive(self, data: bytes) -> bytes:
        """The plain bytes in `data`; ssl.SSLError if the client breaks TLS (an alert is outgoing)."""
        self._from_client.write(data)
        plain: list[bytes] = []
        try:
            if not self._shaken:
                self._object.do_handshake()
                self._shaken = True
            while chunk := self._object.read(READ_BYTES):
                plain.append(chunk)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(plain)

    def send(self, plain: bytes) -> None:
        """Encrypt; nothing can be sent before the handshake is through."""
        if self._shaken and plain:
            self._object.write(plain)

    def close(self) -> None:
        """Say that nothing more comes."""
        if not self._shaken:
            return
        try:
            self._object.unwrap()
        except ssl.SSLError:
            pass  # the client's own close_notify is not waited for

    @property
    def outgoing(self) -> bytes:
        """Encrypted bytes for the client; each is handed out once."""
        return self._to_client.read()


def server_context(config: GatewayConfig) -> ssl.SSLContext | None:
    """The certificate to serve TLS with, None where none is configured; ConfigError if it cannot be used."""
    if config.tls_certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(config.tls_certificate_file, config.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        wrong = f"TLS cannot be served with this certificate and its key: {error}"
        raise ConfigError([Fault(str(config.tls_certificate_file), 0, wrong)]) from None
    return context
