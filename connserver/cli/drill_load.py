"""The drill's clients on real sockets: so many operations a second, through whichever gateway lives.

A connection that breaks is made again to the next gateway of the session's list, at once and then every
RECONNECT_S; what is said on it is the session's to decide (drill_session). JSON, a message a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from connserver.cli.drill_judge import Judge
from connserver.cli.drill_session import DrillSession, Message, Step
from connserver.limits import CLIENT_MESSAGE_BYTES

CONNECT_S: Final = 1.0
RECONNECT_S: Final = 0.05
TURN_S: Final = 0.005
"""Between two looks at who is due."""
ENTER_S: Final = 20.0
"""For all sessions to be in their rooms."""
RESUME_S: Final = 30.0
"""For every session to have an acknowledgement after the strike."""
DRAIN_S: Final = 15.0
"""At the end, for what is under way to be answered and given to all members."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """Who takes part. `gateways[i]`: where session i connects, in order of preference."""

    sessions: Sequence[DrillSession]
    senders: Sequence[DrillSession]
    gateways: Sequence[Sequence[Address]]
    judge: Judge
    operations_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Course:
    """What happened when, in monotonic seconds. `flowing_at` None: some session was never answered."""

    struck_at: float
    stopped_at: float
    flowing_at: float | None
    drained: bool


class Line:
    """One session's connection, made again whenever it breaks."""

    def __init__(self, session: DrillSession, gateways: Sequence[Address]) -> None:
        self.session = session
        self._gateways = gateways
        self._writer: asyncio.StreamWriter | None = None
        self._ending = False

    def say(self, messages: Sequence[Message]) -> None:
        """Send, if there is a connection; if not, the session says it again on the next."""
        if self._writer is not None and messages:
            self._writer.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def run(self) -> None:
        """Until `end`."""
        attempt = 0
        while not self._ending:
            host, port = self._gateways[attempt % len(self._gateways)]
            attempt += 1
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await asyncio.open_connection(host, port, limit=CLIENT_MESSAGE_BYTES)
            except (OSError, TimeoutError):
                await asyncio.sleep(RECONNECT_S)
                continue
            self._writer = writer
            try:
                self.say(self.session.connected())
                await self._read(reader)
            finally:
                self._writer = None
                self.session.disconnected()
                writer.close()

    def end(self) -> None:
        """Close, and make no other connection."""
        self._ending = True
        if self._writer is not None:
            self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: a message that is too long
            while line := await reader.readline():
                if line.strip():
                    self.say(self.session.received(json.loads(line), time.monotonic()))


class Load:
    """One drill: enter, operate, strike, go on, drain, leave. `say` hears of its progress."""

    def __init__(self, plan: Plan, strike: Callable[[], None], say: Callable[[str], None]) -> None:
        self._plan = plan
        self._strike = strike
        self._say = say
        self._lines = [Line(*row) for row in zip(plan.sessions, plan.gateways, strict=True)]
        self._operating = False

    async def run(self) -> Course | None:
        """What happened; None if the sessions did not come into their rooms."""
        tasks = [asyncio.ensure_future(line.run()) for line in self._lines]
        ticker = asyncio.ensure_future(self._tick())
        try:
            return await self._course() if await self._all(Step.INSIDE, ENTER_S) else None
        finally:
            ticker.cancel()
            for line in self._lines:
                line.end()
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(ticker, *tasks, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome

    async def _course(self) -> Course:
        plan, judge = self._plan, self._plan.judge
        names = [session.name for session in plan.senders]
        self._operating = True
        await asyncio.sleep(plan.seconds / 3)
        self._say(f"{judge.acknowledged} operations acknowledged; striking")
        struck_at = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(None, self._strike)
        end = struck_at + 2 * plan.seconds / 3
        flowing = await self._until(lambda: judge.acked_since(struck_at, names), RESUME_S)
        flowing_at = time.monotonic() if flowing else None
        self._say(_flow_words(struck_at, flowing_at))
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        stopped_at = time.monotonic()
        self._operating = False
        drained = await self._until(self._settled, DRAIN_S)
        for line in self._lines:
            line.say(line.session.leave())
        await self._all(Step.LEFT, DRAIN_S / 3)
        return Course(struck_at, stopped_at, flowing_at, drained)

    def _settled(self) -> bool:
        """Whether everything is answered and every member has come to the end of its room."""
        judge = self._plan.judge
        return all(
            not session.pending and session.seq >= judge.newest(session.room)
            for session in self._plan.sessions
        )

    async def _all(self, step: Step, timeout_s: float) -> bool:
        return await self._until(lambda: all(s.step is step for s in self._plan.sessions), timeout_s)

    @staticmethod
    async def _until(look: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not look():
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(TURN_S)
        return True

    async def _tick(self) -> None:
        """Say what is due: operations spread evenly over the senders, and what was put off."""
        senders = {session.name for session in self._plan.senders}
        sending = [line for line in self._lines if line.session.name in senders]
        turn, begun, done = 0, 0.0, 0
        while True:
            await asyncio.sleep(TURN_S)
            now = time.monotonic()
            for line in self._lines:
                line.say(line.session.tick(now))
            if not self._operating:
                begun, done = now, 0
                continue
            # A late turn makes up for what it missed, but no more than a tenth of a second of it.
            due = int((now - begun) * self._plan.operations_per_s)
            done = max(done, due - int(self._plan.operations_per_s / 10) - 1)
            for _ in range(due - done):
                line = sending[turn % len(sending)]
                line.say(line.session.operate())
                turn += 1
            done = due


def _flow_words(struck_at: float, flowing_at: float | None) -> str:
    if flowing_at is None:
        return f"some sessions had no acknowledgement within {RESUME_S:g} s of it"
    return f"all sessions have an acknowledgement again after {round((flowing_at - struck_at) * 1000)} ms"
