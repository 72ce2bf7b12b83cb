"""What a callback may do: the context it is given as `ctx`.

Guards one rule: a callback is one transaction over one partition. Everything it asks for here takes
effect together, once the call has ended well, and nothing of it does if the call raised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar, overload

from connserver.plugin.objects import Object
from connserver.plugin.references import Ref
from connserver.plugin.results import Reply

K = TypeVar("K", bound=Object)

Target = Object | Ref[Object] | str | int
"""An object, a reference, or an id as 16 hex digits or a number."""

Callback = Callable[..., Any] | str
"""A function declared with `@plugin.internal`, or its full name, "plugin.function"."""


class Context(ABC):
    """The world as one callback sees it; it ends with the call."""

    __slots__ = ()

    now: float
    """Unix seconds. The cluster's clock, which in tests is virtual."""
    dt: float
    """Seconds since the last tick, in a callback of `@plugin.every`; else 0."""

    @property
    @abstractmethod
    def objects(self) -> Objects:
        """The objects of this partition."""

    @property
    @abstractmethod
    def log(self) -> Log:
        """For the operator; lines appear at once, also of a call that then raises."""

    @property
    @abstractmethod
    def partition(self) -> int:
        """The partition over which this call is a transaction."""

    @property
    @abstractmethod
    def random(self) -> Random:
        """Seeded by the cluster: the same in a test that is run again."""

    @property
    @abstractmethod
    def user(self) -> Ref[Object] | None:
        """The user object of the client that calls; None if the cluster does."""

    @property
    @abstractmethod
    def user_name(self) -> str:
        """The name that client logged in with; "" if the cluster calls."""

    @property
    @abstractmethod
    def roles(self) -> frozenset[str]:
        """What the client's login, or an operator, says it may do."""

    @property
    @abstractmethod
    def session(self) -> int:
        """The session of the calling client; 0 if the cluster calls."""

    @abstractmethod
    def room(self, name: str) -> Room:
        """The room of this name, wherever it is."""

    @abstractmethod
    def view(self, center: tuple[float, float] | None, radius: float = 0.0) -> None:
        """What the calling session sees of rooms from now on: of volatile values with a place (`at=`)
        only those within `radius` of `center`; with None again all of them. Others it gets always.

        It counts for all rooms the session is in or will join. Coming into view a value is told, going
        out of it it is taken away (null). Like volatile values a view costs no commit; after a failover
        it may be some seconds old, so set it with each move. ValueError if no session calls.
        """

    @abstractmethod
    def bot(self, name: str) -> Bot:
        """The bot of this name that this plugin keeps: a session without a client."""

    @abstractmethod
    def tell(self, user: Target, msg: str, /, **fields: Any) -> None:
        """Send the event `msg` to all sessions of a user object, in any partition."""

    @abstractmethod
    def call(
        self, target: Target, callback: Callback, /, *, then: Callback | None = None, **arguments: Any
    ) -> Reply:
        """Call an internal method on another object, exactly once, when this call has ended well.

        `then` is an internal method that runs on this object with `result` and those of the
        arguments that it declares. Arguments are checked here, so that mistakes show at the caller.
        Return the Reply to answer the client with what `then` returns (without it: the callee).
        """

    @abstractmethod
    def timer(self, name: str, on: Target | None = None) -> Timer:
        """The durable timer of this name on an object of this partition, by default `me`."""

    @abstractmethod
    def background(self, function: Callback, /, *, then: Callback | None = None, **arguments: Any) -> None:
        """Run a function declared with `@plugin.background` outside the worker's loop.

        `then` is an internal method that runs on this object with `result` and the arguments it
        declares. Background work may block; it is lost if the worker dies, and has no context.
        """


