"""Clients of the whole world: they speak to gateways in bytes, number their requests, and never give up.

Guards the view from outside: a bot knows the protocol and what it was told, and judges at once what must
not be seen by any client. It sends a request again until it is answered, and resumes wherever it can.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.whole.tcp import Connection

if TYPE_CHECKING:
    from tests.simulation.whole.world import WholeWorld

WINDOW = 4
STALL_S = 1.5
"""So long a bot waits for an answer before it tries another gateway."""
AGAIN_S = (0.02, 0.25)
PAUSE_S = (0.0, 0.5)
AGAIN = ("unavailable", "overloaded", "timeout", "rate_limited")
"""Errors that say: whether it ran is not known, or it did not; ask again under the same id."""
FINAL = ("refused", "plugin_error", "unknown_method", "not_found")

Fields = dict[str, Any]


@dataclass(slots=True)
class Asked:
    """One request: `reply` None while it has none. `life`: the session's number. `times`: how often sent.

    `at`, `answered_at`: when it was first sent, and answered, in virtual seconds.
    """

    life: int
    number: int
    message: Fields
    at: float
    reply: Fields | None = None
    answered_at: float = 0.0
    times: int = 0

    @property
    def done(self) -> bool:
        """Whether it was carried out, as its client was told."""
        return self.reply is not None and self.reply["status"] == 0


@dataclass(slots=True)
class Seen:
    """What a member saw of a room. `last` None: nothing is known yet of where it began."""

    last: int | None = None
    loose: bool = False
    """The join was under way at a resume: what follows it may begin anywhere."""
    events: dict[int, Fields] = field(default_factory=dict)


class Bot:
    """One session of a user with a plan of requests; one that `watches` only reads."""

    def __init__(
        self,
        world: WholeWorld,
        user: str,
        others: list[str],
        rooms: list[str],
        plan: int,
        watches: bool = False,
    ) -> None:
        self.world, self.user, self.others, self.room_names = world, user, others, rooms
        self.watches = watches
        self.left = plan
        self.life = 0
        self.asked: list[Asked] = []
        self.open: dict[int, Asked] = {}
        self.direct: list[Fields] = []
        self.logins = 0
        self.gone = False
        self._online = False
        self._link: Connection | None = None
        self._calls = 0
        self._begin_session()
        self._dial()

    def _begin_session(self) -> None:
        self.life += 1
        self.token = ""
        self.number = 0
        self.open = {}
        self.last_event = 0
        self.rooms = {name: Seen() for name in self.room_names}

    @property
    def done(self) -> bool:
        """Everything is answered."""
        return self.gone or (not self.left and not self.open and self._online)

    @property
    def online(self) -> bool:
        """Whether it has a session on a living connection."""
        return self._online

    # --- the connection ---

    def _later(self, seconds: tuple[float, float], action: Any) -> None:
        calls = self._calls
        self.world.after(
            self.world.random.uniform(*seconds), lambda: action() if calls == self._calls else None
        )

    def _dial(self) -> None:
        self._calls += 1
        calls = self._calls
        gateway = self.world.random.choice(self.world.gateways)
        self._online = False
        self._data = b""

        def received(data: bytes) -> None:
            if calls == self._calls:
                self._received(data)

        def lost() -> None:
            if calls == self._calls:
                self._lost()

        self._link = gateway.dial(received, lost)
        if self._link is None:
            self._later(AGAIN_S, self._dial)
            return
        if self.token:
            rooms = self.rooms.items()
            seen = [{"room": name, "seq": room.last} for name, room in rooms if room.last is not None]
            for name, room in self.rooms.items():
                room.loose |= room.last is None and self._join_open(name)
            self._send({"msg": "session.resume", "resume": self.token, "n": self.last_event, "rooms": seen})
        else:
            self._send({"msg": "login", "user": self.user})
        self._later((STALL_S, 2 * STALL_S), self.drop)

    def _join_open(self, room: str) -> bool:
        return any(
            asked.message["msg"] == "room.join" and asked.message["room"] == room and asked.times
            for asked in self.open.values()
        )

    def _lost(self) -> None:
        self._calls += 1
        self._online = False
        self._link = None
        self._later(AGAIN_S, self._dial)

    def drop(self) -> None:
        """Let go of the connection and try another one."""
        if self._link is not None:
            self._link.drop()
        self._lost()

    def _send(self, message: Fields) -> None:
        assert self._link is not None
        self._link.send(json.dumps(message).encode() + b"\n")

    def _received(self, data: bytes) -> None:
        *lines, self._data = (self._data + data).replace(b"\0", b"\n").split(b"\n")
        calls = self._calls
        for line in lines:
            if line.strip() and calls == self._calls:
                self._hear(json.loads(line))

    # --- what it hears ---

    def _hear(self, message: Fields) -> None:
        self.world.note(f"{self.user} < {json.dumps(message)[:160]}")
        if "status" not in message:
            self._event(message)
        elif message["msg"] in ("login", "session.resume"):
            self._entered(message)
        else:
            self._answered(message)

    def _entered(self, reply: Fields) -> None:
        if reply["status"]:
            self._refused(reply)
            return
        if message_is_resume(reply):
            self.world.coverage["resumes"] += 1
        self.token = reply["resume"]
        self.logins += 1
        self._online = True
        self._calls_keep()
        if not self.number:
            for room in self.room_names:
                self._ask({"msg": "room.join", "room": room})
        for asked in self.open.values():
            self._ask_again(asked)
        self._work()

    def _calls_keep(self) -> None:
        """The patience with the login is over; that with requests begins."""
        calls = self._calls
        before = len(self.asked), len(self.open)

        def look() -> None:
            nonlocal before
            if calls != self._calls:
                return
            now = len(self.asked), len(self.open)
            if self.open and now == before:
                self.drop()
                return
            before = now
            self.world.after(STALL_S, look)

        self.world.after(STALL_S, look)

    def _refused(self, reply: Fields) -> None:
        if reply["error"] == "session_expired":
            if not self.world.settings.expires:
                self.world.judge.violation(f"{self.user}: the session {self.token[:16]} did not survive")
            self.world.coverage["bots_expired"] += 1
            self._begin_session()
        elif reply["error"] not in AGAIN:
            self.world.judge.violation(f"{self.user} cannot come in: {reply}")
        self.drop()

    def _answered(self, reply: Fields) -> None:
        number = reply.get("id")
        asked = self.open.get(number) if isinstance(number, int) else None
        if asked is None:
            if not any(one.number == number and one.life == self.life for one in self.asked):
                self.world.judge.violation(f"{self.user}: an answer to nothing: {reply}")
            return
        again = (*AGAIN, "unauthorized") if self.world.settings.expires else AGAIN
        if reply["status"] and reply["error"] in again:
            self._later(AGAIN_S, lambda: self._ask_again(asked) if asked.number in self.open else None)
            return
        if reply["status"] and reply["error"] not in FINAL:
            self.world.judge.violation(f"{self.user}: {asked.message} was answered {reply}")
        asked.reply, asked.answered_at = reply, self.world.now
        del self.open[asked.number]
        if asked.message["msg"] == "room.join":
            room = self.rooms[asked.message["room"]]
            if not room.loose and room.last is None:
                room.last = reply["seq"]
        self._later(PAUSE_S, self._work)

    def _event(self, event: Fields) -> None:
        if "n" in event:
            if event["n"] != self.last_event + 1:
                self.world.judge.violation(
                    f"{self.user}: direct event {event['n']} after {self.last_event}: {event}"
                )
            self.last_event = event["n"]
            self.direct.append({**event, "life": self.life})
        elif event["msg"] == "room.message":
            self._room_event(event)
        elif event["msg"] in ("room.gap", "session.gap"):
            self.world.judge.violation(f"{self.user}: {event}")

    def _room_event(self, event: Fields) -> None:
        room = self.rooms[event["room"]]
        seq = event["seq"]
        if room.last is None and not room.loose:
            self.world.judge.violation(f"{self.user}: an event of a room it has not joined: {event}")
        if room.last is not None and seq != room.last + 1:
            self.world.judge.violation(f"{self.user}: seq {seq} of {event['room']} after {room.last}")
        room.last, room.loose = seq, False
        room.events[seq] = event

    # --- what it asks ---

    def _work(self) -> None:
        while self._online and self.left and len(self.open) < WINDOW:
            self.left -= 1
            self._ask(self._wish())
        if self.watches and self.world.settings.expires and self.done:
            self.leave()

    def leave(self) -> None:
        """Never to come back: the session has to end by itself."""
        self.gone = True
        self._online = False
        self._calls += 1
        if self._link is not None:
            self._link.drop()

    def _wish(self) -> Fields:
        random = self.world.random
        if self.watches:
            return {"msg": "sim.get"}
        what = random.choices(
            ("add", "get", "give", "say", "bell", "spill", "nothing", "wind"), (8, 3, 6, 6, 2, 0.6, 0.6, 0.3)
        )[0]
        match what:
            case "give":
                return {"msg": "sim.give", "to": random.choice(self.others), "gold": random.randint(1, 9)}
            case "say":
                return {"msg": "room.send", "room": random.choice(self.room_names), "item": len(self.asked)}
            case "bell":
                return {"msg": "sim.bell", "item": len(self.asked)}
            case "spill":
                return {"msg": "sim.spill", "to": random.choice(self.others)}
        return {"msg": f"sim.{what}"}

    def _ask(self, message: Fields) -> None:
        self.number += 1
        asked = Asked(self.life, self.number, {**message, "id": self.number}, self.world.now)
        self.asked.append(asked)
        self.open[self.number] = asked
        self._ask_again(asked)

    def _ask_again(self, asked: Asked) -> None:
        if self._online and self._link is not None:
            asked.times += 1
            self._send(asked.message)


def message_is_resume(reply: Fields) -> bool:
    """Whether this answers a resume."""
    return bool(reply["msg"] == "session.resume")
