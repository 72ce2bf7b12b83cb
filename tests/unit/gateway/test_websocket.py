"""WebSocket connections, against the client side of the library and against frames made by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from connserver.encodings import Encoding
from connserver.limits import Limits
from gateway.connection import Connection, Settings
from gateway.framing import Close, Detected, Event, Frames, Pong, Send
from gateway.websocket import SUBPROTOCOLS, origin_allowed

SETTINGS = Settings(limits=Limits(login_message_bytes=1000), port=9000)
CLASSIC, XML, JSON, MSGPACK = Encoding
TEXT, BINARY, CONT, PING, PONG, CLOSE = (
    Opcode.TEXT,
    Opcode.BINARY,
    Opcode.CONT,
    Opcode.PING,
    Opcode.PONG,
    Opcode.CLOSE,
)


def request(*headers: str, subprotocol: str = "", key: str = "dGhlIHNhbXBsZSBub25jZQ==") -> bytes:
    lines = [
        "GET /play HTTP/1.1",
        "Host: game.example:9000",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def opened(subprotocol: str = "", settings: Settings = SETTINGS) -> Connection:
    connection = Connection(settings)
    first = connection.feed(request(subprotocol=subprotocol), 0.0)[0]
    assert isinstance(first, Send) and first.data.startswith(b"HTTP/1.1 101 ")
    return connection


def frames_in(data: bytes) -> list[tuple[Opcode, bytes]]:
    """What a client sees in these bytes from the server."""
    client = ClientProtocol(parse_uri("ws://game.example/"), state=OPEN)
    client.receive_data(data)
    assert client.parser_exc is None
    return [
        (event.opcode, bytes(event.data)) for event in client.events_received() if isinstance(event, Frame)
    ]


def closes_with(connection: Connection, data: bytes, code: int) -> list[Event]:
    """The events before the close, which is to have this code on the wire and in the event."""
    *before, send, close = connection.feed(data, 0.0)
    assert isinstance(close, Close) and close.code == code
    assert isinstance(send, Send)
    opcode, body = frames_in(send.data)[-1]
    assert opcode is CLOSE and int.from_bytes(body[:2], "big") == code
    assert connection.is_closed and connection.feed(frame(TEXT, b"{}"), 0.0) == []
    return before


@pytest.mark.parametrize("subprotocol", [None, *SUBPROTOCOLS])
def test_the_handshake_satisfies_a_client(subprotocol: Subprotocol | None) -> None:
    asked = [Subprotocol("unknown"), subprotocol] if subprotocol else None
    client = ClientProtocol(parse_uri("ws://game.example:9000/"), subprotocols=asked)
    client.send_request(client.connect())
    connection = Connection(SETTINGS)
    events = connection.feed(b"".join(client.data_to_send()), 0.0)
    assert isinstance(events[0], Send)
    client.receive_data(events[0].data)
    assert [type(event) for event in client.events_received()] == [Response]
    assert client.state is OPEN and client.handshake_exc is None
    assert client.subprotocol == subprotocol
    assert connection.is_websocket
    assert connection.pending_since is None


def test_the_handshake_and_frames_cut_at_every_byte() -> None:
    stream = request(subprotocol="connserver.v1.json") + frame(TEXT, b'{"msg":"a"}') + frame(PING, b"x")
    stream += frame(TEXT, b'{"msg"', fin=False) + frame(PING, b"") + frame(CONT, b':"b"}')
    for cut in range(1, len(stream)):
        connection = Connection(SETTINGS)
        events = connection.feed(stream[:cut], 0.0) + connection.feed(stream[cut:], 0.0)
        payloads = [one for event in events if isinstance(event, Frames) for one in event.payloads]
        assert payloads == [b'{"msg":"a"}', b'{"msg":"b"}']
        sent = b"".join(event.data for event in events if isinstance(event, Send))
        assert frames_in(sent[sent.index(b"\r\n\r\n") + 4 :]) == [(PONG, b"x"), (PONG, b"")]


@pytest.mark.parametrize(
    ("first", "encoding", "payload"),
    [
        (frame(TEXT, b'{"msg":"a"}\0'), JSON, b'{"msg":"a"}'),
        (frame(TEXT, b'\xef\xbb\xbf \n{"msg":\n"a"}'), JSON, b'\xef\xbb\xbf \n{"msg":\n"a"}'),
        (frame(TEXT, b"<msg method='a'/>"), XML, b"<msg method='a'/>"),
        (frame(TEXT, b"msg:a\nb:c\n\0"), CLASSIC, b"msg:a\nb:c\n"),
        (frame(BINARY, b"msg:a\n\0"), CLASSIC, b"msg:a"),
        (frame(BINARY, b"<msg/>\0"), XML, b"<msg/>"),
        (frame(BINARY, b"<ms") + frame(BINARY, b"g/>") + frame(BINARY, b"\0"), XML, b"<msg/>"),
        (frame(BINARY, b"{}\n"), JSON, b"{}"),
    ],
)
def test_without_a_subprotocol_the_first_frame_decides(
    first: bytes, encoding: Encoding, payload: bytes
) -> None:
    connection = opened()
    assert connection.encoding is None
    assert connection.send([b"x"]) == b""
    assert connection.feed(first, 0.0) == [Detected(encoding), Frames(encoding, [payload])]
    assert connection.encoding is encoding


@pytest.mark.parametrize(
    ("subprotocol", "opcode", "data", "encoding", "payload"),
    [
        ("json", TEXT, b'{"msg":"a"}', JSON, b'{"msg":"a"}'),
        ("json", TEXT, b"<msg/>\0", JSON, b"<msg/>"),
        ("xml", TEXT, b"<msg/>\0", XML, b"<msg/>"),
        ("classic", TEXT, b"msg:a\n\n", CLASSIC, b"msg:a\n\n"),
        ("msgpack", BINARY, b"\x81\xa3msg\xa1a\0", MSGPACK, b"\x81\xa3msg\xa1a\0"),
    ],
)
def test_subprotocols(
    subprotocol: str, opcode: Opcode, data: bytes, encoding: Encoding, payload: bytes
) -> None:
    connection = Connection(SETTINGS)
    _, detected = connection.feed(request(subprotocol=f"connserver.v1.{subprotocol}"), 0.0)
    assert detected == Detected(encoding)
    assert connection.feed(frame(opcode, data), 0.0) == [Frames(encoding, [payload])]
    assert frames_in(connection.send([b"one", b"two"])) == [(opcode, b"one"), (opcode, b"two")]
    other = BINARY if opcode is TEXT else TEXT
    closes_with(connection, frame(other, b"{}"), 1003)


@pytest.mark.parametrize("subprotocol", ["connserver.v1.stream", "binary"])
def test_a_byte_stream_in_binary_frames(subprotocol: str) -> None:
    connection = opened(subprotocol)
    assert connection.feed(frame(BINARY, b"<msg/>\0<ms"), 0.0) == [Detected(XML), Frames(XML, [b"<msg/>"])]
    assert connection.pending_since == 0.0
    assert connection.feed(frame(BINARY, b"g/>\0"), 1.0) == [Frames(XML, [b"<msg/>"])]
    assert connection.pending_since is None
    assert frames_in(connection.send([b"<a/>", b"<b/>"])) == [(BINARY, b"<a/>\0<b/>\0")]
    closes_with(connection, frame(TEXT, b"<msg/>"), 1003)


def test_a_mode_once_chosen_is_kept() -> None:
    connection = opened()
    connection.feed(frame(TEXT, b"{}"), 0.0)
    assert connection.feed(frame(TEXT, b"<msg/>"), 0.0) == [Frames(JSON, [b"<msg/>"])]
    closes_with(connection, frame(BINARY, b"{}\n"), 1003)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\0", b"<policy-file-request/>\0"]
)
def test_a_byte_stream_in_frames_is_of_messages_only(data: bytes) -> None:
    closes_with(opened("connserver.v1.stream"), frame(BINARY, data), 1003)


def test_text_that_begins_no_message() -> None:
    closes_with(opened(), frame(TEXT, b"[1]"), 1003)


def test_empty_messages_are_ignored() -> None:
    connection = opened()
    for data in (b"", b"\0", b"\0\0", b" \r\n", b"\n\0"):
        assert connection.feed(frame(TEXT, data), 0.0) == []
    assert connection.feed(frame(TEXT, b"{}"), 0.0) == [Detected(JSON), Frames(JSON, [b"{}"])]


@pytest.mark.parametrize("data", [b"{\xff}", b"{\xed\xa0\x80}", b"{\xc3"])
def test_text_that_is_no_utf_8(data: bytes) -> None:
    before = closes_with(opened(), frame(TEXT, b"{}") + frame(TEXT, data) + frame(TEXT, b"{}"), 1007)
    assert before == [Detected(JSON), Frames(JSON, [b"{}"])]


def test_utf_8_may_be_cut_by_fragments() -> None:
    connection = opened()
    events = connection.feed(frame(TEXT, b'{"a":"\xc3', fin=False) + frame(CONT, b'\xa9"}'), 0.0)
    assert events == [Detected(JSON), Frames(JSON, ['{"a":"é"}'.encode()])]


def test_sizes_are_limited_per_message_not_per_frame() -> None:
    fits = b"{" + b" " * 998 + b"}"
    assert opened().feed(frame(TEXT, fits), 0.0) == [Detected(JSON), Frames(JSON, [fits])]
    parts = frame(TEXT, fits[:500], fin=False) + frame(CONT, fits[500:])
    assert opened().feed(parts, 0.0) == [Detected(JSON), Frames(JSON, [fits])]
    for over in (
        frame(TEXT, fits + b" "),
        frame(TEXT, fits, fin=False) + frame(CONT, b" "),
        frame(TEXT, b"", fin=False) + frame(CONT, fits, fin=False) + frame(CONT, b" "),
        frame(BINARY, b"<" + b" " * 600) + frame(BINARY, b" " * 600),
    ):
        before = closes_with(opened(), over, 1009)
        assert not any(isinstance(event, Frames) for event in before)


def test_a_frame_that_announces_too_much_is_refused_at_its_header() -> None:
    closes_with(opened(), b"\x81\xff" + (2**62).to_bytes(8, "big") + b"abcd", 1009)


def test_the_limit_can_be_raised() -> None:
    for subprotocol in ("", "connserver.v1.stream"):
        connection = opened(subprotocol)
        connection.message_limit = 5000
        data = b"<" + b" " * 3000
        found = connection.feed(frame(BINARY, data + b"\0"), 0.0)
        assert found[-1] == Frames(XML, [data.strip()])
        connection.message_limit = 6000
        assert connection.feed(frame(BINARY, b"<" + b"a" * 5500 + b"\0"), 0.0) == [
            Frames(XML, [b"<" + b"a" * 5500])
        ]


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x02{}",  # not masked
        frame(CONT, b"x"),
        frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"),
        b"\xc1\x82abcd" + b"{}",  # a reserved bit: compression was not agreed on
        b"\x83\x80abcd",
        b"\x89\xfe\x00\x7eabcd" + bytes(126),  # a ping of 126 bytes
        b"\x09\x80abcd",  # a ping in fragments
    ],
)
def test_violations_of_the_protocol(data: bytes) -> None:
    before = closes_with(opened(), frame(TEXT, b"{}") + data, 1002)
    assert before == [Detected(JSON), Frames(JSON, [b"{}"])]


def test_compression_is_not_agreed_to() -> None:
    connection = Connection(SETTINGS)
    (answer,) = connection.feed(request("Sec-WebSocket-Extensions: permessage-deflate"), 0.0)
    assert isinstance(answer, Send) and b"Sec-WebSocket-Extensions" not in answer.data


def test_pings_and_pongs() -> None:
    connection = opened("connserver.v1.json")
    (send,) = connection.feed(frame(PING, b"abc"), 0.0)
    assert isinstance(send, Send) and frames_in(send.data) == [(PONG, b"abc")]
    assert frames_in(connection.ping()) == [(PING, b"")]
    assert connection.feed(frame(PONG, b""), 0.0) == [Pong()]


def test_the_client_closes() -> None:
    connection = opened()
    events = connection.feed(frame(TEXT, b"{}") + frame(CLOSE, b"\x03\xe8bye"), 0.0)
    assert events[:2] == [Detected(JSON), Frames(JSON, [b"{}"])]
    assert isinstance(events[2], Send) and frames_in(events[2].data) == [(CLOSE, b"\x03\xe8bye")]
    assert events[3] == Close(1000, "bye")
    assert connection.is_closed
    assert connection.send([b"x"]) == b"" and connection.ping() == b"" and connection.close(1012, "") == b""


@pytest.mark.parametrize("code", [1003, 1009, 1012, 1013, 4001, 4002, 4003])
def test_the_gateway_closes(code: int) -> None:
    connection = opened("connserver.v1.json")
    data = connection.close(code, "é" * 200)
    assert frames_in(data) == [(CLOSE, code.to_bytes(2, "big") + ("é" * 61).encode())]
    assert connection.close(code, "") == b""
    assert connection.send([b"x"]) == b""
    assert connection.feed(frame(TEXT, b"{}"), 0.0) == []


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_outgoing_frames_of_every_length(size: int) -> None:
    payload = b"x" * size
    for subprotocol, opcode in [("connserver.v1.json", TEXT), ("connserver.v1.msgpack", BINARY)]:
        assert frames_in(opened(subprotocol).send([payload, b"{}"])) == [(opcode, payload), (opcode, b"{}")]


def test_what_is_unfinished_is_pending_and_pings_do_not_help() -> None:
    connection = Connection(SETTINGS)
    connection.feed(request()[:50], 1.0)
    assert connection.pending_since == 1.0
    connection.feed(request()[50:], 2.0)
    assert connection.pending_since is None
    connection.feed(frame(TEXT, b'{"a"', fin=False), 3.0)
    connection.feed(frame(PING, b""), 4.0)
    connection.feed(frame(PONG, b""), 5.0)
    assert connection.pending_since == 3.0
    connection.feed(frame(CONT, b":1}"), 6.0)
    assert connection.pending_since is None
    connection.feed(frame(TEXT, b"{}")[:7], 7.0)
    assert connection.pending_since == 7.0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(key="short"), 400),
        (request().replace(b"Version: 13", b"Version: 8"), 400),
        (request().replace(b"Upgrade: websocket", b"Upgrade: h2c"), 426),
        (request("Origin: http://a", "Origin: http://b"), 400),
        (request("Origin: http://[::1"), 400),
        (request("Origin: https://other.example"), 403),
        (request("Origin: null"), 403),
        (request(subprotocol="mqtt"), 400),
        (request(*(f"X-{number}: 1" for number in range(200))), 431),
    ],
)
def test_handshakes_that_are_refused(data: bytes, status: int) -> None:
    connection = Connection(SETTINGS)
    send, close = connection.feed(data, 0.0)
    assert isinstance(send, Send) and send.data.startswith(f"HTTP/1.1 {status} ".encode())
    assert isinstance(close, Close) and not connection.is_websocket


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "answer"),
    [
        ("https://game.example", "game.example:9000", (), True),
        ("http://GAME.example:8080", "game.example", (), True),
        ("http://127.0.0.1:8000", "127.0.0.1:9000", (), True),
        ("http://[::1]:8000", "[::1]:9000", (), True),
        ("https://evil.example", "game.example", (), False),
        ("https://game.example.evil.example", "game.example", (), False),
        ("null", "game.example", (), False),
        ("", "game.example", (), False),
        ("https://game.example", None, (), False),
        ("null", None, (), False),
        ("https://a.example", "b", ("https://a.example/",), True),
        ("https://A.example", "b", ("https://a.EXAMPLE",), True),
        ("http://a.example", "b", ("https://a.example",), False),
        ("https://b", "b", ("https://a.example",), False),
        ("https://anything", "b", ("*",), True),
    ],
)
def test_origins(origin: str, host: str | None, allowed: tuple[str, ...], answer: bool) -> None:
    assert origin_allowed(origin, host, allowed) is answer


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_chunking_of_frames_gives_the_same_messages(data: Any) -> None:
    sizes = data.draw(st.lists(st.integers(2, 300), max_size=5))
    stream = b""
    for size in sizes:
        payload = b"{" + b"x" * (size - 2) + b"}"
        cut = data.draw(st.integers(0, size))
        fragments = data.draw(st.booleans())
        stream += (
            frame(TEXT, payload[:cut], fin=False) + frame(CONT, payload[cut:])
            if fragments
            else frame(TEXT, payload)
        )
    connection = opened("connserver.v1.json")
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        for event in connection.feed(stream[:size], 0.0):
            assert isinstance(event, Frames)
            found += event.payloads
        stream = stream[size:]
    assert [len(payload) for payload in found] == sizes
    assert connection.pending_since is None


def test_hostile_bytes_never_raise() -> None:
    chance = random.Random("websocket")
    good = [
        frame(TEXT, b"{}"),
        frame(BINARY, b"{}\n"),
        frame(PING, b""),
        frame(TEXT, b"{", fin=False),
        frame(CONT, b"}"),
    ]
    for _ in range(3_000):
        connection = opened(chance.choice(["", *SUBPROTOCOLS]))
        for _ in range(chance.randint(1, 6)):
            data = bytearray(chance.choice(good) if chance.random() < 0.8 else chance.randbytes(20))
            if chance.random() < 0.5:
                data[chance.randrange(len(data))] = chance.randrange(256)
            for event in connection.feed(bytes(data), 0.0):
                if isinstance(event, Frames):
                    assert all(event.payloads)


def test_hostile_requests_never_raise() -> None:
    chance = random.Random("handshake")
    good = request("Origin: http://game.example", subprotocol="connserver.v1.json")
    for _ in range(3_000):
        data = bytearray(good)
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(4, len(data))] = chance.choice(b"\0\r\n :;,=[]%/\xff\xc3aZ0")
        connection = Connection(SETTINGS)
        events = connection.feed(bytes(data), 0.0)
        assert connection.is_websocket or not events or isinstance(events[-1], Close)
