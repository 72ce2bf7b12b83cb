"""Objects of a plugin's kinds, and how a change to one is noticed.

Guards two rules: a write is never missed, also one deep inside a list or map, and reading costs next
to nothing. Fields are plain instance attributes. A transaction copies an object's attributes when
it first touches it and compares them at the end; that is exact for all values that cannot change in
place. Fields that hold lists and maps are read through a `ContainerField`, which notes that the
container was handed out; the end of the call then compares its packed form with what is stored. So
nothing depends on catching each way to change a list (`heapq` alone knows several).

Chosen by measurement (`python scripts/bench/objects.py`, shared two-core machine, Python 3.11, µs per
callback on a player with six fields and ten things in the bag; with 200 things in brackets):

    way                        read         write 2       append        refused       bytes
    this one                   0.5 (0.5)    1.8 (6.8)     2.0 (6.6)     0.3 (0.3)     339
    slots, always packed       1.8 (6.8)    1.7 (6.8)     1.8 (6.4)     2.0 (8.4)      89
    watched writes             0.2 (0.2)    2.4 (8.2)     2.6 (9.0)     2.7 (9.4)     402
    msgspec, always packed     0.4 (2.0)    0.4 (2.0)     0.4 (1.9)     1.8 (8.1)      82

msgspec packs several times faster, but every callback would pay for the whole object, however large,
and a container changed in a refused call would have to be rebuilt each time.
"""

from __future__ import annotations

from typing import Any, Self, TypeVar, cast

from connserver.ids import ObjectId
from connserver.plugin.references import Ref

T = TypeVar("T")

UNCHANGEABLE = frozenset({str, int, float, bool, bytes, type(None), Ref})
"""Types whose values cannot change in place."""


class Object:
    """The base of all kinds: annotate the fields in a subclass and declare it with `@plugin.kind`.

    A default makes a field optional; lists and maps as defaults are copied for each object. Objects
    come from the context (`me`, `ctx.objects`) and belong to the callback that got them: keep a
    `Ref`, not the object, for later. Fields are checked against their annotations when the call ends.
    """

    __slots__ = ("__dict__", "_named", "_oid", "_opened")

    _oid: int
    _named: str
    _opened: dict[str, Any] | None

    def __init__(self) -> None:
        raise TypeError(f"write ctx.objects.create({type(self).__name__}, …) to make an object")

    @property
    def oid(self) -> ObjectId:
        """The object's 64-bit id."""
        return ObjectId(self._oid)

    @property
    def ref(self) -> Ref[Self]:
        """A reference to this object, to be kept in fields and sent in messages."""
        return Ref(self._oid)

    @property
    def named(self) -> str:
        """The name from which the id was made: the user's name for a user object, else mostly ""."""
        return self._named

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Object) and bool(other._oid == self._oid)

    def __hash__(self) -> int:
        return hash(self._oid)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"<{type(self).__name__} {self._oid:016x} {fields}>"


class Transient:
    """What `transient(default)` leaves in the class body."""

    __slots__ = ("default",)

    def __init__(self, default: Any) -> None:
        self.default = default


def transient(default: T) -> T:
    """A field that skips log and archive: cheap to change often, and may go back at a failover.

    A call that changed only transient fields costs no commit. A new primary begins with what they were
    some five seconds ago (in an object whose transient fields are over 64 KiB: with the defaults).
    """
    return cast(T, Transient(default))


class ContainerField:
    """Notes that a list or map was handed out, so that it is compared when the call ends.

    The first reading of a transient container keeps a copy, because no stored form could bring it
    back when the call is refused. `default` is what the class said in this place.
    """

    __slots__ = ("default", "keeps_copy", "name")

    def __init__(self, name: str, default: Any, *, keeps_copy: bool) -> None:
        self.name = name
        self.default = default
        self.keeps_copy = keeps_copy

    def __get__(self, owner: Object | None, cls: type) -> Any:
        if owner is None:
            return self
        name = self.name
        try:
            value = owner.__dict__[name]
        except KeyError:
            raise AttributeError(f"{type(owner).__name__} has no {name!r}") from None
        if type(value) in UNCHANGEABLE:
            return value
        opened = owner._opened
        if opened is None:
            opened = owner._opened = {}
        if name not in opened:
            opened[name] = copied(value) if self.keeps_copy else None
        return value

    def __set__(self, owner: Object, value: Any) -> None:
        name = self.name
        opened = owner._opened
        if opened is None:
            opened = owner._opened = {}
        if name not in opened:
            opened[name] = owner.__dict__.get(name)
        owner.__dict__[name] = value

    def __delete__(self, owner: Object) -> None:
        del owner.__dict__[self.name]


def copied(value: Any) -> Any:
    """A copy of a list or map and all lists and maps in it; other values as they are."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value
