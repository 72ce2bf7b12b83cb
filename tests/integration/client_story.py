"""Runs the scenarios of client_scenarios.toml: each step through a driver, and what befalls its clients.

Every client reaches the two gateways through two doors of its own, which can be shut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connserver.client import Client
from connserver.ids import format_oid, group_of, named_id, partition_of
from tests.integration.client_drivers import Driver, Step
from tests.integration.cluster import Cluster
from tests.integration.voices import operator

SCENARIOS = tomllib.loads(Path(__file__).with_name("client_scenarios.toml").read_text())["scenario"]
GROUPS = 2
STEP_S = 40.0
"""For one step on a busy machine, a reconnect included."""


class Door:
    """A way to a gateway that can be shut."""

    def __init__(self, gateway: tuple[str, int]) -> None:
        self.gateway = gateway
        self.is_open = True
        self.port = 0
        self._passing: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_used(self) -> bool:
        return bool(self._passing)

    async def build(self) -> None:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not self.is_open:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.gateway)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._passing |= pair
        ways = [
            asyncio.ensure_future(_copy(reader, far_writer)),
            asyncio.ensure_future(_copy(far_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        self._passing -= pair
        for one in pair:
            one.transport.abort()
        await asyncio.wait(ways)

    def cut(self) -> None:
        for writer in self._passing:
            writer.transport.abort()

    async def remove(self) -> None:
        self.cut()
        self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            await asyncio.sleep(0)
            target.write_eof()


@dataclass
class Story:
    """One scenario through one driver; `prefix` sets its users and rooms apart from those of others."""

    cluster: Cluster
    driver: Driver
    prefix: str
    doors: dict[str, list[Door]] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    later: dict[str, asyncio.Task[Step]] = field(default_factory=dict)
    crowd: Client | None = None
    gateways: dict[str, int] = field(default_factory=dict)

    async def run(self, scenario: dict[str, Any]) -> None:
        try:
            if any(step["do"] == "kill" for step in scenario["steps"]):
                self.gateways = await asyncio.to_thread(self.cluster.named)
            for number, step in enumerate(scenario["steps"], start=1):
                where = f"{scenario['name']}, step {number}: {step}"
                try:
                    await asyncio.wait_for(self._step(step), STEP_S)
                except TimeoutError:
                    raise AssertionError(f"{where}: nothing within {STEP_S} s") from None
                except AssertionError as error:
                    raise AssertionError(f"{where}: {error}") from None
        finally:
            await self._tidy()

    async def _tidy(self) -> None:
        for task in self.later.values():
            task.cancel()
        for name in self.doors:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.driver.do({"do": "close", "as": name}), 5)
        for doors in self.doors.values():
            for door in doors:
                await door.remove()
        if self.crowd is not None:
            await self.crowd.close()

    async def _step(self, step: Step) -> None:
        match step["do"]:
            case "wait":
                check(step, self._own(await self.later.pop(step["for"])))
            case "cut" | "away" | "back" as what:
                for door in self.doors[step["as"]]:
                    door.is_open = what != "away"
                    if what != "back":
                        door.cut()
                if what == "away":
                    await self.driver.do({"do": "apart", "as": step["as"]})
            case "kick":
                await asyncio.to_thread(self._kick, self.users[step["as"]])
            case "kill":
                assert not self.later[step["during"]].done(), "the kill came too late to be in the middle"
                (index,) = [index for index, door in enumerate(self.doors[step["as"]]) if door.is_used]
                os.kill(self.gateways[f"gw-n1-{index}"], signal.SIGKILL)
            case "crowd":
                await self._crowd(self.prefix + step["room"], step["count"])
            case _:
                await self._drive(step)

    async def _drive(self, step: Step) -> None:
        given = {key: value for key, value in step.items() if key not in ("fails", "later")}
        for key in ("user", "room"):
            if key in given:
                given[key] = self.prefix + given[key]
        if "room" in given.get("fields", {}):
            given["fields"] = {**given["fields"], "room": self.prefix + given["fields"]["room"]}
        if step["do"] == "open":
            self.users[step["as"]] = given["user"]
            given["gateways"] = await self._build(step["as"])
        if step["do"] == "state":
            given["gives"] = {
                key: {self.prefix + sender: value for sender, value in by.items()}
                for key, by in step["gives"].items()
            }
        doing = asyncio.create_task(self.driver.do(given))
        if "later" in step:
            self.later[step["later"]] = doing
            await asyncio.sleep(0)
        else:
            check(step, self._own(await doing))

    def _own(self, result: Step) -> Step:
        own: Step = json.loads(json.dumps(result).replace(self.prefix, ""))
        return own

    async def _build(self, name: str) -> list[str]:
        self.doors[name] = [Door(gateway) for gateway in self.cluster.gateways]
        for door in self.doors[name]:
            await door.build()
        return [f"{self.driver.scheme}127.0.0.1:{door.port}" for door in self.doors[name]]

    def _kick(self, user: str) -> None:
        with operator(self.cluster) as admin:
            oid = named_id("user", user)
            group = group_of(partition_of(oid), GROUPS)
            assert admin.ask("worker.kick", group=group, oid=format_oid(oid))["sessions"] == 1

    async def _crowd(self, room: str, count: int) -> None:
        if self.crowd is None:
            gateways = [f"{host}:{port}" for host, port in self.cluster.gateways]
            self.crowd = await Client(*gateways, user=self.prefix + "crowd", patience_s=STEP_S).open()
        joined = await self.crowd.join(room)
        await asyncio.gather(*(joined.send(text=str(number)) for number in range(count)))


def check(step: Step, result: Step) -> None:
    """The result is what the step says."""
    if "fails" in step:
        assert "error" in result, f"succeeded: {result}"
        assert matches(step["fails"], result["error"]), result["error"]
        return
    assert "ok" in result, result
    if step["do"] == "state":
        assert result["ok"] == step["gives"], result["ok"]
    elif "gives" in step:
        assert matches(step["gives"], result["ok"]), result["ok"]


def matches(wanted: Any, found: Any) -> bool:
    """Equal, but that maps may hold more; {from, to} stands for those numbers, or events of those seqs."""
    if isinstance(wanted, dict) and {"from", "to"} <= wanted.keys():
        numbers = [item["seq"] if isinstance(item, dict) and "seq" in item else item for item in found]
        if wanted.get("in_any_order"):
            numbers.sort()
        return bool(numbers == list(range(wanted["from"], wanted["to"] + 1)))
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            name in found and matches(value, found[name]) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(matches, wanted, found))
    return bool(wanted == found)
