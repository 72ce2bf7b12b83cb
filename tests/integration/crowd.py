"""A crowd of clients that play while something else happens: counters and rooms, each answer checked.

Each client keeps a window of calls in flight, and a disconnect, an error, a value twice, a value left out
or an event out of its order is a fault that is kept. It runs in a thread with a loop of its own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from types import TracebackType
from typing import Any

WINDOW = 8
PAUSE_S = 0.5
"""Between two windows of a client, so that the machine is busy and not full."""
ROOM_MEMBERS = 20
START_S = 60.0
STOP_S = 30.0


class Client:
    """One of the crowd. `value`: the last that its counter said; `versions`: who answered, in order."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.name = f"crowd{number}"
        self.room = f"hall{number // ROOM_MEMBERS}"
        self.speaks = number % ROOM_MEMBERS == 0
        self.value = 0
        self.seq = 0
        self.id = 1
        self.versions: list[str] = []
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    def say(self, **message: Any) -> None:
        self.id += 1
        self.writer.write(json.dumps({**message, "id": self.id}).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        """The next reply; events are looked at."""
        while True:
            line = await self.reader.readline()
            if not line:
                raise ConnectionError("disconnected")
            message: dict[str, Any] = json.loads(line)
            if "status" in message:
                return message
            if message["msg"] == "room.message":
                if message["seq"] != self.seq + 1:
                    raise AssertionError(f"event {message['seq']} after {self.seq}")
                self.seq = message["seq"]
            elif message["msg"] not in ("keepalive",):
                raise AssertionError(message)

    async def begin(self) -> None:
        address = self.crowd.addresses[int(self.name[5:]) % len(self.crowd.addresses)]
        self.reader, self.writer = await asyncio.open_connection(*address)
        self.say(msg="login", user=self.name)
        self.say(msg="room.join", room=self.room)
        for _ in range(2):
            answer = await self.hear()
            assert answer["status"] == 0, answer
            self.seq = answer.get("seq", self.seq)

    async def window(self) -> None:
        """Calls at once, and their answers in order."""
        for _ in range(WINDOW):
            self.say(msg="tally.add")
        if self.speaks:
            self.say(msg="room.send", room=self.room, text="hear, hear")
        counted = 0
        for _ in range(WINDOW + self.speaks):
            answer = await self.hear()
            assert answer["status"] == 0, answer
            if answer["msg"] == "tally.add":
                counted += 1
                assert answer["value"] == self.value + 1, f"{answer['value']} after {self.value}"
                self.value += 1
                if self.versions[-1:] != [answer["by"]]:
                    self.versions.append(answer["by"])
        assert counted == WINDOW

    async def play(self, ready: asyncio.Barrier) -> None:
        try:
            await self.begin()
            await ready.wait()
            while not self.crowd.enough:
                await self.window()
                await asyncio.sleep(PAUSE_S)
            await self.window()
            self.writer.close()
        except Exception as error:
            self.crowd.faults.append(f"{self.name}: {type(error).__name__}: {error}")
            await ready.abort()


class Crowd:
    """All clients; a context in which they play. `faults`: what should not have happened."""

    def __init__(self, addresses: list[tuple[str, int]], count: int) -> None:
        self.addresses = addresses
        self.faults: list[str] = []
        self.enough = False
        self.clients = [Client(self, number) for number in range(count)]
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()), daemon=True)

    async def _play(self) -> None:
        ready = asyncio.Barrier(len(self.clients) + 1)
        async with asyncio.TaskGroup() as group:
            for client in self.clients:
                group.create_task(client.play(ready))
            try:
                await ready.wait()
            except asyncio.BrokenBarrierError:
                self.enough = True
            self._started.set()

    def __enter__(self) -> Crowd:
        self._thread.start()
        assert self._started.wait(START_S), "the crowd did not come in"
        assert self.faults == []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.enough = True
        self._thread.join(STOP_S)
        if kind is None:
            assert not self._thread.is_alive(), "clients wait for answers"
            assert self.faults == []

    def served_by(self, version: str) -> bool:
        """Whether every client's last answer came from this version."""
        assert self.faults == []
        return all(client.versions[-1:] == [version] for client in self.clients)
