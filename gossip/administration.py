"""What an administrator may ask, and who answers: this process, another node's, or a primary worker.

Guards three rules. Every argument is checked before anything is done with it. A write is forwarded to
one process, once; it is not tried again, since nobody could say whether it was done twice. And what
was forwarded is bounded in number and in time, so that a hung worker costs a sentence and no memory.
Pure; times in monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connserver.errors import ClusterError
from connserver.ids import ObjectId, format_oid, group_of, parse_oid, partition_of
from connserver.limits import ADMIN_FORWARD_MS, ADMIN_PENDING, ADMIN_PLUGIN_MS, ADMIN_ROWS
from connserver.messages import RouteEntry
from gossip.routing import READY

Arguments = Mapping[str, Any]

DEFAULT_ROWS = 100
WORKER_PREFIX = "worker."
REPLICA_PREFIX = "replica."
"""Commands for the worker of one certain node, whether it executes or not."""
SLOW = frozenset({"worker.plugin.set", "replica.plugin.check"})
"""Commands that may take ADMIN_PLUGIN_MS."""


@dataclass(frozen=True, slots=True)
class Answer:
    """This goes back to whoever asked; `error` empty: `result` is it."""

    origin: Origin
    result: Any
    error: str


@dataclass(frozen=True, slots=True)
class ToWorker:
    """Ask the primary worker of `group`, which is on `node`, under this number.

    One of the orders (see Administration) is never for a worker of this node: only for another node's
    gossip process, which carries it out itself.
    """

    number: int
    node: str
    group: int
    command: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked: `peer` another gossip process, or else the local `identity`; with their number."""

    number: int
    identity: bytes = b""
    peer: str = ""


AdminOutcome = Answer | ToWorker
Order = Callable[[int, Arguments, float], Any]
"""What a node's own gossip process does about a group: (group, arguments, now) → the result."""
Orders = Mapping[str, tuple[frozenset[str], Order]]
"""By command, with the arguments each has beside `group` and `node`."""


@dataclass(slots=True)
class _Pending:
    origin: Origin
    node: str
    group: int
    deadline: float
    patience_ms: int
    listing: _Listing | None = None
    order: bool = False

    @property
    def whom(self) -> str:
        """Who does not answer, and where to look."""
        if self.order:
            return f"the gossip process of {self.node}"
        return f"the worker of group {self.group} on {self.node}"

    @property
    def log(self) -> str:
        """The name of its log."""
        return f"g-{self.node}" if self.order else f"w-{self.node}-{self.group}"


@dataclass(slots=True)
class _Listing:
    """An object.list that goes on from group to group until it has `limit` rows."""

    command: str
    kind: str
    limit: int
    rows: list[Any]
    alone: bool
    deadline: float


