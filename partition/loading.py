"""Where a starting worker's state comes from: the archive, or, while that is down, the primary's worker.

Guards: a state is taken whole and of one op, or not at all; nothing here blocks the loop for longer
than putting a part of the images into a list; and it goes on for as long as it takes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from connserver import sockets, telemetry
from connserver.codec import decode, encode
from connserver.driver import Port
from connserver.errors import StorageError, WireError
from connserver.messages import GetSnapshot, RouteEntry, SnapshotPart
from partition.archive import open_snapshot
from partition.objects import Store
from partition.snapshots import SnapshotTaker

LOAD_AGAIN_S = 0.5
"""Between attempts to read the archive."""

ARCHIVE_PATIENCE_S = 1.0
"""How long the archive may take before the primary's worker is asked as well: one that hangs is as good as
down, and its refusal takes seconds."""

TICK_S = 0.1

log = telemetry.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The state after `op` of `era`. `archived`: what the archive is known to have; `view`: its last."""

    store: Store
    op: int
    era: int
    archived: int
    view: int = 0


class Loading:
    """One worker's start. `routed()` gives the group's primary; `waiting(why)` is told once per cause;
    `needed()` is (era, op) of the log: an older snapshot is not taken."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        dsn: str,
        group: int,
        endpoint: str,
        routed: Callable[[], RouteEntry | None],
        needed: Callable[[], tuple[int, int]],
        waiting: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._dsn = dsn
        self._group = group
        self._endpoint = endpoint
        self._routed = routed
        self._needed = needed
        self._waiting = waiting

    async def load(self) -> Loaded:
        """The newest state that can be had."""
        while True:
            loaded = await self._one_attempt()
            if loaded is not None and self._is_new_enough(loaded):
                return loaded
            await asyncio.sleep(LOAD_AGAIN_S)

    def _is_new_enough(self, loaded: Loaded) -> bool:
        era, op = self._needed()
        if loaded.era > era or (loaded.era == era and loaded.op >= op):
            return True
        self._waiting(
            f"the archive stands at op {loaded.op} of era {loaded.era}, and the log of this group begins "
            f"after op {op} of era {era}"
        )
        return False

    async def _one_attempt(self) -> Loaded | None:
        reading = asyncio.ensure_future(asyncio.to_thread(self._read_archive))
        done, _ = await asyncio.wait([reading], timeout=ARCHIVE_PATIENCE_S)
        if not done:
            reading.add_done_callback(_ignore)
            found = await self._from_primary()
            if found is not None:
                return found
        try:
            return await reading
        except StorageError as error:
            self._waiting(str(error))
        return await self._from_primary()

    def _read_archive(self) -> Loaded:
        store = Store()
        with open_snapshot(self._dsn, self._group) as snapshot:
            for batch in snapshot.batches():
                store.load(batch)
            op = snapshot.archived_op
            return Loaded(store, op, snapshot.era, op, snapshot.view)

    async def _from_primary(self) -> Loaded | None:
        route = self._routed()
        if route is None or route.state != "ready" or route.endpoint in ("", self._endpoint):
            return None
        fetch = _Fetch(self._loop, self._context, self._group, route.endpoint)
        try:
            taken = await fetch.finished()
        finally:
            fetch.close()
        if taken is None:
            return None
        log.info("worker.loaded_from_primary", op=taken.op, objects=len(taken.images))

        def build() -> Loaded:
            store = Store()
            store.load(taken.images)
            return Loaded(store, taken.op, taken.era, taken.archived)

        return await asyncio.to_thread(build)


class _Fetch:
    """The socket to the primary's worker for one wish."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: sockets.Context, group: int, endpoint: str
    ) -> None:
        self._loop = loop
        asking = secrets.randbits(62)
        self._taker = SnapshotTaker(group, asking, loop.time())
        self._end: asyncio.Future[None] = loop.create_future()
        identity = b"snapshot:%d:%x" % (group, asking)
        self._port = Port(loop, sockets.dealer(context, identity, endpoint), self._received)
        self._timer = loop.call_soon(self._tick)

    async def finished(self) -> SnapshotTaker | None:
        """Everything; None: the primary is silent."""
        await self._end
        return self._taker if self._taker.done else None

    def close(self) -> None:
        self._timer.cancel()
        self._port.close()

    def _tick(self) -> None:
        now = self._loop.time()
        if self._taker.given_up(now):
            self._finish()
            return
        self._ask(self._taker.tick(now))
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def _ask(self, question: GetSnapshot | None) -> None:
        if question is not None:
            self._port.send([encode(question)])

    def _received(self, frames: list[bytes]) -> None:
        try:
            part = decode(frames[-1])
        except WireError:
            return
        if isinstance(part, SnapshotPart):
            self._ask(self._taker.take(part, self._loop.time()))
            if self._taker.done:
                self._finish()

    def _finish(self) -> None:
        if not self._end.done():
            self._end.set_result(None)


def _ignore(reading: asyncio.Future[Loaded]) -> None:
    """Whoever asked has a state from elsewhere, or asks for the outcome itself."""
    if not reading.cancelled():
        reading.exception()
