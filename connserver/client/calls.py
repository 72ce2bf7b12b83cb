"""The calls of a client that are under way, by rising ids.

Guards the client's half of exactly once. A call keeps its id however often it is sent, on whichever
connection; only one whose answer says that it never ran gets a new one. The ids between the oldest call
under way and the newest are bounded, so that the session still keeps the reply of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from connserver.limits import CLIENT_IN_FLIGHT, KEPT_REPLIES
from connserver.model import Message


@dataclass(slots=True)
class Call:
    """One call. `ticket` is what the program knows it by (0: the client's own).

    `sends` counts how often it was sent, `connections` those that broke over it.

    `again_at`: when it is sent once more; `until`: from when on it is not put off any more. Monotonic s.
    """

    ticket: int
    message: Message
    until: float
    id: int = 0
    sends: int = 0
    connections: int = 0
    again_at: float = inf

    @property
    def room_joined(self) -> str | None:
        """The room that this call joins."""
        room = self.message.get("room") if self.message["msg"] == "room.join" else None
        return room if isinstance(room, str) else None

    @property
    def history(self) -> int:
        """How much of the room's past it asks for."""
        value = self.message.get("history", 0)
        return value if type(value) is int and value > 0 else 0


class Calls:
    """All calls under way: sent or to be sent (`_by_id`), and those waiting for a new id (`_put_off`)."""

    def __init__(self, window: int = CLIENT_IN_FLIGHT) -> None:
        if not 1 <= window <= KEPT_REPLIES // 2:
            raise ValueError(f"in_flight: 1 to {KEPT_REPLIES // 2} calls, not {window}")
        self._window = window
        self._next_id = 1
        self._by_id: dict[int, Call] = {}
        self._put_off: list[Call] = []

    def __len__(self) -> int:
        return len(self._by_id) + len(self._put_off)

    @property
    def is_full(self) -> bool:
        """Whether the program has to wait before its next call."""
        oldest = next(iter(self._by_id), self._next_id)
        return self._next_id - oldest + len(self._put_off) >= self._window

    def number(self, call: Call) -> None:
        """Give a call its id: a fresh one, above all before it."""
        call.id, call.sends, call.connections, call.again_at = self._next_id, 0, 0, inf
        self._next_id += 1
        self._by_id[call.id] = call

    def get(self, number: int) -> Call | None:
        """The call with this id."""
        return self._by_id.get(number)

    def answered(self, number: int) -> None:
        """The call is over."""
        del self._by_id[number]

    def put_off(self, call: Call, until: float) -> None:
        """The call did not run and gets a new id then."""
        del self._by_id[call.id]
        call.sends, call.again_at = 0, until
        self._put_off.append(call)

    def in_order(self) -> list[Call]:
        """All that have an id, oldest first."""
        return list(self._by_id.values())

    def due(self, now: float) -> list[Call]:
        """Those to be sent now, each with its id, in the order of ids."""
        again = [call for call in self._by_id.values() if call.again_at <= now]
        fresh = [call for call in self._put_off if call.again_at <= now]
        self._put_off = [call for call in self._put_off if call.again_at > now]
        for call in fresh:
            self.number(call)
        return again + fresh

    @property
    def next_due(self) -> float:
        """When `due` has something next."""
        waiting = [call.again_at for call in self._by_id.values()]
        return min([*waiting, *(call.again_at for call in self._put_off)], default=inf)

    def forget(self, ticket: int) -> None:
        """The program does not wait for this call any more."""
        self._by_id = {number: call for number, call in self._by_id.items() if call.ticket != ticket}
        self._put_off = [call for call in self._put_off if call.ticket != ticket]

    def take_all(self) -> list[Call]:
        """Every call, in order; none is under way any more."""
        calls = [*self._by_id.values(), *self._put_off]
        self._by_id, self._put_off = {}, []
        return calls

    def check_invariants(self) -> None:
        """Called after each test."""
        assert list(self._by_id) == sorted(self._by_id)
        assert all(number == call.id < self._next_id for number, call in self._by_id.items())
        assert all(call.again_at < inf for call in self._put_off)
