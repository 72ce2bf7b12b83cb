"""A child's tie to its supervisor: the pipes and the signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from connserver.config import ClusterConfig, Places
from connserver.process import STATUS_REASON_CHARS, Lifeline, ProcessOptions, from_document


class Parent:
    """The supervisor's ends of the two pipes."""

    def __init__(self, tmp_path: Path) -> None:
        self.lifeline, self.lifeline_write = os.pipe()
        self.status, self.status_write = os.pipe()
        config = ClusterConfig(file=tmp_path / "cluster.toml")
        self.options = ProcessOptions(
            role="worker",
            node="n1",
            name="w-n1-0",
            config=config,
            places=Places(config),
            group=0,
            lifeline_fd=self.lifeline,
            status_fd=self.status_write,
        )
        self.reasons: list[str] = []

    def die(self) -> None:
        os.close(self.lifeline_write)
        self.lifeline_write = -1

    def said(self) -> list[dict[str, object]]:
        os.set_blocking(self.status, False)
        try:
            return [json.loads(line) for line in os.read(self.status, 65_536).splitlines()]
        except BlockingIOError:
            return []


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    made = Parent(tmp_path)
    yield made
    for descriptor in (made.lifeline, made.lifeline_write, made.status):
        if descriptor >= 0:
            os.close(descriptor)


@pytest.fixture
def lifeline(loop: asyncio.AbstractEventLoop, parent: Parent) -> Iterator[Lifeline]:
    made = Lifeline(loop, parent.options, parent.reasons.append)
    yield made
    made.close()


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Let everything that is due happen: the loop looks at its descriptors twice."""
    for _ in range(2):
        loop.call_soon(loop.stop)
        loop.run_forever()


@pytest.mark.usefixtures("lifeline")
def test_the_end_of_the_supervisor_is_noticed_once(loop: asyncio.AbstractEventLoop, parent: Parent) -> None:
    turn(loop)
    assert parent.reasons == []
    parent.die()
    turn(loop)
    turn(loop)
    assert parent.reasons == ["the supervisor is gone"]


@pytest.mark.usefixtures("lifeline")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_and_the_first_reason_is_the_reason(
    loop: asyncio.AbstractEventLoop, parent: Parent, number: signal.Signals
) -> None:
    os.kill(os.getpid(), number)
    turn(loop)
    parent.die()
    os.kill(os.getpid(), signal.SIGTERM)
    turn(loop)
    assert parent.reasons == [f"asked to stop ({number.name})"]


def test_ready_is_one_line_until_something_else_is_said(parent: Parent, lifeline: Lifeline) -> None:
    lifeline.ready("tcp://here")
    lifeline.ready("tcp://here")
    lifeline.waiting("storage")
    lifeline.ready("tcp://here")
    ready = {"ready": True, "endpoint": "tcp://here"}
    assert parent.said() == [ready, {"waiting": "storage"}, ready]


def test_a_reason_fits_into_one_write_of_a_pipe(parent: Parent, lifeline: Lifeline) -> None:
    lifeline.waiting("\N{PILE OF POO}" * 10_000)
    (line,) = parent.said()
    assert len(json.dumps(line)) < 8 * 4096
    assert len(str(line["waiting"])) == STATUS_REASON_CHARS


def test_after_close_nothing_is_heard_or_said(
    loop: asyncio.AbstractEventLoop, parent: Parent, lifeline: Lifeline
) -> None:
    lifeline.close()
    lifeline.close()
    lifeline.ready()
    parent.die()
    turn(loop)
    assert (parent.reasons, parent.said()) == ([], [])


def test_a_supervisor_that_is_gone_hurts_nobody_who_talks(parent: Parent, lifeline: Lifeline) -> None:
    os.close(parent.status)
    parent.status = -1
    lifeline.ready()


def test_options_travel_as_a_document(parent: Parent) -> None:
    document = json.loads(json.dumps(parent.options.as_document()))
    there = from_document(document, parent.options.config)
    assert there.as_document() == parent.options.as_document()
