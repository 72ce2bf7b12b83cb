"""Sessions of the users whose home is in this group: bindings, exactly-once, direct events.

Guards "exactly once, end to end" on the worker's side. A request is known by (session, client id)
where the id is an integer, else by (session, gateway boot, connection, sequence). What it changed
and its reply are written in one entry, so that asking again gives the reply and never runs twice.
A session and its last replies and direct events live in one block of 256 ids: the session at
offset 0, replies at 1–128, events at 129–255.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from connserver.ids import partition_of
from connserver.limits import KEPT_REPLIES
from connserver.messages import OutputKind
from connserver.model import Message, pack
from partition.grid import View
from partition.ledger import Fields, Ledger

SESSION = "cs.session"
REPLY = "cs.session.reply"
EVENT = "cs.session.event"
BLOCK = 256
KEPT_EVENTS = BLOCK - 1 - KEPT_REPLIES
TOKENS_KEPT = 16
"""Resume secrets of a session that are good: the last used one, and those that were given for it. A client
asks again while its group has no primary, once in a while and at one gateway after the other."""

RequestKey = int | tuple[int, int, int]
"""A client's integer id, or (gateway boot, connection, sequence)."""

Place = tuple[int, int]
"""(gateway boot, connection number)."""

Request = tuple[int, int, int]
"""(gateway boot, connection, sequence): one request, however often it is sent."""


@dataclass(slots=True)
class Session:
    """One login of one user. `place` None while no client is connected; `expires` then counts."""

    oid: int
    user: int
    name: str
    roles: frozenset[str]
    tokens: list[str]
    place: Place | None
    expires: float
    rooms: set[str] = field(default_factory=set)
    view: View | None = None
    """What it sees of placed volatile values; written with the rest, and from time to time."""
    bot: str = ""
    """The plugin that keeps it, if no client ever does."""
    hears: dict[str, str] = field(default_factory=dict)
    """Of a bot: the callback that gets what is said in a room."""
    resumed: Request | None = None
    """The request that bound it last: sent again to another worker, it must not replay again."""
    last_event: int = 0
    answered: int = 0
    floor: int = 0
    kept: OrderedDict[RequestKey, bytes | None] = field(default_factory=OrderedDict)
    slots: dict[RequestKey, int] = field(default_factory=dict)
    events: OrderedDict[int, bytes] = field(default_factory=OrderedDict)

    def fields(self) -> Fields:
        """What is kept of the session itself."""
        return {
            "user": self.user,
            "name": self.name,
            "roles": sorted(self.roles),
            "tokens": self.tokens,
            "place": list(self.place) if self.place else None,
            "expires": self.expires,
            "rooms": sorted(self.rooms),
            "view": self.view,
            "bot": self.bot,
            "hears": self.hears,
            "resumed": list(self.resumed) if self.resumed else None,
        }


def token_digest(secret: str) -> str:
    """What is kept of a resume secret; the secret itself is only with the client."""
    return blake2b(secret.encode(), digest_size=16, person=b"cs-resume").hexdigest()


