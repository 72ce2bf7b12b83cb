"""What a connection speaks, decided from its first bytes.

Guards one rule: a decision is made once, on as few bytes as it takes, and never on a guess: while the
bytes may still become two things, the answer is to wait. PROXY protocol is a listener's setting and
never detected, since anybody could claim an address that way.
"""

from __future__ import annotations

from enum import Enum
from typing import Final
from xml.sax.saxutils import quoteattr

from connserver.encodings import Encoding
from connserver.limits import DETECTION_SKIP_BYTES


class Speaks(Enum):
    """What a client's first bytes can be."""

    CLASSIC = Encoding.CLASSIC
    XML = Encoding.XML
    JSON = Encoding.JSON
    POLICY_REQUEST = "policy request"
    HTTP_GET = "GET"
    HTTP_OTHER = "another HTTP method"
    TLS = "TLS"
    UNKNOWN = "nothing known"


SKIPPED: Final = b"\xef\xbb\xbf\r\n "
"""The bytes of a BOM, and blank ones, that may come before the first message."""

_POLICY_REQUEST: Final = b"<policy-file-request/>"
_GET: Final = b"GET "
_OTHER_METHODS: Final = tuple(
    b"%s " % name for name in b"HEAD POST PUT DELETE OPTIONS PATCH TRACE CONNECT".split()
)
_TLS: Final = b"\x16\x03"
_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")


def detect(data: bytes) -> Speaks | None:
    """What these first bytes of a connection are; None while that is open.

    The caller drops what `skipped` counts before it goes on. Never needs more than 16 bytes skipped
    and 23 more.
    """
    rest = data.lstrip(SKIPPED)
    if len(data) - len(rest) > DETECTION_SKIP_BYTES:
        return Speaks.UNKNOWN
    if not rest:
        return None
    match rest[:1]:
        case b"{":
            return Speaks.JSON
        case b"<":
            return _detect_element(rest)
        case b"\x16":
            if len(rest) == 1:
                return None
            return Speaks.TLS if rest.startswith(_TLS) else Speaks.UNKNOWN
    return _detect_word(rest)


def detect_message(data: bytes) -> Encoding | None:
    """The encoding of one message in a text frame, by its first character; None if it has none."""
    first = data.lstrip(SKIPPED)[:1]
    if first == b"{":
        return Encoding.JSON
    if first == b"<":
        return Encoding.XML
    return Encoding.CLASSIC if first and first[0] in _LETTERS else None


def skip(data: bytes) -> bytes:
    """The first bytes without those that may come before a message."""
    return data.lstrip(SKIPPED)


def policy_file(domains: tuple[str, ...], port: int) -> bytes:
    """The answer to Flash's question whether movies of these domains may connect to this port."""
    access = "".join(
        f"<allow-access-from domain={quoteattr(domain)} to-ports={quoteattr(str(port))}/>"
        for domain in domains
    )
    return f'<?xml version="1.0"?><cross-domain-policy>{access}</cross-domain-policy>\0'.encode()


def _detect_element(rest: bytes) -> Speaks | None:
    if rest.startswith(_POLICY_REQUEST):
        if len(rest) == len(_POLICY_REQUEST):
            return None
        return Speaks.POLICY_REQUEST if rest[len(_POLICY_REQUEST)] == 0 else Speaks.XML
    return None if _POLICY_REQUEST.startswith(rest) else Speaks.XML


def _detect_word(rest: bytes) -> Speaks | None:
    if rest.startswith(_GET):
        return Speaks.HTTP_GET
    if rest.startswith(_OTHER_METHODS):
        return Speaks.HTTP_OTHER
    if rest[0] not in _LETTERS:
        return Speaks.UNKNOWN
    start = rest[:8]
    if _GET.startswith(start) or any(method.startswith(start) for method in _OTHER_METHODS):
        return None
    return Speaks.CLASSIC
