"""The PROXY protocol's header, versions 1 and 2: the client's address as a load balancer tells it.

Guards one rule: on a listener set to expect it, nothing is read before a valid header, so that nobody
who reaches the listener directly passes for somebody else unnoticed. The form is HAProxy's
specification "The PROXY protocol, versions 1 & 2".
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

LONGEST_V1: Final = 107
"""The specification's worst case of a version 1 line, with its CRLF."""
LONGEST_V2: Final = 2_048
"""Longest version 2 header that is read: addresses and a few extensions, such as a TLS certificate's name."""

_SIGNATURE_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_START_V2: Final = len(_SIGNATURE_V2) + 4


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header of `size` bytes. `address` is None where the proxy speaks for itself."""

    address: str | None
    port: int
    size: int


def parse_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning; None while it is incomplete; ValueError if it is none."""
    if data.startswith(_SIGNATURE_V2):
        return _parse_v2(data)
    if _SIGNATURE_V2.startswith(data) or b"PROXY ".startswith(data):
        return None
    if not data.startswith(b"PROXY "):
        raise ValueError("the connection begins with something else")
    end = data.find(b"\r\n", 0, LONGEST_V1)
    if end < 0:
        if len(data) >= LONGEST_V1:
            raise ValueError(f"the PROXY header is longer than {LONGEST_V1} bytes")
        return None
    return _parse_v1(data[:end].decode("latin-1").split(" "), end + 2)


def _parse_v1(words: list[str], size: int) -> ProxyHeader:
    if words[1] == "UNKNOWN":
        return ProxyHeader(None, 0, size)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("the PROXY header is not PROXY TCP4|TCP6 address address port port")
    address = str(IPv4Address(words[2]) if words[1] == "TCP4" else IPv6Address(words[2]))
    port = int(words[4]) if words[4].isascii() and words[4].isdigit() else -1
    if not 0 <= port <= 65_535:
        raise ValueError("the PROXY header's port is no port")
    return ProxyHeader(address, port, size)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _START_V2:
        return None
    version, command = data[12] >> 4, data[12] & 15
    size = _START_V2 + int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1:
        raise ValueError("the PROXY header is of an unknown version or command")
    if size > LONGEST_V2:
        raise ValueError(f"the PROXY header of {size} bytes is longer than {LONGEST_V2}")
    if len(data) < size:
        return None
    family = data[13] >> 4
    if command == 0 or family not in (1, 2):
        return ProxyHeader(None, 0, size)
    width = 4 if family == 1 else 16
    if size < _START_V2 + 2 * width + 4:
        raise ValueError("the PROXY header is too short for its addresses")
    raw = data[_START_V2 : _START_V2 + width]
    address = str(IPv4Address(raw) if family == 1 else IPv6Address(raw))
    port_at = _START_V2 + 2 * width
    return ProxyHeader(address, int.from_bytes(data[port_at : port_at + 2], "big"), size)
