"""Two archivers and a model of PostgreSQL that fails in every way: what it holds is always a past state.

The model executes the transaction in its shipped order (fence, compare, rows, commit) and may lose the
answer, fail before the commit, hold a transaction open while others wait, or be restored from a backup.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from connserver.limits import ARCHIVE_ROW_BYTES
from connserver.messages import Image
from partition.archive_machine import ArchiveMachine
from partition.archive_outcomes import Close, Finish, GroupRow, Open, Overflowed, WentBack, Write

STEPS = 200
SEEDS = 150
State = dict[int, bytes]


@dataclass(slots=True)
class Held:
    """A transaction that passed the fence and has not committed: while alive it holds the group's row."""

    order: Write
    alive: bool = True


class World:
    """One group's committed log, its archive, and two workers that may each believe to lead."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.log: list[list[Image]] = []
        self.states: list[State] = [{}]
        self.row = GroupRow(1, 0, 0)
        self.rows: State = {}
        self.backups = [(self.row, dict(self.rows))]
        self.held: dict[int, Held] = {}  # by its owner
        self.view = 0
        limit = 12 * (ARCHIVE_ROW_BYTES + 1)
        self.machines = [
            ArchiveMachine(era=1, view=0, archived_op=0, interval_ms=100, dirty_limit=limit) for _ in range(2)
        ]
        self.asked = [False, False]
        self.seen: Counter[str] = Counter()

    # --- the model of PostgreSQL ---

    def fence(self, owner: int, order: Write) -> str:
        if any(held.alive for other, held in self.held.items() if other != owner):
            return "blocked"
        if self.row.era != 1 or self.row.view > order.view or self.row.archived_op > order.op:
            return "refused"
        return "receded" if self.row.archived_op < order.expected_op else "passed"

    def commit(self, order: Write) -> None:
        self.row = GroupRow(1, order.view, order.op)
        if order.whole:
            self.rows = {}
        for _, image in order.images.values():
            if image.data is None:
                self.rows.pop(image.oid, None)
            else:
                self.rows[image.oid] = image.data
        assert self.rows == self.states[order.op], "rows and archived_op agree"

    # --- what may happen ---

    def log_operation(self) -> None:
        images = []
        state = dict(self.states[-1])
        for _ in range(self.random.randrange(4)):
            oid = self.random.randrange(30)
            data = bytes([self.random.randrange(256)]) if self.random.random() < 0.7 else None
            images.append(Image(oid, "thing", 1, data))
            if data is None:
                state.pop(oid, None)
            else:
                state[oid] = data
        self.log.append(images)
        self.states.append(state)

    def apply(self, who: int) -> None:
        machine = self.machines[who]
        if machine.head < len(self.log):
            machine.add(machine.head + 1, self.log[machine.head], self.now)

    def answer(self, who: int) -> None:
        machine = self.machines[who]
        for report in machine.reports:
            self.seen[type(report).__name__] += 1
            self.asked[who] |= isinstance(report, WentBack | Overflowed)
        machine.reports = []
        if self.asked[who] and self.random.random() < 0.5:
            self.asked[who] = False
            state = self.states[machine.head]
            machine.readd_all(machine.head, [Image(o, "thing", 1, d) for o, d in state.items()], self.now)

    def lead(self, who: int) -> None:
        while self.machines[who].head < len(self.log):  # a new primary first applies what it inherits
            self.apply(who)
        self.view += 1
        self.machines[who].promote(self.view, self.now)

    def restore(self) -> None:
        self.row, rows = self.random.choice(self.backups)
        self.rows = dict(rows)
        self.end_sessions()
        self.seen["restore"] += 1

    def perform(self, who: int, *, healthy: bool = False) -> None:
        machine = self.machines[who]
        if who in self.held:
            self.wake(who)
            return
        match machine.decide(self.now):
            case Open():
                if not healthy and self.random.random() < 0.3:
                    machine.failed("down", self.now)
                else:
                    machine.opened(self.row, self.now)
            case Write() as order:
                self.write(who, order, "ok" if healthy else self.random.choice(FATES))
            case Close() | Finish() | None:
                pass
        machine.check_invariants()

    def write(self, who: int, order: Write, fate: str) -> None:
        machine = self.machines[who]
        passed = self.fence(who, order)
        self.seen[f"{fate} {passed}"] += 1
        if passed == "blocked" or fate == "fail":
            machine.failed(fate, self.now)
        elif passed == "refused":
            machine.refused(self.row, self.now)
        elif passed == "receded":
            machine.receded(self.row.archived_op)
        elif fate == "stall":
            self.held[who] = Held(order)
        else:
            self.commit(order)
            if fate == "lost":
                machine.failed("answer lost", self.now)
            else:
                machine.written()

    def wake(self, who: int) -> None:
        """The paused archiver goes on behind the fence: it commits, or its session is gone."""
        held = self.held.pop(who)
        if held.alive:
            self.commit(held.order)
            self.machines[who].written()
        else:
            self.seen["woke too late"] += 1
            self.machines[who].failed("session ended", self.now)

    def end_sessions(self) -> None:
        for held in self.held.values():
            held.alive = False

    def step(self) -> None:
        self.now += self.random.random() * 0.1
        who = self.random.randrange(2)
        match self.random.choices(
            ["log", "apply", "perform", "answer", "lead", "demote", "elsewhere", "backup", "restore", "idle"],
            [8, 10, 12, 5, 0.6, 0.3, 2, 0.5, 0.15, 0.5],
        )[0]:
            case "log":
                self.log_operation()
            case "apply":
                self.apply(who)
            case "perform":
                self.perform(who)
            case "answer":
                self.answer(who)
            case "lead":
                self.lead(who)
            case "demote":
                self.machines[who].demote()
            case "elsewhere":
                self.machines[who].archived_elsewhere(self.row.archived_op)
            case "backup":
                self.backups.append((self.row, dict(self.rows)))
            case "idle":  # idle_in_transaction_session_timeout
                self.end_sessions()
            case "restore":
                self.restore()
        self.machines[who].check_invariants()

    def heal(self) -> None:
        """Nothing fails any more and one leads: the archive reaches the last committed operation."""
        self.end_sessions()
        for who in list(self.held):
            self.wake(who)
        self.lead(0)
        for _ in range(50):
            self.now += 10
            self.perform(0, healthy=True)
            self.answer(0)
        assert self.row.archived_op == len(self.log)
        assert self.rows == self.states[-1]
        assert self.machines[0].status(self.now).lag_ops == 0


REACHED = (
    *("Flushed", "Deposed", "Behind", "Down", "WentBack", "Overflowed", "restore", "woke too late"),
    *("lost passed", "stall passed", "ok refused", "ok blocked", "ok receded"),
)
FATES = ("ok", "ok", "ok", "fail", "lost", "stall")


def test_the_archive_is_always_a_committed_state_and_nothing_is_lost() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = World(seed)
        for _ in range(STEPS):
            world.step()
        world.heal()
        seen += world.seen
    for what in REACHED:
        assert seen[what] > 0, f"never reached: {what} in {seen}"
