"""From bytes to histories: which requests a client made, what it was answered and which events it heard.

Guards one rule: an answer counts from the moment its last byte came, a request from the moment its first
byte could leave; whatever is decided over these times is then on the safe side. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.failures.transcript import LOST, NOTE, RECEIVED, SENT, Part, Transcript
from tests.failures.wire import Cutter, Fields

DONE_NOTHING = frozenset(
    {
        "overloaded",
        "rate_limited",
        "bad_message",
        "bad_argument",
        "unknown_method",
        "unauthorized",
        "forbidden",
        "not_found",
        "conflict",
        "too_large",
        "refused",
    }
)
"""Errors that say that a request had no effect and will have none."""
ENTRIES = ("login", "session.resume")


@dataclass
class Asked:
    """One request: every time it left, and every answer (time, fields) that came."""

    client: int
    id: int
    fields: Fields
    sent: list[float] = field(default_factory=list)
    answers: list[tuple[float, Fields]] = field(default_factory=list)

    @property
    def msg(self) -> str:
        return str(self.fields["msg"])

    @property
    def begun(self) -> float:
        """When it first may have left."""
        return self.sent[0]

    @property
    def ended(self) -> float:
        """When it was first answered; only where there is an answer."""
        return self.answers[0][0]

    @property
    def acked(self) -> bool:
        """Whether it was answered as done."""
        return bool(self.answers) and self.answers[0][1]["status"] == 0

    @property
    def refused(self) -> bool:
        """Whether it is known to have done nothing."""
        return bool(self.answers) and self.answers[0][1].get("error") in DONE_NOTHING

    @property
    def unknown(self) -> bool:
        """Whether it may have been done or not."""
        return not self.acked and not self.refused

    def number(self, name: str = "value") -> int:
        """A whole number in its answer."""
        return int(self.answers[0][1][name])


@dataclass
class Heard:
    """Events of one client's room: (time, seq, from, k) in the order they came, and gaps that were admitted
    as (time, first missing seq, last missing seq)."""

    events: list[tuple[float, int, str, int]] = field(default_factory=list)
    gaps: list[tuple[float, int, int]] = field(default_factory=list)


@dataclass
class History:
    """All that one client did and heard. `expired`: times its session was said to be over."""

    part: Part
    asked: dict[int, Asked] = field(default_factory=dict)
    heard: Heard = field(default_factory=Heard)
    expired: list[float] = field(default_factory=list)
    connections: int = 0
    strange: list[Fields] = field(default_factory=list)

    def of(self, *methods: str) -> list[Asked]:
        """Requests of these methods in the order of their ids."""
        return [self.asked[number] for number in sorted(self.asked) if self.asked[number].msg in methods]

    def ack_times(self) -> list[float]:
        """When requests were first answered as done, in order."""
        return sorted(asked.ended for asked in self.asked.values() if asked.acked)

    def most_in_flight(self) -> int:
        """The most requests that were unanswered at one time."""
        steps = [(asked.begun, 1) for asked in self.asked.values()]
        steps += [(asked.ended, -1) for asked in self.asked.values() if asked.answers]
        most = level = 0
        for _, step in sorted(steps):
            level += step
            most = max(most, level)
        return most


def read(transcript: Transcript) -> list[History]:
    """A history for each part, in the order of the parts."""
    histories = {part.number: History(part) for part in transcript.parts}
    said: dict[tuple[int, int, str], Cutter] = {}
    for record in transcript.records:
        if record.what == LOST:
            continue
        history = histories.get(record.client)
        if history is None:
            continue
        history.connections = max(history.connections, record.connection)
        if record.what not in (SENT, RECEIVED):
            continue
        key = (record.client, record.connection, record.what)
        cutter = said.get(key) or said.setdefault(key, Cutter(history.part.encoding))
        for message in cutter.feed(record.data):
            if record.what == SENT:
                _said(history, record.at, message)
            else:
                _heard(history, record.at, message)
    return list(histories.values())


def notes(transcript: Transcript) -> Iterator[tuple[float, str]]:
    """What was done to the cluster, and when."""
    for record in transcript.records:
        if record.what == NOTE:
            yield record.at, record.data.decode()


def _said(history: History, at: float, message: Fields) -> None:
    if message["msg"] in ENTRIES:
        return
    number = int(message["id"])
    asked = history.asked.get(number)
    if asked is None:
        asked = history.asked[number] = Asked(history.part.number, number, message)
    asked.sent.append(at)


def _heard(history: History, at: float, message: Fields) -> None:
    if "status" in message:
        _answer(history, at, message)
    elif message["msg"] == "room.message":
        event = (at, int(message["seq"]), str(message["from"]), int(message["k"]))
        history.heard.events.append(event)
    elif message["msg"] == "room.gap":
        history.heard.gaps.append((at, int(message["from"]), int(message["to"])))


def _answer(history: History, at: float, message: Fields) -> None:
    if message["msg"] in ENTRIES:
        if message.get("error") == "session_expired":
            history.expired.append(at)
        return
    asked = history.asked.get(int(message["id"])) if "id" in message else None
    if asked is None:
        history.strange.append(message)
    else:
        asked.answers.append((at, message))
