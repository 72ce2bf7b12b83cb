"""Every node's disk is full: clients are told so, nothing is lost, and with room everything goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.failures.line import Line
from tests.failures.nodes import World, new_world
from tests.failures.wire import Fields
from tests.integration.bad_disk import fill
from tests.integration.cluster import wait_for

pytestmark = pytest.mark.integration

DISK = "64m"
"""A log's segment, its reserve, and what a test writes."""
TOLD_S = 30.0
ANSWERED_S = 0.2
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


@pytest.fixture
def world() -> Iterator[World]:
    """Nodes whose logs lie on small disks of their own, which end with them."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    with new_world(groups=2) as made:
        for node in made.nodes.values():
            log = node.folder / "log"
            log.mkdir(mode=0o700, parents=True)
            node.inside += ["unshare", "--mount", "sh", "-c", MOUNT, "sh", DISK, str(log)]
        yield made.up()


def disk(world: World, node: str) -> Path:
    """The log's folder as its process sees it."""
    return Path(f"/proc/{world.pid(f'g-{node}')}/root{world.nodes[node].folder / 'log'}")


def full(world: World) -> set[str]:
    """The nodes whose disks are said to be full."""
    found = world.status()
    alerts = found["alerts"] if found else []
    return {row["about"].removeprefix("node:") for row in alerts if "no room on the disk" in row["text"]}


@pytest.mark.timeout(180)
def test_full_disks_refuse_as_overloaded_and_go_on_when_there_is_room(world: World) -> None:
    assert (disk(world, "n1") / "reserve").exists(), "the small disk is not under the log"
    with Line(world.gateways[0]) as line:
        assert line.ask({"msg": "login", "user": "ann"})["status"] == 0
        answers: dict[int, Fields] = {}
        asked = 1

        def add(number: int) -> None:
            """One that a full disk meets when it has been executed is answered when there is room."""
            line.say({"msg": "count.add", "id": number})
            answers.update({answer["id"]: answer for answer in line.heard(ANSWERED_S)})

        def refused() -> Fields | None:
            nonlocal asked
            asked += 1
            add(asked)
            return next((answer for answer in answers.values() if answer["status"]), None)

        def open_ones() -> list[int]:
            return [n for n in range(1, asked + 1) if n not in answers or answers[n]["status"]]

        def all_done() -> bool:
            for number in open_ones():
                add(number)
            return not open_ones()

        wait_for("an answer", all_done, TOLD_S)
        ballast = [fill(disk(world, node)) for node in world.nodes]
        told = wait_for("a refusal", refused, TOLD_S)
        assert told["error"] == "overloaded" and int(told["retry_after_ms"]) > 0, told
        wait_for("what status says", lambda: full(world) == set(world.nodes), TOLD_S)
        for file in ballast:
            file.unlink()
        wait_for("every answer", all_done, TOLD_S)
        values = sorted(answer["value"] for answer in answers.values())
        assert values == list(range(1, asked + 1)), "what was refused or held back ran once, later"
        wait_for("the end of the alerts", lambda: not full(world), TOLD_S)
    assert all(world.pid(f"g-{node}") for node in world.nodes)
