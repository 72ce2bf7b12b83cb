"""One trial: a workload, a fault in the midst of it, and the verdict.

    connect ─ ask ─ strike ─ hold ─ heal ─ all are served again ─ ask no more ─ all answered ─ audit ─ judge

Guards one rule: every step is bounded in time, and a step that does not come to its end is a verdict too.
"""

from __future__ import annotations

import socket
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.failures import workloads
from tests.failures.faults import Fault
from tests.failures.judge import Demand, Verdict, judge
from tests.failures.load import Load
from tests.failures.nodes import World, until
from tests.failures.reading import History, notes, read
from tests.failures.transcript import OPENED, RECEIVED, SENT, Part, Transcript
from tests.failures.wire import BOTH, JSON, Cutter, Fields, frame
from tests.failures.workloads import AUDITOR

READY_S: Final = 20.0
SERVED_S: Final = 25.0
"""For every client to be served again after a fault is healed."""
DRAIN_S: Final = 20.0
FULL_S: Final = 10.0
ANSWER_S: Final = 10.0
SETTLE_S: Final = 1.0
STRIKE_SPREAD_S: Final = 0.25
"""A fault strikes anywhere between two waves and between two archivings."""


@dataclass
class Result:
    """A row of the table. Pauses in milliseconds: the longest silence of each client from the strike on."""

    workload: str
    fault: str
    verdict: Verdict
    failovers: int = 0
    pauses_ms: list[float] = field(default_factory=list)
    bite: str = ""
    transcript: Transcript = field(default_factory=Transcript, repr=False)

    @property
    def good(self) -> bool:
        """Whether the fault has bitten and everything held."""
        return self.verdict.good and not self.bite

    @property
    def words(self) -> str:
        """The verdict of the table."""
        return f"did not bite: {self.bite}" if self.bite else self.verdict.words

    def row(self) -> str:
        """One line of the table."""
        verdict = self.verdict
        p50 = statistics.median(self.pauses_ms) if self.pauses_ms else 0.0
        most = max(self.pauses_ms, default=0.0)
        return (
            f"{self.workload:8s} {self.fault:26s} {verdict.asked:7d} {verdict.acked:7d} {verdict.unknown:7d} "
            f"{self.failovers:9d} {p50:7.0f} {most:7.0f}  {self.words}"
        )


HEAD: Final = (
    f"{'workload':8s} {'fault':26s} {'ops':>7s} {'acked':>7s} {'unknown':>7s} {'failovers':>9s} "
    f"{'p50 ms':>7s} {'max ms':>7s}  verdict"
)


def run(
    world: World,
    workload: str,
    fault: Fault,
    *,
    tag: str,
    seed: int = 1,
    before_s: float = 1.0,
    after_s: float = 1.0,
    demand: Demand | None = None,
    period_s: float = 0.06,
    stall_s: float = 2.0,
    encodings: tuple[str, ...] = BOTH,
) -> Result:
    """Carry a trial out on a world that is up. `tag` makes users and rooms of its own."""
    parts = workloads.cast(workload, tag, world.groups, encodings)
    load = Load(world.gateways, parts, seed=seed, period_s=period_s, stall_s=stall_s)
    return carry_out(world, workload, fault, load, seed, demand, before_s=before_s, after_s=after_s)


def carry_out(
    world: World,
    workload: str,
    fault: Fault,
    load: Load,
    seed: int,
    demand: Demand | None,
    *,
    before_s: float = 1.0,
    after_s: float = 1.0,
    full: bool = False,
) -> Result:
    """The same with a load of the caller's making. `full`: strike when all clients' windows are open."""
    random = Random(seed)
    result = Result(workload, fault.name, Verdict())
    views = world.views()
    fault.prepare(world)
    load.start()
    try:
        before_s += random.uniform(0, STRIKE_SPREAD_S)
        _strike_under_load(world, load, fault, result, before_s, after_s, full=full)
    finally:
        transcript = load.close()
    result.bite = fault.bitten(world)
    result.failovers = _risen(views, world.views())
    audit(world, transcript)
    late = result.verdict
    result.verdict = judge(transcript, demand)
    for kind, count in late.found.items():
        result.verdict.accuse(kind, "; ".join(late.reasons), count)
    result.transcript = transcript
    result.pauses_ms = pauses_ms(transcript, fault.groups)
    return result


def _strike_under_load(
    world: World, load: Load, fault: Fault, result: Result, before_s: float, after_s: float, *, full: bool
) -> None:
    late = result.verdict
    if not until("sessions", load.ready, READY_S):
        late.accuse("weak", "clients could not begin")
    load.ask()
    time.sleep(before_s)

    def strike() -> None:
        load.transcript.note(time.monotonic(), f"strike {fault.name}")
        fault.strike(world)
        load.transcript.note(time.monotonic(), f"struck {fault.name}")

    if not full:
        strike()
    elif not load.when_full(strike, FULL_S):
        late.accuse("weak", "the clients' windows were never open in full")
    time.sleep(fault.hold_s)
    fault.heal(world)
    healed = time.monotonic()
    load.transcript.note(healed, f"healed {fault.name}")
    if not served(load, healed, SERVED_S):
        late.accuse("weak", f"not everybody was served within {SERVED_S:g} s after healing")
    time.sleep(after_s)
    load.ask_no_more()
    if not until("the last answers", load.finished, DRAIN_S):
        late.accuse("weak", f"not everything was answered within {DRAIN_S:g} s")
    until("all events", lambda: all(len(seqs) == 1 for seqs in load.room_seqs().values()), 3.0)
    time.sleep(SETTLE_S)  # what comes now would be too much: doubled events, late bells


