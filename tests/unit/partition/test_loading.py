"""Where a starting worker's state comes from."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from connserver import sockets
from connserver.errors import StorageError
from partition import loading
from partition.loading import Loaded, Loading
from partition.objects import Store


class Sources(Loading):
    """Loading from an archive and a primary made by hand: each answers, fails or has nothing."""

    def __init__(
        self,
        archive: list[Callable[[], Loaded]],
        primary: list[Loaded | None],
        needed: tuple[int, int] = (1, 0),
    ) -> None:
        self.archive, self.primary, self.told = archive, primary, list[str]()
        super().__init__(
            asyncio.get_running_loop(),
            sockets.context(),
            "",
            0,
            "",
            lambda: None,
            lambda: needed,
            self.told.append,
        )

    def _read_archive(self) -> Loaded:
        return self.archive.pop(0)()

    async def _from_primary(self) -> Loaded | None:
        return self.primary.pop(0)


def state(op: int, era: int = 1, archived: int = 0) -> Loaded:
    return Loaded(Store(), op, era, archived or op)


def down() -> Loaded:
    raise StorageError("PostgreSQL is away")


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOAD_AGAIN_S", 0.0)


def test_the_archive_is_enough_while_it_answers() -> None:
    async def run() -> None:
        sources = Sources([lambda: state(40)], [])
        assert (await sources.load()).op == 40 and sources.told == []

    asyncio.run(run())


def test_while_the_archive_is_down_the_primary_is_asked_until_one_of_them_answers() -> None:
    async def run() -> None:
        sources = Sources([down, down], [None, state(45, archived=40)])
        assert (await sources.load()).op == 45
        assert sources.told == ["PostgreSQL is away"] * 2

    asyncio.run(run())


def test_an_archive_that_hangs_is_not_waited_for_when_the_primary_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "ARCHIVE_PATIENCE_S", 0.0)
    released = threading.Event()

    def hangs() -> Loaded:
        assert released.wait(30)
        return down()

    async def run() -> None:
        sources = Sources([hangs], [state(45, archived=40)])
        assert (await sources.load()).op == 45
        released.set()

    asyncio.run(run())


def test_a_slow_archive_is_waited_for_when_nobody_else_has_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ARCHIVE_PATIENCE_S", 0.0)
    asked = threading.Event()

    def slow() -> Loaded:
        assert asked.wait(30)
        return state(40)

    class Nobody(Sources):
        async def _from_primary(self) -> Loaded | None:
            asked.set()
            return None

    async def run() -> None:
        assert (await Nobody([slow], []).load()).op == 40

    asyncio.run(run())


@pytest.mark.parametrize("needed", [(2, 0), (1, 41)])
def test_a_state_that_is_older_than_the_log_is_read_again(needed: tuple[int, int]) -> None:
    async def run() -> None:
        sources = Sources([lambda: state(40), lambda: state(41, era=needed[0])], [], needed)
        loaded = await sources.load()
        assert (loaded.op, loaded.era) == (41, needed[0])
        assert len(sources.told) == 1 and "op 40 of era 1" in sources.told[0]

    asyncio.run(run())
