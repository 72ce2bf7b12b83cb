"""Where messages end: the splitter by itself, for every way bytes can be cut."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connserver.encodings import Encoding, encode
from gateway.framing import Splitter, terminator

CLASSIC, XML, JSON, MSGPACK = Encoding
LIMIT = 1000


def split(encoding: Encoding, *pieces: bytes, limit: int = LIMIT) -> list[bytes]:
    splitter = Splitter(encoding, limit)
    return [payload for piece in pieces for payload in splitter.feed(piece)]


@pytest.mark.parametrize(
    ("encoding", "data", "payloads"),
    [
        (CLASSIC, b"msg:a\n\0msg:b\0", [b"msg:a", b"msg:b"]),
        (CLASSIC, b"msg:a\n\nmsg:b\nx:1\n\n", [b"msg:a", b"msg:b\nx:1"]),
        (CLASSIC, b"msg:a\r\n\r\nmsg:b\r\nx:1\r\n\r\n", [b"msg:a", b"msg:b\nx:1"]),
        (CLASSIC, b"msg:a\r\n\nmsg:b\n\r\n", [b"msg:a", b"msg:b"]),
        (CLASSIC, b"\n\n\r\n\0\0\nmsg:a\n\0\nmsg:b \n\n\n\n\0", [b"msg:a", b"msg:b "]),
        (CLASSIC, b"msg:a\rb\n\n", [b"msg:a\rb"]),
        (CLASSIC, b"msg:a", []),
        (CLASSIC, b"msg:a\n", []),
        (XML, b"<msg/>\0<msg a='\n\n'/>\0", [b"<msg/>", b"<msg a='\n\n'/>"]),
        (XML, b"\0\0 \r\n\0<msg/>\0\r\n<msg/>\r\n\0", [b"<msg/>", b"<msg/>"]),
        (JSON, b'{"a":1}\n{"b":1}\r\n{"c":1}\0', [b'{"a":1}', b'{"b":1}', b'{"c":1}']),
        (JSON, b'\n \r\n\0{"a":1}\0\n{"b":1}\n\0', [b'{"a":1}', b'{"b":1}']),
        (JSON, b'{\n"a":1}\n', [b"{", b'"a":1}']),
    ],
)
def test_messages_end_where_they_should(encoding: Encoding, data: bytes, payloads: list[bytes]) -> None:
    assert split(encoding, data) == payloads
    assert split(encoding, *(data[at : at + 1] for at in range(len(data)))) == payloads
    for cut in range(len(data)):
        assert split(encoding, data[:cut], data[cut:]) == payloads, cut


MESSAGES: list[Any] = [
    {"msg": "a", "text": "x\n\n\r\ny \0".replace("\0", "") + "%"},
    {"msg": "b", "empty": "", "last": "z "},
    {"msg": "c", "list": ["\n", " "], "none": None},
    {"msg": "d"},
]
ENDS = {
    CLASSIC: [b"\0", b"\n", b"\r\n", b"\n\r\n\0", b"\0\0\0\n"],
    XML: [b"\0", b"\0\r\n", b" \0\0"],
    JSON: [b"\0", b"\n", b"\r\n", b"\n\0", b"\r\n\n\n"],
}


@given(
    data=st.data(),
    encoding=st.sampled_from(list(ENDS)),
    messages=st.lists(st.sampled_from(MESSAGES), max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_any_chunking_gives_the_same_messages(data: Any, encoding: Encoding, messages: list[Any]) -> None:
    stream = b"".join(encode(encoding, one) + data.draw(st.sampled_from(ENDS[encoding])) for one in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
    expected = [encode(encoding, one).strip(b"\n") for one in messages]
    assert split(encoding, *pieces) == expected


def test_what_is_pending() -> None:
    for encoding, idle, begun in [
        (CLASSIC, b"a:1\n\n\r\n\0\n", b"a:1\n"),
        (XML, b"<m/>\0\r\n ", b"<"),
        (JSON, b"{}\n \r\n\0", b"{"),
    ]:
        splitter = Splitter(encoding, LIMIT)
        assert not splitter.is_pending
        splitter.feed(idle)
        assert not splitter.is_pending, encoding
        splitter.feed(begun)
        assert splitter.is_pending
        splitter.feed(b"\0")
        assert not splitter.is_pending


@pytest.mark.parametrize("encoding", [CLASSIC, XML, JSON])
def test_blanks_between_messages_are_nothing_pending(encoding: Encoding) -> None:
    splitter = Splitter(encoding, 10)
    for _ in range(20):
        splitter.feed(b"\r\n")
        assert not splitter.is_pending
    assert not splitter.overflowed


@pytest.mark.parametrize("encoding", [CLASSIC, XML, JSON])
def test_the_size_limit_is_exact_however_it_arrives(encoding: Encoding) -> None:
    fits, over = b"a" * 10, b"a" * 11
    for end in (b"\0",):
        for step in (1, 3, 100):
            stream = fits + end + over + end + fits + end
            splitter = Splitter(encoding, 10)
            found: list[bytes] = []
            for at in range(0, len(stream), step):
                found += splitter.feed(stream[at : at + step])
            assert found == [fits]
            assert splitter.overflowed
            assert not splitter.is_pending


def test_an_unfinished_message_is_refused_as_soon_as_it_is_too_long() -> None:
    splitter = Splitter(JSON, 10)
    assert splitter.feed(b"{" + b" " * 9) == []
    assert not splitter.overflowed
    assert splitter.feed(b" ") == []
    assert splitter.overflowed


def test_a_new_limit_counts_from_then_on() -> None:
    splitter = Splitter(JSON, 10)
    splitter.limit = 20
    assert splitter.feed(b"a" * 20 + b"\n") == [b"a" * 20]


@pytest.mark.parametrize(
    ("encoding", "data", "end"),
    [
        (CLASSIC, b"msg:a\n\n", b"\n"),
        (CLASSIC, b"msg:a\n\0", b"\0"),
        (XML, b"<m/>\0", b"\0"),
        (JSON, b"{}\n", b"\n"),
        (JSON, b"{}\r\n", b"\n"),
        (JSON, b"{}\0", b"\0"),
        (JSON, b"{}\n\0", b"\0"),
    ],
)
def test_a_client_is_answered_as_it_asks(encoding: Encoding, data: bytes, end: bytes) -> None:
    splitter = Splitter(encoding, LIMIT)
    assert splitter.terminator == terminator(encoding)
    splitter.feed(data)
    assert splitter.terminator == end
    splitter.feed(b"\r\n")
    assert splitter.terminator == end


@pytest.mark.timeout(20)
@pytest.mark.parametrize("encoding", [CLASSIC, XML, JSON])
@pytest.mark.parametrize("unit", [b"a", b"\r", b"a\n", b"%0"])
def test_half_a_megabyte_byte_by_byte_takes_linear_time(encoding: Encoding, unit: bytes) -> None:
    # Copying what is pending for each byte would take 128 GB of copies.
    stream = b"b" + unit * (2**19 // len(unit))
    splitter = Splitter(encoding, 2**20)
    for at in range(len(stream)):
        splitter.feed(stream[at : at + 1])
    assert not splitter.overflowed


@pytest.mark.timeout(20)
@pytest.mark.parametrize("encoding", [CLASSIC, XML, JSON])
@pytest.mark.parametrize("flood", [b"\0", b"\n", b"\r\n", b"\n\0", b" \0"])
def test_floods_of_terminators_cost_no_message_each(encoding: Encoding, flood: bytes) -> None:
    splitter = Splitter(encoding, LIMIT)
    for _ in range(10):
        if encoding is CLASSIC and flood.startswith(b" "):
            continue  # a line of one space is a (wrong) message in classic
        if encoding is XML and b"\0" not in flood:
            flood += b"\0"
        assert splitter.feed(flood * 100_000) == []
    assert not splitter.overflowed
    assert not splitter.is_pending


def test_random_bytes_neither_raise_nor_leave_a_terminator() -> None:
    chance = random.Random("framing")
    for encoding in (CLASSIC, XML, JSON):
        for _ in range(2_000):
            splitter = Splitter(encoding, 30)
            for _ in range(chance.randint(1, 8)):
                data = bytes(chance.choice(b"\0\n\r a{<:") for _ in range(chance.randint(0, 12)))
                for payload in splitter.feed(data):
                    assert payload and len(payload) <= 30
                    assert b"\0" not in payload
                    assert encoding is XML or b"\n\n" not in payload
