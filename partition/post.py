"""Where a group's internal calls go: at once if the target is at home here, else by parcel.

Guards: what happens inside the group is part of the same entry as its cause, so it happens exactly
once by atomicity; what leaves the group happens exactly once by the outbox. A cascade of calls in
one turn is bounded: past HOPS_PER_TURN the rest goes through the outbox to the group itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack

from connserver.ids import group_of, partition_of
from partition.ledger import Fields
from partition.outbox import Outbox
from partition.turn import TurnBuilder

HOPS_PER_TURN = 1_024

Handler = Callable[[Fields, bool], None]
"""(the call's fields, whether it came from this same group)."""


def called_by(body: bytes) -> str:
    """What a parcel asks for: a plugin's method, or what the system does with it."""
    fields: Fields = msgpack.unpackb(body, strict_map_key=False)
    return str(fields.get("method") or fields["op"])


class Post:
    """Sends by object id and delivers to the handler named by `op`."""

    def __init__(self, group: int, groups: int, outbox: Outbox, turn: TurnBuilder) -> None:
        self._group = group
        self._groups = groups
        self._outbox = outbox
        self._turn = turn
        self._handlers: dict[str, Handler] = {}
        self._local: deque[Fields] = deque()
        self._hops = 0

    def handle(self, op: str, handler: Handler) -> None:
        """Deliveries with this `op` go to that handler."""
        assert op not in self._handlers, op
        self._handlers[op] = handler

    def group_of(self, oid: int) -> int:
        """The group in which the object is at home."""
        return group_of(partition_of(oid), self._groups)

    def is_local(self, oid: int) -> bool:
        """Whether the object is at home in this group."""
        return self.group_of(oid) == self._group

    def send(self, oid: int, op: str, fields: Fields) -> None:
        """Exactly once to the group of this object."""
        call = {**fields, "op": op}
        target = group_of(partition_of(oid), self._groups)
        if target == self._group and self._hops < HOPS_PER_TURN:
            self._hops += 1
            self._local.append(call)
        else:
            self._outbox.send(target, msgpack.packb(call))

    def send_volatile(self, oid: int, op: str, fields: Fields) -> None:
        """At most once, and never in the way of anything ordered."""
        target = group_of(partition_of(oid), self._groups)
        if target == self._group:
            self._handlers[op](fields, True)
        else:
            self._turn.parcel(target, 0, msgpack.packb({**fields, "op": op}))

    def receive(self, source: int, number: int, body: bytes, quarantined: Fields | None = None) -> None:
        """A parcel came in; a repeated or too early one has no effect.

        `quarantined`: the error that a plugin's callback gives instead of being run.
        """
        if number and not self._outbox.accept(source, number):
            return
        fields: dict[str, Any] = msgpack.unpackb(body, strict_map_key=False)
        if quarantined is not None:
            fields["quarantined"] = quarantined
        self._handlers[fields["op"]](fields, False)
        self.deliver_local()

    def deliver_local(self) -> None:
        """Run all that was sent within the group, and what that sends, in order."""
        while self._local:
            fields = self._local.popleft()
            self._handlers[fields["op"]](fields, True)

    def new_turn(self) -> None:
        """The bound on hops counts anew."""
        assert not self._local
        self._hops = 0
