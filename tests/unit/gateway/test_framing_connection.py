"""One connection from its first byte: detection, HTTP, policy files, TLS, PROXY headers, time limits."""

from __future__ import annotations

import random
from typing import Any

import pytest

from connserver.encodings import Encoding
from connserver.limits import Limits
from gateway.connection import Connection, Settings
from gateway.detection import Speaks, detect
from gateway.framing import Close, Detected, Event, Frames, Peer, Refuse, Send, StartTls
from gateway.http import HEAD_BYTES

SETTINGS = Settings(limits=Limits(), port=9000)
CLASSIC, XML, JSON, MSGPACK = Encoding
BOM = b"\xef\xbb\xbf"


def joined(events: list[Event]) -> list[Any]:
    """Events with the Frames that follow one another put together, so that chunking does not show."""
    out: list[Any] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Frames) and isinstance(last, Frames) and last.encoding == event.encoding:
            out[-1] = Frames(event.encoding, last.payloads + event.payloads)
        elif isinstance(event, Send) and isinstance(last, Send):
            out[-1] = Send(last.data + event.data)
        else:
            out.append(event)
    return out


def run(*pieces: bytes, settings: Settings = SETTINGS, secure: bool = False) -> list[Any]:
    connection = Connection(settings, secure=secure)
    events: list[Event] = []
    for piece in pieces:
        events += connection.feed(piece, 0.0)
    return joined(events)


def run_every_way(data: bytes, **options: Any) -> list[Any]:
    """Whole, byte by byte, and cut once at every place: always the same."""
    whole = run(data, **options)
    assert run(*(data[at : at + 1] for at in range(len(data))), **options) == whole
    for cut in range(1, len(data)):
        assert run(data[:cut], data[cut:], **options) == whole, cut
    return whole


def detected(encoding: Encoding, *payloads: bytes) -> list[Any]:
    return [Detected(encoding), Frames(encoding, list(payloads))]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"msg:ping\n\0", detected(CLASSIC, b"msg:ping")),
        (b"_x:1\n\n", detected(CLASSIC, b"_x:1")),
        (b"G:1\n\n", detected(CLASSIC, b"G:1")),
        (b"GET:1\n\n", detected(CLASSIC, b"GET:1")),
        (b"POSITION:1\n\n", detected(CLASSIC, b"POSITION:1")),
        (b"\r\n\r\n  msg:ping\n\0", detected(CLASSIC, b"msg:ping")),
        (BOM + b"msg:ping\n\0", detected(CLASSIC, b"msg:ping")),
        (b"<msg method='a'/>\0", detected(XML, b"<msg method='a'/>")),
        (b"<policy/>\0", detected(XML, b"<policy/>")),
        (b"<policy-file-request/>x\0", detected(XML, b"<policy-file-request/>x")),
        (BOM + b" <msg/>\0<msg/>\0", detected(XML, b"<msg/>", b"<msg/>")),
        (b'{"msg":"a"}\n{"msg":"b"}\0', detected(JSON, b'{"msg":"a"}', b'{"msg":"b"}')),
        (BOM + b"\n" * 13 + b"{}\n", detected(JSON, b"{}")),
        # The encoding is kept, whatever comes later.
        (b"{}\n<msg/>\nmsg:a\n", detected(JSON, b"{}", b"<msg/>", b"msg:a")),
    ],
)
def test_the_encoding_shows_in_the_first_bytes(data: bytes, events: list[Any]) -> None:
    assert run_every_way(data) == events


UNKNOWN = [Close(0, "the first bytes belong to no known encoding")]


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"[1]\n",
        b"1:2\n",
        b'"x"',
        b"\x16\x02",
        b"\x80\x01",
        b"\xc3\xa9:1",
        b" " * 17,
        b"\t{}",
        b"\x05\x01\x00",
        b"-",
    ],
)
def test_anything_else_is_closed(data: bytes) -> None:
    assert run_every_way(data) == UNKNOWN
    assert run(data, b"msg:ping\n\0") == UNKNOWN