def fill(world: World, entries: int, tag: str, timeout_s: float = 90.0) -> bool:
    """Let every group's log have so many entries, one for each request; whether it came to that in time."""
    if min(world.commits().values()) >= entries:
        return True
    parts = [part for part in workloads.cast("counter", tag, world.groups) if part.role == "writer"]
    load = Load(world.gateways, parts, window=1, period_s=0.001)
    load.start()
    try:
        load.ask()
        return until("a long log", lambda: min(world.commits().values()) >= entries, timeout_s)
    finally:
        load.close()


def served(load: Load, since: float, timeout_s: float) -> bool:
    """Wait until every client was answered something that it asked after this; whether that came in time."""
    clients = load.clients
    return until("service", lambda: all(client.answered_after(since) for client in clients), timeout_s)


def _risen(before: dict[int, int], after: dict[int, int]) -> int:
    return sum(max(0, after.get(group, view) - view) for group, view in before.items())


def pauses_ms(transcript: Transcript, groups: frozenset[int]) -> list[float]:
    """The longest time without an answer of each client at home in these groups, from the strike on."""
    struck = min((at for at, text in notes(transcript) if text.startswith("strike")), default=0.0)
    histories = [history for history in read(transcript) if history.part.role != AUDITOR]
    chosen = [history for history in histories if not groups or history.part.group in groups]
    return [1000 * longest_gap_s(history, struck) for history in chosen]


def longest_gap_s(history: History, since: float, until_: float = inf) -> float:
    """The longest time in this span in which a client was answered nothing as done."""
    times = [since, *(at for at in history.ack_times() if since < at < until_)]
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


# --- reading everything back ---------------------------------------------------------------------------


class Auditor:
    """One connection that asks one thing after the other and writes down what was said."""

    def __init__(self, world: World, transcript: Transcript, user: str, room: str = "") -> None:
        number = 1 + max(part.number for part in transcript.parts)
        self._part = Part(number, user, AUDITOR, JSON, room=room)
        transcript.parts.append(self._part)
        self._transcript = transcript
        self._cutter = Cutter(JSON)
        self._asked = self._seq = 0
        self._answer: Fields | None = None
        address = world.gateways[number % len(world.gateways)]
        self._write(OPENED, b"")
        self._socket = socket.create_connection(address, timeout=ANSWER_S)
        self._say({"msg": "login", "user": user})
        self._reply()

    def __enter__(self) -> Auditor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def ask(self, msg: str, **fields: Any) -> Fields:
        """The answer to a request; TimeoutError or OSError where none comes."""
        self._asked += 1
        self._say({"msg": msg, **fields, "id": self._asked})
        return self._reply()

    def listen(self, last: int) -> None:
        """Hear room events until this one."""
        while self._seq < last:
            self._hear()

    def _reply(self) -> Fields:
        self._answer = None
        while self._answer is None:
            self._hear()
        return self._answer

    def _hear(self) -> None:
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionError("closed by the gateway")
        self._write(RECEIVED, data)
        for message in self._cutter.feed(data):
            if "status" in message:
                self._answer = message
            elif message["msg"] == "room.message":
                self._seq = int(message["seq"])

    def _say(self, message: Fields) -> None:
        data = frame(JSON, message)
        self._write(SENT, data)
        self._socket.sendall(data)

    def _write(self, what: str, data: bytes) -> None:
        self._transcript.add(time.monotonic(), self._part.number, 1, what, data)


def audit(world: World, transcript: Transcript) -> None:
    """Ask for everything that the clients' roles have made; what cannot be asked is the judge's to say."""
    asked: dict[tuple[str, str], tuple[str, str]] = {}
    for part in transcript.parts:
        if part.room:
            asked["talker", part.room] = f"{part.room}-audit", part.room
        if part.role != "talker":
            asked[part.role if part.role != "reader" else "writer", part.user] = part.user, ""
    for (role, name), (user, room) in asked.items():
        try:
            with Auditor(world, transcript, user, room) as auditor:
                _look(auditor, role, room)
        except OSError as error:
            transcript.note(time.monotonic(), f"audit of {role} {name} failed: {error}")


def _look(auditor: Auditor, role: str, room: str) -> None:
    match role:
        case "writer":
            auditor.ask("count.get")
        case "appender":
            shown = auditor.ask("list.page", index=0)
            for number in range(1, -(-int(shown.get("value", 0)) // 128)):
                auditor.ask("list.page", index=number)
        case "giver":
            auditor.ask("gift.show")
        case "ringer":
            auditor.ask("bell.count")
        case "trader":
            auditor.ask("world.inventory")
        case "talker":
            joined = auditor.ask("room.join", room=room, history=256)
            auditor.listen(int(joined.get("seq", 0)))


def save(result: Result, folder: Path) -> Path:
    """Keep the transcript of a trial for whoever wants to know more."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result.workload}-{result.fault}-{time.time_ns() // 1_000_000}.jsonl"
    result.transcript.save(file)
    return file
