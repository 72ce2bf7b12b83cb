"""The canonical model: what is inside, what is refused and why, and its packed form."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import msgpack
import pytest

from connserver.errors import ClientError, WireError
from connserver.limits import LARGEST_INTEGER, Limits
from connserver.model import Siblings, check_message, check_value, is_name, measure, pack, unpack

LIMITS = Limits()


class Colour(IntEnum):
    RED = 1


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("name", ["a", "_", "A9_.-", "x" * 64, "msg", "chat.say", "a-b"])
def test_names(name: str) -> None:
    assert is_name(name)
    check_message({"msg": "m", name: 1} if name != "msg" else {"msg": "m"}, LIMITS)


@pytest.mark.parametrize("name", ["", "1a", ".a", "-a", "x" * 65, "a b", "é", "a\n", "a:b", "ab\0", "[]"])
def test_what_is_no_name(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ClientError, match="is no field name") as raised:
        check_message({"msg": "m", name: 1}, LIMITS)
    assert raised.value.error == "bad_message"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (LARGEST_INTEGER + 1, "beyond"),
        (-LARGEST_INTEGER - 1, "beyond"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
        (-math.inf, "not finite"),
        ("a\0", r"U\+0000"),
        ("\x1f", r"U\+001F"),
        ("\ud800", r"U\+D800"),
        ("\ufffe", r"U\+FFFE"),
        ("\uffff", r"U\+FFFF"),
        ((1, 2), "tuple"),
        ({1, 2}, "set"),
        (Colour.RED, "Colour"),
        (bytearray(b"a"), "bytearray"),
    ],
)
def test_values_outside_the_model(value: Any, reason: str) -> None:
    for holder in ({"msg": "m", "f": value}, {"msg": "m", "f": [value]}, {"msg": "m", "f": {"g": value}}):
        with pytest.raises(ClientError, match=reason) as raised:
            check_message(holder, LIMITS)
        assert raised.value.error == "bad_message"
    with pytest.raises(ClientError, match=reason):
        check_value(value, LIMITS)


@pytest.mark.parametrize(
    "value",
    [
        LARGEST_INTEGER,
        -LARGEST_INTEGER,
        1e300,
        -0.0,
        True,
        None,
        b"\0\xff",
        "\t\n\r",
        "\x7f",
        "\u2028",
        "\U0010ffff",
        [],
        {},
    ],
)
def test_values_of_the_model(value: Any) -> None:
    check_message({"msg": "m", "f": value}, LIMITS)
    check_value(value, LIMITS)


def test_the_field_at_fault_is_named() -> None:
    with pytest.raises(ClientError, match="the field 'volume' is an integer beyond"):
        check_message({"msg": "m", "room": "x", "volume": 2**60}, LIMITS)


@pytest.mark.parametrize("message", [{}, {"msg": 1}, {"msg": None}, {"msg": ""}, {"msg": "a b"}, {"a": 1}])
def test_msg_names_the_method(message: Any) -> None:
    with pytest.raises(ClientError) as raised:
        check_message(message, LIMITS)
    assert raised.value.error == "bad_message"
    check_message(message, LIMITS, require_msg=False)


def test_levels_count_maps_and_lists_the_message_first() -> None:
    limits = Limits(nesting_levels=3)
    check_message({"msg": "m", "f": nested(2)}, limits)
    with pytest.raises(ClientError, match="levels") as raised:
        check_message({"msg": "m", "f": nested(3)}, limits)
    assert raised.value.error == "too_large"
    check_value(nested(3), limits)
    with pytest.raises(ClientError):
        check_value(nested(4), limits)


def test_levels_are_bounded_whatever_is_configured() -> None:
    with pytest.raises(ClientError, match="levels"):
        check_message({"msg": "m", "f": nested(5_000)}, Limits(nesting_levels=1_000_000))


def test_fields_count_per_map() -> None:
    limits = Limits(fields=3)
    check_message({"msg": "m", "a": {"x": 1, "y": 2, "z": 3}, "b": [1] * 100}, limits)
    with pytest.raises(ClientError, match="4 fields; at most 3") as raised:
        check_message({"msg": "m", "a": {"w": 0, "x": 1, "y": 2, "z": 3}}, limits)
    assert raised.value.error == "too_large"


def test_measure_counts_members_at_every_level() -> None:
    assert measure({"a": {"b": [{"c": 1}, {"d": 2}]}, "e": 3}, 10, 10) == 5


def test_invented_names_are_not_remembered_for_ever() -> None:
    from connserver import model

    for number in range(10_000):
        check_message({"msg": "m", f"n{number}": 1}, LIMITS)
        assert len(model._known_names) <= model._MOST_KNOWN_NAMES
    with pytest.raises(ClientError):
        check_message({"msg": "m", "no name": 1}, LIMITS)


def test_pack_and_unpack() -> None:
    message: Any = {"msg": "m", "a": [1, 1.5, True, None, b"\0", "é", {"b": [[]]}]}
    assert unpack(pack(message)) == message
    assert unpack(pack({"f": float(2)})) == {"f": 2.0}
    assert type(unpack(pack({"f": 2.0}))["f"]) is float


def test_repeated_siblings_survive_packing_and_nesting() -> None:
    message: Any = {"msg": "m", "a": Siblings([1, {"b": Siblings(["x", "y"])}])}
    back: Any = unpack(pack(message))
    assert type(back["a"]) is Siblings
    assert type(back["a"][1]["b"]) is Siblings
    assert back == message


@pytest.mark.parametrize("foreign", [(1,), Colour.RED, object(), {1}, type("Text", (str,), {})("x")])
def test_foreign_types_are_not_packed_and_do_no_harm(foreign: Any) -> None:
    with pytest.raises(TypeError, match="outside the model"):
        pack({"msg": "m", "a": foreign})
    assert unpack(pack({"msg": "m"})) == {"msg": "m"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",
        b"\x81\xa1a\x01\x01",
        b"\x91\x01",
        msgpack.packb({"a": msgpack.ExtType(5, b"")}),
        msgpack.packb({"a": msgpack.ExtType(1, b"\x01")}),
        msgpack.packb({"a": msgpack.ExtType(1, b"\xc1")}),
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x01\x01",
        b"\x81\xa1\xff\x01",
        b"\x81\xa1a" + b"\x91" * 3000 + b"\xc0",
    ],
)
def test_unpack_refuses_what_pack_never_wrote(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)
