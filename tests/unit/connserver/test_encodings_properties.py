"""The whole model through every encoding, and hostile bytes: only ClientError ever comes out."""

from __future__ import annotations

import json
import random
import string
from typing import Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connserver.conversion import convert
from connserver.encodings import Encoding, decode, encode
from connserver.errors import ClientError
from connserver.limits import LARGEST_INTEGER, Limits
from connserver.model import MOST_LEVELS, Value, check_message, pack, unpack

WIDE = Limits(nesting_levels=MOST_LEVELS, fields=1000)
LIMITS = Limits()
CLASSIC, XML, JSON, MSGPACK = Encoding

# Every character of XML 1.0, with those that some encoding treats in a way of its own more often.
TEXT = st.text(
    st.one_of(
        st.sampled_from("\t\n\r%:.<>&\"'[]{}~_ 0a\\=/;,-\x7f\x85\u2028\ufeff"),
        st.characters(min_codepoint=0x20, max_codepoint=0xD7FF),
        st.characters(min_codepoint=0xE000, max_codepoint=0xFFFD),
        st.characters(min_codepoint=0x10000, max_codepoint=0x10FFFF),
    ),
    max_size=20,
)
NAMES = st.one_of(
    st.sampled_from(
        ["_", "method", "xmlns", "xml", "a.b", "a.0", "_.", "a-", "status", "msg", "true", "x" * 64]
    ),
    st.builds(
        str.__add__,
        st.sampled_from(string.ascii_letters + "_"),
        st.text(st.sampled_from(string.ascii_letters + string.digits + "_.-"), max_size=63),
    ),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-LARGEST_INTEGER, LARGEST_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.sampled_from(["", "true", "null", "1", "[]", "%41", "%", "AAE="]),
    st.binary(max_size=20),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=15,
)
MESSAGES = st.builds(
    lambda fields, method: {**fields, "msg": method}, st.dictionaries(NAMES, VALUES, max_size=6), NAMES
)


def annotation_of(value: Value) -> Any:
    """What a callback's author would write for such a value."""
    if isinstance(value, list):
        items = [annotation_of(item) for item in value]
        if not items:
            return list
        return list[items[0]] if all(item == items[0] for item in items) else tuple[tuple(items)]  # type: ignore[valid-type,misc]
    if isinstance(value, dict):
        members = {name: annotation_of(member) for name, member in value.items()}
        return TypedDict("Record", members) if members else dict[str, int]  # type: ignore[misc]  # made at run time
    return None if value is None else type(value)


def exact(value: Value) -> Any:
    """A form in which equal means of the same types, too, and -0.0 is not 0.0."""
    if isinstance(value, list):
        return ["list", *map(exact, value)]
    if isinstance(value, dict):
        return {name: exact(member) for name, member in value.items()}
    return (type(value).__name__, repr(value))


def shape(value: Value) -> Any:
    """What is left of a value without the types of its leaves."""
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    return None if value is None else "leaf"


def has_terminator(encoding: Encoding, data: bytes) -> bool:
    match encoding:
        case Encoding.CLASSIC:
            return b"\0" in data or b"\r" in data or b"\n\n" in data or data.startswith(b"\n")
        case Encoding.XML:
            return b"\0" in data
        case Encoding.JSON:
            return b"\0" in data or b"\n" in data or b"\r" in data
        case Encoding.MSGPACK:
            return False


@given(message=MESSAGES)
@settings(max_examples=500, deadline=None)
def test_every_value_survives_every_encoding(message: Any) -> None:
    """By annotation in all of them; without one, too, what has a type or a mark of its own."""
    check_message(message, WIDE)
    annotations = {name: annotation_of(value) for name, value in message.items()}
    for encoding in Encoding:
        data = encode(encoding, message)
        assert not has_terminator(encoding, data)
        back = decode(encoding, data, WIDE)
        assert back.keys() == message.keys()
        converted: Any = {name: convert(value, annotations[name]) for name, value in back.items()}
        assert exact(converted) == exact(message), encoding
        assert shape(back) == shape(message), encoding
        if encoding is MSGPACK:
            assert exact(back) == exact(message)
    assert exact(unpack(pack(message))) == exact(message)


BLANKS = st.sampled_from(["", "", " ", "\t", "\r\n"])
JSON_NAMES = st.sampled_from(["a", "b", "c", "\\u0061"])
JSON_LEAVES = st.sampled_from(["1", '":"', '"\\":"', '"a:b"', "1e20", "null", '"x"', '"\\",\\"a\\":"'])


