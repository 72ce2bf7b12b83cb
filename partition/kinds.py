"""Kinds: how the objects of a plugin's class look in the store, and how they come back from there.

Guards the rule that a stored object is a map of its kept fields and nothing of the program: it can
be read by an operator, by the next version of the plugin and by another language. Objects of an
older schema are migrated when they are read; objects of a newer one only if the plugin has the way
down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from connserver.errors import PluginLoadError
from connserver.ids import format_oid
from connserver.limits import OBJECT_BYTES
from connserver.messages import Image
from connserver.plugin.objects import UNCHANGEABLE, Object, copied
from partition.fields import Check, FieldType

USER = "user"
"""The kind of user objects while no plugin names one."""

SYSTEM = "cs."
"""Kinds that begin so are the system's own."""

NAME = "cs.name"
"""The key under which a named object keeps its name; no field can be called so."""

REQUIRED: Any = object()
"""The default of a field that has none."""

Migration = Callable[[dict[str, Any]], dict[str, Any]]

_pack = msgpack.Packer(use_bin_type=True).pack


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a kind; `transient` fields are not stored."""

    name: str
    type: FieldType
    default: Any
    transient: bool

    def fresh(self) -> Any:
        """The default, as a value of its own."""
        default = self.default
        return default if type(default) in UNCHANGEABLE else copied(default)

    def revived(self, value: Any) -> Any:
        """A stored value as the field's; ValueError, TypeError or AttributeError if it does not fit."""
        if self.type.revive is not None:
            value = self.type.revive(value)
        self.type.check(value)
        return value


