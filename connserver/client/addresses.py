"""Where gateways are, as a program writes it: `host:port`, or a URL that says how to speak there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

SCHEMES: Final = {"tcp": False, "tls": True, "ws": False, "wss": True}
"""Scheme → whether it is encrypted."""


@dataclass(frozen=True, slots=True)
class Address:
    """One gateway. `path` is that of a WebSocket."""

    scheme: str
    host: str
    port: int
    path: str = "/"

    @property
    def is_websocket(self) -> bool:
        """Whether a WebSocket is spoken there; else JSON lines on the bare connection."""
        return self.scheme in ("ws", "wss")

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is under it."""
        return SCHEMES[self.scheme]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path if self.is_websocket else ''}"

    @staticmethod
    def parse(text: str) -> Address:
        """Read `host:port` (JSON lines), `tls://…`, `ws://…` or `wss://…`; ValueError names the fault."""
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        if parts.scheme not in SCHEMES:
            raise ValueError(f"{text}: a gateway is host:port, or a URL with one of {', '.join(SCHEMES)}")
        port = parts.port or {"ws": 80, "wss": 443}.get(parts.scheme)
        if not parts.hostname or port is None:
            raise ValueError(f"{text}: a host and a port are wanted, such as 127.0.0.1:9000")
        return Address(parts.scheme, parts.hostname, port, parts.path or "/")
