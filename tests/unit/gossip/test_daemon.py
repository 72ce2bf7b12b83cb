"""The shell's own decisions: what is read at all, and what is too large to leave."""

from __future__ import annotations

import pytest

from connserver.codec import decode, encode
from connserver.limits import GOSSIP_MESSAGE_BYTES
from connserver.messages import AdminReply, Forwarded, GetRecords
from gossip import daemon


def test_a_message_is_read() -> None:
    assert daemon._read(encode(GetRecords(["n1"])), "n2") == GetRecords(["n1"])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x02\x91\x01",
        b"\x01\xc1",
        b"\x01\x92\x29\x81\x91\x01\x02",
        b"\x01" + b"\x91" * 5000,
        encode(GetRecords(["n1"]))[:-1],
    ],
)
def test_bytes_that_are_no_message_are_none(payload: bytes) -> None:
    assert daemon._read(payload, "n2") is None


def test_more_than_a_peer_may_send_is_not_read() -> None:
    large = encode(AdminReply(1, b"x" * GOSSIP_MESSAGE_BYTES, ""))
    assert daemon._read(large, "n2") is None
    assert daemon._read(large, "local", 2 * GOSSIP_MESSAGE_BYTES) is not None


def test_an_answer_too_large_for_a_peer_becomes_an_error() -> None:
    small = Forwarded(7, [1, 2], "")
    assert decode(daemon._for_peer(small)) == small
    reply = decode(daemon._for_peer(Forwarded(7, b"x" * GOSSIP_MESSAGE_BYTES, "")))
    assert (reply.number, reply.result) == (7, None)
    assert "ask for fewer rows" in reply.error
