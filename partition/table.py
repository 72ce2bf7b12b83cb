"""Everything the attached plugins offer, by name: what the dispatcher looks up.

Guards the rule that a table is complete and consistent when it exists: `partition.assembly` makes it
and refuses what does not fit together, so that attaching a plugin happens whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from connserver.errors import PluginLoadError
from connserver.model import Message
from connserver.plugin.declare import Presence
from partition.arguments import Signature
from partition.kinds import USER, Kind, Kinds
from partition.objects import Store


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """A callback, prepared: of clients (`internal` False), of plugins, or of the cluster's own clock.

    `roles` empty: any role. `rate_hz` 0: no bound of its own. `create`: makes the named object it is
    called on, if that is missing.
    """

    name: str
    plugin: str
    version: str
    function: Callable[..., Any]
    signature: Signature
    internal: bool = False
    roles: frozenset[str] = frozenset()
    rate_hz: float = 0.0
    create: bool = False

    def describe(self) -> Message:
        """What a client's author wants to know."""
        told: Message = {
            "name": self.name,
            "plugin": self.plugin,
            "version": self.version,
            "arguments": [parameter.describe() for parameter in self.signature.parameters],
        }
        if self.signature.rest:
            told["other_fields"] = True
        if self.rate_hz:
            told["rate_hz"] = self.rate_hz
        return told


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Every:
    """A callback that runs by the clock in each partition with objects of `kinds` (and as `where` says)."""

    name: str
    method: Method
    period_s: float
    kinds: tuple[Kind, ...]
    where: Mapping[str, Any]

    def partitions(self, store: Store) -> list[int]:
        """The partitions in which it runs now, in order."""
        found: set[int] = set()
        for kind in self.kinds:
            if not self.where:
                found.update(store.partitions(kind.name))
                continue
            index = store.index(kind)
            found.update(
                set.intersection(*(set(index.partitions(name, value)) for name, value in self.where.items()))
            )
        return sorted(found)


@dataclass(slots=True, kw_only=True, eq=False)
class PluginTable:
    """What is attached. `plugins`: name → version."""

    plugins: dict[str, str] = field(default_factory=dict)
    kinds: Kinds = field(default_factory=Kinds)
    methods: dict[str, Method] = field(default_factory=dict)
    internals: dict[str, Method] = field(default_factory=dict)
    by_function: dict[Callable[..., Any], Method] = field(default_factory=dict)
    everies: dict[str, Every] = field(default_factory=dict)
    hooks: dict[Presence, list[Method]] = field(default_factory=dict)
    backgrounds: dict[str, Callable[..., Any]] = field(default_factory=dict)
    login: Method | None = None

    @property
    def user_kind(self) -> str:
        """The kind of user objects: the plugins', or the built-in "user"."""
        return self.kinds.user

    def describe(self, roles: frozenset[str]) -> list[Message]:
        """The methods that a session with these roles may call, by name."""
        return [
            method.describe()
            for _, method in sorted(self.methods.items())
            if not method.roles or not method.roles.isdisjoint(roles)
        ]

    def internal_of(self, callback: Callable[..., Any] | str) -> Method:
        """The internal method that a plugin means; TypeError says how to declare it."""
        found = self.internals.get(callback) if isinstance(callback, str) else self.by_function.get(callback)
        if found is None:
            name = callback if isinstance(callback, str) else getattr(callback, "__name__", repr(callback))
            raise TypeError(
                f"{name} is no internal method of an attached plugin: declare it @plugin.internal"
            )
        return found

    def background_of(self, function: Callable[..., Any] | str) -> str:
        """The full name of a background function; TypeError says how to declare it."""
        for name, known in self.backgrounds.items():
            if function == name or function is known:
                return name
        name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        raise TypeError(f"{name} is no background function: declare it @plugin.background")

    def require_login(self) -> None:
        """PluginLoadError unless one of the plugins decides who may log in."""
        if self.login is None:
            names = ", ".join(sorted(self.plugins)) or "none are attached"
            raise PluginLoadError(
                '[auth] provider = "plugin", but no attached plugin declares @plugin.login '
                f"({names}): attach one that does to all groups, or choose another provider"
            )

    def kind_of_user(self) -> Kind:
        """The kind in which user objects are made."""
        return self.kinds.by_name[self.kinds.user]

    def refuse_unreadable(self, store: Store) -> None:
        """PluginLoadError if objects are stored in a schema from which no migration leads to the plugin's."""
        self.refuse_schemas(store.schemas())

    def refuse_schemas(self, stored: Mapping[str, set[int]]) -> None:
        """The same for the schemas that are stored, by kind."""
        for name, schemas in sorted(stored.items()):
            kind = self.kinds.by_name.get(name)
            if kind is None or name == USER:
                continue
            for schema in sorted(schemas):
                try:
                    kind.path(schema)
                except PluginLoadError as error:
                    raise PluginLoadError(f"{error}; nothing was changed") from None
