"""What the host calls when a library asks for something: the functions behind the table of connserver.h.

Guards two rules. A library gets what a Python plugin gets, by the same context, and is checked by it. Bytes
from a library are hostile until they are values of the model: no extension types, bounded nesting, keys
that are text; what the values may be is checked where a Python plugin's are.

The first argument is the context of the running call; None in a migration, which has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from connserver.plugin.objects import Object
from connserver.plugin.references import Ref
from partition.context import RunContext
from partition.kinds import Kind

_LEVELS = ("debug", "info", "warning", "error")

pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True).pack
"""A value of the model as a library reads it; references are text."""


def unpack(data: bytes) -> Any:
    """What a library handed over; ValueError if it is no value."""
    try:
        return msgpack.unpackb(data, strict_map_key=True, ext_hook=_no_extension)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"{len(data)} bytes are no value: {error or type(error).__name__}") from None


def unpack_map(data: bytes, what: str) -> dict[str, Any]:
    """The same where a map is wanted; no bytes at all are an empty one."""
    if not data:
        return {}
    found = unpack(data)
    if type(found) is not dict:
        raise ValueError(f"{what}: a map is wanted, not a {type(found).__name__}")
    for name in found:
        if type(name) is not str:
            raise ValueError(f"{what}: the keys of a map are text")
    return found


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is none of ours")


# --- objects ------------------------------------------------------------------------------------------


def get(context: RunContext, oid: int) -> tuple[bytes, bytes, bytes] | None:
    """(kind, name, fields) of an object of this partition."""
    found = _context(context).transaction.get(oid)
    if found is None:
        return None
    kind = context.plugins.kinds.by_class.get(type(found))
    return kind.name.encode() if kind is not None else b"", found._named.encode(), pack(found.__dict__)


def put(context: RunContext, oid: int, fields: bytes) -> None:
    """Write fields of an object."""
    _put(_context(context), oid, unpack_map(fields, "put"))


def put_many(context: RunContext, objects: bytes) -> None:
    """Write fields of many objects: [[oid, fields], …]."""
    rows = unpack(objects)
    if type(rows) is not list:
        raise ValueError("put_many: an array of [oid, fields] is wanted")
    _context(context)
    for row in rows:
        if type(row) is not list or len(row) != 2 or type(row[0]) is not int or type(row[1]) is not dict:
            raise ValueError("put_many: an array of [oid, fields] is wanted")
        _put(context, row[0], row[1])


def _put(context: RunContext, oid: int, fields: dict[str, Any]) -> None:
    found = context.transaction.get(oid)
    if found is None:
        raise ValueError(f"put: there is no object {oid:016x}")
    kind = context.plugins.kinds.by_class.get(type(found))
    if kind is None:
        raise ValueError(f"put: object {oid:016x} is of a kind that no attached plugin declares")
    known = kind.fields
    for name, value in fields.items():
        field = known.get(name)
        if field is None:
            raise ValueError(f"kind {kind.name} has no field {name!r}")
        setattr(found, name, value if field.type.revive is None else field.type.revive(value))


def _revived(kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as Python keeps them; their values are checked when the call ends."""
    revived = {}
    for name, value in fields.items():
        field = kind.fields.get(name)
        if field is None:
            raise ValueError(f"kind {kind.name} has no field {name!r}")
        revived[name] = field.type.revive(value) if field.type.revive is not None else value
    return revived


def create(context: RunContext, kind: str, name: str, fields: bytes) -> int:
    """Make an object; its id."""
    of = _kind(_context(context), kind)
    values = _revived(of, unpack_map(fields, "create"))
    objects = context.objects
    if name:
        return objects.create_named(of.cls, name, **values).oid
    return objects.create(of.cls, **values).oid


def remove(context: RunContext, oid: int) -> None:
    """Remove an object, if it is there."""
    _context(context).objects.delete(oid)


