"""A primary worker for tests: the shipped Serving over a group, with a loop, log and archive made by hand."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from connserver.codec import decode
from connserver.ids import group_of, named_id, partition_of
from connserver.messages import (
    AdminReply,
    Entry,
    Image,
    OpenStream,
    OutputKind,
    Outputs,
    RequestKind,
    Requests,
    StreamAck,
)
from connserver.model import pack, unpack
from connserver.plugin import Context, Object, Plugin
from connserver.running import RunningNote
from partition.assembly import assemble
from partition.backup import Backup
from partition.deadline import Deadline
from partition.dispatch import Dispatcher
from partition.group import Group
from partition.intake import Intake
from partition.objects import Store
from partition.peers import Peers
from partition.quarantine import Quarantine
from partition.retained import Receipts
from partition.serving import Serving
from partition.suspects import Suspects

GRANT, VIEW = 9, 4

counting = Plugin("counting", version="1.0.0")


@counting.kind("counter")
class Counter(Object):
    value: int = 0


@counting.method("count.new")
def new(ctx: Context, me: Object) -> dict[str, Any]:
    return {"oid": ctx.objects.create(Counter, near=me).ref}


@counting.method("count.fail")
def fail(ctx: Context, me: Object) -> None:
    raise RuntimeError


@counting.internal
def note(ctx: Context, me: Object, text: str) -> None:
    ctx.objects.create(Counter, near=me, value=len(text))


@counting.method("count.elsewhere")
def elsewhere(ctx: Context, me: Object, name: str) -> None:
    ctx.call(ctx.objects.user(name), note, text="hello")


class Loop:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._count = count()
        self._cancelled: set[int] = set()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> Handle:
        return self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        number = next(self._count)
        heapq.heappush(self._queue, (self.now + delay, number, callback))
        return Handle(self._cancelled, number)

    def run(self, seconds: float = 0.002) -> None:
        """Let that much time pass."""
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            due, number, callback = heapq.heappop(self._queue)
            self.now = max(self.now, due)
            if number not in self._cancelled:
                callback()
        self.now = until


class Handle:
    def __init__(self, cancelled: set[int], number: int) -> None:
        self._cancelled, self._number = cancelled, number

    def cancel(self) -> None:
        self._cancelled.add(self._number)


class Log:
    """What the worker said to gossip, by kind."""

    def __init__(self) -> None:
        self.submits: list[tuple[int, list[bytes]]] = []
        self.barriers: list[int] = []
        self.drains = 0
        self.archives: list[int] = []
        self.replies: list[AdminReply] = []

    def submit(self, first_op: int, payloads: list[bytes]) -> None:
        self.submits.append((first_op, payloads))

    def ask_barrier(self, token: int) -> None:
        self.barriers.append(token)

    def drained(self) -> None:
        self.drains += 1

    def archived(self, op: int) -> None:
        self.archives.append(op)

    def reply(self, reply: AdminReply) -> None:
        self.replies.append(reply)

    @property
    def entries(self) -> list[Entry]:
        """All entries that were handed in."""
        return [decode(payload) for _, payloads in self.submits for payload in payloads]


class Archive:
    """What was given to be archived."""

    def __init__(self, archived_op: int = 0) -> None:
        self.archived_op = archived_op
        self.ops: list[int] = []
        self.whole: list[tuple[int, int]] = []

    def add(self, op: int, images: Sequence[Image]) -> None:
        assert not self.ops or op == self.ops[-1] + 1
        self.ops.append(op)

    def readd_all(self, op: int, images: Sequence[Image]) -> None:
        assert not self.ops or op == self.ops[-1]
        self.whole.append((op, len(images)))


class Primary:
    """Group 0 of `groups`, whose state is that after op 10 at first."""

    def __init__(self, folder: Path, *, groups: int = 1, backup: Backup | None = None) -> None:
        self.loop, self.log, self.archive = Loop(), Log(), Archive()
        self.backup = backup or Backup(Store(), 0, 1, 10, self.archive)
        self.sent: list[tuple[bytes, Any]] = []
        self.delivered: list[dict[int, list[tuple[int, bytes]]]] = []
        self.groups = groups
        dispatcher = Dispatcher(
            self.backup.store,
            assemble([counting]),
            random=random.Random(1),
            on_incident=lambda number, text: None,
        )
        self.group = Group(
            group=0,
            groups=groups,
            store=self.backup.store,
            dispatcher=dispatcher,
            secret=lambda: "secret",
            resume_window_s=120.0,
            background=lambda work, caller: None,
        )
        self.group.at(1000.0)
        self.group.load()
        self.note = RunningNote(folder / "w-0.running")
        receipts = Receipts(self.backup.retained)
        suspects = Suspects(self.backup.store)
        self.quarantine = Quarantine(self.group, self.note, suspects, lambda text: "n1-q1")
        self.serving = Serving(
            self.loop,
            group=self.group,
            peers=Peers(
                GRANT, lambda identity, data: self.sent.append((identity, decode(data))), receipts.has
            ),
            view=VIEW,
            applied=self.backup.applied,
            archive=self.archive,
            intake=Intake(
                self.group,
                self.note,
                self.quarantine,
                Deadline(60.0, lambda: False),
                lambda: 1000.0 + self.loop.now,
            ),
            log=self.log,
            retained=self.backup.retained,
            receipts=receipts,
            deliver=self.delivered.append,
        )
        self._numbers: dict[bytes, int] = {}
        self._sequences = count(1)

    # --- what a gateway does ---

    def open(self, boot: int = 70, received: int = 0, identity: bytes = b"gw") -> None:
        """Open a stream."""
        self._numbers[identity] = 0
        self.serving.receive(identity, OpenStream("gw-n1-0", boot, GRANT, received))
        self.loop.run()

    def send(
        self, kind: RequestKind, body: dict[str, Any], connection: int = 1, identity: bytes = b"gw"
    ) -> int:
        """One item; returns its sequence."""
        self._numbers[identity] += 1
        sequence = next(self._sequences)
        requests = Requests(
            GRANT, self._numbers[identity], 0, [connection], [int(kind)], [sequence], [pack(body)]
        )
        self.serving.receive(identity, requests)
        self.loop.run()
        return sequence

    def call(self, msg: str, connection: int = 1, **fields: Any) -> int:
        """A client's call."""
        return self.send(RequestKind.CALL, {"msg": msg, **fields}, connection)

    def login(self, user: str = "ann", connection: int = 1) -> int:
        """A login that is committed."""
        body = {"user": user, "roles": [], "encoding": 3, "message": {"msg": "login", "id": 0}}
        sequence = self.send(RequestKind.LOGIN, body, connection)
        self.commit()
        self.taken()
        return sequence

    def ack(self, number: int, identity: bytes = b"gw") -> None:
        """The gateway has the outputs up to this number of its stream."""
        self.serving.receive(identity, StreamAck(GRANT, number))

    def taken(self) -> list[tuple[bytes, Any]]:
        """What was sent to streams since this was last asked."""
        sent, self.sent = self.sent, []
        return sent

    def outputs(self) -> list[Outputs]:
        """Outputs among that."""
        return [message for _, message in self.taken() if isinstance(message, Outputs)]

    def replies(self) -> list[tuple[int, int]]:
        """(sequence, status) of replies among that."""
        return [
            (answer, unpack(body)["status"])  # type: ignore[misc]
            for one in self.outputs()
            for kind, answer, body in zip(one.kinds, one.answers, one.bodies, strict=True)
            if kind == OutputKind.REPLY
        ]

    def commit(self) -> int:
        """The log commits all that was executed."""
        self.serving.committed(self.serving.queue.head)
        self.loop.run()
        self.check()
        return self.serving.queue.commit

    def pass_barrier(self) -> None:
        """The last barrier that was asked for has passed."""
        self.serving.barrier_passed(self.log.barriers[-1])
        self.loop.run()
        self.check()

    def check(self) -> None:
        """Nothing is inconsistent."""
        self.serving.queue.check_invariants()
        self.backup.retained.check_invariants()
        self.group.check_invariants()


def name_in(group: int, groups: int) -> str:
    """A user whose home is this group."""
    return next(
        name
        for name in (f"user{number}" for number in count())
        if group_of(partition_of(named_id("user", name)), groups) == group
    )