class Objects(ABC):
    """The objects of the partition of this call."""

    __slots__ = ()

    @overload
    def get(self, target: Target) -> Any: ...
    @overload
    def get(self, target: Target, kind: type[K]) -> K | None: ...
    @abstractmethod
    def get(self, target: Target, kind: type[Any] | None = None) -> Any:
        """The object, or None if there is none. With `kind`, None also if it is of another.

        WrongPartition if it lives elsewhere: use `ctx.call` to reach it.
        """

    @abstractmethod
    def create(self, kind: type[K], /, *, near: Target | None = None, **fields: Any) -> K:
        """A new object in the partition of `near` (default: this one).

        Fields without a default have to be given. WrongPartition if `near` lives elsewhere.
        """

    @abstractmethod
    def create_named(self, kind: type[K], name: str, /, **fields: Any) -> K:
        """A new object whose id is made from its kind and name, if that id is in this partition.

        ClientError `conflict` if it is there already. From elsewhere: `ctx.call` on `named(…)` to an
        `@plugin.internal(create=True)`.
        """

    @abstractmethod
    def delete(self, target: Target, /) -> None:
        """Remove an object; nothing happens if it is not there."""

    @abstractmethod
    def where(self, kind: type[K], /, **fields: Any) -> list[K]:
        """The objects of a kind in this partition whose fields have these values, in the order of ids.

        What this call changed counts. Indexed fields are looked up; the others are compared one by
        one over what the index left.
        """

    @abstractmethod
    def named(self, kind: type[K], name: str, /) -> Ref[K]:
        """The reference to the object of this kind and name, wherever it is and whether or not it exists."""

    @abstractmethod
    def user(self, name: str, /) -> Ref[Any]:
        """The reference to the user object of this login name, wherever it is."""


class Room(ABC):
    """A room, as seen from a callback."""

    __slots__ = ()

    @abstractmethod
    def send(self, **fields: Any) -> None:
        """An ordered event `room.message` with these fields to all members."""

    @abstractmethod
    def update(self, key: str, value: Any, *, at: tuple[float, float] | None = None) -> None:
        """The latest value of this user's `key`, for all members; with `at`, of those with a view
        (`ctx.view`) only for those in whose view the place is.

        None removes it. It also goes when the caller leaves the room; of somebody who is no member it
        belongs to the room. May be lost: the next one replaces it. At most 8 KiB.
        """

    @abstractmethod
    def join(self, user: Target) -> None:
        """Make all sessions of a user members."""

    @abstractmethod
    def leave(self, user: Target) -> None:
        """End the membership of a user's sessions."""


class Bot(ABC):
    """A bot of this plugin: a user of this name with a session that no client is connected to.

    It comes with its first `join` and stays, also through failovers, until `remove` or until its plugin
    is detached. Members of its rooms see it in `room.who` and as `from` of what it says. Whatever it is
    made to do happens exactly once, when this call has ended well; a bot that is not there, or is not in
    the room, does nothing. Presence callbacks are not called for it, events to its user do not reach it.
    """

    __slots__ = ()

    @abstractmethod
    def join(self, room: str, *, hears: Callback | None = None) -> None:
        """Make it a member. `hears`: an internal method, run on the bot's user object for each event of
        the room that no bot has sent, with those of `room`, `sender`, `seq`, `fields` it declares; the
        bot is then the caller, so `ctx.room(room).send(…)` speaks in its name."""

    @abstractmethod
    def leave(self, room: str) -> None:
        """End its membership."""

    @abstractmethod
    def send(self, room: str, /, **fields: Any) -> None:
        """An ordered event from it to a room it is in."""

    @abstractmethod
    def update(self, room: str, key: str, value: Any, *, at: tuple[float, float] | None = None) -> None:
        """A volatile value of its own in a room it is in, as `Room.update`."""

    @abstractmethod
    def remove(self) -> None:
        """End it: it leaves its rooms. Its user object stays."""


class Timer(ABC):
    """A durable timer on one object: there is one of each name."""

    __slots__ = ()

    @abstractmethod
    def set(
        self,
        callback: Callback,
        /,
        *,
        after_s: float | None = None,
        at: float | None = None,
        **arguments: Any,
    ) -> None:
        """Run an internal method on the object in `after_s` seconds or `at` a Unix time.

        Replaces what this timer was set to.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Forget it, if it is set."""


class Log(ABC):
    """Lines for the operator: a sentence or event, and facts by name."""

    __slots__ = ()

    @abstractmethod
    def debug(self, text: str, /, **facts: Any) -> None: ...
    @abstractmethod
    def info(self, text: str, /, **facts: Any) -> None: ...
    @abstractmethod
    def warning(self, text: str, /, **facts: Any) -> None: ...
    @abstractmethod
    def error(self, text: str, /, **facts: Any) -> None: ...
