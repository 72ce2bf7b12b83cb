"""Payloads for many clients, and what a slow client gets instead of everything."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import encodings
from connserver.encodings import Encoding, decode
from connserver.errors import WireError
from connserver.limits import Limits
from connserver.model import Message, Siblings, Value, pack
from gateway import delivery
from gateway.delivery import VOLATILE_CHANGES, VOLATILE_ROOMS, Broadcast, Outbox


def state(room: str, t: float, *changes: tuple[str, str, Value]) -> Message:
    listed: list[Value] = [{"from": who, "key": key, "value": value} for who, key, value in changes]
    return {"msg": "room.state", "room": room, "t": t, "changes": listed}


def test_a_broadcast_is_encoded_once_for_each_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(encoding: int, message: Message) -> bytes:
        made.append(encoding)
        return encodings.encode(encoding, message)

    monkeypatch.setattr(delivery, "encode", counting)
    message: Message = {"msg": "room.message", "room": "a", "text": "hi & bye", "n": 3}
    broadcast = Broadcast(pack(message))
    for _ in range(100):
        for encoding in Encoding:
            assert broadcast.encoded(encoding)
    assert sorted(made) == sorted(Encoding)
    assert decode(Encoding.JSON, broadcast.encoded(Encoding.JSON), Limits()) == message
    assert broadcast.message == message


def test_what_is_no_message_is_refused() -> None:
    for body in (b"", b"\xc1", pack({"a": 1})[:-1], b"\x01", b"\x81\x01\x02"):
        with pytest.raises(WireError):
            Broadcast(body).encoded(Encoding.JSON)


def test_repeated_elements_of_an_xml_client_come_back_to_it() -> None:
    message: Message = {"msg": "ping", "status": 0, "tag": Siblings(["a", "b"])}
    assert Broadcast(pack(message)).message == message


def test_what_is_queued_leaves_together() -> None:
    outbox = Outbox()
    outbox.put(b"one")
    outbox.put(b"three")
    assert outbox.size == 8
    outbox.check_invariants()
    assert outbox.take() == [b"one", b"three"]
    assert outbox.take() == [] and outbox.size == 0


def test_of_volatile_values_a_slow_client_gets_the_latest_of_each() -> None:
    outbox = Outbox()
    outbox.keep_state(state("a", 1.0, ("ann", "pos", 1), ("bob", "pos", 5)))
    outbox.keep_state(state("b", 1.0, ("ann", "mood", "fine")))
    outbox.keep_state(state("a", 2.0, ("ann", "pos", 2), ("ann", "hat", "red")))
    outbox.keep_state(state("a", 3.0, ("bob", "pos", None)))
    kept: dict[Any, Message] = {message["room"]: message for message in outbox.take_states()}
    assert kept["a"] == state("a", 3.0, ("ann", "pos", 2), ("bob", "pos", None), ("ann", "hat", "red"))
    assert kept["b"] == state("b", 1.0, ("ann", "mood", "fine"))
    assert outbox.take_states() == []


def test_the_kept_values_are_not_shared_between_clients() -> None:
    message = state("a", 1.0, ("ann", "pos", 1))
    first, second = Outbox(), Outbox()
    first.keep_state(message)
    second.keep_state(message)
    first.keep_state(state("a", 2.0, ("ann", "pos", 2)))
    assert second.take_states() == [state("a", 1.0, ("ann", "pos", 1))]


def test_what_is_kept_for_a_slow_client_is_bounded() -> None:
    outbox = Outbox()
    for number in range(VOLATILE_ROOMS + 3):
        outbox.keep_state(state(f"room{number}", 1.0, ("ann", "pos", 1)))
    kept = [message["room"] for message in outbox.take_states()]
    assert len(kept) == VOLATILE_ROOMS and kept[0] == "room3"
    for number in range(VOLATILE_CHANGES + 1):
        outbox.keep_state(state("a", 1.0, ("ann", f"key{number}", 1)))
    assert outbox.take_states() == []