def where(context: RunContext, kind: str, match: bytes) -> bytes:
    """[[oid, name, fields], …] of the objects whose fields are so."""
    of = _kind(_context(context), kind)
    wanted = _revived(of, unpack_map(match, "where"))
    return pack([[one._oid, one._named, one.__dict__] for one in context.objects.where(of.cls, **wanted)])


def named(context: RunContext, kind: str, name: str) -> int:
    """The id of the object of this kind and name."""
    of = _kind(_context(context), kind)
    return context.objects.named(of.cls, name).oid


def user(context: RunContext, name: str) -> int:
    """The id of the user object of this login name."""
    return _context(context).objects.user(name).oid


def _kind(context: RunContext, name: str) -> Kind:
    kind = context.plugins.kinds.by_name.get(name)
    if kind is None or kind.cls is Object:
        raise ValueError(f"no attached plugin declares a kind {name!r}")
    return kind


# --- effects ------------------------------------------------------------------------------------------


def call(context: RunContext, target: int, name: str, method: str, arguments: bytes, then: str) -> int:
    """Call an internal method on another object; the number of the call."""
    given = unpack_map(arguments, f"the arguments of {method}")
    reply = _context(context).call(Ref(target, name), method, then=then or None, **given)
    return reply.call


def tell(context: RunContext, to: int, event: str, fields: bytes) -> None:
    """Send an event to a user's sessions."""
    _context(context).tell(to, event, **unpack_map(fields, event))


def room_send(context: RunContext, room: str, fields: bytes) -> None:
    """Send an ordered event to a room."""
    _context(context).room(room).send(**unpack_map(fields, "an event to a room"))


def room_update(context: RunContext, room: str, key: str, value: bytes, at: tuple[float, ...]) -> None:
    """Set a volatile value in a room; `at` empty: for all members."""
    _context(context).room(room).update(key, unpack(value), at=(at[0], at[1]) if at else None)


def room_member(context: RunContext, room: str, user: int, join: bool) -> None:
    """Make a user a member of a room, or end that."""
    found = _context(context).room(room)
    if join:
        found.join(user)
    else:
        found.leave(user)


def timer_set(
    context: RunContext, oid: int, name: str, method: str, after_s: float, arguments: bytes
) -> None:
    """Set a durable timer."""
    given = unpack_map(arguments, f"the arguments of {method}")
    _context(context).timer(name, oid).set(method, after_s=after_s, **given)


def timer_cancel(context: RunContext, oid: int, name: str) -> None:
    """Forget a timer."""
    _context(context).timer(name, oid).cancel()


# --- the rest -----------------------------------------------------------------------------------------


def log(context: RunContext, level: int, text: str, facts: bytes) -> None:
    """A line for the operator."""
    if not 0 <= level < len(_LEVELS):
        raise ValueError(f"log: {level} is no level")
    getattr(_context(context).log, _LEVELS[level])(text, **unpack_map(facts, "the facts of a line"))


def about(context: RunContext) -> tuple[int, float, float, int, int, bytes, bytes]:
    """What is known of the call: partition, now, dt, user, session, user name, roles."""
    known = _context(context)
    user = known.user
    return (
        known.partition,
        known.now,
        known.dt,
        user.oid if user is not None else 0,
        known.session,
        known.user_name.encode(),
        pack(sorted(known.roles)),
    )


def random(context: RunContext) -> float:
    """A number within 0..1."""
    return _context(context).random.random()


def _context(context: RunContext | None) -> RunContext:
    if context is None:
        raise ValueError("a migration has nothing but the fields: it may use reply, fail and alloc")
    return context


OPERATIONS: tuple[Callable[..., Any], ...] = (
    get,
    put,
    create,
    remove,
    where,
    put_many,
    named,
    user,
    call,
    tell,
    room_send,
    room_update,
    room_member,
    timer_set,
    timer_cancel,
    log,
    about,
    random,
)
"""In the order of `enum operation` in host.h."""
