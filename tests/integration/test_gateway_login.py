"""A real gateway process with tokens, TLS, proxies, and without uvloop."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from websockets.sync.client import connect

from tests.integration.gateway_process import (
    PATIENCE_S,
    Client,
    running,
    until,
)

pytestmark = pytest.mark.integration

REQUEST_CERTIFICATE = [
    *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
    *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
]


# --- login providers and TLS --------------------------------------------------------------------------------


def test_tokens_are_verified_and_go_no_further(tmp_path: Path) -> None:
    secret = os.urandom(32).hex().encode()
    (tmp_path / "secret").write_bytes(secret)
    (tmp_path / "secret").chmod(0o600)
    more = f'[auth]\nprovider = "hmac"\nsecret_file = "{tmp_path / "secret"}"\n'
    with running(tmp_path, groups=1, more=more) as (cluster, gateway), Client(gateway.port) as client:
        assert client.ask(msg="echo", id=1)["error"] == "unauthorized"
        assert client.ask(msg="login", user="ann", id=2)["error"] == "unauthorized"
        claims = {"sub": "ann", "exp": int(time.time()) + 60, "roles": ["gm"]}
        token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))
        assert client.ask(msg="login", token=token, id=3)["status"] == 0
        assert client.ask(msg="echo", id=4)["status"] == 0
        (login,) = cluster.states[0].logins
        assert (login["user"], login["roles"]) == ("ann", ["gm"])
        assert token not in repr(cluster.states[0]) and token not in gateway.log.read_text()


def test_tls_and_plain_text_share_the_port(tmp_path: Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [program, *REQUEST_CERTIFICATE, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    more = f'[gateway]\ntls_certificate_file = "{certificate}"\ntls_key_file = "{key}"\n'
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        running(tmp_path, groups=1, more=more) as (_, gateway),
        Client(gateway.port) as plain,
    ):
        assert plain.ask(msg="echo", id=1)["status"] == 0
        with Client(gateway.port) as secure:
            secure.socket = context.wrap_socket(secure.socket, server_hostname="localhost")
            assert secure.ask(msg="login", user="ann", id=1)["status"] == 0
            big = "x" * 60_000
            for number in range(5):
                assert secure.ask(msg="echo", id=number, text=big)["text"] == big
            secure.send({"msg": "kick"})
            assert [secure.receive()["msg"], secure.receive()["msg"]] == ["kick", "goodbye"]
            assert secure.rest() == b""
        with connect(f"wss://localhost:{gateway.port}/", ssl=context, sock=_connected(gateway.port)) as web:
            web.send('{"msg":"echo","id":1}')
            assert web.recv(PATIENCE_S) == '{"msg":"echo","id":1,"status":0}'
        with Client(gateway.port) as broken:
            broken.write(b"\x16\x03\x01\x00\x05hello" + b"\0" * 100)
            broken.rest()
        with Client(gateway.port) as plain:
            assert plain.ask(msg="echo", id=1)["status"] == 0
        assert not re.search(r"Traceback|client\.failed", gateway.log.read_text())


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def test_behind_a_proxy_clients_are_counted_by_their_own_address(tmp_path: Path) -> None:
    more = "[gateway]\nproxy_protocol = true\n[limits]\nconnections_per_address = 2\n"
    with running(tmp_path, groups=1, more=more) as (_, gateway), contextlib.ExitStack() as stack:
        answers: list[dict[str, Any]] = []
        for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"):
            client = stack.enter_context(Client(gateway.port))
            client.write(f"PROXY TCP4 {host} 192.0.2.9 1111 9000\r\n".encode())
            answers.append(client.ask(msg="ping"))
        assert [answer.get("error") for answer in answers] == [None, None, None, "overloaded"]


def test_without_uvloop_everything_works_on_the_stock_loop(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    environ = {"PYTHONPATH": str(tmp_path)}
    with running(tmp_path, groups=1, environ=environ) as (cluster, gateway), contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(gateway.port))
        client.ask(msg="login", user="ann")
        big = "x" * 60_000
        client.send(*[{"msg": "echo", "id": number, "text": big} for number in range(4)])
        assert [client.receive()["id"] for _ in range(4)] == [0, 1, 2, 3]
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
        until(lambda: cluster.states[0].gone, "GONE")
        web = stack.enter_context(connect(f"ws://127.0.0.1:{gateway.port}/"))
        web.send('{"msg":"echo"}')
        assert web.recv(PATIENCE_S) == '{"msg":"echo","status":0}'
        assert gateway.stop() == 0
