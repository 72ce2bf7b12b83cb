"""Faults of PostgreSQL: the archive is late, silent or gone, and nobody's answer may depend on it.

Guards one rule: while the archive is in trouble operations go on; what it missed is there afterwards.
"""

from __future__ import annotations

import time

from tests.failures.faults import AGAIN_S, Fault, KillWorker
from tests.failures.nodes import World, until


class PostgresDown(Fault):
    """Killed, and started again."""

    name = "postgres-down"
    hold_s = 3.0

    def __init__(self) -> None:
        super().__init__()
        self._answered = True

    def strike(self, world: World) -> None:
        world.database.kill()
        self._answered = world.database.answers()

    def heal(self, world: World) -> None:
        world.database.start()

    def bitten(self, world: World) -> str:
        return "PostgreSQL answered" if self._answered else ""


class PostgresSilent(Fault):
    """Stopped: it takes connections and says nothing."""

    name = "postgres-silent"
    hold_s = 4.0

    def __init__(self) -> None:
        super().__init__()
        self._seen = False

    def strike(self, world: World) -> None:
        world.database.freeze()
        self._seen = until("trouble in status", lambda: _in_trouble(world), AGAIN_S / 2)

    def heal(self, world: World) -> None:
        world.database.thaw()

    def bitten(self, world: World) -> str:
        return "" if self._seen else "status never told of it"


class PostgresSlow(Fault):
    """Stopped for nine tenths of the time."""

    name = "postgres-slow"
    hold_s = 0.1

    def strike(self, world: World) -> None:
        for _ in range(8):
            world.database.freeze()
            time.sleep(0.36)  # the fault itself
            world.database.thaw()
            time.sleep(0.04)

    def bitten(self, world: World) -> str:
        return ""


class PostgresDownKillWorker(KillWorker):
    """PostgreSQL is gone when the executing worker dies: another one has to do without."""

    name = "postgres-down-kill-worker"
    hold_s = 3.0

    def strike(self, world: World) -> None:
        world.database.kill()
        self._answered = world.database.answers()
        super().strike(world)

    def heal(self, world: World) -> None:
        world.database.start()

    def bitten(self, world: World) -> str:
        return super().bitten(world) or ("PostgreSQL answered" if self._answered else "")


def _in_trouble(world: World) -> bool:
    found = world.status()
    return found is not None and found["storage"]["state"] in ("lagging", "down")
