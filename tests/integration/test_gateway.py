"""A real gateway process between real sockets: what clients of every kind see of it."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.integration.fakes.fake_workers import FakeCluster
from tests.integration.gateway_process import (
    PATIENCE_S,
    Client,
    GatewayProcess,
    group_of_user,
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


# --- encodings and protocols --------------------------------------------------------------------------------


def test_json_lines_over_tcp(port: int) -> None:
    with Client(port) as client:
        assert client.ask(msg="hello", id=1)["protocol"] == 1
        login = client.ask(msg="login", user="ann", id=2)
        assert login["status"] == 0 and login["resume"].startswith(login["resume"][:16] + ".")
        assert client.ask(msg="echo", id="x", deep={"a": [1, 2.5, None, True]}) == {
            "msg": "echo",
            "id": "x",
            "status": 0,
            "deep": {"a": [1, 2.5, None, True]},
        }


def test_classic_and_xml_over_tcp(port: int) -> None:
    with Client(port, b"\0") as client:
        client.write(b"msg:echo\nid:7\ntext:50%25 off\npos.x:1\n\0")
        assert client.read().decode().splitlines() == [
            "msg:echo",
            "id:7",
            "status:0",
            "text:50%25 off",
            "pos.x:1",
        ]
    with Client(port, b"\0") as client:
        client.write(b'<msg method="echo" id="7"><text>hi &amp; bye</text></msg>\0')
        assert client.read() == b'<msg method="echo" id="7" status="0" text="hi &amp; bye"/>'


def test_what_is_cut_into_single_bytes_is_put_together_again(port: int) -> None:
    with Client(port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b'{"msg":"echo","id":1,"text":"\xc3\xa9"}\n':
            client.write(bytes([byte]))
        assert client.receive()["text"] == "é"


def test_netcat_gets_its_answers_before_the_connection_closes(port: int) -> None:
    program = shutil.which("nc")
    if program is None:
        pytest.skip("nc is not installed")
    command = [program, "-N", "127.0.0.1", str(port)]
    if b"-N" not in subprocess.run([program, "-h"], capture_output=True).stderr:
        command.remove("-N")
    done = subprocess.run(
        command, input=b"msg:ping\nid:1\n\0msg:echo\nid:2\n\0", capture_output=True, timeout=PATIENCE_S
    )
    assert [b"id:1" in part or b"id:2" in part for part in done.stdout.split(b"\0")] == [True, True, False]


def test_half_closing_is_answered_and_then_closed(port: int) -> None:
    with Client(port) as client:
        client.send({"msg": "echo", "id": 1}, {"msg": "echo", "id": 2})
        client.socket.shutdown(socket.SHUT_WR)
        lines = client.rest().splitlines()
        assert [b'"id":1' in lines[0], b'"id":2' in lines[1], len(lines)] == [True, True, 2]


@pytest.mark.parametrize(
    "subprotocol", ["connserver.v1.json", "connserver.v1.msgpack", "connserver.v1.xml", None]
)
def test_websockets_in_every_form(port: int, subprotocol: str | None) -> None:
    wanted = [Subprotocol(subprotocol)] if subprotocol else None
    with connect(f"ws://127.0.0.1:{port}/", subprotocols=wanted, open_timeout=PATIENCE_S) as client:
        assert client.subprotocol == subprotocol
        if subprotocol == "connserver.v1.msgpack":
            client.send(msgpack.packb({"msg": "echo", "id": 1, "raw": b"\0\xff"}))
            answer = msgpack.unpackb(client.recv(PATIENCE_S))
            assert answer == {"msg": "echo", "id": 1, "status": 0, "raw": b"\0\xff"}
        elif subprotocol == "connserver.v1.xml":
            client.send('<msg method="echo" id="1"/>')
            assert client.recv(PATIENCE_S) == '<msg method="echo" id="1" status="0"/>'
        else:
            client.send('{"msg":"echo","id":1}')
            assert client.recv(PATIENCE_S) == '{"msg":"echo","id":1,"status":0}'
        pong = client.ping()
        assert pong.wait(PATIENCE_S)


def test_health_policy_and_other_http(port: int) -> None:
    def asked(request: bytes) -> bytes:
        with Client(port) as client:
            client.write(request)
            return client.rest()

    assert asked(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert asked(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 426 ")
    assert asked(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert b"cross-domain-policy" in asked(b"<policy-file-request/>\0")
    assert asked(b"\x16\x03\x01\x02\x00") == b""


# --- order, events, closes ----------------------------------------------------------------------------------


def test_many_requests_at_once_are_answered_in_order(port: int) -> None:
    with Client(port) as client:
        client.ask(msg="login", user="busy")
        numbers = range(400)
        client.send(*[{"msg": "echo", "id": number} for number in numbers])
        assert [client.receive()["id"] for _ in numbers] == list(numbers)


def test_a_bad_message_is_answered_in_its_place(port: int) -> None:
    with Client(port) as client:
        client.ask(msg="login", user="ann")
        client.write(b'{"msg":"echo","id":1}\n{"msg":"echo",,}\n{"msg":"echo","id":3}\n')
        first, bad, third = client.receive(), client.receive(), client.receive()
        assert (first["id"], third["id"]) == (1, 3)
        assert (bad["msg"], bad["error"]) == ("error", "bad_message")


def test_an_event_reaches_clients_of_every_encoding(port: int, cluster: FakeCluster) -> None:
    with Client(port) as one, Client(port, b"\0") as two, connect(f"ws://127.0.0.1:{port}/") as three:
        one.ask(msg="login", user="ann")
        two.write(b"msg:login\nuser:ann\n\0")
        two.read()
        three.send('<msg method="login" user="ann"/>')
        three.recv(PATIENCE_S)
        one.send({"msg": "shout", "text": "hey"})
        assert [one.receive()["msg"], one.receive()] == ["shout", {"msg": "shouted", "text": "hey"}]
        assert two.read() == b"msg:shouted\ntext:hey\n"
        assert three.recv(PATIENCE_S) == '<msg method="shouted" text="hey"/>'


def test_a_worker_can_close_a_connection_and_says_why(port: int) -> None:
    with Client(port) as client:
        client.ask(msg="login", user="ann")
        client.send({"msg": "kick", "id": 1})
        assert client.receive()["id"] == 1
        assert client.receive() == {"msg": "goodbye", "code": 4003, "reason": "kicked"}
        assert client.rest() == b""
    with connect(f"ws://127.0.0.1:{port}/") as web:
        web.send('{"msg":"kick"}')
        web.recv(PATIENCE_S)
        with pytest.raises(ConnectionClosed):
            web.recv(PATIENCE_S)
        assert web.close_code == 4003 and web.close_reason == "kicked"


def test_a_login_that_is_refused_leaves_the_connection_usable(port: int) -> None:
    with Client(port) as client:
        assert client.ask(msg="login", user="nobody", id=1)["error"] == "conflict"
        assert client.ask(msg="ping", id=2)["status"] == 0
        assert client.ask(msg="login", user="ann", id=3)["status"] == 0


def test_the_worker_learns_that_a_client_has_gone(port: int, cluster: FakeCluster) -> None:
    state = cluster.states[group_of_user("leaver")]
    before = len(state.gone)
    with Client(port) as client:
        client.ask(msg="login", user="leaver")
    until(lambda: len(state.gone) > before, "GONE")
    with Client(port) as client:
        client.ask(msg="login", user="leaver")
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: len(state.gone) > before + 1, "GONE after a reset")


def test_a_session_resumes_with_its_token(port: int) -> None:
    with Client(port) as client:
        token = client.ask(msg="login", user="ann")["resume"]
    with Client(port) as client:
        resumed = client.ask(msg="session.resume", resume=token)
        assert resumed["status"] == 0 and resumed["resume"] == token + "x"
        assert client.ask(msg="echo", id=1)["status"] == 0