class Administration:
    """Takes requests and the workers' answers. `routes` gives the table as it is now; `answers` are
    the commands this process answers itself, by name, with the arguments each may have; `orders` are
    what the gossip process of one certain node carries out, with the arguments beside `group` and
    `node`: that of this `node`, or without one that of the group's primary."""

    def __init__(
        self,
        groups: int,
        routes: Callable[[], Sequence[RouteEntry]],
        answers: Mapping[str, tuple[frozenset[str], Callable[[Arguments, float], Any]]],
        node: str = "",
        orders: Orders | None = None,
    ) -> None:
        self._groups = groups
        self._routes = routes
        self._answers = answers
        self._node = node
        self._orders = orders or {}
        self._forwards: dict[str, Callable[[Origin, str, Arguments, float], AdminOutcome]] = {
            "object.get": self._object_one,
            "object.delete": self._object_one,
            "object.put": self._object_put,
            "object.list": self._object_list,
        }
        self._pending: dict[int, _Pending] = {}
        self._number = 0
        self._turn = 0

    # --- events ---------------------------------------------------------------------------------

    def request(self, origin: Origin, command: str, arguments: Arguments, now: float) -> AdminOutcome:
        """An administrator's command: its answer, or who is to be asked first."""
        try:
            if command in self._answers:
                allowed, answer = self._answers[command]
                _only(arguments, *allowed)
                return Answer(origin, answer(arguments, now), "")
            if command in self._orders:
                return self._order(origin, command, arguments, now)
            if command.startswith(WORKER_PREFIX):
                return self._forward(origin, _group(arguments, self._groups), command, dict(arguments), now)
            if command.startswith(REPLICA_PREFIX):
                return self._to_replica(origin, command, arguments, now)
            if command not in self._forwards:
                raise ClusterError(f"unknown command {command[:60]!r}; known: {', '.join(self.known())}")
            return self._forwards[command](origin, command, arguments, now)
        except (ClusterError, ValueError) as error:
            return Answer(origin, None, str(error))

    def relay(
        self, origin: Origin, node: str, group: int, command: str, arguments: Arguments, now: float
    ) -> AdminOutcome:
        """Another gossip process asks for the worker of a group on this `node`, or orders something."""
        if not 0 <= group < self._groups:
            return Answer(origin, None, f"there is no partition group {group}")
        try:
            if command in self._orders:
                return self._carry_out(origin, command, group, arguments, now)
            return self._send(origin, node, group, command, dict(arguments), now)
        except ClusterError as error:
            return Answer(origin, None, str(error))

    def answered(
        self, number: int, node: str, group: int | None, result: Any, error: str, now: float
    ) -> list[AdminOutcome]:
        """An answer from `node`, and if from this one's own worker, of which `group`."""
        pending = self._pending.get(number)
        if pending is None or pending.node != node or (group is not None and pending.group != group):
            return []
        del self._pending[number]
        if error or pending.listing is None:
            return [Answer(pending.origin, None if error else result, error)]
        try:
            return [self._listed(pending, pending.listing, result, now)]
        except ClusterError as failure:
            return [Answer(pending.origin, None, str(failure))]

    def failed(self, number: int, error: str) -> list[AdminOutcome]:
        """What was forwarded could not be sent."""
        pending = self._pending.pop(number, None)
        return [Answer(pending.origin, None, error)] if pending else []

    def lost(self, node: str, group: int) -> list[AdminOutcome]:
        """A worker is dead; what it was asked is not answered any more."""
        numbers = [number for number, row in self._pending.items() if (row.node, row.group) == (node, group)]
        error = (
            f"the worker of group {group} on {node} died before it answered; a change may or may not "
            "have been made: look before you repeat it"
        )
        return [outcome for number in numbers for outcome in self.failed(number, error)]

    def tick(self, now: float) -> list[AdminOutcome]:
        """Give up what has waited for too long."""
        outcomes: list[AdminOutcome] = []
        for number, row in list(self._pending.items()):
            if now >= row.deadline:
                error = (
                    f"{row.whom} did not answer within {row.patience_ms / 1000:g} s; a change may or may "
                    f"not have been made. It may be busy or hung: look at the log of {row.log}"
                )
                outcomes += self.failed(number, error)
        return outcomes

    def known(self) -> list[str]:
        """All commands."""
        prefixes = (WORKER_PREFIX + "…", REPLICA_PREFIX + "…")
        return sorted([*self._answers, *self._forwards, *self._orders, *prefixes])

    # --- commands that go to a gossip process -----------------------------------------------------

    def _order(self, origin: Origin, command: str, arguments: Arguments, now: float) -> AdminOutcome:
        allowed, _ = self._orders[command]
        _only(arguments, "group", "node", *allowed)
        group = _group(arguments, self._groups)
        entry = self._routes()[group]
        node = _replica(entry, arguments.get("node") or entry.node)
        if node == self._node:
            return self._carry_out(origin, command, group, arguments, now)
        sent = {name: value for name, value in arguments.items() if name in allowed}
        return self._send(origin, node, group, command, sent, now)

    def _carry_out(
        self, origin: Origin, command: str, group: int, arguments: Arguments, now: float
    ) -> AdminOutcome:
        allowed, order = self._orders[command]
        return Answer(origin, order(group, {n: v for n, v in arguments.items() if n in allowed}, now), "")

    # --- commands that go to a worker -------------------------------------------------------------

    def _to_replica(self, origin: Origin, command: str, arguments: Arguments, now: float) -> AdminOutcome:
        group = _group(arguments, self._groups)
        node = _replica(self._routes()[group], arguments.get("node"))
        return self._send(origin, node, group, command, dict(arguments), now)

    def _object_one(self, origin: Origin, command: str, arguments: Arguments, now: float) -> AdminOutcome:
        _only(arguments, "oid")
        oid = _oid(arguments, "oid")
        return self._forward(origin, self._group_of(oid), command, {"oid": format_oid(oid)}, now)

    def _object_put(self, origin: Origin, command: str, arguments: Arguments, now: float) -> AdminOutcome:
        _only(arguments, "oid", "kind", "fields", "near")
        kind, fields = _text(arguments, "kind"), arguments.get("fields")
        if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
            raise ClusterError("object.put needs `fields`, a map of field names to values")
        sent: dict[str, Any] = {"oid": "", "kind": kind, "fields": fields}
        if arguments.get("oid", ""):
            oid = _oid(arguments, "oid")
            group, sent["oid"] = self._group_of(oid), format_oid(oid)
        elif arguments.get("near", ""):
            near = _oid(arguments, "near")
            group, sent["near"] = self._group_of(near), format_oid(near)
        else:
            group = self._next_ready()
        return self._forward(origin, group, command, sent, now)

    def _object_list(self, origin: Origin, command: str, arguments: Arguments, now: float) -> AdminOutcome:
        _only(arguments, "kind", "after", "limit", "group")
        after = arguments.get("after", "")
        limit = arguments.get("limit", DEFAULT_ROWS)
        if type(limit) is not int or not 1 <= limit <= ADMIN_ROWS:
            raise ClusterError(f"object.list: `limit` is a number from 1 to {ADMIN_ROWS}")
        start = self._group_of(_oid(arguments, "after")) if after else 0
        alone = arguments.get("group") is not None
        group = _group(arguments, self._groups) if alone else start
        after = format_oid(_oid(arguments, "after")) if after else ""
        deadline = now + ADMIN_FORWARD_MS / 1000
        kind = _text(arguments, "kind") if arguments.get("kind") else ""
        listing = _Listing(command, kind, limit, [], alone, deadline)
        return self._list_from(origin, group, after, listing, now)

    def _list_from(
        self, origin: Origin, group: int, after: str, listing: _Listing, now: float
    ) -> AdminOutcome:
        sent = {"kind": listing.kind, "after": after, "limit": listing.limit - len(listing.rows)}
        return self._forward(origin, group, listing.command, sent, now, listing)

    def _listed(self, pending: _Pending, listing: _Listing, result: Any, now: float) -> AdminOutcome:
        rows = result.get("objects") if isinstance(result, dict) else None
        after = (result.get("next") or "") if isinstance(result, dict) else None
        if not isinstance(rows, list) or not isinstance(after, str):
            raise ClusterError(
                f"the worker of group {pending.group} on {pending.node} gave no list of objects"
            )
        listing.rows += rows[: listing.limit - len(listing.rows)]
        last = listing.alone or pending.group == self._groups - 1
        if len(listing.rows) < listing.limit and not after and not last:
            return self._list_from(pending.origin, pending.group + 1, "", listing, now)
        if not after and not last and listing.rows:
            after = _row_oid(listing.rows[-1])  # the page is full at a group's end: the next group follows
        return Answer(pending.origin, {"objects": listing.rows, "next": after}, "")

    # --- forwarding -------------------------------------------------------------------------------

    def _group_of(self, oid: ObjectId) -> int:
        return group_of(partition_of(oid), self._groups)

    def _next_ready(self) -> int:
        ready = [entry.group for entry in self._routes() if entry.state == READY]
        if not ready:
            raise ClusterError("no partition group is ready to take a new object: see `cs-cluster status`")
        self._turn += 1
        return ready[self._turn % len(ready)]

    def _forward(
        self,
        origin: Origin,
        group: int,
        command: str,
        arguments: dict[str, Any],
        now: float,
        listing: _Listing | None = None,
    ) -> ToWorker:
        entry = self._routes()[group]
        if entry.state != READY:
            raise ClusterError(f"group {group} is {entry.state}: {entry.reason}")
        return self._send(origin, entry.node, group, command, arguments, now, listing)

    def _send(
        self,
        origin: Origin,
        node: str,
        group: int,
        command: str,
        arguments: dict[str, Any],
        now: float,
        listing: _Listing | None = None,
    ) -> ToWorker:
        if len(self._pending) >= ADMIN_PENDING:
            raise ClusterError(
                f"{ADMIN_PENDING} requests to workers wait for their answers: try again in a moment"
            )
        self._number += 1
        patience_ms = ADMIN_PLUGIN_MS if command in SLOW else ADMIN_FORWARD_MS
        deadline = listing.deadline if listing else now + patience_ms / 1000
        order = command in self._orders
        self._pending[self._number] = _Pending(origin, node, group, deadline, patience_ms, listing, order)
        return ToWorker(self._number, node, group, command, arguments)

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        assert len(self._pending) <= ADMIN_PENDING
        assert all(number <= self._number for number in self._pending)


