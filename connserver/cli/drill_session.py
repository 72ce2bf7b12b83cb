"""A client of the drill: what it says to a gateway, and how it comes through a broken connection.

Guards the client's half of exactly once. Every operation has a rising integer id and is said again, in
order, until it is answered; a session is resumed with the last event seen, never begun anew while it
lives. An operation whose session has expired is in doubt: it is neither acknowledged nor lost. Pure;
times in monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol

Message = dict[str, Any]

WINDOW: Final = 16
"""Operations under way at once: far below the replies that a session keeps."""
RETRY_S: Final = 0.1
"""Before an operation that was put off is said again."""
PUT_OFF: Final = frozenset({"unavailable", "overloaded", "rate_limited", "timeout"})
"""Errors after which the same id is said again: it runs once however often."""


class Journal(Protocol):
    """Where a session writes down what it saw."""

    def acked(self, session: str, op: str, seq: int, at: float) -> None:
        """The operation was acknowledged as the event `seq` of the room."""

    def doubted(self, op: str) -> None:
        """Nobody will say any more whether the operation was carried out."""

    def refused(self, op: str, error: str) -> None:
        """The operation was answered with an error for good."""

    def joined(self, session: str, seq: int) -> None:
        """The session sees the room's events after `seq` from here on."""

    def saw(self, session: str, seq: int, op: str) -> None:
        """The session was given this event."""

    def skipped(self, session: str, first: int, last: int) -> None:
        """The session was told that it will not be given these events."""


class Step(Enum):
    """How far a client has come."""

    AWAY = "no connection"
    ENTERING = "login or resume"
    JOINING = "room.join"
    INSIDE = "in the room"
    LEFT = "logged out"


class DrillSession:
    """One session in one room. What it returns is to be sent, in order."""

    def __init__(self, name: str, room: str, login: Mapping[str, Any], journal: Journal) -> None:
        self.name, self.room = name, room
        self.step = Step.AWAY
        self.seq = 0
        """The newest event of the room that was seen."""
        self._login = dict(login)
        self._journal = journal
        self._token = ""
        self._direct = 0
        self._inside_once = False
        self._leaving = False
        self._next = 1
        self._pending: dict[int, Message] = {}
        self._again_at: dict[int, float] = {}
        self._enter_at: float | None = None
        """When to ask again for what was put off before the session was inside."""

    @property
    def pending(self) -> int:
        """Operations that are not answered."""
        return len(self._pending)

    # --- what happens -----------------------------------------------------------------------------

    def connected(self) -> list[Message]:
        """There is a connection to a gateway, perhaps another one than before."""
        return self._enter()

    def disconnected(self) -> None:
        """The connection is gone; the session waits for another."""
        if self.step is not Step.LEFT:
            self.step = Step.AWAY
        self._again_at.clear()
        self._enter_at = None

    def received(self, message: Message, now: float) -> list[Message]:
        """A reply or an event."""
        if "status" not in message:
            self._event(message)
            return []
        return self._reply(message, now)

    def operate(self) -> list[Message]:
        """One more operation, if there is room for it."""
        if self.step is not Step.INSIDE or len(self._pending) >= WINDOW or self._leaving:
            return []
        number, self._next = self._next, self._next + 1
        text = f"{self.name}/{number}"
        self._pending[number] = {"msg": "room.send", "room": self.room, "id": number, "text": text}
        return [self._pending[number]]

    def tick(self, now: float) -> list[Message]:
        """What was put off and is due."""
        if self._enter_at is not None and self._enter_at <= now:
            self._enter_at = None
            return self._enter() if self.step is Step.ENTERING else [self._join()]
        if self.step is not Step.INSIDE:
            return []
        due = [number for number, at in sorted(self._again_at.items()) if at <= now]
        for number in due:
            del self._again_at[number]
        return [self._pending[number] for number in due if number in self._pending]

    def leave(self) -> list[Message]:
        """The end of the session, and with it of its membership."""
        self._leaving = True
        return [{"msg": "logout", "id": "logout"}] if self.step is Step.INSIDE else []

    # --- entering ---------------------------------------------------------------------------------

    def _enter(self) -> list[Message]:
        self.step = Step.ENTERING
        if not self._token:
            return [{"msg": "login", "id": "login", **self._login}]
        rooms = [{"room": self.room, "seq": self.seq}] if self._inside_once else []
        resume = {"msg": "session.resume", "id": "resume", "resume": self._token, "n": self._direct}
        return [{**resume, "rooms": rooms}]

    def _entered(self) -> list[Message]:
        if self._inside_once:
            self.step = Step.INSIDE
            return list(self._pending.values())
        self.step = Step.JOINING
        return [self._join()]

    def _join(self) -> Message:
        return {"msg": "room.join", "id": "join", "room": self.room}

    def _expired(self) -> list[Message]:
        """The session is lost: what it asked is in doubt, and it begins anew."""
        for message in self._pending.values():
            self._journal.doubted(message["text"])
        self._pending.clear()
        self._again_at.clear()
        self._token, self._direct, self._inside_once = "", 0, False
        return self._enter()

    # --- replies ----------------------------------------------------------------------------------

    def _reply(self, message: Message, now: float) -> list[Message]:
        error = message.get("error", "") if message["status"] else ""
        match message.get("id"):
            case "login" | "resume" if not error:
                self._token = message["resume"]
                return self._entered()
            case "resume" if error not in PUT_OFF:
                return self._expired()
            case "login" | "resume":
                self._enter_at = now + RETRY_S
                return []
            case "join" if not error:
                self.step, self._inside_once, self.seq = Step.INSIDE, True, message["seq"]
                self._journal.joined(self.name, self.seq)
                return list(self._pending.values())
            case "join" if error != "session_expired":
                self._enter_at = now + RETRY_S
                return []
            case "logout" if not error:
                self.step = Step.LEFT
                return []
            case int() as number if number in self._pending:
                return self._answered(number, error, message, now)
        expired = error == "session_expired" and self.step in (Step.JOINING, Step.INSIDE)
        return self._expired() if expired else []

    def _answered(self, number: int, error: str, message: Message, now: float) -> list[Message]:
        if error in PUT_OFF:
            wait = message.get("retry_after_ms", 0) / 1000
            self._again_at[number] = now + max(RETRY_S, wait)
            return []
        if error == "session_expired":
            return self._expired()
        op = self._pending.pop(number)["text"]
        self._again_at.pop(number, None)
        if not error:
            self._journal.acked(self.name, op, message["seq"], now)
        elif error == "id_expired":
            self._journal.doubted(op)
        else:
            self._journal.refused(op, error)
        return []

    def _event(self, message: Message) -> None:
        self._direct = max(self._direct, message.get("n", 0))
        if message.get("room") != self.room:
            return
        if message["msg"] == "room.message":
            self.seq = max(self.seq, message["seq"])
            self._journal.saw(self.name, message["seq"], str(message.get("text", "")))
        elif message["msg"] == "room.gap":
            self.seq = max(self.seq, message["to"])
            self._journal.skipped(self.name, message["from"], message["to"])

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        assert len(self._pending) <= WINDOW
        assert list(self._pending) == sorted(self._pending)
        assert self._again_at.keys() <= self._pending.keys()
        assert self.step is not Step.INSIDE or self._inside_once
        assert self._enter_at is None or self.step in (Step.ENTERING, Step.JOINING)
