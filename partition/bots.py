"""Bots: sessions that no client is connected to, kept and moved by a plugin.

Guards: a bot is a session like others, at home where its user is, so that rooms, presence in them and
failover treat it alike; only its plugin speaks for it; and what a bot says is heard by no bot, so that
two of them never keep each other talking.
"""

from __future__ import annotations

from connserver.ids import named_id
from connserver.limits import BOT_ROLE, ROOMS_PER_SESSION
from partition.dispatch import Dispatcher
from partition.effects import BotAct, BotUpdate
from partition.ledger import Fields
from partition.post import Post
from partition.room_desk import RoomDesk
from partition.session_desk import NOBODY, Finish, caller_of_session
from partition.sessions import Session, Sessions

JOIN, LEAVE, SEND, REMOVE = "join", "leave", "send", "remove"
"""What a bot can be made to do by an exactly-once call."""


class Bots:
    """Carries out what plugins want of their bots. `now` is kept by the group (Unix seconds)."""

    def __init__(
        self, sessions: Sessions, rooms: RoomDesk, dispatcher: Dispatcher, post: Post, finish: Finish
    ) -> None:
        self.now = 0.0
        self._sessions = sessions
        self._rooms = rooms
        self._dispatcher = dispatcher
        self._post = post
        self._finish = finish
        post.handle("bot.act", self._acted)
        post.handle("bot.update", self._updated)
        post.handle("bot.hear", self._heard)

    # --- where the plugin's callback ran ---

    def act(self, act: BotAct) -> None:
        """Send it to the bot's home."""
        fields: Fields = {"name": act.name, "plugin": act.plugin, "act": act.act, "room": act.room}
        fields |= {"fields": act.fields, "hears": act.hears}
        self._post.send(named_id("user", act.name), "bot.act", fields)

    def update(self, update: BotUpdate) -> None:
        """The same for a volatile value, which may be lost."""
        fields: Fields = {"name": update.name, "plugin": update.plugin, "room": update.room}
        fields |= {"key": update.key, "value": update.value, "at": update.at}
        self._post.send_volatile(named_id("user", update.name), "bot.update", fields)

    # --- at the bot's home ---

    def _acted(self, fields: Fields, local: bool) -> None:
        session, act, room = self._find(fields), fields["act"], fields["room"]
        if act == JOIN:
            session = session or self._open(fields["name"], fields["plugin"])
            if session is not None:
                self._join(session, room, fields["hears"])
        elif session is None:
            return
        elif act == REMOVE:
            self._end(session)
        elif room not in session.rooms:
            return
        elif act == LEAVE:
            self._rooms.leave(session, room, None)
        elif act == SEND:
            sent = {"sender": session.name, "fields": fields["fields"], "bot": True}
            self._rooms.ask(room, "room.send", None, sent)

    def _join(self, session: Session, room: str, hears: str) -> None:
        if room in session.rooms:
            if session.hears.get(room, "") == hears:
                return
        elif len(session.rooms) >= ROOMS_PER_SESSION:
            return
        self._sessions.hear(session, room, hears)
        self._rooms.join(session, room, None, 0)

    def _updated(self, fields: Fields, local: bool) -> None:
        session, at = self._find(fields), fields["at"]
        if session is not None and fields["room"] in session.rooms:
            place = (at[0], at[1]) if at else None
            self._rooms.update(
                fields["room"], session.oid, session.name, fields["key"], fields["value"], place
            )

    def _heard(self, fields: Fields, local: bool) -> None:
        """Something was said in a room in which a bot listens: its callback runs on its user object."""
        session = self._sessions.get(fields["session"])
        if session is None or not session.bot:
            return
        method = session.hears.get(fields["room"], "")
        if method not in self._dispatcher.plugins.internals or fields.get("quarantined"):
            return
        arguments = {name: fields[name] for name in ("room", "sender", "seq", "fields")}
        caller = caller_of_session(session)
        outcome = self._dispatcher.internal(
            method, arguments, me=session.user, caller=caller, now=self.now, result=None
        )
        self._finish(outcome, caller, None)

    def _find(self, fields: Fields) -> Session | None:
        user, plugin = named_id("user", fields["name"]), fields["plugin"]
        return next((one for one in self._sessions.of_user(user) if one.bot == plugin), None)

    def _open(self, name: str, plugin: str) -> Session | None:
        user = named_id("user", name)
        outcome = self._dispatcher.open_user(user, name)
        self._finish(outcome, NOBODY, None)
        if outcome.error is not None:
            return None
        return self._sessions.open_bot(user, name, plugin, frozenset({BOT_ROLE}))

    def _end(self, session: Session) -> None:
        self._rooms.end(session)
        self._sessions.end(session)

    def end_orphans(self) -> None:
        """Bots of plugins that are not attached any more go."""
        for session in self._sessions.bots():
            if session.bot not in self._dispatcher.plugins.plugins:
                self._end(session)
