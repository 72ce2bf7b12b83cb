"""A client of a `TestWorld`: what it asked, what it was answered, what it was told.

Guards the client's half of exactly-once: a request keeps its rising id until it is answered, and what
was seen of events is said at a resume.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from connserver.ids import format_oid, named_id
from connserver.messages import OutputKind
from connserver.model import Message, Value
from connserver.plugin import Object

if TYPE_CHECKING:
    from partition.testing.cluster import Cluster


class Client:
    """A logged-in client. Its requests have rising ids, so that each runs once however often it is sent.

    `user`, `oid`: who it is; `closed`: why the server closed its connection, "" while it is open.
    """

    def __init__(self, cluster: Cluster, user: str, roles: list[str], connection: int) -> None:
        self.user = user
        self.roles = roles
        self.proof: Message = {}
        self.oid = format_oid(named_id("user", user))
        self.closed = ""
        self.connection = connection
        self.connected = True
        self.token = ""
        self.last_event = 0
        self.rooms: dict[str, int] = {}
        self.unanswered: dict[int, Message] = {}
        self.replies: dict[int, Message] = {}
        self.received: list[Message] = []
        self._cluster = cluster
        self._last_id = 0

    @property
    def group(self) -> int:
        """The partition group where the user lives: who is in another one is on another shard."""
        return self._cluster.group_of(self.oid)

    def call(self, msg: str, /, **fields: Any) -> Message:
        """Send a request; the reply as a client sees it. TimeoutError if none came without time passing."""
        self._last_id = number = self._last_id + 1
        self.unanswered[number] = {"msg": msg, "id": number, **as_sent(fields)}
        self._cluster.ask(self, number)
        if number not in self.replies:
            why = "it takes time: see advance()"
            if not self.connected:
                why = f"its connection was closed: {self.closed}" if self.closed else "its connection is lost"
            raise TimeoutError(f"{msg} was not answered: {why}")
        return self.replies.pop(number)

    def events(self) -> list[Message]:
        """The events that came since this was last asked, in their order."""
        events, self.received = self.received, []
        return events

    # --- for the cluster ---

    def _receive(self, kind: OutputKind, message: Message) -> None:
        """Something came for this client."""
        if kind is OutputKind.REPLY:
            number = message.get("id")
            if message["msg"] == "session.resume" and message["status"] != 0:
                self.closed, self.connected = str(message["error"]), False
            if type(number) is not int or not self.connected:
                return
            request = self.unanswered.pop(number, None)
            if request is not None:
                self.replies[number] = message
                if request["msg"] == "room.join":
                    self._seen(request.get("room"), message.get("seq"))
        elif kind is OutputKind.BOUND:
            self.token = str(message["resume"])
        elif kind is OutputKind.CLOSE:
            self.closed, self.connected = str(message["reason"]), False
        else:
            n = message.get("n")
            if type(n) is int:
                if n <= self.last_event:
                    return
                self.last_event = n
            self._seen(message.get("room"), message.get("seq"))
            self.received.append(message)

    def _seen(self, room: Value, seq: Value) -> None:
        """Remember how far this client is in a room."""
        if isinstance(room, str) and type(seq) is int:
            self.rooms[room] = max(seq, self.rooms.get(room, 0))

    def _kept(self) -> dict[str, Any]:
        """A copy of what it knows, for `_restore`."""
        return {
            name: copy(value)
            for name, value in self.__dict__.items()
            if name not in ("_cluster", "user", "oid")
        }

    def _restore(self, kept: dict[str, Any]) -> None:
        """Know what it knew when `_kept` was asked, and nothing else."""
        self.__dict__.update({name: copy(value) for name, value in kept.items()})


def as_sent(fields: dict[str, Any]) -> Message:
    """References, objects and clients as the hex digits that a client sends."""
    return {name: _as_sent(value) for name, value in fields.items()}


def _as_sent(value: Any) -> Any:
    if isinstance(value, Object):
        return f"{value.oid:016x}"
    if isinstance(value, Client):
        return value.oid
    return str(value) if isinstance(value, str) else value
