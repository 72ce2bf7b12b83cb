"""A few thousand seeded bad frames in every encoding, while a witness goes on working.

The long version, with memory and latency, is scripts/bench/hostile; the frames are its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType
from typing import Any

import pytest

from tests.integration.cluster import ROOT, Cluster, new_cluster, wait_for
from tests.integration.voices import Voice, login

pytestmark = pytest.mark.integration

FRAMES = 4_000
LANES = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with new_cluster(nodes=1, groups=2) as made:
        made.up()
        wait_for("a call to be carried out", made.serves)
        yield made
        assert made.down() == 0


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The generator of scripts/bench/hostile, which is a script without a suffix."""
    loader = SourceFileLoader("hostile_generator", str(ROOT / "scripts" / "bench" / "hostile"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


class Witness(threading.Thread):
    """Calls and hears itself in a room, until told to stop; `failure` if ever it was not answered."""

    def __init__(self, voice: Voice) -> None:
        super().__init__(daemon=True)
        self.voice = voice
        self.calls = 0
        self.failure: BaseException | None = None
        self.enough = threading.Event()

    def run(self) -> None:
        try:
            self.voice.good("room.join", room="witnesses")
            while not self.enough.wait(0.01):
                self.calls += 1
                self.voice.good("room.send", room="witnesses", number=self.calls, id=self.calls)
                assert self.voice.event("room.message")["number"] == self.calls
        except BaseException as error:
            self.failure = error


def pids(cluster: Cluster) -> list[tuple[Any, ...]]:
    return sorted((row["name"], row["pid"], row["restarts"]) for row in cluster.status()["processes"])


def test_bad_frames_cost_nobody_but_their_senders(cluster: Cluster, generator: ModuleType) -> None:
    before = pids(cluster)
    host, port = cluster.gateways[0]
    run = generator.Run(f"{host}:{port}", FRAMES, seed=11)

    async def all_lanes() -> None:
        await asyncio.gather(*[run.lane(number) for number in range(LANES)])

    with login((host, port), "witness") as voice:
        witness = Witness(voice)
        witness.start()
        asyncio.run(asyncio.wait_for(all_lanes(), 60))
        witness.enough.set()
        witness.join(20)
    assert witness.failure is None
    assert witness.calls >= 50
    assert run.sent >= FRAMES
    assert not run.strange
    assert {"bad_message", "too_large", "unknown_method", "bad_argument"} <= set(+run.errors)
    assert pids(cluster) == before
    with login((host, port), "afterwards") as voice:
        assert voice.good("ping", text="still here")["text"] == "still here"


def test_no_failure_of_our_own_was_logged(cluster: Cluster) -> None:
    """Bad input is refused where it is checked; an exception that a shell had to catch is a bug."""
    texts = [path.read_text() for path in cluster.log_dir.glob("*.log")]
    assert texts
    assert not [line for text in texts for line in text.splitlines() if "Traceback" in line]
    assert not [line for text in texts for line in text.splitlines() if "client.failed" in line]
