"""A real gateway process and clients that mean harm, or that are only slow."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.integration.fakes.fake_workers import FakeCluster
from tests.integration.gateway_process import (
    PATIENCE_S,
    Client,
    GatewayProcess,
    running,
    until,
)

pytestmark = pytest.mark.integration

Running = tuple[FakeCluster, GatewayProcess]


@pytest.fixture(scope="module")
def cluster_and_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway for all tests that do not change the cluster."""
    with running(tmp_path_factory.mktemp("gateway")) as both:
        yield both


@pytest.fixture
def port(cluster_and_gateway: Running) -> int:
    return cluster_and_gateway[1].port


@pytest.fixture
def cluster(cluster_and_gateway: Running) -> FakeCluster:
    return cluster_and_gateway[0]


# --- hostile and slow clients -------------------------------------------------------------------------------


def test_nothing_a_client_sends_ends_or_stalls_the_gateway(port: int, cluster_and_gateway: Running) -> None:
    chance = random.Random(7)
    seeds = [
        b'{"msg":"echo","id":1}\n',
        b'<msg method="a"><b/></msg>\0',
        b"msg:ping\nx:y\n\0",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nHost: x\r\n\r\n\x81\x85abcdefghi",
        b"\x16\x03\x01\x00\x05hello",
        b"<policy-file-request/>\0",
        b"\xef\xbb\xbf \r\n{",
        b"\0" * 5000 + b"msg:a\0" * 5000,
        b"{" * 5000 + b"\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    ]
    for _ in range(150):
        data = bytearray(chance.choice(seeds) * chance.randint(1, 3))
        for _ in range(chance.randint(0, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with Client(port) as client, contextlib.suppress(ConnectionError):
            client.write(bytes(data[: chance.randint(1, len(data))]))
            if chance.random() < 0.5:
                client.socket.shutdown(socket.SHUT_WR)
                client.socket.settimeout(PATIENCE_S)
                client.rest()
    with Client(port) as client:
        assert client.ask(msg="echo", id=1)["status"] == 0
    log = cluster_and_gateway[1].log.read_text()
    assert "Traceback" not in log and "client.failed" not in log


def test_a_flood_of_empty_frames_does_not_stall_the_others(port: int) -> None:
    mask = b"\x80abcd"
    with connect(f"ws://127.0.0.1:{port}/") as web, Client(port) as calm:
        calm.ask(msg="login", user="ann")
        web.socket.sendall((b"\x81" + mask + b"\x89" + mask) * 20_000)
        longest = 0.0
        for number in range(20):
            begin = time.monotonic()
            assert calm.ask(msg="echo", id=number)["id"] == number
            longest = max(longest, time.monotonic() - begin)
        assert longest < 0.4
        with contextlib.suppress(OSError):
            web.socket.shutdown(socket.SHUT_RDWR)


def test_a_message_over_the_limit_is_named_and_ends_the_connection(port: int) -> None:
    with Client(port) as client:
        client.ask(msg="login", user="ann")
        client.write(b'{"msg":"echo","text":"' + b"x" * 200_000)
        assert client.receive()["error"] == "too_large"
        assert client.rest() == b""


def test_a_flood_is_slowed_down_and_costs_nobody_else(tmp_path: Path) -> None:
    more = "[limits]\nmessages_per_s = 50\nburst = 1\n"
    with (
        running(tmp_path, more=more) as (_, gateway),
        Client(gateway.port) as flood,
        Client(gateway.port) as calm,
    ):
        flood.ask(msg="login", user="flood")
        calm.ask(msg="login", user="calm")
        flood.send(*[{"msg": "echo", "id": number} for number in range(120)])
        begin = time.monotonic()
        assert calm.ask(msg="echo", id=1)["id"] == 1
        assert time.monotonic() - begin < 1.0
        assert [flood.receive()["id"] for _ in range(120)] == list(range(120))
        assert time.monotonic() - begin > 1.0


def test_a_client_that_does_not_read_is_disconnected_and_others_go_on(tmp_path: Path) -> None:
    more = "[limits]\nunsent_bytes = 200000\nmessages_per_s = 10000\nbytes_per_s = 100000000\n"
    with (
        running(tmp_path, groups=1, more=more) as (cluster, gateway),
        Client(gateway.port) as deaf,
        Client(gateway.port) as loud,
    ):
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.ask(msg="login", user="deaf")
        loud.ask(msg="login", user="loud")
        state = cluster.states[0]
        for number in range(2_000):
            loud.send({"msg": "shout", "text": "x" * 10_000, "id": number})
            assert loud.receive()["id"] == number
            assert loud.receive()["msg"] == "shouted"
            if state.gone:
                break
        assert len(state.gone) == 1
        assert len(deaf.rest()) > 10_000
        assert loud.ask(msg="echo", id=1)["id"] == 1


def test_volatile_values_of_a_slow_client_are_replaced_not_queued(tmp_path: Path) -> None:
    more = "[limits]\nunsent_bytes = 300000\nmessages_per_s = 10000\nbytes_per_s = 100000000\n"
    with (
        running(tmp_path, groups=1, more=more) as (_, gateway),
        Client(gateway.port) as slow,
        Client(gateway.port) as loud,
    ):
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.ask(msg="login", user="slow")
        loud.ask(msg="login", user="loud")
        rounds = 500
        for number in range(rounds):
            change = {"from": "loud", "key": "pos", "value": [number, "x" * 5_000]}
            loud.send({"msg": "tick", "room": "a", "changes": [change]})
            assert [loud.receive()["msg"], loud.receive()["msg"]] == ["tick", "ticked"]
        loud.send({"msg": "shout", "text": "end"})
        ordered: list[str] = []
        seen: list[int] = []
        while not ordered or seen[-1] != rounds - 1:
            message = slow.receive()
            if message["msg"] == "ticked":
                seen.append(message["changes"][0]["value"][0])
            else:
                ordered.append(message["msg"])
        assert ordered == ["shouted"]
        assert seen == sorted(seen) and len(seen) < rounds
        assert slow.ask(msg="echo", id=1)["status"] == 0


def test_too_many_connections_of_an_address_are_told_so(tmp_path: Path) -> None:
    with (
        running(tmp_path, more="[limits]\nconnections_per_address = 3\n") as (_, gateway),
        contextlib.ExitStack() as stack,
    ):
        for number in range(3):
            client = stack.enter_context(Client(gateway.port))
            assert client.ask(msg="ping", id=number)["status"] == 0
        late = stack.enter_context(Client(gateway.port))
        refused = late.ask(msg="ping")
        assert refused["error"] == "overloaded" and refused["retry_after_ms"] > 0
        assert late.rest() == b""
        late.close()
        client.close()
        until(lambda: _is_served(gateway.port), "room for another connection")


def _is_served(port: int) -> bool:
    with Client(port) as client:
        return bool(client.ask(msg="ping")["status"] == 0)


def test_logging_in_and_finishing_a_message_have_their_time(tmp_path: Path) -> None:
    with (
        running(tmp_path, more="[limits]\nlogin_ms = 500\nmessage_ms = 500\n") as (_, gateway),
        Client(gateway.port) as idle,
        Client(gateway.port) as silent,
        Client(gateway.port) as slow,
    ):
        idle.ask(msg="ping")
        slow.ask(msg="login", user="ann")
        slow.write(b'{"msg":"ec')
        assert idle.receive()["error"] == "timeout"
        assert slow.receive()["error"] == "timeout"
        assert [idle.rest(), silent.rest(), slow.rest()] == [b"", b"", b""]


def test_keepalive_when_idle(tmp_path: Path) -> None:
    with (
        running(tmp_path, more="[gateway]\nkeepalive_ms = 1000\n") as (_, gateway),
        Client(gateway.port) as client,
        connect(f"ws://127.0.0.1:{gateway.port}/") as web,
    ):
        client.ask(msg="login", user="ann")
        web.send('{"msg":"echo"}')
        web.recv(PATIENCE_S)
        begin = time.monotonic()
        assert client.receive() == {"msg": "keepalive"}
        assert 0.5 < time.monotonic() - begin < 3.0
        with pytest.raises(TimeoutError):
            web.recv(1.5)
