"""One partition group as a machine: requests, parcels and ticks in; turns out.

This is where a request's way is decided: whose session, asked before or not, built-in or a
plugin's, and what its outcome causes. No socket, file or clock: times are passed in (Unix seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Protocol

from connserver.errors import ClientError
from connserver.ids import format_oid, group_range
from connserver.limits import BOT_ROLE, Limits
from connserver.messages import Image, OutputKind, RequestKind
from connserver.model import Message, Value, unpack, unpack_checked
from connserver.plugin.results import Result
from partition.answers import Answers
from partition.bots import Bots
from partition.builtins import BUILTINS
from partition.calls import Calls
from partition.dispatch import Dispatcher
from partition.effects import (
    VOLATILE,
    Background,
    BotAct,
    BotUpdate,
    Call,
    Caller,
    Look,
    Outcome,
    RoomJoin,
    RoomSend,
    RoomUpdate,
    SetTimer,
    Tell,
)
from partition.ledger import Fields, Ledger
from partition.objects import Store
from partition.outbox import Outbox
from partition.post import Post
from partition.questions import Question, reply
from partition.room_desk import RoomDesk
from partition.rooms import IDLE_ROOM_S, Rooms
from partition.session_desk import NOBODY, SessionDesk, caller_of_session
from partition.sessions import Session, Sessions
from partition.table import PluginTable
from partition.timers import Timer, Timers
from partition.transients import Transients
from partition.turn import Turn, TurnBuilder

# looked up once for the message path: members of an Enum are slow to reach in Python 3.11
_CALL, _REPLY = int(RequestKind.CALL), OutputKind.REPLY

KEEP_S = 5.0
"""What a failover may set back is at most about so old."""

KEPT_AT_ONCE = 2_048
KEPT_BYTES = 1 << 20
"""Objects written for that in one tick, and about their size; the rest follows with the next."""

ALL = 1 << 32

DEFAULT_LIMITS = Limits()

ROOM_TICK_S = 0.05
"""Interval of `room.state`: twenty a second, as fine as people see."""


class Watch(Protocol):
    """Who notes what runs by the clock, under its key, and knows what of it must not run."""

    def allows(self, key: int, method: str, plugin: str, version: str) -> bool: ...
    def begins(self, key: int) -> None: ...


class Unwatched:
    """Everything may run."""

    def allows(self, key: int, method: str, plugin: str, version: str) -> bool:
        """It may."""
        return True

    def begins(self, key: int) -> None:
        """Nobody notes it."""


def key_of(*parts: str) -> int:
    """The number under which something that runs by the clock is noted; never 0."""
    text = "\0".join(parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "big") | 1


class Group:
    """All that one worker executes; the shell gives it times and sends what it returns."""

    def __init__(
        self,
        *,
        group: int,
        groups: int,
        store: Store,
        dispatcher: Dispatcher,
        secret: Callable[[], str],
        resume_window_s: float,
        background: Callable[[Background, Caller], None],
        limits: Limits = DEFAULT_LIMITS,
        keepalive_ms: int = 30_000,
        room_idle_s: float = IDLE_ROOM_S,
        login_by_plugin: bool = False,
    ) -> None:
        self.group = group
        self.limits = limits
        self.keepalive_ms = keepalive_ms
        self.first_partition = group_range(group, groups)[0]
        self.now = 0.0
        self.store = store
        self.dispatcher = dispatcher
        self._background = background
        self._turn = TurnBuilder()
        self.ledger = Ledger(store, self._turn)
        self.outbox = Outbox(self.ledger, self.first_partition)
        self.post = Post(group, groups, self.outbox, self._turn)
        self.sessions = Sessions(self.ledger, secret, resume_window_s)
        self.answers = Answers(self.sessions, self.post, self._turn)
        self.rooms = Rooms(self.ledger, room_idle_s)
        self.desk = RoomDesk(self.rooms, self.sessions, self.answers, self.post, self._turn)
        self.logins = SessionDesk(
            self.sessions,
            self.desk,
            dispatcher,
            self._turn,
            self._finish,
            resume_window_s,
            self.post,
            login_by_plugin,
        )
        self.bots = Bots(self.sessions, self.desk, dispatcher, self.post, self._finish)
        self.timers = Timers(self.ledger)
        self.transients = Transients(self.ledger, store)
        self.calls = Calls(self.ledger, self.post, dispatcher, self._finish)
        self.calls.attach()
        self.post.handle("tell", self._tell)
        self.watch: Watch = Unwatched()
        self._room_tick = 0.0
        self._limit_tick = 0.0
        self._keep_tick = 0.0
        self._keeping = False

    def load(self) -> None:
        """Rebuild sessions, rooms, outbox and timers from the objects in the store."""
        for part in (self.sessions, self.rooms, self.outbox, self.timers, self.calls, self.transients):
            part.load()

    # --- time and turns ---

    def at(self, now: float) -> None:
        """It is now this late; every event of the turn happens at this time."""
        self.now = self.desk.now = self.logins.now = self.bots.now = self.calls.clock = now

    def end_turn(self) -> Turn:
        """What happened since the last turn, to be committed and sent."""
        self.post.new_turn()
        return self._turn.finish()

    @property
    def turn_size(self) -> int:
        """Bytes that the entry of this turn will have, about."""
        return self._turn.size

    def tick(self, now: float) -> None:
        """Timers, plugins' `every`, volatile room state, expiry."""
        self.at(now)
        for timer in self.timers.due(now, self._may_run):
            self.watch.begins(self._key_of_timer(timer))
            outcome = self.dispatcher.internal(
                timer.method, timer.arguments, me=timer.target, caller=NOBODY, now=now, result=None
            )
            self._finish(outcome, NOBODY, None)
        for name, partitions, dt in self.dispatcher.due(now):
            method = self.dispatcher.plugins.everies[name].method
            key = key_of("every", name, method.plugin, method.version)
            if self.watch.allows(key, name, method.plugin, method.version):
                self.watch.begins(key)
                for partition in partitions:
                    self._finish(self.dispatcher.every(name, partition, dt, now), NOBODY, None)
        self.watch.begins(0)
        if now - self._room_tick >= ROOM_TICK_S:
            self._room_tick = now
            self.rooms.publish_changes(now)
        if now - self._limit_tick >= 1.0:
            self._limit_tick = now
            self.rooms.forget_idle(now)
            self.logins.expire(self.watch)
        self._keep(now)
        self.post.deliver_local()

    def _keep(self, now: float) -> None:
        """What may be lost by some seconds is written down so often, and not at each change."""
        self._keep_tick = self._keep_tick or now  # what was loaded is as it is kept
        if now - self._keep_tick < KEEP_S and not self._keeping:
            return
        if not self._keeping:
            self.transients.forget_removed()
            self.bots.end_orphans()
        self._keep_tick = now
        left = self.sessions.keep_views(KEPT_AT_ONCE)
        left = self.rooms.keep_views(left)
        left = self.transients.keep(left, KEPT_BYTES)
        self._keeping = not left

    def keep_now(self) -> None:
        """Write it all down: the group is about to be handed over."""
        self.sessions.keep_views(ALL)
        self.rooms.keep_views(ALL)
        self.transients.keep(ALL, 8 * KEPT_BYTES)

    def _may_run(self, timer: Timer) -> bool:
        method = self.dispatcher.plugins.internals.get(timer.method)
        if method is None:
            return False
        return self.watch.allows(self._key_of_timer(timer), timer.method, method.plugin, method.version)

    def _key_of_timer(self, timer: Timer) -> int:
        """Another version of its plugin is another try."""
        method = self.dispatcher.plugins.internals[timer.method]
        return key_of("timer", format_oid(timer.oid), method.plugin, method.version)

    def use(self, plugins: PluginTable) -> None:
        """From the next call on, these plugins; PluginLoadError, and then nothing has changed."""
        self.dispatcher.use(plugins)
        self.timers.release()

    # --- from gateways ---

    def request(
        self, gateway: int, connection: int, kind: int, sequence: int, body: bytes, now: float
    ) -> None:
        """One item of a gateway's stream, in its order."""
        if now != self.now:
            self.at(now)
        if kind == _CALL:
            self._call(gateway, connection, sequence, unpack_checked(body))
        elif kind == RequestKind.LOGIN:
            self.logins.login(gateway, connection, sequence, unpack(body))
        elif kind == RequestKind.RESUME:
            self.logins.resume(gateway, connection, sequence, unpack(body))
        elif kind == RequestKind.REJECTED:
            self._turn.output(gateway, [connection], _REPLY, body, sequence)
        elif kind == RequestKind.GONE:
            session = self.sessions.at(gateway, connection)
            if session is not None:
                self.sessions.leave(session, now)
        self.post.deliver_local()

    def parcel(
        self, source: int, number: int, body: bytes, now: float, quarantined: Fields | None = None
    ) -> None:
        """A call from another group; `quarantined`: the error it gives instead of running."""
        self.at(now)
        self.post.receive(source, number, body, quarantined)

    def gateway_gone(self, gateway: int, now: float) -> None:
        """A gateway has died: its sessions wait for their clients to come back elsewhere."""
        self.at(now)
        self.logins.gateway_gone(gateway)

    def gateway_lacks(self, gateway: int, now: float) -> None:
        """Outputs for a gateway were given up: its connections with sessions here begin anew."""
        self.at(now)
        self.logins.gateway_lacks(gateway)
        self.post.deliver_local()

    def kick(self, user: int) -> int:
        """End every session of a user; returns how many there were."""
        count = self.logins.kick(user)
        self.post.deliver_local()
        return count

    def parcels_done(self, target: int, upto: int) -> None:
        """Another group has committed our parcels up to this number."""
        self.outbox.confirmed(target, upto)

    def _call(self, gateway: int, connection: int, sequence: int, message: Message) -> None:
        session = self.sessions.at(gateway, connection)
        msg, request_id = str(message["msg"]), message.get("id")
        if session is None:
            self._unbound(gateway, connection, sequence, msg, request_id)
            return
        key = request_id if type(request_id) is int else (gateway, connection, sequence)
        if self.sessions.known(session, key):
            self.answers.repeated(session, key, (gateway, connection, sequence))
            return
        question = Question(session.oid, key, gateway, connection, sequence, msg, request_id)
        if self.sessions.too_old(session, key):
            error = ClientError("id_expired", f"id {key} is older than the replies that are kept")
            self._turn.output(gateway, [connection], _REPLY, question.refusal(error), sequence)
            return
        self._run(session, question, message)

    def _run(self, session: Session, question: Question, message: Message) -> None:
        builtin = BUILTINS.get(question.msg)
        if builtin is None:
            fields = {name: value for name, value in message.items() if name not in ("msg", "id")}
            caller = caller_of_session(session)
            outcome = self.dispatcher.call(question.msg, fields, me=session.user, caller=caller, now=self.now)
            self._finish(outcome, caller, question)
            return
        try:
            answer = builtin(self, session, question, message)
        except ClientError as error:
            self.answers.give(question, {}, error, durable=False)
            return
        if answer is not None:
            self.answers.give(question, answer, None, durable=False)

    def _unbound(self, gateway: int, connection: int, sequence: int, msg: str, request_id: Value) -> None:
        if msg == "methods":
            fields: Message = {"status": 0, "methods": self.describe(frozenset())}
        else:
            fields = {**ClientError("unauthorized", f"{msg} needs a login first").fields()}
        body = reply(msg, request_id, fields)
        self._turn.output(gateway, [connection], _REPLY, body, sequence)

    # --- what built-ins ask for ---

    def describe(self, roles: frozenset[str]) -> list[Value]:
        """The methods that a session with these roles may call."""
        return list(self.dispatcher.plugins.describe(roles))

    def join_room(self, session: Session, room: str, question: Question, history: int) -> None:
        """`room.join`; the answer comes from the room's home."""
        self.answers.pending(question)
        self.desk.join(session, room, question, history)

    def leave_room(self, session: Session, room: str, question: Question) -> None:
        """`room.leave`."""
        self.answers.pending(question)
        self.desk.leave(session, room, question)

    def ask_room(self, room: str, op: str, question: Question, fields: Fields) -> None:
        """`room.send` and `room.who`."""
        self.answers.pending(question)
        self.desk.ask(room, op, question, fields)

    def update_room(self, room: str, session: int, name: str, key: str, value: Value) -> None:
        """`room.update`."""
        self.desk.update(room, session, name, key, value)

    # --- outcomes ---

    def _finish(self, outcome: Outcome, caller: Caller, question: Question | None) -> None:
        for image in outcome.images:
            self._turn.image(image)
        if question is not None:
            if outcome.deferred:
                self.answers.pending(question)
            else:
                # a move may be lost, and costs no commit
                kept = any(not isinstance(effect, VOLATILE) for effect in outcome.effects)
                durable = bool(outcome.images) or kept
                fields = outcome.result if isinstance(outcome.result, dict) else {}
                self.answers.give(question, fields, outcome.error, durable=durable)
        for effect in outcome.effects:
            match effect:
                case Call():
                    self.calls.make(effect, caller, question)
                case RoomSend():
                    is_bot = BOT_ROLE in caller.roles
                    fields_sent = {"sender": caller.name, "fields": effect.fields, "bot": is_bot}
                    self.desk.ask(effect.room, "room.send", None, fields_sent)
                case RoomUpdate():
                    self.desk.update(
                        effect.room, caller.session, caller.name, effect.key, effect.value, effect.at
                    )
                case Look():
                    self.desk.look(effect.session, effect.view)
                case RoomJoin():
                    self.desk.move_user(effect.user, effect.room, join=effect.join)
                case BotAct():
                    self.bots.act(effect)
                case BotUpdate():
                    self.bots.update(effect)
                case Tell():
                    self.post.send(effect.user, "tell", {"user": effect.user, "message": effect.message})
                case SetTimer():
                    self.timers.apply(effect)
                case Background():
                    self._background(effect, caller)

    def _tell(self, fields: Fields, local: bool) -> None:
        for session in self.sessions.of_user(fields["user"]):
            if not session.bot:
                self.sessions.tell(session, fields["message"])

    def retry_call(self, oid: int) -> None:
        """Run a parked continuation again."""
        self.calls.retry(oid)
        self.post.deliver_local()

    def background_done(self, work: Background, caller: Caller, result: Result, now: float) -> None:
        """What background work returned goes to the method it names."""
        self.at(now)
        outcome = self.dispatcher.internal(
            work.then, work.arguments, me=work.oid, caller=caller, now=now, result=result
        )
        self._finish(outcome, caller, None)
        self.post.deliver_local()

    def output(self, gateway: int, connection: int, kind: OutputKind, body: bytes, answer: int) -> None:
        """An answer made outside the machine, in its place among the others."""
        self._turn.output(gateway, [connection], kind, body, answer)

    def wants_ticks(self) -> bool:
        """Whether anything here happens by time within the next moments."""
        return self.rooms.changing or self.timers.soon(self.now) or bool(self.dispatcher.plugins.everies)

    @property
    def shortest_period_s(self) -> float:
        """The period of the most frequent `every`; a second where there is none."""
        return min((every.period_s for every in self.dispatcher.plugins.everies.values()), default=1.0)

    def apply(self, outcome: Outcome, now: float) -> None:
        """An outcome made outside a request: the operator's writes, results of background work."""
        self.at(now)
        self._finish(outcome, NOBODY, None)
        self.post.deliver_local()

    def snapshot(self) -> Iterable[Image]:
        """Every object of the group, for a complete archive."""
        return self.store.images()

    def check_invariants(self) -> None:
        """Called after each test."""
        for part in (self.store, self.sessions, self.rooms, self.outbox, self.transients):
            part.check_invariants()
