"""Modules of the original ConnServer, unchanged: `message = "name"`, `process(server, socket, message)`.

Guards two rules. Such a module is a plugin like any other: what it sends are the effects of one callback,
so nothing of them happens if it raises, and nothing leaves before it has committed. And it only gets
what it knew: text, sockets and rooms by name; docs/classic.md has the table from old to new.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from connserver.conversion import to_text
from connserver.encodings import Encoding, decode
from connserver.errors import ClientError
from connserver.ids import format_oid
from connserver.limits import Limits
from connserver.model import Message, Value, is_name
from connserver.plugin import Context, Object, Plugin
from connserver.plugin.declare import OWN_PREFIXES, MethodDeclaration, Place
from partition.builtins import BUILTINS
from partition.loader import import_module
from partition.manifest import Manifest

LIMITS: Final = Limits()

WRITTEN: Final = {"msg:": Encoding.CLASSIC, "<msg": Encoding.XML, "{": Encoding.JSON}
"""How a text begins that is a message written out."""

Said = str | Mapping[str, Any]
"""What a module sends: a text, or fields."""


def load_module(manifest: Manifest) -> Plugin:
    """The plugin that runs the module named by `entry`; PluginLoadError says what it lacks."""
    module = import_module(manifest)
    place = Place(file=str(manifest.folder / manifest.entry), line=1)
    name = _checked_name(getattr(module, "message", None), place)
    process = getattr(module, "process", None)
    if not inspect.isfunction(process):
        place.refuse(f"{manifest.entry} has no function process(server, socket, message)")
    place = Place(file=process.__code__.co_filename, line=process.__code__.co_firstlineno)
    _check_process(process, place)
    plugin = Plugin(manifest.name, manifest.version)
    plugin.methods.append(
        MethodDeclaration(
            name=name, function=_callback(name, process), roles=frozenset(), rate_hz=0.0, place=place
        )
    )
    return plugin


def _checked_name(name: Any, place: Place) -> str:
    if not isinstance(name, str) or not is_name(name):
        place.refuse(
            "a classic module says which message it is for: message = \"name\", of letters, digits, '_', "
            "'.' and '-'"
        )
    if name in BUILTINS or name.split(".")[0] in OWN_PREFIXES:
        place.refuse(f"message = {name!r}: this name belongs to a built-in method; clients need another")
    return name


def _check_process(process: Callable[..., Any], place: Place) -> None:
    if inspect.iscoroutinefunction(process) or inspect.isgeneratorfunction(process):
        place.refuse("process runs to its end at once: it can neither be `async def` nor contain `yield`")
    try:
        inspect.signature(process).bind(None, None, None)
    except TypeError as error:
        place.refuse(f"process is called as process(server, socket, message): {error}")


def _callback(name: str, process: Callable[..., Any]) -> Callable[..., Any]:
    # no client's field is called like these two
    def run(calling_context: Context, user_object: Object, **fields: Any) -> Message:
        socket = Socket(calling_context.user_name, user_object.oid, calling_context.session)
        message = Fields(name, fields)
        server = Server(calling_context, socket, name, frozenset(message.values()))
        returned = process(server, socket, message)
        if returned is not None:
            server.send(socket, returned)
        return server._reply or {}

    return run


class FieldMissing(ClientError, KeyError):
    """A field that the module reads and the client did not send; not caught, it is the client's error."""


class Fields(dict[str, str]):
    """The message as the client sent it: every value is text, and what is nested has a dotted name."""

    def __init__(self, name: str, fields: Mapping[str, Value]) -> None:
        super().__init__(msg=name)
        self._name = name
        for key, value in fields.items():
            self._put(key, value)

    def _put(self, key: str, value: Value) -> None:
        if isinstance(value, Mapping):
            for inner, item in value.items():
                self._put(f"{key}.{inner}", item)
        elif isinstance(value, list):
            for number, item in enumerate(value):
                self._put(f"{key}.{number}", item)
        else:
            self[key] = "" if value is None else to_text(value)

    def __missing__(self, key: str) -> NoReturn:
        raise FieldMissing("bad_argument", f"{key}: {self._name} needs it")


