"""Which rows of the archive are raised to their group's era, when, and how often that is tried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from connserver.errors import StorageError
from connserver.messages import GroupPosition
from connserver.storage.eras import ArchivedGroup
from gossip import eras
from gossip.eras import RETRY_S, ArchiveEras, EraKeeper


def row(group: int, era: int, status: str = "normal") -> GroupPosition:
    return GroupPosition(group, era, 0, status, 0, 0, 0, 0, True, "")


@pytest.fixture
def keeper() -> EraKeeper:
    return EraKeeper()


def due(keeper: EraKeeper, *rows: GroupPosition, now: float = 0.0) -> list[tuple[int, int]]:
    found = keeper.due(rows, now)
    keeper.check_invariants()
    return found


def test_the_first_era_needs_nothing(keeper: EraKeeper) -> None:
    assert due(keeper, row(0, 1), row(1, 1)) == []


def test_a_new_era_is_raised_once(keeper: EraKeeper) -> None:
    assert due(keeper, row(0, 2), row(1, 1)) == [(0, 2)]
    assert due(keeper, row(0, 2)) == [], "it is under way"
    keeper.raised(0)
    assert due(keeper, row(0, 2)) == []
    assert due(keeper, row(0, 3)) == [(0, 3)]


@pytest.mark.parametrize("status", ["blank", "forming", "view_change", "recovering"])
def test_an_era_that_may_not_come_to_be_is_left_alone(keeper: EraKeeper, status: str) -> None:
    assert due(keeper, row(0, 2, status)) == []


def test_what_failed_is_tried_again_later_and_later(keeper: EraKeeper) -> None:
    now, waits = 0.0, []
    for _ in range(6):
        assert due(keeper, row(0, 2), now=now) == [(0, 2)]
        keeper.failed(0, now)
        at = keeper.next_due()
        assert at is not None
        assert due(keeper, row(0, 2), now=at - 0.01) == []
        waits.append(at - now)
        now = at
    assert waits == pytest.approx([0.5, 1, 2, 4, 5, 5])
    assert (waits[0], waits[-1]) == pytest.approx(RETRY_S)
    assert due(keeper, row(0, 2), now=now) == [(0, 2)]
    keeper.raised(0)
    keeper.check_invariants()
    assert keeper.next_due() is None


def test_an_era_that_came_meanwhile_is_raised_after_the_one_under_way(keeper: EraKeeper) -> None:
    due(keeper, row(0, 2))
    assert due(keeper, row(0, 3)) == []
    keeper.raised(0)
    assert due(keeper, row(0, 3)) == [(0, 3)]


class Database:
    """Answers by script; what was asked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.failures = 0
        monkeypatch.setattr(eras, "archived_group", lambda dsn, group: self._answer(dsn, group, 0))
        monkeypatch.setattr(eras, "raise_era", self._answer)

    def _answer(self, dsn: str, group: int, era: int) -> ArchivedGroup:
        self.asked.append((dsn, group, era))
        if self.failures:
            self.failures -= 1
            raise StorageError("PostgreSQL cannot be reached")
        return ArchivedGroup(max(era, 1), 5, 70 + group)


async def until(look: Callable[[], object]) -> None:
    """Bounded by the test's own limit in the loop below."""
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.001)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    return Database(monkeypatch)


def test_the_shell_raises_in_its_thread_and_again_after_a_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eras, "RETRY_S", (0.01, 0.01))
    database.failures = 2

    async def story() -> None:
        shell = ArchiveEras(asyncio.get_running_loop(), lambda: "dsn")
        shell.positioned([row(0, 2), row(1, 1)])
        await until(lambda: len(database.asked) == 3)
        await until(lambda: shell._keeper._kept == {0: 2})
        shell.positioned([row(0, 2)])
        shell.close()

    asyncio.run(story())
    assert database.asked == [("dsn", 0, 2)] * 3


def test_where_the_archive_stands_is_told_when_it_is_known(database: Database) -> None:
    database.failures = 1

    async def story() -> list[dict[str, object]]:
        shell = ArchiveEras(asyncio.get_running_loop(), lambda: "dsn")
        told = [shell.look(4), shell.look(4)]
        await until(lambda: shell.look(4)["state"] != "asked")
        told.append(shell.look(4))
        shell._looks[4].at -= 2 * eras.FRESH_S
        told.append(shell.look(4))
        await until(lambda: shell.look(4)["state"] != "asked")
        told.append(shell.look(4))
        shell.close()
        return told

    assert asyncio.run(story()) == [
        {"state": "asked"},
        {"state": "asked"},
        {"state": "failed", "error": "PostgreSQL cannot be reached"},
        {"state": "asked"},
        {"state": "known", "era": 1, "view": 5, "op": 74},
    ]
    assert len(database.asked) == 2


def test_after_its_end_nothing_is_told(database: Database) -> None:
    async def story() -> None:
        shell = ArchiveEras(asyncio.get_running_loop(), lambda: "dsn")
        shell.look(0)
        shell.close()
        await until(lambda: len(database.asked) <= 1)
        await asyncio.sleep(0)
        assert shell._looks[0].found is None

    asyncio.run(story())