@dataclass(slots=True, eq=False)
class Kind:
    """A declared kind, prepared. `fields` are in the order in which they were written."""

    name: str
    cls: type[Object]
    schema: int
    plugin: str
    fields: dict[str, Field]
    index: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    up: Mapping[int, Migration] = field(default_factory=dict)
    down: Mapping[int, Migration] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    transients: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    """Kept fields that may hold lists or maps."""
    checks: tuple[tuple[str, Check], ...] = ()

    def __post_init__(self) -> None:
        everything = self.fields.values()
        self.checks = tuple((one.name, one.type.check) for one in everything)
        self.kept = tuple(one.name for one in everything if not one.transient)
        self.transients = tuple(one.name for one in everything if one.transient)
        self.containers = tuple(one.name for one in everything if one.type.container and not one.transient)

    # --- making ---

    def _blank(self, oid: int, named: str) -> Any:
        made: Any = object.__new__(self.cls)
        made._oid = oid
        made._named = named
        made._opened = None
        return made

    def make(self, oid: int, named: str, values: Mapping[str, Any]) -> Object:
        """A new object; TypeError for fields that are missing or unknown."""
        made = self._blank(oid, named)
        attributes = made.__dict__
        for one in self.fields.values():
            value = values.get(one.name, REQUIRED)
            if value is REQUIRED:
                value = one.fresh()
                if value is REQUIRED:
                    raise TypeError(f"a new {self.name} needs the field {one.name!r}")
            attributes[one.name] = value
        if len(attributes) < len(self.fields) or not self.fields.keys() >= values.keys():
            unknown = min(set(values) - set(self.fields))
            raise TypeError(f"kind {self.name} has no field {unknown!r}")
        return made  # type: ignore[no-any-return]

    # --- stored form ---

    def pack(self, one: Object) -> bytes:
        """The kept fields as they are stored; TypeError or ValueError for what cannot be."""
        attributes = one.__dict__
        fields = {name: attributes[name] for name in self.kept}
        if one._named:
            fields[NAME] = one._named
        data: bytes = _pack(fields)
        if len(data) > OBJECT_BYTES:
            raise ValueError(
                f"kind {self.name}: an object takes {len(data)} bytes; at most {OBJECT_BYTES} are kept in one"
            )
        return data

    def read(self, image: Image) -> dict[str, Any]:
        """The stored fields in this schema, with system keys, not revived; PluginLoadError if no way."""
        assert image.data is not None
        fields: dict[str, Any] = msgpack.unpackb(image.data)
        if image.kind == self.name and image.schema != self.schema:
            fields = self._migrated(fields, image)
        return fields

    def load(self, image: Image) -> Object:
        """The object of this image; PluginLoadError if its fields are not those of the kind."""
        fields = self.read(image)
        made = self._blank(image.oid, fields.get(NAME, ""))
        attributes = made.__dict__
        for one in self.fields.values():
            value = REQUIRED if one.transient else fields.get(one.name, REQUIRED)
            if value is REQUIRED:
                value = one.fresh()
                if value is REQUIRED:
                    raise self._unreadable(image, f"has no field {one.name!r}, which has no default")
            else:
                value = self._revived(one, value, image)
            attributes[one.name] = value
        return made  # type: ignore[no-any-return]

    def reread(self, one: Object, data: bytes) -> None:
        """Take the kept lists and maps from the stored form: afterwards nothing else refers to them."""
        fields = msgpack.unpackb(data)
        for name in self.containers:
            if name in fields:
                revive = self.fields[name].type.revive
                one.__dict__[name] = revive(fields[name]) if revive else fields[name]

    def _revived(self, one: Field, value: Any, image: Image) -> Any:
        try:
            return one.revived(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise self._unreadable(image, f"holds something else in {one.name!r}: {error}") from None

    def _unreadable(self, image: Image, what: str) -> PluginLoadError:
        return PluginLoadError(
            f"the stored {self.name} {format_oid(image.oid)} (schema {image.schema}) {what}; "
            f"raise the schema of the kind and declare @plugin.migrate({self.name!r}, to=…)"
        )

    # --- schemas ---

    def path(self, stored: int) -> list[tuple[int, Migration]]:
        """The migrations from a stored schema to this one; PluginLoadError if one is missing."""
        steps = []
        upward = stored < self.schema
        for to in range(stored + 1, self.schema + 1) if upward else range(stored - 1, self.schema - 1, -1):
            step = (self.up if upward else self.down).get(to)
            if step is None:
                how = "" if upward else ", down=True"
                raise PluginLoadError(
                    f"plugin {self.plugin} has kind {self.name} in schema {self.schema}, objects are stored "
                    f"in schema {stored}: @plugin.migrate({self.name!r}, to={to}{how}) is missing"
                )
            steps.append((to, step))
        return steps

    def _migrated(self, fields: dict[str, Any], image: Image) -> dict[str, Any]:
        named = fields.pop(NAME, "")
        for to, step in self.path(image.schema):
            where = f"plugin {self.plugin}: migrate({self.name!r}, to={to})"
            try:
                fields = step(fields)
            except Exception as error:
                raise PluginLoadError(
                    f"{where} failed on {format_oid(image.oid)}: {type(error).__name__}: {error}"
                ) from error
            if not isinstance(fields, dict):
                raise PluginLoadError(f"{where} returned a {type(fields).__name__}, not the map of fields")
        return {**fields, NAME: named} if named else fields

    # --- checking ---

    def check(self, one: Object, before: Mapping[str, Any]) -> None:
        """Refuse values that the annotations do not allow; ValueError names kind and field.

        Looks at fields that are not what they were in `before`, and at those that were opened.
        """
        attributes = one.__dict__
        opened = one._opened or ()
        for name, check in self.checks:
            value = attributes.get(name, REQUIRED)
            if value is before.get(name) and value is not None and name not in opened:
                continue
            if value is REQUIRED:
                raise ValueError(f"kind {self.name}: the field {name!r} was deleted; give it a value instead")
            try:
                check(value)
            except ValueError as error:
                raise ValueError(f"kind {self.name}, field {name!r}: {error}") from None
        if len(attributes) != len(self.fields):
            unknown = sorted(set(attributes) - set(self.fields))
            raise ValueError(f"kind {self.name} has no field {unknown[0]!r}")


@dataclass(slots=True, eq=False)
class Kinds:
    """All kinds of the attached plugins, and which of them user objects have."""

    by_name: dict[str, Kind] = field(default_factory=dict)
    by_class: dict[type[Object], Kind] = field(default_factory=dict)
    user: str = USER

    def __post_init__(self) -> None:
        plain = Kind(name=USER, cls=Object, schema=1, plugin="", fields={})
        self.by_name.setdefault(USER, plain)

    @classmethod
    def of(cls, kinds: Iterable[Kind], user: str = USER) -> Kinds:
        """A table of these kinds."""
        listed = list(kinds)
        return cls({kind.name: kind for kind in listed}, {kind.cls: kind for kind in listed}, user)

    def of_class(self, cls: type[Object]) -> Kind:
        """The kind declared for a class; TypeError if there is none."""
        kind = self.by_class.get(cls)
        if kind is None:
            raise TypeError(f"{getattr(cls, '__name__', cls)} is no class declared with @plugin.kind")
        return kind

    def of_image(self, image: Image) -> Kind | None:
        """The kind in which an image is read: a plain user object becomes one of the plugins' kind.

        None for the system's own, and for kinds of plugins that are not attached.
        """
        name = self.user if image.kind == USER else image.kind
        return self.by_name.get(name)