class Socket:
    """Somebody's connection, to be handed back to the server, now or later.

    `user`: the name they logged in with; `id`: of their session. Equal if they are the same session.
    """

    __slots__ = ("_session", "_user", "id", "user")

    def __init__(self, user: str, oid: int, session: int) -> None:
        self.user = user
        self.id = format_oid(session)
        self._user = oid
        self._session = session

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Socket) and other._session == self._session

    def __hash__(self) -> int:
        return hash(self._session)

    def __repr__(self) -> str:
        return f"<socket {self.id} of {self.user}>"


class Server:
    """What a module may do, in one call of `process`; nothing of it happens if that raises."""

    __slots__ = ("_caller", "_ctx", "_name", "_received", "_reply")

    def __init__(self, ctx: Context, caller: Socket, name: str, received: frozenset[str]) -> None:
        self._ctx = ctx
        self._caller = caller
        self._name = name
        self._received = received
        self._reply: Message | None = None

    def send(self, socket: Socket, said: Said) -> None:
        """To one client. The first to the caller, if it is not of another `msg`, is the call's reply.

        Everything else is an event, and reaches the user at all places where they are logged in.
        """
        _require_socket(socket, "send")
        msg, fields = self._fields(said)
        if socket == self._caller and msg == self._name and self._reply is None:
            self._reply = fields
        else:
            self._ctx.tell(socket._user, msg, **fields)

    def send_to(self, user: str, said: Said) -> None:
        """To a user by name, wherever they are; nothing happens if they are not logged in."""
        msg, fields = self._fields(said)
        self._ctx.tell(self._ctx.objects.user(user), msg, **fields)

    def broadcast(self, room: str, said: Said) -> None:
        """To everybody in a room, in one order: an event `room.message`; a `msg` of its own is `event`."""
        msg, fields = self._fields(said)
        if msg != self._name:
            fields = {"event": msg, **fields}
        self._ctx.room(room).send(**fields)

    def join(self, socket: Socket, room: str) -> None:
        """From now on they hear what is broadcast in the room."""
        _require_socket(socket, "join")
        self._ctx.room(room).join(socket._user)

    def leave(self, socket: Socket, room: str) -> None:
        """They do not any more."""
        _require_socket(socket, "leave")
        self._ctx.room(room).leave(socket._user)

    def log(self, text: str) -> None:
        """A line for the operator: `cs-cluster logs`."""
        self._ctx.log.info(str(text))

    @property
    def time(self) -> float:
        """Unix seconds, by the cluster's clock."""
        return self._ctx.now

    def _fields(self, said: Said) -> tuple[str, Message]:
        """(msg, the other fields) of what a module sends."""
        if isinstance(said, str):
            fields = self._written(said) or {"text": said}
        elif isinstance(said, Mapping):
            fields = dict(said)
        else:
            raise TypeError(f"a text or a map of fields can be sent, not a {type(said).__name__}")
        msg = fields.pop("msg", self._name)
        if not isinstance(msg, str):
            raise TypeError(f"msg is the name of the message, not a {type(msg).__name__}")
        return msg, fields

    def _written(self, text: str) -> Message | None:
        """The message that the module wrote out as text; None for any other text.

        What a client sent is never taken for a message: else anybody could speak as the module does.
        """
        stripped = text.strip("\0\r\n ")
        encoding = next((form for begin, form in WRITTEN.items() if stripped.startswith(begin)), None)
        if encoding is None or any(stripped in value for value in self._received):
            return None
        try:
            return decode(encoding, stripped.encode(), LIMITS)
        except (ClientError, UnicodeEncodeError):
            return None

    def __getattr__(self, name: str) -> NoReturn:
        known = ", ".join(sorted(name for name in vars(Server) if not name.startswith("_")))
        raise AttributeError(
            f"server.{name} is not there: a classic module has {known}; for more, see docs/classic.md"
        )


def _require_socket(socket: Any, method: str) -> None:
    if not isinstance(socket, Socket):
        raise TypeError(
            f"server.{method} takes the socket that process was given, not {socket!r}; "
            "a user is reached by name with server.send_to"
        )
