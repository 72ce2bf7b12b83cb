"""Counts what shipped code was seen to do, so that a batch can say what it has reached.

Each probe looks at one call and changes nothing; MINIMA in `tests.simulation.whole.runner` names what must
not be zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from partition.answers import Answers
from partition.couriers import Courier
from partition.outbox import Outbox
from partition.retained import Retained
from partition.room_desk import RoomDesk
from partition.sessions import Sessions
from partition.timers import Timers

if TYPE_CHECKING:
    from tests.simulation.whole.world import WholeWorld

Probe = Callable[..., None]


def _probes(world: WholeWorld) -> list[tuple[type, str, Probe]]:
    """(class, method, what to do with (result, self, *arguments))."""
    count = world.coverage
    loaded: set[int] = set()

    def repeated(result: Any, answers: Any, session: Any, key: Any, asked: Any) -> None:
        kept = session.kept.get(key) is not None
        count["duplicates_answered" if kept else "duplicates_in_progress"] += 1

    def accepted(result: Any, outbox: Any, source: int, number: int) -> None:
        count["cursors_refused"] += not result

    def replayed(result: Any, retained: Any, boot: int, op: int) -> None:
        count["outputs_replayed"] += len(result)

    def missed(result: Any, sessions: Any, session: Any, n: int) -> None:
        count["resumes_with_replay"] += bool(result[1])

    def resumed(result: Any, desk: Any, fields: Any, local: bool) -> None:
        count["rooms_resumed"] += 1

    def expired(result: Any, sessions: Any, now: float) -> None:
        count["expiries"] += len(result)

    def timers_loaded(result: Any, timers: Any) -> None:
        loaded.update(timers._by_oid)

    def fired(result: Any, timers: Any, now: float, may_run: object) -> None:
        count["timers_fired"] += len(result)
        count["timers_after_failover"] += sum(timer.oid in loaded for timer in result)

    def couriers_sent(result: Any, courier: Any, parcels: Any) -> None:
        numbers = {number for number, _ in parcels if number}
        before = sent.setdefault((courier._group, courier.route.group), set())
        count["parcels_resent"] += len(numbers & before)
        before |= numbers

    sent: dict[tuple[int, int], set[int]] = {}
    return [
        (Answers, "repeated", repeated),
        (Outbox, "accept", accepted),
        (Retained, "after", replayed),
        (Sessions, "missed", missed),
        (RoomDesk, "_resumed", resumed),
        (Sessions, "expired", expired),
        (Timers, "load", timers_loaded),
        (Timers, "due", fired),
        (Courier, "send", couriers_sent),
    ]


@contextmanager
def counting(world: WholeWorld) -> Iterator[None]:
    """While this lasts, everything is counted for this world."""
    with ExitStack() as stack:
        for owner, name, probe in _probes(world):
            stack.enter_context(patch.object(owner, name, _watched(getattr(owner, name), probe)))
        yield


def _watched(original: Callable[..., Any], probe: Probe) -> Callable[..., Any]:
    def watched(self: Any, *arguments: Any) -> Any:
        result = original(self, *arguments)
        probe(result, self, *arguments)
        return result

    return watched
