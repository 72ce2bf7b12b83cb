"""What an operator sees and changes of the objects, and how user objects come to be.

Guards the rule that an operator's write is checked like a plugin's: it goes through a transaction,
with the annotations, unique values and bounds of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from connserver.errors import ClientError, PluginLoadError, WrongPartition
from connserver.ids import format_oid, partition_of
from connserver.limits import ADMIN_ROWS
from connserver.messages import Image
from connserver.model import Message, Value
from partition.effects import Outcome
from partition.kinds import NAME, SYSTEM, Kind
from partition.objects import Store
from partition.table import PluginTable
from partition.transaction import Transaction


def get(store: Store, oid: int) -> Message:
    """All that is kept of an object; ClientError `not_found`."""
    image = store.image(oid)
    if image is None:
        raise ClientError("not_found", f"there is no object {format_oid(oid)}")
    return _shown(image)


def _shown(image: Image) -> Message:
    fields = _fields(image)
    name = fields.pop(NAME, "")
    shown: Message = {
        "oid": format_oid(image.oid),
        "kind": image.kind,
        "schema": image.schema,
        "fields": fields,
    }
    if name:
        shown["name"] = name
    return shown


def _fields(image: Image) -> dict[str, Any]:
    if image.data is None:
        return {}
    fields = msgpack.unpackb(image.data, strict_map_key=False)
    return fields if isinstance(fields, dict) else {"data": fields}


def name_of(store: Store, oid: int) -> str | None:
    """The name of a named object; "" for one without, None where there is no object of a plugin."""
    image = store.image(oid)
    if image is None or image.kind.startswith(SYSTEM):
        return None
    return str(_fields(image).get(NAME, ""))


def listed(store: Store, kind: str, after: int, limit: int) -> Message:
    """Objects of a kind ("" = all of plugins) with ids above `after`; `next`: the last id if more follow."""
    rows: list[Value] = []
    most = max(1, min(limit, ADMIN_ROWS))
    for image in store.images(kind):
        if image.oid <= after or (not kind and image.kind.startswith(SYSTEM)):
            continue
        if len(rows) == most:
            return {"objects": rows, "next": _last_oid(rows)}
        rows.append(_shown(image))
    return {"objects": rows, "next": None}


def _last_oid(rows: list[Value]) -> Value:
    last = rows[-1]
    assert isinstance(last, dict)
    return last["oid"]


def create(
    store: Store, plugins: PluginTable, kind: Kind, oid: int, name: str, fields: Mapping[str, Any]
) -> Outcome:
    """Make one object."""
    transaction = Transaction(store, plugins.kinds, partition_of(oid))
    return _finished(transaction, lambda: transaction.create(kind, fields, oid, name))


def put(
    store: Store,
    plugins: PluginTable,
    oid: int | None,
    kind_name: str,
    fields: Mapping[str, Value],
    near: int | None,
) -> Outcome:
    """Change the given fields of an object, or make one with them."""
    kind = plugins.kinds.by_name.get(kind_name)
    if kind is None:
        known = ", ".join(sorted(plugins.kinds.by_name)) or "none"
        return Outcome(error=ClientError("bad_argument", f"kind: {kind_name!r} is none of {known}"))
    if oid is None and near is None:
        return Outcome(error=ClientError("bad_argument", "near: say in whose partition the object is made"))
    place = near if oid is None else oid
    assert place is not None
    transaction = Transaction(store, plugins.kinds, partition_of(place))

    def change() -> object:
        values = _revived(kind, fields)
        found = transaction.get(oid) if oid is not None else None
        if found is None:
            return transaction.create(kind, values, oid)
        if type(found) is not kind.cls:
            raise ValueError(f"{format_oid(found.oid)} is of another kind than {kind_name}")
        for name, value in values.items():
            setattr(found, name, value)
        return found

    return _finished(transaction, change)


def _revived(kind: Kind, fields: Mapping[str, Value]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in fields.items():
        field = kind.fields.get(name)
        if field is None:
            raise ValueError(f"kind {kind.name} has no field {name!r}")
        values[name] = field.type.revive(value) if field.type.revive else value
    return values


def delete(store: Store, plugins: PluginTable, oid: int) -> Outcome:
    """Remove one object; ClientError `not_found`."""
    transaction = Transaction(store, plugins.kinds, partition_of(oid))

    def change() -> object:
        if transaction.get(oid) is None:
            raise ClientError("not_found", f"there is no object {format_oid(oid)} of a plugin")
        transaction.delete(oid)
        return None

    return _finished(transaction, change)


def _finished(transaction: Transaction, change: Any) -> Outcome:
    try:
        made = change()
        images, changed = transaction.finish()
    except ClientError as error:
        transaction.roll_back()
        return Outcome(error=error)
    except (ValueError, TypeError, AttributeError, WrongPartition, PluginLoadError) as error:
        transaction.roll_back()
        return Outcome(error=ClientError("bad_argument", str(error)))
    result: Message | None = None if made is None else {"oid": format_oid(made.oid)}
    return Outcome(result=result, images=images, transient_only=changed and not images)
