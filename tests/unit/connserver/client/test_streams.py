"""Events on their way to a reader, and addresses, and what the client refuses by itself."""

from __future__ import annotations

import asyncio

import pytest

from connserver.client import Client, SessionKicked
from connserver.client.addresses import Address
from connserver.client.events import (
    Change,
    DirectEvent,
    EventsLost,
    LoggedInAgain,
    Loss,
    RoomChange,
    RoomEvent,
    RoomGap,
    RoomMessage,
)
from connserver.client.streams import RoomStream, Stream, direct_loss


def said(seq: int) -> RoomMessage:
    return RoomMessage("hall", seq, "bob", {})


def test_the_oldest_give_way_and_are_named() -> None:
    stream = RoomStream(2)
    for event in (said(1), RoomGap("hall", 2, 3, Loss.GONE), said(4), said(5)):
        stream.put(event)
    assert [stream.take() for _ in range(4)] == [RoomGap("hall", 1, 3, Loss.OVERFLOW), said(4), said(5), None]
    direct = Stream(1, direct_loss)
    for number in (7, 8, 9):
        direct.put(DirectEvent("hit", number, {}))
    assert [direct.take(), direct.take()] == [EventsLost(7, 8, Loss.OVERFLOW), DirectEvent("hit", 9, {})]
    direct.put(LoggedInAgain())
    assert direct.take() == LoggedInAgain()


def test_volatile_values_are_merged_and_wait_for_ordered_events() -> None:
    stream = RoomStream(2)
    for value in range(5):
        stream.put(RoomChange("hall", float(value), (Change("bob", "pos", value),)))
    stream.put(said(1))
    assert stream.take() == said(1)
    assert stream.take() == RoomChange("hall", 4.0, (Change("bob", "pos", 4),))
    assert stream.take() is None


def test_a_reader_gets_what_waits_and_then_the_end() -> None:
    async def story() -> list[RoomEvent]:
        stream = RoomStream(8)
        reader = asyncio.create_task(anext(aiter(stream)))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="a reader already"):
            await anext(stream)
        stream.put(said(1))
        stream.put(said(2))
        assert await reader == said(1)
        stream.end(None)
        return [event async for event in stream]

    assert asyncio.run(story()) == [said(2)]


def test_a_reader_gets_the_error() -> None:
    async def story() -> None:
        stream = RoomStream(8)
        reader = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        stream.end(SessionKicked("kicked"))
        with pytest.raises(SessionKicked):
            await reader

    asyncio.run(story())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", Address("tcp", "127.0.0.1", 9000)),
        ("tls://[::1]:9000", Address("tls", "::1", 9000)),
        ("ws://game.example", Address("ws", "game.example", 80)),
        ("wss://game.example/play", Address("wss", "game.example", 443, "/play")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", "host", "http://x:1", "tcp://:5", "x:99999", "x:y"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|Port"):
        Address.parse(text)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="address of a gateway"):
        Client()
    with pytest.raises(ValueError, match="WebSockets only"):
        Client("127.0.0.1:9000", encoding="msgpack")
    with pytest.raises(ValueError, match="encoding"):
        Client("127.0.0.1:9000", encoding="xml")
