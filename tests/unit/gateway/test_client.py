"""A client connection over a real socket pair, with the rest of the gateway played."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

from connserver.driver import new_loop
from connserver.limits import Limits
from connserver.model import pack
from gateway.admission import Doors
from gateway.authentication import Anonymous
from gateway.client import Client
from gateway.connection import Settings
from gateway.deadlines import Deadlines
from gateway.delivery import Broadcast
from gateway.distribution import Counts
from gateway.effects import Shut
from gateway.entrance import Rules

LIMITS = Limits()


def flush(client: Client) -> None:
    try:
        client.flush()
    except Exception:
        client.failed("what is sent to a client")


def played(loop: asyncio.AbstractEventLoop) -> Any:
    """What a client needs of its gateway; what it has to write it writes at the end of the turn."""
    numbers = iter(range(1, 100))
    return SimpleNamespace(
        loop=loop,
        rules=Rules(LIMITS, 2, 30_000, Anonymous(lambda: "0badcafe"), lambda: 0.0),
        settings=Settings(limits=LIMITS),
        tls_context=None,
        doors=Doors(LIMITS),
        deadlines=Deadlines(loop.time()),
        clients={},
        counts=Counts(),
        is_ready=True,
        next_number=lambda: next(numbers),
        to_flush=lambda client: loop.call_soon(flush, client),
        home=lambda line: None,
        left=lambda client: None,
    )


async def _events_after_the_end() -> tuple[bytes, Any]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    gateway = played(loop)
    _, client = await loop.create_connection(lambda: Client(gateway), sock=ours)
    client.data_received(b'{"msg":"hello"}\n')
    client.deliver(Broadcast(pack({"msg": "first"})))
    client.shut(Shut(4003, "kicked", spoken=True))
    client.deliver(Broadcast(pack({"msg": "late"})))
    client.say({"msg": "later"})
    read = b""
    while data := await loop.run_in_executor(None, theirs.recv, 65_536):
        read += data
    theirs.close()
    while gateway.clients:
        await asyncio.sleep(0)
    return read, gateway


def test_what_comes_for_a_client_that_is_being_closed_costs_it_none_of_its_last_messages() -> None:
    loop = new_loop()
    try:
        read, gateway = loop.run_until_complete(asyncio.wait_for(_events_after_the_end(), 20))
    finally:
        loop.close()
    lines = read.split(b"\n")
    assert [b"hello" in lines[0], b"first" in lines[1], b"goodbye" in lines[2], lines[3:]] == [True] * 3 + [
        [b""]
    ]
    assert gateway.counts.failed == 0
