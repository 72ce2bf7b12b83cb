"""A real gateway process whose workers come and go, and its own end."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.integration.fakes.fake_workers import FakeCluster
from tests.integration.gateway_process import (
    PATIENCE_S,
    Client,
    GatewayProcess,
    group_of_user,
    running,
    until,
    write_cluster,
)

pytestmark = pytest.mark.integration


# --- the cluster behind it ----------------------------------------------------------------------------------


def test_a_new_worker_takes_over_and_every_request_runs_once_in_order(tmp_path: Path) -> None:
    with running(tmp_path, groups=1) as (cluster, gateway), Client(gateway.port) as client:
        client.ask(msg="login", user="ann", id=0)
        client.send(*[{"msg": "count", "id": number} for number in range(1, 6)])
        assert [client.receive()["count"] for _ in range(5)] == [1, 2, 3, 4, 5]
        old = cluster.workers[0]
        cluster.do(lambda: setattr(old, "lose_out", 1 << 30))  # it executes, but nobody hears of it
        client.send(*[{"msg": "count", "id": number} for number in range(6, 11)])
        until(lambda: cluster.states[0].count == 10, "the requests")
        cluster.start_worker(0)
        client.send(*[{"msg": "count", "id": number} for number in range(11, 16)])
        answers = [client.receive() for _ in range(10)]
        assert [(answer["id"], answer["count"]) for answer in answers] == [(n, n) for n in range(6, 16)]
        state = cluster.states[0]
        assert [call["id"] for call in state.calls] == list(range(1, 16))
        (rebind,) = state.rebinds
        assert str(rebind["resume"]).endswith(".secret1") and rebind["encoding"] == 3
        old.socket.close()


def test_messages_lost_between_gateway_and_worker_are_sent_again(tmp_path: Path) -> None:
    with running(tmp_path, groups=1) as (cluster, gateway), Client(gateway.port) as client:
        client.ask(msg="login", user="ann")
        worker = cluster.workers[0]
        for lost in ("lose", "lose_out"):
            cluster.do(partial(setattr, worker, lost, 2))
            for number in range(20):
                client.send({"msg": "count", "id": number})
                time.sleep(0.002)  # so that they travel in several messages
            assert [client.receive()["id"] for _ in range(20)] == list(range(20))
        assert cluster.states[0].count == 40


def test_without_a_worker_requests_wait_and_are_answered_in_order_when_there_is_one(tmp_path: Path) -> None:
    with running(tmp_path, groups=2) as (cluster, gateway), Client(gateway.port) as client:
        client.ask(msg="login", user="ann")
        group = group_of_user("ann")
        cluster.stop_worker(group)
        client.send(*[{"msg": "count", "id": number} for number in range(1, 4)])
        with Client(gateway.port) as other:  # the rest of the cluster is not affected
            user = next(name for name in ("bob", "eve", "dan", "joe") if group_of_user(name) != group)
            assert other.ask(msg="login", user=user)["status"] == 0
        with Client(gateway.port) as late:
            late.send({"msg": "login", "user": "ann", "id": 1})
            client.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.read()
            client.socket.settimeout(PATIENCE_S)
            cluster.start_worker(group)
            assert [client.receive()["id"] for _ in range(3)] == [1, 2, 3]
            assert late.receive()["status"] == 0


def test_in_the_end_a_client_is_told_that_nobody_answers(tmp_path: Path) -> None:
    with running(tmp_path, groups=1) as (cluster, gateway), Client(gateway.port) as client:
        client.ask(msg="login", user="ann")
        cluster.stop_worker(0)
        with Client(gateway.port) as late:
            client.send({"msg": "count", "id": 1})
            late.send({"msg": "login", "user": "bob", "id": 2}, {"msg": "count", "id": 3})
            for reader, number in ((client, 1), (late, 2), (late, 3)):
                answer = reader.receive()
                assert answer["id"] == number and answer["error"] == "unavailable"
            cluster.start_worker(0)
            assert client.ask(msg="count", id=1)["count"] == 1
            assert late.ask(msg="login", user="bob", id=4)["status"] == 0


def test_a_gateway_is_ready_only_once_every_group_is_served(tmp_path: Path) -> None:
    config = write_cluster(tmp_path, groups=2)
    cluster = FakeCluster(config)
    gateway = None
    try:
        cluster.start_worker(0)
        gateway = GatewayProcess(config, tmp_path / "gateway.log")
        said = gateway.said("waiting")
        while "[1]" not in said["waiting"]:
            said = gateway.said("waiting")
        with Client(gateway.port) as client:
            client.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.rest().startswith(b"HTTP/1.1 503 ")
        cluster.start_worker(1)
        assert gateway.said("ready")["endpoint"] == f"127.0.0.1:{gateway.port}"
        until(lambda: any(report.clients == 0 for report in cluster.reports), "a report")
        report = cluster.reports[-1]
        assert (report.name, report.endpoint) == ("gw-n1-0", f"127.0.0.1:{gateway.port}")
    finally:
        if gateway is not None:
            gateway.close()
        cluster.close()


# --- stopping -----------------------------------------------------------------------------------------------


def test_a_stop_answers_what_was_received_tells_everybody_and_frees_the_port(tmp_path: Path) -> None:
    with running(tmp_path, groups=1) as (cluster, gateway), contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(gateway.port))
        web = stack.enter_context(connect(f"ws://127.0.0.1:{gateway.port}/"))
        client.ask(msg="login", user="ann")
        client.send({"msg": "hold", "id": 1})
        web.send('{"msg":"echo"}')
        web.recv(PATIENCE_S)
        until(lambda: cluster.states[0].held, "the request")
        gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            web.recv(PATIENCE_S)
        assert web.close_code == 1012
        with pytest.raises(ConnectionRefusedError):
            Client(gateway.port)
        cluster.release(0)
        assert client.receive() == {"msg": "hold", "id": 1, "status": 0}
        assert client.receive()["code"] == 1012
        assert client.rest() == b""
        client.close()
        assert gateway.process.wait(PATIENCE_S) == 0
        assert len(cluster.states[0].gone) == 2


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    with (
        running(tmp_path, groups=1, more="[gateway]\ndrain_ms = 500\n") as (cluster, gateway),
        Client(gateway.port) as client,
    ):
        client.ask(msg="login", user="ann")
        client.send({"msg": "sleep"})
        until(lambda: len(cluster.states[0].calls) == 1, "the request")
        begin = time.monotonic()
        assert gateway.stop() == 0
        assert 0.4 < time.monotonic() - begin < 5.0


def test_the_end_of_the_supervisor_stops_the_gateway(tmp_path: Path) -> None:
    with running(tmp_path, groups=1) as (_, gateway):
        gateway.let_go()
        assert gateway.process.wait(PATIENCE_S) == 0


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    config = write_cluster(tmp_path, groups=1)
    with socket.create_server(("127.0.0.1", config.nodes[0].gateways[0].port)):
        gateway = GatewayProcess(config, tmp_path / "gateway.log")
        try:
            assert gateway.process.wait(PATIENCE_S) == 1
            assert "gateway.cannot_listen" in gateway.log.read_text()
        finally:
            gateway.close()
