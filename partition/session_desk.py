"""Logging in, resuming, rebinding, logging out: how connections come to sessions and lose them.

Guards: a session is only taken over with a secret as new as the last used; a connection that a session
has left is told why; whatever ends a session also ends its memberships.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from connserver.errors import ClientError
from connserver.ids import format_oid, named_id
from connserver.limits import GUEST_ROLE, SESSIONS_PER_USER
from connserver.messages import OutputKind
from connserver.model import Message, Value
from connserver.plugin.declare import Presence
from partition.dispatch import Dispatcher
from partition.effects import Caller, Outcome
from partition.ledger import Fields
from partition.post import Post
from partition.questions import Question, reply
from partition.room_desk import RoomDesk
from partition.sessions import Place, Session, Sessions
from partition.turn import TurnBuilder

CLOSE_NORMAL = 1000
CLOSE_AGAIN = 1012
CLOSE_EXPIRED = 4001
CLOSE_REPLACED = 4002
CLOSE_KICKED = 4003

NOBODY = Caller(user=0, session=0, name="", roles=frozenset())

Finish = Callable[[Outcome, Caller, Question | None], None]


def caller_of_session(session: Session) -> Caller:
    """Who calls when a client of this session does."""
    return Caller(user=session.user, session=session.oid, name=session.name, roles=session.roles)


def _roles(body: Value) -> frozenset[str]:
    roles = body.get("roles") if isinstance(body, dict) else None
    return frozenset(map(str, roles)) if isinstance(roles, list) else frozenset()


class Expiry(Protocol):
    """Who notes what runs by the clock; see Watch of `partition.group`."""

    def allows(self, key: int, method: str, plugin: str, version: str) -> bool: ...
    def begins(self, key: int) -> None: ...


def key_of_session(session: Session) -> int:
    """Under which number a session's end is noted: ids of sessions and callbacks' hashes do not meet."""
    return int(session.oid)


class SessionDesk:
    """Carries out what is about sessions. `now` is kept by the group (Unix seconds)."""

    def __init__(
        self,
        sessions: Sessions,
        rooms: RoomDesk,
        dispatcher: Dispatcher,
        turn: TurnBuilder,
        finish: Finish,
        window_s: float,
        post: Post,
        by_plugin: bool,
    ) -> None:
        self.now = 0.0
        self._sessions = sessions
        self._rooms = rooms
        self._dispatcher = dispatcher
        self._turn = turn
        self._finish = finish
        self._window_s = window_s
        self._by_plugin = by_plugin
        post.handle("session.lacks", self._lacking)

    def expire(self, watch: Expiry) -> None:
        """End the sessions whose resume window has passed; without its hook where that kills the worker."""
        for session in self._sessions.expired(self.now):
            key = key_of_session(session)
            if watch.allows(key, "on_expire", "", ""):
                watch.begins(key)
                self.presence("on_expire", session)
                watch.begins(0)
            self.end(session)

    def gateway_gone(self, gateway: int) -> None:
        """A gateway has died: its sessions wait for their clients to come back elsewhere."""
        for session in self._sessions.everyone():
            if session.place is not None and session.place[0] == gateway:
                self._sessions.leave(session, self.now)

    def gateway_lacks(self, gateway: int) -> None:
        """Outputs for a living gateway are lost: its clients resume, and are told what they missed."""
        for session in self._sessions.everyone():
            self._lacks(session, gateway)
        self._rooms.gateway_lacks(gateway)

    def _lacking(self, fields: Fields, local: bool) -> None:
        """A room at home in another group has lost events for sessions of this one."""
        for oid in fields["sessions"]:
            session = self._sessions.get(oid)
            if session is not None:
                self._lacks(session, fields["gateway"])

    def _lacks(self, session: Session, gateway: int) -> None:
        if session.place is not None and session.place[0] == gateway:
            self._close(gateway, session.place[1], CLOSE_AGAIN, "events were lost on the way: resume")
            self._sessions.leave(session, self.now)

    def login(self, gateway: int, connection: int, sequence: int, body: Message) -> None:
        """Open a session for a user; a login that is sent again gets the session it made, and its token."""
        name, message = str(body["user"]), body.get("message")
        user = named_id("user", name)
        fields: Message = {}
        session = self._sessions.at(gateway, connection)
        roles, error = self._proved(user, name, body) if session is None else (frozenset[str](), None)
        if session is None and error is None:
            error = self._admit(user, name)
        if error is None:
            if session is None:
                session, token = self._sessions.open(user, name, roles, (gateway, connection))
                self.presence("on_join", session)
            else:
                token = self._sessions.renew(session)
            self._bound(session, token)
            fields = self._session_fields(user, name, token)
        if isinstance(message, dict):
            answer = {**error.fields()} if error is not None else {"status": 0, **fields}
            data = reply("login", message.get("id"), answer)
            self._turn.output(gateway, [connection], OutputKind.REPLY, data, sequence)

    def _proved(self, user: int, name: str, body: Message) -> tuple[frozenset[str], ClientError | None]:
        """The roles of a user whom the provider knows: the gateway, or here a plugin."""
        if not self._by_plugin:
            return _roles(body), None
        proof = body.get("proof")
        outcome = self._dispatcher.login(
            user, {**(proof if isinstance(proof, dict) else {}), "user": name}, self.now
        )
        self._finish(outcome, NOBODY, None)
        return _roles(outcome.result), outcome.error

    def _admit(self, user: int, name: str) -> ClientError | None:
        outcome = self._dispatcher.open_user(user, name)
        self._finish(outcome, NOBODY, None)
        if outcome.error is not None:
            return outcome.error
        sessions = [session for session in self._sessions.of_user(user) if not session.bot]
        if len(sessions) < SESSIONS_PER_USER:
            return None
        waiting = [session for session in sessions if session.place is None]
        if not waiting:
            return ClientError("conflict", f"{name} has {SESSIONS_PER_USER} sessions already")
        self.end(min(waiting, key=lambda session: session.expires))
        return None

    def _bound(self, session: Session, token: str, n: int = 0) -> None:
        """`n`: direct events up to here are not for this connection, its client has had them."""
        assert session.place is not None
        body: Message = {
            "session": format_oid(session.oid),
            "user": session.name,
            "oid": format_oid(session.user),
            "roles": list[Value](sorted(session.roles)),
            "resume": token,
            "n": n,
        }
        self._turn.message(session.place[0], session.place[1], OutputKind.BOUND, body)

    def _session_fields(self, user: int, name: str, token: str) -> Message:
        window = int(self._window_s)
        return {"oid": format_oid(user), "user": name, "resume": token, "resume_window_s": window}

    def resume(self, gateway: int, connection: int, sequence: int, body: Message) -> None:
        place = (gateway, connection)
        oid_text, _, secret = str(body["resume"]).partition(".")
        oid = int(oid_text, 16)
        if body.get("rebind"):
            self._rebind(place, oid, secret, body)
            return
        message = body["message"]
        assert isinstance(message, dict)
        request = (gateway, connection, sequence)
        if self._sessions.has_resumed(oid, request):
            return
        resumed = self._sessions.resume(oid, secret, request)
        if resumed is None:
            error = ClientError("session_expired", "the session is over or the token is not its last; log in")
            data = reply("session.resume", message.get("id"), {**error.fields()})
            self._turn.output(gateway, [connection], OutputKind.REPLY, data, sequence)
            return
        session, token, former = resumed
        if former is not None:
            self._close(former[0], former[1], CLOSE_REPLACED, "replaced")
        had = body.get("n")
        self._bound(session, token, min(had, session.last_event) if type(had) is int else session.last_event)
        fields = {"status": 0, **self._session_fields(session.user, session.name, token)}
        data = reply("session.resume", message.get("id"), fields)
        self._turn.output(gateway, [connection], OutputKind.REPLY, data, sequence)
        self._replay(session, body)

    def _rebind(self, place: Place, oid: int, secret: str, body: Message) -> None:
        """A gateway tells a new grant which session a living connection has."""
        session = self._sessions.rebind(oid, secret, place)
        if session is not None:
            self._replay_direct(session, body)
        else:
            self._close(place[0], place[1], CLOSE_EXPIRED, "session_expired")

    def _replay_direct(self, session: Session, body: Message) -> None:
        assert session.place is not None
        gateway, connection = session.place
        n = body.get("n")
        if type(n) is int:
            lost, events = self._sessions.missed(session, n)
            if lost:
                gap: Message = {"msg": "session.gap", "from": n + 1, "to": n + lost}
                self._turn.message(gateway, connection, OutputKind.EVENT, gap)
            for event in events:
                self._turn.output(gateway, [connection], OutputKind.EVENT, event)

    def _replay(self, session: Session, body: Message) -> None:
        self._replay_direct(session, body)
        seen: dict[str, int] = {}
        rooms = body.get("rooms")
        for room in rooms if isinstance(rooms, list) else []:
            if isinstance(room, dict) and isinstance(room.get("room"), str):
                seq = room.get("seq")
                if type(seq) is int:
                    seen[str(room["room"])] = seq
        self._rooms.resume(session, seen)

    def end_session(self, session: Session, question: Question) -> None:
        """Logout: answer, close, forget."""
        self._turn.output(
            question.gateway, [question.connection], OutputKind.REPLY, question.reply({}), question.sequence
        )
        self._close(question.gateway, question.connection, CLOSE_NORMAL, "logged out")
        self.presence("on_leave", session)
        self.end(session)

    def kick(self, user: int) -> int:
        """End every session of a user; returns how many there were."""
        sessions = self._sessions.of_user(user)
        for session in sessions:
            if session.place is not None:
                self._close(session.place[0], session.place[1], CLOSE_KICKED, "kicked")
            if not session.bot:
                self.presence("on_leave", session)
            self.end(session)
        return len(sessions)

    def end(self, session: Session) -> None:
        self._rooms.end(session)
        self._sessions.end(session)
        if GUEST_ROLE in session.roles and not self._sessions.of_user(session.user):
            self._finish(self._dispatcher.admin_delete(session.user), NOBODY, None)

    def _close(self, gateway: int, connection: int, code: int, reason: str) -> None:
        self._turn.message(gateway, connection, OutputKind.CLOSE, {"code": code, "reason": reason})

    def presence(self, hook: Presence, session: Session) -> None:
        caller = caller_of_session(session)
        self._finish(self._dispatcher.presence(hook, session.user, caller, self.now), caller, None)