def test_undecided_bytes_wait() -> None:
    for data in (b"", b" ", BOM, b"G", b"GET", b"DELET", b"<", b"<policy-file-request/>", b"\x16", b" " * 16):
        assert detect(data) is None, data
    assert detect(b"GET ") is Speaks.HTTP_GET
    assert detect(b"<p0") is Speaks.XML


def test_detection_never_waits_for_more_than_a_few_bytes() -> None:
    for first in range(256):
        for second in (b"a", b"G", b"<", b" ", b"\0"):
            assert detect(bytes([first]) + second * 40) is not None


def test_the_policy_file() -> None:
    request = b"<policy-file-request/>\0"
    none = run_every_way(request)
    assert none == [
        Send(b'<?xml version="1.0"?><cross-domain-policy></cross-domain-policy>\0'),
        Close(0, "policy file sent"),
    ]
    settings = Settings(limits=Limits(), port=9000, policy_domains=("*.game.example", 'a"<'))
    (answer, _) = run(request, settings=settings)
    assert answer.data == (
        b'<?xml version="1.0"?><cross-domain-policy>'
        b'<allow-access-from domain="*.game.example" to-ports="9000"/>'
        b'<allow-access-from domain=\'a"&lt;\' to-ports="9000"/></cross-domain-policy>\0'
    )


@pytest.mark.parametrize(
    "method", [b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT"]
)
def test_other_http_methods_are_not_allowed(method: bytes) -> None:
    send, close = run_every_way(method + b" ")
    assert send.data.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"Allow: GET\r\n" in send.data
    assert send.data.endswith(b"\r\n\r\n") == (method == b"HEAD")
    assert isinstance(close, Close)


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: game.example:9000", *headers, "", ""]).encode()


def test_health() -> None:
    send, close = run_every_way(get("/healthz"))
    assert send.data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert send.data.endswith(b"\r\n\r\nok")
    assert isinstance(close, Close)
    draining = Connection(SETTINGS, ready=False)
    answer = draining.feed(get("/healthz?verbose"), 0.0)[0]
    assert isinstance(answer, Send)
    assert answer.data.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


@pytest.mark.parametrize("path", ["/", "/index.html", "/healthz/x", "http://other/"])
def test_any_other_get_needs_an_upgrade(path: str) -> None:
    send, close = run(get(path))
    assert send.data.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"Upgrade: websocket\r\n" in send.data
    assert isinstance(close, Close)


@pytest.mark.parametrize(
    "data",
    [b"GET /\r\n\r\n", b"GET / HTTP/1.1 x\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"GET \r\n\r\n"],
)
def test_what_is_no_http_is_a_bad_request(data: bytes) -> None:
    send, close = run_every_way(data)
    assert send.data.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert isinstance(close, Close)


def test_a_request_head_is_bounded() -> None:
    head = b"GET / HTTP/1.1\r\nCookie: "
    connection = Connection(SETTINGS)
    assert connection.feed(head + b"x" * (HEAD_BYTES - len(head) - 1), 0.0) == []
    send, close = connection.feed(b"x", 0.0)
    assert isinstance(send, Send) and send.data.startswith(b"HTTP/1.1 431 ")
    assert isinstance(close, Close)
    send, close = run(head + b"x" * HEAD_BYTES + b"\r\n\r\n")
    assert send.data.startswith(b"HTTP/1.1 431 ")


def test_tls_where_it_is_configured() -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00"
    assert run_every_way(hello[:2]) == [Close(0, "TLS, which is not configured on this port")]
    settings = Settings(limits=Limits(), tls=True)
    assert run(hello, settings=settings) == [StartTls(hello)]
    assert run(hello[:1], hello[1:], b"more", settings=settings) == [StartTls(hello)]
    # Inside of TLS everything is detected again, but no TLS.
    assert run_every_way(b"{}\n", settings=settings, secure=True) == detected(JSON, b"{}")
    assert run(hello, settings=settings, secure=True) == [
        Close(0, "TLS, which is not configured on this port")
    ]
    assert run(b"{}\n", settings=settings) == detected(JSON, b"{}")


PROXY = Settings(limits=Limits(), proxy_protocol=True)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 9000\r\n", Peer("192.0.2.1", 4000)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 9000\r\n", Peer("2001:db8::1", 65535)),
        (b"PROXY UNKNOWN\r\n", Peer(None, 0)),
        (b"PROXY UNKNOWN ffff::1 ffff::1 1 2\r\n", Peer(None, 0)),
        (
            SIGNATURE + b"\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x0f\xa0\x23\x28",
            Peer("192.0.2.1", 4000),
        ),
        (SIGNATURE + b"\x21\x21\0\x24" + bytes(15) + b"\1" + bytes(16) + b"\x0f\xa0\0\1", Peer("::1", 4000)),
        (
            SIGNATURE + b"\x21\x11\0\x0f\xc0\0\x02\x01\xc6\x33\x64\x02\x0f\xa0\x23\x28\x04\0\0",
            Peer("192.0.2.1", 4000),
        ),
        (SIGNATURE + b"\x20\0\0\0", Peer(None, 0)),
        (SIGNATURE + b"\x21\x31\0\x02ab", Peer(None, 0)),
    ],
)
def test_proxy_headers(header: bytes, peer: Peer) -> None:
    assert run_every_way(header + b"{}\n", settings=PROXY) == [peer, *detected(JSON, b"{}")]


