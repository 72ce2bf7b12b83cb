"""What carries out the steps of client_scenarios.toml: the Python client here, connserver.js elsewhere.

Both give the same plain values, so that one set of assertions holds for either.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import http
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from connserver import client as connserver_client
from connserver.client import Client, ClientError, RoomChange, SessionOver, State

Step = dict[str, Any]
HERE = Path(__file__).parent
LIBRARY = Path(connserver_client.__file__).with_name("connserver.js")
SHIPPED = LIBRARY.with_name("connserver.min.js")
PAGE = (
    b'<!doctype html><meta charset="utf-8"><script type="module">'
    b'import {drive} from "./client_driver.js"; drive(`ws://${location.host}/control`);</script>'
)


class Driver(Protocol):
    """Carries out a step: {"ok": value} or {"error": …}."""

    scheme: str

    async def do(self, step: Step) -> Step:
        """Carry it out."""


class InPython:
    """The asyncio client, in this process."""

    def __init__(self, scheme: str, encoding: str = "json") -> None:
        self.scheme = scheme
        self._encoding = encoding
        self._clients: dict[str, Client] = {}
        self._changed = asyncio.Event()

    async def do(self, step: Step) -> Step:
        try:
            return {"ok": plain(await getattr(self, "_" + step["do"])(step))}
        except ClientError as error:
            kind = "Refused" if error.error == "refused" else "CallError"
            return {"error": {"kind": kind, "error": error.error, "reason": error.reason, "code": error.code}}
        except SessionOver as error:
            why = type(error).__name__.removeprefix("Session").lower()
            return {"error": {"kind": "SessionOver", "why": why, "mayHaveRun": error.may_have_run}}

    async def _open(self, step: Step) -> Step:
        options = step.get("options", {})
        made = self._clients[step["as"]] = Client(
            *step["gateways"],
            user=step["user"],
            encoding=self._encoding,
            login_again=options.get("loginAgain", False),
            patience_s=options.get("patienceMs", 0) / 1000,
            on_state=lambda _: self._changed.set(),
        )
        await made.open()
        return {"user": made.user}

    async def _call(self, step: Step) -> Any:
        return await self._clients[step["as"]].call(step["method"], **step.get("fields", {}))

    async def _join(self, step: Step) -> None:
        await self._clients[step["as"]].join(step["room"], history=step.get("history", 0))

    async def _send(self, step: Step) -> Any:
        room, text = self._clients[step["as"]].room(step["room"]), step["text"]
        if "count" not in step:
            return await room.send(text=text)
        return await asyncio.gather(*(room.send(text=f"{text}{number}") for number in range(step["count"])))

    async def _update(self, step: Step) -> None:
        await self._clients[step["as"]].room(step["room"]).update(step["key"], step["value"])

    async def _repeat(self, step: Step) -> Any:
        me = self._clients[step["as"]]
        results = await asyncio.gather(*(me.call(step["method"]) for _ in range(step["count"])))
        return [result["value"] for result in results]

    async def _read(self, step: Step) -> Any:
        events: list[Any] = []
        stream = self._clients[step["as"]].room(step["room"]).events()
        while len(events) < step["count"]:
            event = await anext(stream)
            if not isinstance(event, RoomChange):
                events.append(event)
        return events

    async def _told(self, step: Step) -> Any:
        return [await anext(self._clients[step["as"]].events()) for _ in range(step["count"])]

    async def _state(self, step: Step) -> Any:
        room = self._clients[step["as"]].room(step["room"])
        while {key: dict(by) for key, by in room.state.items()} != step["gives"]:
            await anext(room.events())
        return {key: dict(by) for key, by in room.state.items()}

    async def _who(self, step: Step) -> Any:
        return await self._clients[step["as"]].room(step["room"]).who()

    async def _leave(self, step: Step) -> None:
        await self._clients[step["as"]].room(step["room"]).leave()

    async def _apart(self, step: Step) -> None:
        while self._clients[step["as"]].state is State.READY:
            self._changed.clear()
            await self._changed.wait()

    async def _close(self, step: Step) -> None:
        await self._clients[step["as"]].close()


def plain(value: Any) -> Any:
    """Events as maps, named as in JavaScript."""
    if dataclasses.is_dataclass(value):
        fields = {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, enum.Enum):
        return value.value
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class InJavaScript:
    """connserver.js, in whatever has connected to `url` or loaded `page`."""

    scheme = "ws://"

    def __init__(self) -> None:
        self.port = 0
        self.connected: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()
        self._numbers = 0
        self._answers: dict[int, asyncio.Future[Step]] = {}

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/control"

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}/page"

    async def do(self, step: Step) -> Step:
        self._numbers += 1
        answer = self._answers[self._numbers] = asyncio.get_running_loop().create_future()
        socket = await self.connected
        await socket.send(json.dumps({"number": self._numbers, **step}))
        done: Step = await answer
        return done

    async def handle(self, socket: ServerConnection) -> None:
        self.connected.set_result(socket)
        async for text in socket:
            done = json.loads(text)
            answer = self._answers.pop(done.pop("number"))
            if not answer.done():  # its step may have been given up
                answer.set_result(done)

    def serve_file(self, _: ServerConnection, request: Request) -> Response | None:
        if request.path == "/control":
            return None
        files = {
            "/connserver.js": SHIPPED,
            "/connserver.min.js": SHIPPED,
            "/client_driver.js": HERE / "client_driver.js",
            "/room.html": SHIPPED.with_name("room.html"),
        }
        path = request.path.partition("?")[0]
        if path == "/page":
            return _response(PAGE, "text/html")
        if path in files:
            kind = "text/html" if path.endswith(".html") else "text/javascript"
            return _response(files[path].read_bytes(), kind)
        return Response(http.HTTPStatus.NOT_FOUND, "Not Found", Headers({"Content-Length": "0"}))


def _response(body: bytes, kind: str) -> Response:
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(http.HTTPStatus.OK, "OK", headers, body)


@contextlib.asynccontextmanager
async def javascript() -> AsyncIterator[InJavaScript]:
    """A driver that waits for its JavaScript to come."""
    driver = InJavaScript()
    async with serve(driver.handle, "127.0.0.1", 0, process_request=driver.serve_file) as server:
        driver.port = server.sockets[0].getsockname()[1]
        yield driver
