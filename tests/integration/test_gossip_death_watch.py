"""A process's death is noticed, with a pidfd and without, once, and also when it came first."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from gossip.death_watch import DeathWatch

pytestmark = pytest.mark.integration

DEADLINE_S = 10.0


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed or the test ends."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def deaths_of(pid: int, *, use_pidfd: bool, kill: subprocess.Popen[bytes] | None) -> list[int]:
    """Watch until a first death is noticed."""

    async def watching() -> list[int]:
        loop = asyncio.get_running_loop()
        noticed: list[int] = []
        first = loop.create_future()

        def on_death(dead: int) -> None:
            noticed.append(dead)
            if not first.done():
                first.set_result(None)

        watch = DeathWatch(loop, on_death, use_pidfd=use_pidfd)
        watch.watch(pid)
        watch.watch(pid)
        if kill is not None:
            kill.kill()
            await loop.run_in_executor(None, kill.wait)
        await asyncio.wait_for(first, DEADLINE_S)
        watch.close()
        return noticed

    return asyncio.run(watching())


@pytest.mark.parametrize("use_pidfd", [True, False])
def test_a_death_is_noticed_once(living: subprocess.Popen[bytes], use_pidfd: bool) -> None:
    assert deaths_of(living.pid, use_pidfd=use_pidfd, kill=living) == [living.pid]


@pytest.mark.parametrize("use_pidfd", [True, False])
def test_a_process_that_is_dead_already_is_noticed_too(
    living: subprocess.Popen[bytes], use_pidfd: bool
) -> None:
    living.kill()
    living.wait()
    assert deaths_of(living.pid, use_pidfd=use_pidfd, kill=None) == [living.pid]


@pytest.mark.parametrize("use_pidfd", [True, False])
def test_who_is_no_longer_watched_is_not_reported(living: subprocess.Popen[bytes], use_pidfd: bool) -> None:
    async def watching() -> list[int]:
        loop = asyncio.get_running_loop()
        noticed: list[int] = []
        other = subprocess.Popen(["true"])
        seen = loop.create_future()

        def on_death(pid: int) -> None:
            noticed.append(pid)
            seen.set_result(None)

        watch = DeathWatch(loop, on_death, use_pidfd=use_pidfd)
        watch.watch(living.pid)
        watch.unwatch(living.pid)
        living.kill()
        living.wait()
        other.wait()
        watch.watch(other.pid)  # noticed after the first would have been
        await asyncio.wait_for(seen, DEADLINE_S)
        watch.close()
        return [pid for pid in noticed if pid != other.pid]

    assert asyncio.run(watching()) == []
