"""Messages between processes: what goes out comes back, and what is not a message is refused."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver.codec import decode, encode
from connserver.errors import WireError
from connserver.messages import Entry, GatewayReport, Image, OutputBatch, ProcessTable, Requests, Routes


def test_nested_records_come_back_as_they_were() -> None:
    entry = Entry(
        [Image(1, "player", 2, b"x"), Image(2, "player", 2, None)],
        [OutputBatch(7, [[1, 2], [3]], [1, 0], [0, 5], [b"a", b"b"])],
    )
    assert decode(encode(entry)) == entry


def test_an_integer_is_taken_where_a_float_is_wanted() -> None:
    report = GatewayReport("gw-n1-0", 1, "127.0.0.1:9000", 3, 0, {"a": [1, None]})
    assert decode(encode(report)) == report


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "wire version none"),
        (b"\x02\x91\x01", "wire version 2"),
        (b"\x01", "not msgpack"),
        (b"\x01\xc1", "not msgpack"),
        (b"\x01" + msgpack.packb({}), "not a tagged message"),
        (b"\x01" + msgpack.packb([]), "not a tagged message"),
        (b"\x01" + msgpack.packb([999]), "unknown message tag 999"),
        (b"\x01" + msgpack.packb([13, 1]), "Requests takes 7 fields"),
        (b"\x01" + msgpack.packb([13, 1, 1, 1, [1], [0], [1], ["text"]]), "list of bytes"),
        (b"\x01" + msgpack.packb([13, 1, 1, 1, [True], [0], [1], [b""]]), "list of int"),
        (b"\x01" + msgpack.packb([43, "h", [[1]], {}]), "ProcessRecord takes"),
        (b"\x01" + b"\x91" * 2000, "not msgpack"),
        (b"\x01\x92\x29\x81\x91\x01\x02", "not msgpack"),
    ],
)
def test_what_is_no_message_is_refused_by_name(data: bytes, what: str) -> None:
    with pytest.raises(WireError, match=what):
        decode(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_message_or_a_wire_error(data: bytes) -> None:
    try:
        decode(b"\x01" + data)
    except WireError:
        pass


def test_every_message_class_has_a_reader() -> None:
    assert decode(encode(Routes("demo", "n1", 1, []))) == Routes("demo", "n1", 1, [])
    assert decode(encode(ProcessTable("h", [], {}))) == ProcessTable("h", [], {})
    empty = Requests(1, 2, 3, [], [], [], [])
    assert decode(encode(empty)) == empty
