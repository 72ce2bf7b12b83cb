"""Both ends of a room's traffic: the member's own worker, and the room's home.

A member's request runs where its session lives, travels to the room's home as an exactly-once call,
takes effect there, and is answered from there: the answer and the events that follow it then leave
in one stream, in order. The answer also travels back to be kept with the session.
"""

from __future__ import annotations

from typing import Any

from connserver.errors import ClientError
from connserver.ids import named_id
from connserver.limits import ROOMS_PER_SESSION
from connserver.messages import OutputKind
from connserver.model import Message, Value
from partition.answers import Answers
from partition.grid import Point, View
from partition.ledger import Fields
from partition.post import Post
from partition.questions import Question
from partition.room import NOWHERE, Place
from partition.rooms import Rooms
from partition.sessions import Session, Sessions
from partition.turn import TurnBuilder

LACKING_AT_ONCE = 4_096
"""Sessions in one parcel that says they have missed something."""

ROOM_OPS = ("room.join", "room.leave", "room.send", "room.who")


class RoomDesk:
    """Sends room requests to their homes and carries out those that arrive here."""

    def __init__(
        self, rooms: Rooms, sessions: Sessions, answers: Answers, post: Post, turn: TurnBuilder
    ) -> None:
        self._rooms = rooms
        self._sessions = sessions
        self._answers = answers
        self._post = post
        self._turn = turn
        self.now = 0.0
        for op in ROOM_OPS:
            post.handle(op, self._asked)
        post.handle("room.update", self._updated)
        post.handle("room.look", self._looked)
        post.handle("session.look", self._turned)
        post.handle("room.resume", self._resumed)
        post.handle("room.end", self._ended)
        post.handle("room.member", self._membership)

    # --- at the member's worker ---

    def ask(self, room: str, op: str, question: Question | None, fields: Fields) -> None:
        """Send a request to the room's home; it answers the question."""
        asked = question.fields() if question else None
        self._post.send(named_id("room", room), op, {**fields, "room": room, "question": asked})

    def join(self, session: Session, room: str, question: Question | None, history: int) -> None:
        """Join, from here on until the session ends or leaves."""
        self._sessions.enter_room(session, room)
        hears = session.hears.get(room, "")
        self.ask(room, "room.join", question, {**_member(session), "history": history, "hears": hears})

    def leave(self, session: Session, room: str, question: Question | None) -> None:
        """Leave."""
        self._sessions.leave_room(session, room)
        self.ask(room, "room.leave", question, {"session": session.oid})

    def update(
        self, room: str, session: int, name: str, key: str, value: Value, at: Point | None = None
    ) -> None:
        """A volatile value, with its place if it has one."""
        fields = {"room": room, "session": session, "name": name, "key": key, "value": value, "at": at}
        self._post.send_volatile(named_id("room", room), "room.update", fields)

    def look(self, session: int, view: View | None) -> None:
        """What a session, wherever it is, sees of placed volatile values from now on."""
        self._post.send_volatile(session, "session.look", {"session": session, "view": view})

    def _turned(self, fields: Fields, local: bool) -> None:
        session, view = self._sessions.get(fields["session"]), _view(fields["view"])
        if session is None:
            return
        if session.view != view:
            self._sessions.look(session, view)
        # also an unchanged one: what was lost on the way is made good by the next
        for room in session.rooms:
            looking = {"room": room, "session": session.oid, "view": view}
            self._post.send_volatile(named_id("room", room), "room.look", looking)

    def resume(self, session: Session, seen: dict[str, int]) -> None:
        """The session is on another connection: its rooms replay what it missed and follow it."""
        for room in sorted(session.rooms):
            fields = {**_member(session), "room": room, "seq": seen.get(room)}
            self._post.send(named_id("room", room), "room.resume", fields)

    def gateway_lacks(self, gateway: int) -> None:
        """Outputs for a living gateway are lost, events of rooms here among them: the sessions of other
        groups that have members through it are to resume, for only their own group may say so."""
        by_group: dict[int, list[int]] = {}
        for session in sorted(self._rooms.at_gateway(gateway)):
            if not self._post.is_local(session):
                by_group.setdefault(self._post.group_of(session), []).append(session)
        for sessions in by_group.values():
            for start in range(0, len(sessions), LACKING_AT_ONCE):
                some = sessions[start : start + LACKING_AT_ONCE]
                self._post.send(some[0], "session.lacks", {"gateway": gateway, "sessions": some})

    def end(self, session: Session) -> None:
        """The session is over: it leaves every room."""
        for room in sorted(session.rooms):
            self._post.send(named_id("room", room), "room.end", {"room": room, "session": session.oid})

    def move_user(self, user: int, room: str, *, join: bool) -> None:
        """A plugin takes a user's sessions into a room or out of it.

        At once where the user is at home here: who joins and then sends hears what it sent.
        """
        fields = {"user": user, "room": room, "join": join}
        if self._post.is_local(user):
            self._membership(fields, True)
        else:
            self._post.send(user, "room.member", fields)

    def _membership(self, fields: Fields, local: bool) -> None:
        for session in self._sessions.of_user(fields["user"]):
            if session.bot:
                continue
            if fields["join"]:
                if fields["room"] in session.rooms or len(session.rooms) < ROOMS_PER_SESSION:
                    self.join(session, fields["room"], None, 0)
            elif fields["room"] in session.rooms:
                self.leave(session, fields["room"], None)

    # --- at the room's home ---

    def _asked(self, fields: Fields, local: bool) -> None:
        op = fields["op"]
        question = Question.of(fields["question"]) if fields["question"] else None
        if op == "room.join":
            self._join(fields, question, local)
            return
        answer: Message = {}
        error: ClientError | None = None
        if op == "room.send":
            if question is not None and not self._rooms.has(fields["room"], question.session):
                error = ClientError("forbidden", f"not a member of {fields['room']}: send room.join first")
            else:
                answer = {"seq": self._sent(fields)}
        elif op == "room.who":
            names, more = self._rooms.who(fields["room"], fields["after"], fields["limit"])
            answer = {"members": list[Value](names), "more": more}
        else:
            self._rooms.leave(fields["room"], fields["session"], self.now)
        if question is not None:
            self._answers.from_elsewhere(question, answer, error, local=local)

    def _sent(self, fields: Fields) -> int:
        room, sender, said = fields["room"], fields["sender"], fields["fields"]
        seq = self._rooms.send(room, sender, said, self.now)
        for bot in [] if fields.get("bot") else self._rooms.hearing(room):
            heard = {"session": bot.session, "room": room, "sender": sender, "seq": seq, "fields": said}
            self._post.send(bot.session, "bot.hear", heard)
        return seq

    def _join(self, fields: Fields, question: Question | None, local: bool) -> None:
        room = fields["room"]
        gateway, connection = fields["place"]
        place, view = (gateway, connection), _view(fields["view"])
        hears = fields.get("hears", "")
        self._rooms.join(room, fields["session"], fields["user"], fields["name"], place, view, hears)
        if question is None:
            return
        self._answers.from_elsewhere(question, {"seq": self._rooms.seq(room)}, None, local=local)
        for body in self._rooms.past(room, fields["history"]):
            self._turn.output(gateway, [connection], OutputKind.EVENT, body)
        self._show(room, fields["session"], place)

    def _show(self, room: str, session: int, place: Place, *, again: bool = False) -> None:
        """All volatile values that a member sees, to whoever has joined or come back."""
        for body in self._rooms.snapshot(room, session, self.now, again=again):
            self._turn.output(place[0], [place[1]], OutputKind.VOLATILE, body)

    def _resumed(self, fields: Fields, local: bool) -> None:
        room, session = fields["room"], fields["session"]
        gateway, connection = place = (fields["place"][0], fields["place"][1])
        if gateway == NOWHERE:
            return
        view = _view(fields["view"])
        self._rooms.join(room, session, fields["user"], fields["name"], place, view)
        if fields["seq"] is not None:
            first, events = self._rooms.since(room, fields["seq"])
            if fields["seq"] + 1 < first:
                gap: Message = {"msg": "room.gap", "room": room, "from": fields["seq"] + 1, "to": first - 1}
                self._turn.message(gateway, connection, OutputKind.EVENT, gap)
            for body in events:
                self._turn.output(gateway, [connection], OutputKind.EVENT, body)
        self._show(room, session, place, again=True)

    def _ended(self, fields: Fields, local: bool) -> None:
        self._rooms.leave(fields["room"], fields["session"], self.now)

    def _updated(self, fields: Fields, local: bool) -> None:
        at = fields.get("at")
        place = (at[0], at[1]) if at else None
        session, name = fields["session"], fields["name"]
        self._rooms.update(fields["room"], session, name, fields["key"], fields["value"], place)

    def _looked(self, fields: Fields, local: bool) -> None:
        self._rooms.look(fields["room"], fields["session"], _view(fields["view"]))


def _member(session: Session) -> dict[str, Any]:
    place = list(session.place) if session.place else [NOWHERE, 0]
    return {
        "session": session.oid,
        "user": session.user,
        "name": session.name,
        "place": place,
        "view": session.view,
    }


def _view(kept: Any) -> View | None:
    return (kept[0], kept[1], kept[2]) if kept else None
