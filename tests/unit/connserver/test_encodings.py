"""The four encodings by example: what is read, what is written, what is refused and why."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest

from connserver.encodings import Encoding, decode, encode
from connserver.errors import ClientError
from connserver.limits import Limits
from connserver.model import Siblings

LIMITS = Limits()
CLASSIC, XML, JSON, MSGPACK = Encoding


def head(encoding: Encoding) -> bytes:
    return {CLASSIC: b"msg:m\n", XML: b"<msg method='m'>", JSON: b'{"msg":"m",', MSGPACK: b""}[encoding]


def test_the_numbers_never_change() -> None:
    assert [(one.name, int(one)) for one in Encoding] == [
        ("CLASSIC", 1),
        ("XML", 2),
        ("JSON", 3),
        ("MSGPACK", 4),
    ]


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"msg:ping\n", {"msg": "ping"}),
        (b"msg:ping", {"msg": "ping"}),
        (b"\nmsg:ping\r\na:1\r\n", {"msg": "ping", "a": "1"}),
        (b"msg:m\na: b:c \n", {"msg": "m", "a": " b:c "}),
        (b"msg:m\na:\n", {"msg": "m", "a": ""}),
        (b"msg:m\na:100 % sure, 5%2, %zz, %", {"msg": "m", "a": "100 % sure, 5%2, %zz, %"}),
        (b"msg:m\na:%25%0D%0a%3A", {"msg": "m", "a": "%\r\n:"}),
        ("msg:m\na:é%C3%A9\u2028\x85".encode(), {"msg": "m", "a": "éé\u2028\x85"}),
        (b"msg:m\npos.x:1\npos.y:2", {"msg": "m", "pos": {"x": "1", "y": "2"}}),
        (b"msg:m\nt.0:a\nt.1:b", {"msg": "m", "t": ["a", "b"]}),
        (b"msg:m\nt.0.x:a\nt.1.x:b\nt.0.y:c", {"msg": "m", "t": [{"x": "a", "y": "c"}, {"x": "b"}]}),
        (b"msg:m\nt.0.0:a", {"msg": "m", "t": [["a"]]}),
        (b"msg:m\na%2Eb:1\nc.d%2ee:2", {"msg": "m", "a.b": "1", "c": {"d.e": "2"}}),
        (
            b"msg:m\na[]:\nb{}:\nc~:\nd.0[]:\nd.1~:",
            {"msg": "m", "a": [], "b": {}, "c": None, "d": [[], None]},
        ),
    ],
)
def test_classic_is_read(data: bytes, fields: Any) -> None:
    assert decode(CLASSIC, data, LIMITS) == fields


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no colon"),
        (b"ping", "'ping' has no colon"),
        (b"msg:m\n\na:1", "no colon"),
        (b"msg:m\na:1\na:1", "'a' is given twice"),
        (b"msg:m\na.b:1\na.b:1", "'a.b' is given twice"),
        (b"msg:m\na%2Eb:1\na%2Eb:1", "is given twice"),
        (b"msg:m\na:1\na.b:1", "within a name that is given already"),
        (b"msg:m\na.b:1\na:1", "'a' is given twice"),
        (b"msg:m\na[]:\na.0:1", "within a name that is given already"),
        (b"msg:m\na.0:1\na[]:", "is given twice"),
        (b"msg:m\na{}:\na.b:1", "within a name that is given already"),
        (b"msg:m\na~:\na:1", "'a' is given twice"),
        (b"msg:m\na.1:x", "next index here is 0"),
        (b"msg:m\na.0:x\na.2:y", "next index here is 1"),
        (b"msg:m\na.00:x", "no field name"),
        (b"msg:m\na.0:x\na.b:y", "next index here is 1"),
        (b"msg:m\na.b:x\na.0:y", "no field name"),
        (b"msg:m\na..b:x", "no field name"),
        (b"msg:m\n.a:x", "no field name"),
        (b"msg:m\na.:x", "no field name"),
        (b"msg:m\n0:x", "no field name"),
        (b"msg:m\n a:x", "no field name"),
        (b"msg:m\na[]:x", "marked as empty and has a value"),
        (b"msg:m\na~:x", "marked as empty and has a value"),
        (b"msg:m\na%00:x", "no field name"),
        (b"msg:m\na:%00", r"U\+0000"),
        (b"msg:m\na:\x01", r"U\+0001"),
        (b"msg:m\na:\xff", "not UTF-8 at byte 8"),
        (b"msg:m\na:%ff", "not UTF-8"),
        (b"msg:m\na:%ed%a0%80", "not UTF-8"),
        (b"msg:a b\n", "is no name"),
        (b"a:1\n", "'msg'"),
    ],
)
def test_classic_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ClientError, match=reason) as raised:
        decode(CLASSIC, data, LIMITS)
    assert raised.value.error == "bad_message"


def test_classic_is_written() -> None:
    message: Any = {
        "msg": "chat.say",
        "text": "a:b%\r\n é",
        "pos": {"x": 1, "a.b": True},
        "tags": ["a", [None]],
        "none": [],
        "map": {},
        "raw": b"\0",
        "f": 0.5,
    }
    assert encode(CLASSIC, message).decode() == (
        "msg:chat.say\ntext:a:b%25%0D%0A é\npos.x:1\npos.a%2Eb:true\ntags.0:a\ntags.1.0~:\n"
        "none[]:\nmap{}:\nraw:AA==\nf:0.5\n"
    )


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"<msg method='m'/>", {"msg": "m"}),
        (b"<msg msg='m'/>", {"msg": "m"}),
        (b"<msg><msg>m</msg></msg>", {"msg": "m"}),
        (
            b'<msg method="chat.say" room="lobby"><text>hi &amp; bye</text></msg>',
            {"msg": "chat.say", "room": "lobby", "text": "hi & bye"},
        ),
        (b"<msg method='m'><method>x</method></msg>", {"msg": "m", "method": "x"}),
        (b"<?xml version='1.0'?>\n<msg method='m'> <a> b </a>\n</msg>\n", {"msg": "m", "a": " b "}),
        (b"<?xml version='1.0' encoding='UTF-8'?><msg method='m'/>", {"msg": "m"}),
        (b"<msg method='m'><a/><b></b></msg>", {"msg": "m", "a": "", "b": ""}),
        (b"<msg method='m'><t><_>a</_></t></msg>", {"msg": "m", "t": ["a"]}),
        (b"<msg method='m'><t><_>a</_> <_>b</_></t></msg>", {"msg": "m", "t": ["a", "b"]}),
        (b"<msg method='m'><t _='list'/><u _='list'> <_/></u></msg>", {"msg": "m", "t": [], "u": [""]}),
        (
            b"<msg method='m'><t _='map'/><u _='map'><_>a</_></u></msg>",
            {"msg": "m", "t": {}, "u": {"_": "a"}},
        ),
        (b"<msg method='m'><t x='1'><_>a</_></t></msg>", {"msg": "m", "t": {"x": "1", "_": "a"}}),
        (b"<msg method='m'><t _='null'/></msg>", {"msg": "m", "t": None}),
        (b"<msg method='m'><_>a</_></msg>", {"msg": "m", "_": "a"}),
        (b"<msg method='m'><p x='1'><y>2</y></p></msg>", {"msg": "m", "p": {"x": "1", "y": "2"}}),
        (b"<msg method='m'><a><!-- c -->x<![CDATA[<&]]>y<!-- --></a></msg>", {"msg": "m", "a": "x<&y"}),
        (b"<msg method='m' a='&#13;&#10;&#9;&#233;'/>", {"msg": "m", "a": "\r\n\té"}),
        (b"<msg method='m' a='x\ny'><b>x\r\ny&#13;</b></msg>", {"msg": "m", "a": "x y", "b": "x\ny\r"}),
    ],
)
def test_xml_is_read(data: bytes, fields: Any) -> None:
    assert decode(XML, data, LIMITS) == fields


def test_repeated_siblings_are_told_from_lists() -> None:
    found: Any = decode(XML, b"<msg method='m'><a>1</a><b/><a>2</a><a x='3'/></msg>", LIMITS)
    assert type(found["a"]) is Siblings
    assert found == {"msg": "m", "a": ["1", "2", {"x": "3"}], "b": ""}
    plain: Any = decode(XML, b"<msg method='m'><a><_>1</_><_>2</_></a></msg>", LIMITS)
    assert type(plain["a"]) is list


LAUGHS = b"<!DOCTYPE msg [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]><msg method='m'>&b;</msg>"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no element found"),
        (b"<msg", "unclosed token"),
        (b"<msg method='m'>", "no element found"),
        (b"<msg method='m'/><msg method='m'/>", "junk after document element"),
        (b"<msg method='m'/>x", "junk after document element"),
        (b"<other method='m'/>", "a message is an element <msg>"),
        (b"<msg _='map' method='m'/>", "a message is an element <msg>"),
        (b"<msg method='m' msg='m'/>", "given twice"),
        (b"<msg method='m'><msg>m</msg></msg>", "given twice"),
        (b"<msg method='m' a='1' a='1'/>", "duplicate attribute"),
        (b"<msg method='m' a='1'><a>1</a></msg>", "as attribute and as element"),
        (b"<msg method='m'>x</msg>", "'x' stands beside fields"),
        (b"<msg method='m'>x<a/></msg>", "'x' stands beside fields"),
        (b"<msg method='m'><a/>x</msg>", "'x' stands beside fields"),
        (b"<msg method='m'><a b='1'>x</a></msg>", "'x' stands beside fields"),
        (b"<msg method='m'><a _='null'>x</a></msg>", "'x' stands beside fields"),
        (b"<msg method='m'><a _='null'><_/></a></msg>", "marked as null"),
        (b"<msg method='m'><a _='null' b='1'/></msg>", "marked as null"),
        (b"<msg method='m'><a _='list'><b/></a></msg>", "marked as list"),
        (b"<msg method='m'><a _='list' b='1'/></msg>", "marked as list"),
        (b"<msg method='m'><a _='other'/></msg>", "null, list or map"),
        (b"<!DOCTYPE msg><msg method='m'/>", "no DOCTYPE"),
        (b"<!DOCTYPE msg SYSTEM 'file:///etc/passwd'><msg method='m'/>", "no DOCTYPE"),
        (LAUGHS, "no DOCTYPE"),
        (b"<msg method='m'><?php x ?></msg>", "processing instruction"),
        (b"<msg method='m'>&eacute;</msg>", "undefined entity"),
        (b"<?xml version='1.0' encoding='latin-1'?><msg method='m'/>", "messages are UTF-8"),
        (b"<?xml version='1.0' encoding='utf-16'?><msg method='m'/>", "messages are UTF-8"),
        (b"<msg method='m' a='\xff'/>", "invalid token"),
        (b"<msg method='m' a='&#0;'/>", "invalid character number"),
        (b"<msg method='m' a='\xef\xbf\xbf'/>", "invalid token"),
        ("<msg method='m' é='1'/>".encode(), "no field name"),
        (b"<msg method='m' a:b='1'/>", "no field name"),
        (b"<msg method='m'><!-- ", "unclosed token"),
        (b"<msg method='m'><![CDATA[ ", "unclosed CDATA section"),
        (b"<msg a='1'/>", "'msg'"),
    ],
)
def test_xml_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ClientError, match=reason) as raised:
        decode(XML, data, LIMITS)
    assert raised.value.error == "bad_message"


def test_nothing_of_a_broken_message_reaches_the_next() -> None:
    with pytest.raises(ClientError):
        decode(XML, b"<msg method='m' secret='1'><!-- ", LIMITS)
    with pytest.raises(ClientError, match="no element found"):
        decode(XML, b" ", LIMITS)
    assert decode(XML, b"<msg method='n'/>", LIMITS) == {"msg": "n"}


def test_xml_is_written() -> None:
    message: Any = {
        "msg": "chat.say",
        "text": "<&>\"'\t\r\n é",
        "method": 'x\r<>&"',
        "_": "u",
        "xmlns": "n",
        "pos": {"x": 1, "method": True},
        "tags": ["a\r", [None]],
        "none": [],
        "map": {},
        "odd": {"_": "a"},
        "null": None,
    }
    assert encode(XML, message).decode() == (
        '<msg method="chat.say" text="&lt;&amp;&gt;&quot;\'&#9;&#13;&#10; é">'
        '<method>x&#13;&lt;&gt;&amp;"</method><_>u</_><xmlns>n</xmlns><pos x="1" method="true"/>'
        '<tags><_>a&#13;</_><_><_ _="null"/></_></tags><none _="list"/><map _="map"/>'
        '<odd _="map"><_>a</_></odd><null _="null"/></msg>'
    )
    assert encode(XML, {"status": 0, "id": 7}) == b'<msg status="0" id="7"/>'


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b'{"msg":"m"}', {"msg": "m"}),
        (
            b' {"msg" : "m",\n"a": [1, 2.5, true, null, {"b": ""}]}\r',
            {"msg": "m", "a": [1, 2.5, True, None, {"b": ""}]},
        ),
        (b'{"msg":"m","a":":\\":,:"}', {"msg": "m", "a": ':":,:'}),
        (b'{"msg":"m","a":{"b":1},"b":{"b":1}}', {"msg": "m", "a": {"b": 1}, "b": {"b": 1}}),
        (
            b'{"msg":"m","a":9007199254740991,"b":-9007199254740991}',
            {"msg": "m", "a": 2**53 - 1, "b": 1 - 2**53},
        ),
        (
            b'{"msg":"m","a":1e20,"b":-123456789012345680000.0}',
            {"msg": "m", "a": 1e20, "b": -123456789012345680000.0},
        ),
        (b'{"msg":"m","a":"\\u00e9\\ud83d\\ude00"}', {"msg": "m", "a": "é😀"}),
    ],
)
def test_json_is_read(data: bytes, fields: Any) -> None:
    assert decode(JSON, data, LIMITS) == fields


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JSON message"),
        (b"[]", "a message is a map of fields, not a list"),
        (b'"m"', "not text"),
        (b'{"msg":"m"', "not a JSON message"),
        (b'{"msg":"m"} {}', "not a JSON message"),
        (b'{"msg":"m",}', "not a JSON message"),
        (b"{'msg':'m'}", "not a JSON message"),
        (b'{"msg":"m","a":NaN}', "not a JSON message"),
        (b'{"msg":"m","a":Infinity}', "not a JSON message"),
        (b'{"msg":"m","a":1e999}', "not a JSON message"),
        (b'{"msg":"m","a":01}', "not a JSON message"),
        (b'{"msg":"m","a":"\\ud800"}', "not a JSON message"),
        (b'{"msg":"m","a":"\xed\xa0\x80"}', "not a JSON message"),
        (b'{"msg":"m","a":"\xff"}', "not a JSON message"),
        (b'{"msg":"m","a":"\\u0000"}', r"U\+0000"),
        (b'{"msg":"m","a":"\\ufffe"}', r"U\+FFFE"),
        (b'{"msg":"m","a":9007199254740992}', "beyond"),
        (b'{"msg":"m","a":-9007199254740992}', "beyond"),
        (b'{"msg":"m","a":18446744073709551616}', "beyond"),
        (b'{"msg":"m","a":[{"b":-100000000000000000000000}]}', "beyond"),
        (b'{"msg":"m","a":' + b"9" * 300 + b"}", "beyond"),
        (b'{"msg":"m","a":1,"a":1}', "'a' is given twice"),
        (b'{"msg":"m","msg":"m"}', "'msg' is given twice"),
        (b'{"msg":"m","a":1,"a" :2}', "'a' is given twice"),
        (b'{"msg":"m","a":[{"b":":","b"\t:1}]}', "'b' is given twice"),
        (b'{"msg":"m","a":1,"\\u0061":1}', "'a' is given twice"),
        (b'{"msg":"m","":1}', "no field name"),
    ],
)
def test_json_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ClientError, match=reason) as raised:
        decode(JSON, data, LIMITS)
    assert raised.value.error == "bad_message"


def test_json_is_written_on_one_line_with_bytes_as_base64() -> None:
    assert (
        encode(JSON, {"msg": "m", "a": b"\0\1", "b": "x\ny", "c": 5.0})
        == b'{"msg":"m","a":"AAE=","b":"x\\ny","c":5.0}'
    )
    with pytest.raises(TypeError):
        encode(JSON, {"msg": object()})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (b"", "bad_message", "not a msgpack message"),
        (b"\xc1", "bad_message", "starts no value"),
        (b"\x81\xa3msg", "bad_message", "incomplete input"),
        (b"\x81\xa3msg\xa1m\x00", "bad_message", "extra data"),
        (b"\x90", "bad_message", "a map of fields, not a list"),
        (b"\x82\xa3msg\xa1m\xa3msg\xa1m", "bad_message", "'msg' is given twice"),
        (b"\x82\xa3msg\xa1m\x01\x01", "bad_message", "not allowed for map key"),
        (b"\x82\xa3msg\xa1m\xc4\x01a\x01", "bad_message", "name is bytes"),
        (b"\x82\xa3msg\xa1m\xa1a\xd4\x05\x00", "bad_message", "extension type 5 is not allowed"),
        (b"\x82\xa3msg\xa1m\xa1a\xd4\x01\x90", "bad_message", "extension type 1 is not allowed"),
        (b"\x82\xa3msg\xa1m\xa1a\xd6\xff\x00\x00\x00\x00", "bad_message", "outside the model"),
        (b"\x82\xa3msg\xa1m\xa1a\xa1\xff", "bad_message", "utf-8"),
        (b"\x82\xa3msg\xa1m\xa1a\xcb\x7f\xf8\0\0\0\0\0\0", "bad_message", "not finite"),
        (b"\x82\xa3msg\xa1m\xa1a\xcf\x00\x20\0\0\0\0\0\0", "bad_message", "beyond"),
        (b"\x82\xa3msg\xa1m\xa1a" + b"\x91" * 3000 + b"\xc0", "too_large", "levels"),
        (b"\x82\xa3msg\xa1m\xa1a" + b"\x91" * 200 + b"\xc0", "too_large", "levels"),
        (b"\x82\xa3msg\xa1m\xa1a\xdf\xff\xff\xff\xff", "bad_message", "max_map_len"),
        (b"\x82\xa3msg\xa1m\xa1a\xdb\xff\xff\xff\xff", "bad_message", "incomplete input"),
        (b"\x82\xa3msg\xa1m\xa1a\xdd\xff\xff\xff\xff", "bad_message", "max_array_len"),
    ],
)
def test_msgpack_is_refused(data: bytes, error: str, reason: str) -> None:
    with pytest.raises(ClientError, match=reason) as raised:
        decode(MSGPACK, data, LIMITS)
    assert raised.value.error == error


def test_a_long_list_of_msgpack_is_read() -> None:
    message: Any = {"msg": "m", "a": [0xDC] * 30_000, "b": bytes([0xDC, 0xDD] * 50)}
    assert decode(MSGPACK, encode(MSGPACK, message), LIMITS) == message


def test_nested_list_headers_of_msgpack_claim_little_memory() -> None:
    tracemalloc.start()
    for nested, size in [(1000, 60_000), (60, 4_000), (20, 13_000)]:
        data = b"\x82\xa3msg\xa1m\xa1a"
        data += (b"\xdd" + size.to_bytes(4, "big")) * nested + b"\xc0" * size
        with pytest.raises(ClientError):
            decode(MSGPACK, data, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("encoding", list(Encoding))
def test_levels_and_fields_are_limited_in_every_encoding(encoding: Encoding) -> None:
    limits = Limits(nesting_levels=4, fields=5)
    deep: Any = {"msg": "m", "a": [[["x"]]]}
    wide: Any = {"msg": "m", "a": dict.fromkeys("bcdef", "x")}
    for message in (deep, wide):
        assert decode(encoding, encode(encoding, message), limits) == message
    deeper: Any = {"msg": "m", "a": [[[["x"]]]]}
    deeper_empty: Any = {"msg": "m", "a": [[[[]]]]}
    deeper_map: Any = {"msg": "m", "a": [[[{"b": "x"}]]]}
    wider: Any = {"msg": "m", "a": dict.fromkeys("bcdefg", "x")}
    for message in (deeper, deeper_empty, deeper_map, wider):
        with pytest.raises(ClientError) as raised:
            decode(encoding, encode(encoding, message), limits)
        assert raised.value.error == "too_large"


@pytest.mark.parametrize("levels", [200, 900, 1500, 12_000])
def test_deep_nesting_never_overflows_the_stack(levels: int) -> None:
    bombs = {
        CLASSIC: b"msg:m\na" + b".0" * levels + b":x",
        XML: b"<msg method='m'>" + b"<a>" * levels + b"</a>" * levels + b"</msg>",
        JSON: b'{"msg":"m","a":' + b"[" * levels + b"]" * levels + b"}",
        MSGPACK: b"\x82\xa3msg\xa1m\xa1a" + b"\x91" * levels + b"\xc0",
    }
    for limits in (LIMITS, Limits(nesting_levels=1_000_000)):
        for encoding, data in bombs.items():
            with pytest.raises(ClientError) as raised:
                decode(encoding, data, limits)
            assert raised.value.error == "too_large", encoding


def test_xml_is_not_read_further_once_it_is_nested_too_deeply_or_too_wide() -> None:
    for bomb in (b"<a>" * 20_000, b"".join(b"<a%d/>" % number for number in range(9_000))):
        with pytest.raises(ClientError) as raised:
            decode(XML, b"<msg method='m'>" + bomb + b" and then < what is no XML", LIMITS)
        assert raised.value.error == "too_large"


@pytest.mark.parametrize("encoding", list(Encoding))
def test_replies_have_no_msg(encoding: Encoding) -> None:
    reply = encode(encoding, {"id": "7", "status": "0"})
    assert decode(encoding, reply, LIMITS, require_msg=False) == {"id": "7", "status": "0"}
    with pytest.raises(ClientError):
        decode(encoding, reply, LIMITS)


def test_what_the_library_of_another_language_writes_is_read() -> None:
    data = msgpack.packb({"msg": "m", "a": 1.0, "b": [True]}, use_single_float=True)
    assert decode(MSGPACK, data, LIMITS) == {"msg": "m", "a": 1.0, "b": [True]}
