"""What comes in is executed: requests, parcels and the clock, each under a note and a time limit.

Guards: whatever runs is noted first in memory that outlives the process, so that its death can be
blamed; a source that is quarantined is answered and not run; while the log takes nothing, clients are
refused before anything of theirs is executed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from connserver.errors import ClientError
from connserver.messages import OutputBatch, OutputKind, Parcels, RequestKind, Requests
from connserver.model import unpack
from connserver.running import RunningNote
from partition.deadline import Deadline
from partition.group import Group
from partition.ledger import Fields
from partition.post import called_by
from partition.quarantine import Quarantine
from partition.questions import reply

TURN_BYTES = 4 << 20
"""Size of a turn's entry past which the next item begins another turn: an entry is one message."""

OVERLOADED = ClientError(
    "overloaded",
    "the group's log takes no more now; nothing was done: send it again later",
    retry_after_ms=1000,
)

_CALL, _LOGIN, _RESUME = int(RequestKind.CALL), int(RequestKind.LOGIN), int(RequestKind.RESUME)
_REPLY = int(OutputKind.REPLY)


class Intake:
    """Executes what streams bring, into the group's turn. `turn_full()` ends a turn that is large."""

    def __init__(
        self,
        group: Group,
        note: RunningNote,
        quarantine: Quarantine,
        deadline: Deadline,
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        """Unix seconds, for everything that is executed."""
        self._group = group
        self._note = note
        self._quarantine = quarantine
        self._deadline = deadline
        group.watch = quarantine

    def requests(self, boot: int, items: Requests, turn_full: Callable[[], None]) -> None:
        """A gateway's items, in their order."""
        group, note, quarantine = self._group, self._note, self._quarantine
        suspicious = quarantine.any
        now = self.clock()
        rows = zip(items.connections, items.kinds, items.sequences, items.bodies, strict=False)
        try:
            with self._deadline:
                for connection, kind, sequence, body in rows:
                    if suspicious and quarantine.request(boot, connection, kind, sequence, body):
                        continue
                    note.enter(boot, connection, sequence)
                    note.step()  # a worker with a long queue is behind, and does not hang
                    group.request(boot, connection, kind, sequence, body, now)
                    if note.descriptors_closed():
                        os.abort()  # while the note still says who did it
                    if group.turn_size > TURN_BYTES:
                        turn_full()
        finally:
            note.leave()

    def refused(self, boot: int, items: Requests, turn_full: Callable[[], None]) -> OutputBatch:
        """The same while the log takes nothing: clients' requests are refused, the rest is executed."""
        refusals = OutputBatch(boot, [], [], [], [])
        rest = Requests(items.grant, items.number, items.acked, [], [], [], [])
        for row in zip(items.connections, items.kinds, items.sequences, items.bodies, strict=False):
            connection, kind, sequence, body = row
            answer = _refusal(kind, body)
            if answer is None:
                rest.connections.append(connection)
                rest.kinds.append(kind)
                rest.sequences.append(sequence)
                rest.bodies.append(body)
            else:
                refusals.targets.append([connection])
                refusals.kinds.append(_REPLY)
                refusals.answers.append(sequence)
                refusals.bodies.append(answer)
        self.requests(boot, rest, turn_full)
        return refusals

    def parcels(self, items: Parcels, turn_full: Callable[[], None]) -> None:
        """Another group's calls, in their order."""
        now = self.clock()
        try:
            with self._deadline:
                for number, body in zip(items.numbers, items.bodies, strict=False):
                    quarantined = self._poison(items.source, number, body) if self._quarantine.any else None
                    self._note.enter(0, items.source + 1, number)
                    self._note.step()
                    self._group.parcel(items.source, number, body, now, quarantined)
                    if self._note.descriptors_closed():
                        os.abort()
                    if self._group.turn_size > TURN_BYTES:
                        turn_full()
        finally:
            self._note.leave()

    def tick(self) -> None:
        """Timers, plugins' `every`, expiry."""
        self._note.enter(0, 0, 0)
        try:
            with self._deadline:
                self._group.tick(self.clock())
        finally:
            self._note.leave()

    def step(self) -> None:
        """The worker's loop has come round."""
        self._note.step()

    def _poison(self, source: int, number: int, body: bytes) -> Fields | None:
        return self._quarantine.parcel(source, number, lambda: called_by(body))


def _refusal(kind: int, body: bytes) -> bytes | None:
    """The answer to a client that is refused; None for what no client waits for."""
    if kind == _CALL:
        message = unpack(body)
    elif kind in (_LOGIN, _RESUME):
        asked = unpack(body).get("message")
        if not isinstance(asked, dict):
            return None
        message = asked
    else:
        return None
    return reply(str(message.get("msg", "login")), message.get("id"), {**OVERLOADED.fields()})