# --- arguments ------------------------------------------------------------------------------------------


def _only(arguments: Arguments, *allowed: str) -> None:
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        takes = ", ".join(sorted(allowed)) or "no arguments"
        raise ClusterError(f"unknown argument {unknown[0][:60]!r}; this command takes {takes}")


def _replica(entry: RouteEntry, node: Any) -> str:
    """The node of one of a group's replicas; ClusterError if this is none."""
    if not node:
        raise ClusterError(
            f"group {entry.group} has no primary yet: {entry.reason or 'see `cs-cluster status`'}"
        )
    if node not in entry.replicas:
        replicas = ", ".join(entry.replicas)
        raise ClusterError(
            f"{str(node)[:60]!r} holds no replica of group {entry.group}; those are {replicas}"
        )
    return str(node)


def _text(arguments: Arguments, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise ClusterError(f"`{name}` is missing or no text of 1 to 256 characters")
    return value


def _oid(arguments: Arguments, name: str) -> ObjectId:
    return parse_oid(_text(arguments, name))


def _group(arguments: Arguments, groups: int) -> int:
    value = arguments.get("group")
    if type(value) is not int or not 0 <= value < groups:
        raise ClusterError(f"`group` is a partition group, a number from 0 to {groups - 1}")
    return value


def text_argument(arguments: Arguments, name: str) -> str:
    """A text among the arguments of a command; ClusterError if it is not there."""
    return _text(arguments, name)


def name_argument(arguments: Arguments, name: str) -> str | None:
    """A text that may be left out; ClusterError if it is something else."""
    return _text(arguments, name) if arguments.get(name) is not None else None


def flag_argument(arguments: Arguments, name: str) -> bool:
    """A yes or no among the arguments of a command, no if it is not there."""
    value = arguments.get(name, False)
    if not isinstance(value, bool):
        raise ClusterError(f"`{name}` is true or false")
    return value


def _row_oid(row: Any) -> str:
    oid = row.get("oid", "") if isinstance(row, dict) else ""
    return oid if isinstance(oid, str) else ""
