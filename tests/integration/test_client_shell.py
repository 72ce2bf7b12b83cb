"""The asyncio client over real sockets, against a gateway that does whatever a test wants."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connserver.client import (
    Client,
    ClientError,
    DirectEvent,
    SessionClosed,
    SessionOver,
    State,
    Unreachable,
)

pytestmark = pytest.mark.integration

PATIENCE_S = 20.0
Message = dict[str, Any]
Answer = Callable[["Line", Message], Awaitable[None]]


class Line:
    """One client's connection, at the gateway's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, **message: Any) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    def cut(self) -> None:
        self.writer.transport.abort()


class Gateway:
    """Greets, logs in and resumes; `answer` does the rest."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heard: list[Message] = []
        self.lines: list[Line] = []
        self.is_deaf_to: Line | None = None

    async def start(self, context: ssl.SSLContext | None = None) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self.lines.append(line)
        try:
            while text := await reader.readline():
                if line is not self.is_deaf_to:
                    await self._take(line, json.loads(text))
        except (ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def _take(self, line: Line, message: Message) -> None:
        self.heard.append(message)
        match message["msg"]:
            case "hello":
                line.say(msg="hello", status=0, limits={"message_bytes": 500})
            case "login" | "session.resume" | "logout" as msg:
                line.say(msg=msg, status=0, user="ann", oid="0a", resume="t")
            case _:
                await self._answer(line, message)

    def calls(self, msg: str) -> list[int]:
        return [message["id"] for message in self.heard if message["msg"] == msg]

    async def stop(self) -> None:
        self._server.close()
        for line in self.lines:
            line.cut()
        await self._server.wait_closed()


async def echo(line: Line, message: Message) -> None:
    line.say(**message, status=0)


async def silence(line: Line, message: Message) -> None:
    pass


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await story()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in left if "client" in repr(task.get_coro())], left

    asyncio.run(bounded())


def test_more_calls_than_may_be_under_way_wait_in_order() -> None:
    async def story() -> None:
        gateway = Gateway(echo)
        async with Client(await gateway.start(), in_flight=3) as me:
            results = await asyncio.gather(*(me.call("ping", number=number) for number in range(50)))
            assert [result["number"] for result in results] == list(range(50))
            asked = [message["number"] for message in gateway.heard if message["msg"] == "ping"]
            assert asked == list(range(50))
        await gateway.stop()

    run(story)


def test_a_call_that_is_given_up_makes_room_and_is_not_repeated() -> None:
    async def story() -> None:
        held = asyncio.Event()

        async def hold(line: Line, message: Message) -> None:
            if message["msg"] == "hold":
                held.set()
            else:
                await echo(line, message)

        gateway = Gateway(hold)
        async with Client(await gateway.start(), in_flight=1) as me:
            call = asyncio.create_task(me.call("hold"))
            next_one = asyncio.create_task(me.call("ping", x=1))
            never = asyncio.create_task(me.call("never"))
            await held.wait()
            never.cancel()
            call.cancel()
            assert await next_one == {"x": 1}
            gateway.lines[0].cut()
            assert await me.call("ping", x=2) == {"x": 2}
            assert gateway.calls("hold") == [1] and gateway.calls("never") == []
        await gateway.stop()

    run(story)


def test_waiting_calls_keep_their_order_whoever_gives_up() -> None:
    async def story() -> None:
        gate = asyncio.Event()

        async def hold(line: Line, message: Message) -> None:
            await gate.wait()
            await echo(line, message)

        gateway = Gateway(hold)
        async with Client(await gateway.start(), in_flight=1) as me:
            names = ["first", "second", "third", "fourth"]
            calls: dict[str, asyncio.Task[Any]] = {}

            async def first() -> None:
                await me.call("first")
                # this answer has woken the second, which has not run yet: the third goes in its place
                calls["second"].cancel()
                await me.call("late")

            calls["first"] = asyncio.create_task(first())
            calls |= {name: asyncio.create_task(me.call(name)) for name in names[1:]}
            while not gateway.calls("first"):
                await asyncio.sleep(0.01)
            gate.set()
            await asyncio.gather(calls["first"], calls["third"], calls["fourth"])
            asked = [message["msg"] for message in gateway.heard[2:]]
            assert asked == ["first", "third", "fourth", "late"]
        await gateway.stop()

    run(story)


def test_a_reply_that_was_lost_is_asked_for_with_the_same_id() -> None:
    async def story() -> None:
        async def cut_first(line: Line, message: Message) -> None:
            if len(gateway.lines) == 1:
                line.cut()
            else:
                await echo(line, message)

        states: list[State] = []
        gateway = Gateway(cut_first)
        async with Client(await gateway.start(), on_state=states.append) as me:
            assert await me.call("add", x=1) == {"x": 1}
            assert gateway.calls("add") == [1, 1]
        assert states == [State.READY, State.WAITING, State.READY, State.OVER]
        await gateway.stop()

    run(story)


def test_a_silent_connection_is_replaced() -> None:
    async def story() -> None:
        gateway = Gateway(echo)
        async with Client(await gateway.start(), silence_s=0.3) as me:
            gateway.is_deaf_to = gateway.lines[0]
            assert await me.call("add", x=1) == {"x": 1}
            assert len(gateway.lines) == 2
        await gateway.stop()

    run(story)


@pytest.mark.parametrize(
    "noise",
    [b"\x00\xff\n", b"5\n", b"[]\n", b"<msg/>\n", b'{"msg":1}x\n', b'{"a":1,"a":2}\n', b"x" * (17 << 20)],
)
def test_noise_ends_the_connection_and_not_the_client(noise: bytes) -> None:
    async def story() -> None:
        async def noisy(line: Line, message: Message) -> None:
            if len(gateway.lines) == 1:
                line.writer.write(noise)
            else:
                await echo(line, message)

        gateway = Gateway(noisy)
        async with Client(await gateway.start()) as me:
            assert await me.call("add", x=1) == {"x": 1}
        await gateway.stop()

    run(story)


def test_no_gateway_is_named() -> None:
    async def story() -> None:
        gateway = Gateway(echo)
        nowhere = await gateway.start()
        await gateway.stop()
        with pytest.raises(Unreachable, match=rf"tcp://{nowhere} within 1 s: .*[Cc]onn"):
            await Client(nowhere).open(timeout_s=1)
        gateway = Gateway(echo)
        with pytest.raises(Unreachable):
            await Client("ws://" + await gateway.start()).open(timeout_s=1)
        await gateway.stop()

    run(story)


def test_what_the_gateway_would_refuse_is_refused_here() -> None:
    async def story() -> None:
        gateway = Gateway(echo)
        async with Client(await gateway.start()) as me:
            for error, fields in (
                ("too_large", {"text": "x" * 500}),
                ("bad_message", {"x": float("nan")}),
                ("bad_message", {"no name": 1}),
                ("bad_message", {"x": 2**60}),
                ("bad_argument", {"id": 5}),
            ):
                with pytest.raises(ClientError) as raised:
                    await me.call("ping", **fields)
                assert raised.value.error == error
            assert await me.call("ping", text="x" * 400) == {"text": "x" * 400}
        await gateway.stop()

    run(story)


def test_closing_ends_what_is_under_way() -> None:
    async def story() -> None:
        gateway = Gateway(silence)
        me = await Client(await gateway.start(), in_flight=1).open()
        sent, waiting = asyncio.create_task(me.call("a")), asyncio.create_task(me.call("b"))
        reading = asyncio.create_task(anext(me.events()))
        while not gateway.calls("a"):
            await asyncio.sleep(0.01)
        await me.close()
        with pytest.raises(SessionClosed) as raised:
            await sent
        assert raised.value.may_have_run
        with pytest.raises(SessionClosed) as raised:
            await waiting
        assert not raised.value.may_have_run
        with pytest.raises(StopAsyncIteration):
            await reading
        with pytest.raises(SessionOver):
            await me.call("c")
        assert gateway.heard[-1] == {"msg": "logout"}
        await gateway.stop()

    run(story)


def test_a_token_that_is_a_function_is_asked_at_each_login() -> None:
    async def story() -> None:
        gateway = Gateway(echo)
        tokens = iter(["one", "two"])
        for token in ("one", "two"):
            async with Client(await gateway.start(), user="ann", token=lambda: next(tokens)):
                assert gateway.heard[1] == {"msg": "login", "user": "ann", "token": token}
            await gateway.stop()
            gateway = Gateway(echo)

    run(story)


def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run([openssl, "req", "-x509", *curve, *names, *files], check=True, capture_output=True)

    async def story() -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        gateway = Gateway(echo)
        where = "tls://" + await gateway.start(server)
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with Client(where, tls=trusting) as me:
            assert await me.call("ping", x=1) == {"x": 1}
        with pytest.raises(Unreachable, match="certificate"):
            await Client(where).open(timeout_s=2)
        await gateway.stop()

    run(story)


def test_events_come_in_order_with_the_replies() -> None:
    async def story() -> None:
        async def talkative(line: Line, message: Message) -> None:
            line.say(msg="hit", n=1, by="bob")
            line.say(**message, status=0)
            line.say(msg="hit", n=2, by="cid")

        gateway = Gateway(talkative)
        async with Client(await gateway.start()) as me:
            await me.call("go")
            assert [await anext(me.events()) for _ in range(2)] == [
                DirectEvent("hit", 1, {"by": "bob"}),
                DirectEvent("hit", 2, {"by": "cid"}),
            ]
        await gateway.stop()

    run(story)