@pytest.mark.parametrize(
    "data",
    [
        b"{}\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 4000 9000\r\n",
        b"PROXY TCP4 ::1 ::1 4000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 70000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 9000\r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 4000 9000\r\n",
        b"PROXY " + b"x" * 101,
        b"PROXY \xff\xff\r\n",
        SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),
        SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\0\x04" + bytes(4),
        SIGNATURE + b"\x21\x11\xff\xff",
        b"\r\n\r\nx",
    ],
)
def test_where_a_proxy_header_is_expected_nothing_else_is_read(data: bytes) -> None:
    events = run_every_way(data, settings=PROXY)
    assert len(events) == 1
    assert isinstance(events[0], Close)
    assert events[0].reason.startswith("no PROXY header, which this listener expects: ")


def test_a_proxy_header_is_never_detected() -> None:
    assert run(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n\r\n")[0] == Detected(CLASSIC)


def test_too_large_a_message_is_refused_by_name_after_those_before_it() -> None:
    settings = Settings(limits=Limits(login_message_bytes=10, message_bytes=20))
    refusal = Refuse("too_large", "a message is longer than 10 bytes", close=True)
    data = b'{"a":1}\n{"aaaaaaa":1}\n{"b":1}\n'
    assert run_every_way(data, settings=settings) == [*detected(JSON, b'{"a":1}'), refusal]
    assert run(b"<" * 11, settings=settings) == [Detected(XML), refusal]
    connection = Connection(settings)
    connection.message_limit = 20
    assert connection.message_limit == 20
    assert connection.feed(data, 0.0) == detected(JSON, b'{"a":1}', b'{"aaaaaaa":1}', b'{"b":1}')
    assert connection.feed(b"x" * 21, 0.0) == [
        Refuse("too_large", "a message is longer than 20 bytes", close=True)
    ]
    assert connection.is_closed
    assert connection.feed(b"\n{}\n", 0.0) == []


def test_pending_since_the_message_began_not_since_its_last_byte() -> None:
    connection = Connection(SETTINGS)
    assert connection.pending_since is None
    steps = [
        (b" ", 1.0, 1.0),
        (b"{", 2.0, 1.0),
        (b'"a"', 3.0, 1.0),
        (b":1}\n", 4.0, None),
        (b"\r\n", 5.0, None),
        (b"{", 6.0, 6.0),
        (b"}\n{", 7.0, 7.0),
        (b" ", 8.0, 7.0),
        (b"}\n", 9.0, None),
    ]
    for data, now, since in steps:
        connection.feed(data, now)
        assert connection.pending_since == since, (data, now)


@pytest.mark.parametrize("data", [b"G", b"GET / HT", b"<polic", BOM, b"msg:a"])
def test_what_never_decides_is_pending_from_the_start(data: bytes) -> None:
    connection = Connection(SETTINGS)
    for now in range(len(data)):
        connection.feed(data[now : now + 1], float(now + 5))
    assert connection.pending_since == 5.0 or (data == b"GET / HT" and connection.pending_since == 8.0)


def test_a_slow_proxy_header_is_pending() -> None:
    connection = Connection(PROXY)
    connection.feed(b"PROX", 3.0)
    connection.feed(b"Y", 4.0)
    assert connection.pending_since == 3.0


def test_an_end_within_a_message_is_no_message() -> None:
    connection = Connection(SETTINGS)
    connection.feed(b"msg:pay\namount:10", 0.0)
    assert connection.end() == [Refuse("bad_message", "the connection ended within a message", close=True)]
    assert connection.feed(b"0\n\n", 0.0) == []
    for data in (b"", b"msg:a\n\n", b"{}\n", b"GET / HTTP/1.1\r\n", b" "):
        connection = Connection(SETTINGS)
        connection.feed(data, 0.0)
        assert connection.end() == [], data


def test_messages_are_sent_with_the_end_the_client_uses() -> None:
    for data, end in [
        (b"msg:a\n\n", b"\n"),
        (b"msg:a\n\0", b"\0"),
        (b"<m/>\0", b"\0"),
        (b"{}\n", b"\n"),
        (b"{}\0", b"\0"),
    ]:
        connection = Connection(SETTINGS)
        assert connection.send([b"x"]) == b""
        connection.feed(data, 0.0)
        assert connection.send([b"x"]) == b"x" + end
        assert connection.send([b"x", b"y", b"z"]) == b"x" + end + b"y" + end + b"z" + end
        assert connection.ping() == b""
        assert connection.close(1012, "draining") == b""
        assert connection.is_closed


# --- the short way of most reads ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_messages_brings_what_feed_brings_or_leaves_it_to_feed(seed: int) -> None:
    """Random cuts of random bytes, with messages around the size limit, in two connections alike."""
    chance = random.Random(seed)
    limits = Limits(login_message_bytes=40)
    short, long = (Connection(Settings(limits=limits, port=9000)) for _ in range(2))
    beginnings = (b'{"a":1}\n', b'{"a":1}\0', b"<a/>\0", b"a: 1\n\n", b"a: 1\r\n\r\n")
    for connection in (short, long):
        connection.feed(beginnings[seed % len(beginnings)], 0.0)
    was_short = 0
    for step in range(400):
        sizes = (0, 1, 2, 7, 19, 37, 38, 39, 40, 41) if step > 5 else (0, 1, 2)
        size = chance.choice(sizes)
        data = bytes(chance.choices(b"ab {\n\r\0", (20, 20, 5, 1, 2, 1, 2), k=size))
        data += chance.choice((b"", b"\n", b"\0", b"\r\n\r\n", b"\r", b"\n\n"))
        payloads = short.messages(data, float(step))
        events = [Frames(short.encoding or JSON, payloads)] if payloads else []
        if payloads is None:
            events = short.feed(data, float(step))  # type: ignore[assignment]
        else:
            was_short += 1
        assert events == long.feed(data, float(step))
        assert short.pending_since == long.pending_since and short.is_closed == long.is_closed
        end = b"{}" if not short.is_closed else b""
        assert short.send([end]) == long.send([end])
        if short.is_closed:
            break
    assert was_short > 0
