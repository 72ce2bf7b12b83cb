"""Ids of clients whose encoding has no integers."""

from __future__ import annotations

import pytest

from connserver.encodings import Encoding, encode
from connserver.limits import Limits
from gateway.reading import read_message

LIMITS = Limits()


def read(encoding: Encoding, text: str) -> object:
    payload = encode(encoding, {"msg": "ping", "id": text, "n": "7"})
    message = read_message(encoding, payload, LIMITS)
    assert message["n"] == "7", "only the id has a type of its own"
    shown = read_message(encoding, encode(encoding, message), LIMITS)
    assert shown == message
    return message["id"]


@pytest.mark.parametrize("encoding", [Encoding.CLASSIC, Encoding.XML])
@pytest.mark.parametrize("number", [0, 1, -1, 42, 2**53 - 1, 1 - 2**53])
def test_an_integer_that_had_to_be_written_as_text_is_one(encoding: Encoding, number: int) -> None:
    assert read(encoding, str(number)) == number


@pytest.mark.parametrize("encoding", [Encoding.CLASSIC, Encoding.XML])
@pytest.mark.parametrize("text", ["", "01", "+1", "-0", "1.0", "1e3", " 1", "1\n", "٣", str(2**53), "x"])
def test_what_is_not_how_an_integer_is_written_stays_text(encoding: Encoding, text: str) -> None:
    assert read(encoding, text) == text


@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.MSGPACK])
def test_where_the_encoding_has_types_they_count(encoding: Encoding) -> None:
    assert read(encoding, "42") == "42"