@st.composite
def json_maps(draw: Any, levels: int = 3) -> str:
    members = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.integers(0, 3)) if levels else 0
        value = draw(JSON_LEAVES) if kind < 2 else draw(json_maps(levels - 1))
        if kind == 3:
            value = f"[{value},{value}]"
        members.append(
            f'{draw(BLANKS)}"{draw(JSON_NAMES)}"{draw(BLANKS)}:{draw(BLANKS)}{value}{draw(BLANKS)}'
        )
    return "{" + ",".join(members) + "}"


@given(inner=json_maps())
@settings(max_examples=600, deadline=None)
def test_json_duplicates_are_refused_exactly_where_they_are(inner: str) -> None:
    duplicates = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal duplicates
        duplicates = duplicates or len(dict(pairs)) < len(pairs)
        return dict(pairs)

    text = f'{{"msg":"m","f":{inner}}}'
    expected = json.loads(text, object_pairs_hook=look)
    if duplicates:
        with pytest.raises(ClientError, match="given twice"):
            decode(JSON, text.encode(), LIMITS)
    else:
        assert decode(JSON, text.encode(), LIMITS) == expected


SEEDS: list[Any] = [
    {"msg": "chat.say", "room": "lobby", "text": "hi & <b>\r\n:%"},
    {"msg": "m", "a.b": [1, 2.5, None, True, {"c": []}], "d": {"_": "x", "e": {}}},
    {"msg": "m", "raw": b"\0\xff", "deep": [[[[{"x": [["y"]]}]]]], "n": -(2**53) + 1},
]
PIECES = [
    *[
        b"\0",
        b"\n\n",
        b"\r\n",
        b"%",
        b"%0",
        b"%ff",
        b":",
        b".0",
        b".1",
        b"[]",
        b"{}",
        b"~",
        b"a:",
        b"\nmsg:x",
    ],
    *[
        b"<a>",
        b"</a>",
        b"<_/>",
        b' _="list"',
        b"<!--",
        b"-->",
        b"<![CDATA[",
        b"]]>",
        b"<!DOCTYPE x>",
        b"&#0;",
        b"&a;",
    ],
    *[
        b"<?x?>",
        b'{"a":',
        b"}",
        b"[" * 50,
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"1e400",
        b"9" * 30,
        b"NaN",
        b"-0",
        b"\xef\xbb\xbf",
    ],
    *[
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\0\0\0\2",
        b"\xd4\1",
        b"\xc1",
        b"\x91" * 40,
        b"\xc7\xff\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
    ],
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(out))
        match chance.randint(0, 5):
            case 0:
                out[at:at] = chance.choice(PIECES)
            case 1:
                del out[at : at + chance.randint(1, 8)]
            case 2 if at < len(out):
                out[at] = chance.randint(0, 255)
            case 3:
                other = chance.randint(0, len(out))
                out[at:at] = out[min(at, other) : max(at, other)]
            case 4:
                out[at : at + 1] = chance.choice(PIECES)
            case _:
                out[at:at] = chance.randbytes(chance.randint(1, 4))
    return bytes(out)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_hostile_bytes_are_refused_or_are_messages(encoding: Encoding) -> None:
    chance = random.Random(f"fuzz {encoding.name}")
    seeds = [encode(encoding, message) for message in SEEDS]
    taken = 0
    for number in range(6_000):
        data = (
            chance.randbytes(chance.randint(0, 60))
            if number % 20 == 0
            else mutated(chance.choice(seeds), chance)
        )
        try:
            message = decode(encoding, data, LIMITS)
        except ClientError as refusal:
            assert refusal.error in ("bad_message", "too_large")
            assert len(refusal.reason) < 300
            continue
        taken += 1
        check_message(message, LIMITS)
        assert unpack(pack(message)) == message
        try:
            plain: Any = convert(message, Any)
        except ValueError:
            assert encoding is XML  # repeated siblings
            continue
        for other in Encoding:
            decode(other, encode(other, plain), LIMITS)
    assert taken > 100


@pytest.mark.parametrize("encoding", list(Encoding))
def test_messages_cut_short_are_refused(encoding: Encoding) -> None:
    for message in SEEDS:
        data = encode(encoding, message)
        for end in range(len(data)):
            try:
                cut = decode(encoding, data[:end], LIMITS)
            except ClientError:
                continue
            assert encoding is CLASSIC, cut  # its end is the terminator alone
