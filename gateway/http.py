"""The little HTTP a gateway speaks: one request a connection, answered and closed.

Guards one rule: a request's head is bounded before anything parses it. WebSocket upgrades are judged in
`gateway.websocket`; everything else is answered here.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

HEAD_BYTES: Final = 8_192
"""Longest head of a request: what browsers send with cookies, and what proxies allow by default."""
HEAD_END: Final = b"\r\n\r\n"


def response(
    status: HTTPStatus, body: str, *, headers: tuple[tuple[str, str], ...] = (), head: bool = False
) -> bytes:
    """A complete answer that ends the connection; `head` leaves the body out, for a HEAD request."""
    content = body.encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else content)


def method_not_allowed(method: bytes) -> bytes:
    """The answer to any method but GET."""
    return response(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "Only GET is answered here.\n",
        headers=(("Allow", "GET"),),
        head=method.startswith(b"HEAD"),
    )


def health(ready: bool) -> bytes:
    """The answer to GET /healthz: 200 while the gateway takes clients, 503 otherwise."""
    if ready:
        return response(HTTPStatus.OK, "ok")
    return response(HTTPStatus.SERVICE_UNAVAILABLE, "not ready")


def upgrade_required() -> bytes:
    """The answer to a GET that asks for nothing that exists here."""
    return response(
        HTTPStatus.UPGRADE_REQUIRED,
        "Connect by WebSocket, or send classic, XML or JSON messages to this port.\n",
        headers=(("Upgrade", "websocket"),),
    )


def head_too_large() -> bytes:
    """The answer to a request whose head does not end within HEAD_BYTES."""
    return response(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"A request's head has at most {HEAD_BYTES} bytes here.\n"
    )