class Sessions:
    """All sessions of a group."""

    def __init__(self, ledger: Ledger, secret: Callable[[], str], window_s: float) -> None:
        self._ledger = ledger
        self._secret = secret
        self._window_s = window_s
        self._by_oid: dict[int, Session] = {}
        self._by_place: dict[Place, Session] = {}
        self._by_user: dict[int, dict[int, Session]] = {}
        self._away: dict[int, Session] = {}
        self._bots: dict[int, Session] = {}
        self._turned: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._by_oid)

    # --- loading ---

    def load(self) -> None:
        """Rebuild everything from the objects of the group."""
        for oid, kept in self._ledger.of_kind(SESSION):
            place = kept["place"]
            session = Session(
                oid,
                kept["user"],
                kept["name"],
                frozenset(kept["roles"]),
                kept["tokens"],
                (place[0], place[1]) if place else None,
                kept["expires"],
                set(kept["rooms"]),
                _view(kept.get("view")),
                kept.get("bot", ""),
                kept.get("hears", {}),
                _request(kept["resumed"]),
            )
            self._enter(session)
        self._load_replies()
        for oid, kept in sorted(self._ledger.of_kind(EVENT), key=lambda item: item[1]["n"]):
            session = self._by_oid[oid - oid % BLOCK]
            session.events[kept["n"]] = kept["body"]
            session.last_event = kept["n"]

    def _load_replies(self) -> None:
        replies = sorted(self._ledger.of_kind(REPLY), key=lambda item: item[1]["count"])
        for oid, kept in replies:
            session = self._by_oid[oid - oid % BLOCK]
            key: RequestKey = kept["key"] if isinstance(kept["key"], int) else tuple(kept["key"])
            session.kept[key] = kept["body"]
            session.slots[key] = session.answered = kept["count"]
            session.floor = max(session.floor, kept["floor"])

    def _enter(self, session: Session) -> None:
        self._by_oid[session.oid] = session
        self._by_user.setdefault(session.user, {})[session.oid] = session
        if session.bot:
            self._bots[session.oid] = session
        elif session.place is None:
            self._away[session.oid] = session
        else:
            self._by_place[session.place] = session

    # --- binding ---

    def at(self, gateway: int, connection: int) -> Session | None:
        """The session bound to this connection."""
        return self._by_place.get((gateway, connection))

    @property
    def gateways(self) -> frozenset[int]:
        """The boots of the gateways that sessions are bound to."""
        return frozenset(gateway for gateway, _ in self._by_place)

    def get(self, oid: int) -> Session | None:
        """The session with this id."""
        return self._by_oid.get(oid)

    def of_user(self, user: int) -> list[Session]:
        """All sessions of a user object."""
        return list(self._by_user.get(user, {}).values())

    def everyone(self) -> list[Session]:
        """All sessions, connected or not."""
        return list(self._by_oid.values())

    def open(self, user: int, name: str, roles: frozenset[str], place: Place) -> tuple[Session, str]:
        """A new session bound to this connection, and its resume token."""
        oid = self._ledger.allocate(partition_of(user), BLOCK, BLOCK)
        secret = self._secret()
        session = Session(oid, user, name, roles, [token_digest(secret)], place, 0.0)
        self._enter(session)
        self._write(session)
        return session, f"{oid:016x}.{secret}"

    def open_bot(self, user: int, name: str, plugin: str, roles: frozenset[str]) -> Session:
        """A session that no connection can be bound to and that does not expire."""
        oid = self._ledger.allocate(partition_of(user), BLOCK, BLOCK)
        session = Session(oid, user, name, roles, [], None, 0.0, bot=plugin)
        self._enter(session)
        self._write(session)
        return session

    def bots(self) -> list[Session]:
        """The sessions that plugins keep."""
        return list(self._bots.values())

    def has_resumed(self, oid: int, request: Request) -> bool:
        """Whether this very request has bound the session; then its answer is on its way already."""
        session = self._by_oid.get(oid)
        return session is not None and session.resumed == request

    def resume(self, oid: int, secret: str, request: Request) -> tuple[Session, str, Place | None] | None:
        """Bind a session to another connection: (session, new token, the place it was bound to).

        None where the session is gone, or a secret was used that was given later.
        """
        place = request[:2]
        session = self._by_oid.get(oid)
        digest = token_digest(secret)
        if session is None or digest not in session.tokens:
            return None
        former = session.place
        fresh = self._secret()
        # A resume whose client has given up waiting may run after the one that followed it: the token
        # that this one got stays good until it, or one given after it, is used.
        later = session.tokens[session.tokens.index(digest) + 1 :]
        session.tokens = [digest, *later[2 - TOKENS_KEPT :], token_digest(fresh)]
        session.resumed = request
        self._bind(session, place)
        return session, f"{oid:016x}.{fresh}", former if former != place else None

    def renew(self, session: Session) -> str:
        """A further token for a session whose last may not have reached its client."""
        secret = self._secret()
        session.tokens = [session.tokens[-1], token_digest(secret)]
        self._write(session)
        return f"{session.oid:016x}.{secret}"

    def rebind(self, oid: int, secret: str, place: Place) -> Session | None:
        """The same connection tells a new grant where its session is; None if it is not that one."""
        session = self._by_oid.get(oid)
        if session is None or token_digest(secret) not in session.tokens:
            return None
        if session.place != place:
            if session.place is not None:
                return None
            self._bind(session, place)
        return session

    def leave(self, session: Session, now: float) -> None:
        """The connection is gone; the session waits for its resume window."""
        self._unbind(session)
        session.expires = now + self._window_s
        self._away[session.oid] = session
        self._write(session)

    def end(self, session: Session) -> None:
        """The session is over: logout, kick or expiry."""
        self._unbind(session)
        self._away.pop(session.oid, None)
        self._bots.pop(session.oid, None)
        self._turned.pop(session.oid, None)
        del self._by_oid[session.oid]
        of_user = self._by_user[session.user]
        del of_user[session.oid]
        if not of_user:
            del self._by_user[session.user]
        for count in range(max(1, session.answered - KEPT_REPLIES + 1), session.answered + 1):
            self._ledger.delete(self._reply_slot(session, count), REPLY)
        for n in session.events:
            self._ledger.delete(self._event_slot(session, n), EVENT)
        self._ledger.delete(session.oid, SESSION)

    def expired(self, now: float) -> list[Session]:
        """Sessions whose resume window has passed."""
        return [session for session in self._away.values() if session.expires <= now]

    def enter_room(self, session: Session, room: str) -> None:
        """Remember a membership, to take it along at a resume and give it up at the end."""
        if room not in session.rooms:
            session.rooms.add(room)
            self._write(session)

    def leave_room(self, session: Session, room: str) -> None:
        """Forget a membership."""
        if room in session.rooms:
            session.rooms.discard(room)
            session.hears.pop(room, None)
            self._write(session)

    def hear(self, session: Session, room: str, method: str) -> None:
        """A bot's callback gets what is said in a room from now on; "": none does."""
        session.hears.pop(room, None)
        if method:
            session.hears[room] = method
        self._write(session)

    def look(self, session: Session, view: View | None) -> None:
        """From now on the session sees this much."""
        session.view = view
        self._turned[session.oid] = None

    def keep_views(self, most: int) -> int:
        """Write down views that changed, at most so many; how many more might have been written."""
        while self._turned and most > 0:
            most -= 1
            oid = next(iter(self._turned))
            self._write(self._by_oid[oid])
        return most

    def _bind(self, session: Session, place: Place) -> None:
        self._unbind(session)
        self._away.pop(session.oid, None)
        session.place = place
        session.expires = 0.0
        self._by_place[place] = session
        self._write(session)

    def _unbind(self, session: Session) -> None:
        if session.place is not None:
            self._by_place.pop(session.place, None)
            session.place = None

    def _write(self, session: Session) -> None:
        self._turned.pop(session.oid, None)
        self._ledger.write(session.oid, SESSION, session.fields())

    # --- exactly once ---

    def known(self, session: Session, key: RequestKey) -> bool:
        """Whether this request has run or is running."""
        return key in session.kept

    def too_old(self, session: Session, key: RequestKey) -> bool:
        """Whether this id is below what is remembered, so that nobody can say if it has run."""
        return isinstance(key, int) and key not in session.kept and key <= session.floor

    def reply_to(self, session: Session, key: RequestKey) -> bytes | None:
        """The kept reply; None while the request is still in progress."""
        return session.kept[key]

    def remember(self, session: Session, key: RequestKey, reply: bytes | None, *, durable: bool) -> None:
        """Keep the reply (None: in progress), in the log too where the request changed something."""
        session.kept[key] = reply
        while len(session.kept) > KEPT_REPLIES:
            oldest, _ = session.kept.popitem(last=False)
            session.slots.pop(oldest, None)
            if isinstance(oldest, int):
                session.floor = max(session.floor, oldest)
        if durable:
            self._write_reply(session, key, reply)

    def _write_reply(self, session: Session, key: RequestKey, reply: bytes | None) -> None:
        count = session.slots.get(key)
        if count is None:
            session.answered += 1
            count = session.slots[key] = session.answered
        fields: Fields = {"key": key, "body": reply, "count": count, "floor": session.floor}
        self._ledger.write(self._reply_slot(session, count), REPLY, fields)

    # --- direct events ---

    def tell(self, session: Session, message: Message) -> None:
        """A direct event: numbered, kept for resume, sent if somebody is there."""
        session.last_event += 1
        body = pack({**message, "n": session.last_event})
        session.events[session.last_event] = body
        if len(session.events) > KEPT_EVENTS:
            session.events.popitem(last=False)
        slot = self._event_slot(session, session.last_event)
        self._ledger.write(slot, EVENT, {"n": session.last_event, "body": body})
        if session.place is not None:
            gateway, connection = session.place
            self._ledger.turn.output(gateway, [connection], OutputKind.EVENT, body)

    def missed(self, session: Session, n: int) -> tuple[int, list[bytes]]:
        """Direct events after `n`: (the number of those no longer kept, the others in order)."""
        kept = [body for number, body in session.events.items() if number > n]
        return max(0, session.last_event - n - len(kept)), kept

    def _reply_slot(self, session: Session, count: int) -> int:
        return session.oid + 1 + count % KEPT_REPLIES

    def _event_slot(self, session: Session, n: int) -> int:
        return session.oid + 1 + KEPT_REPLIES + n % KEPT_EVENTS

    def check_invariants(self) -> None:
        """The three indexes agree and every session is either connected or waiting."""
        for session in self._by_oid.values():
            waits = session.place is None and not session.bot
            assert waits == (session.oid in self._away), session
            assert bool(session.bot) == (session.oid in self._bots), session
            assert session.place is None or self._by_place[session.place] is session
            assert self._by_user[session.user][session.oid] is session
            assert len(session.kept) <= KEPT_REPLIES and len(session.events) <= KEPT_EVENTS


def _view(kept: list[float] | None) -> View | None:
    return (kept[0], kept[1], kept[2]) if kept else None


def _request(kept: list[int] | None) -> Request | None:
    return (kept[0], kept[1], kept[2]) if kept else None
