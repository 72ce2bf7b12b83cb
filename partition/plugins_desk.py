"""A worker's plugins: what it runs now, what its group's state says it should run, and the way between.

Guards three rules. The group's state decides: cluster.toml counts only for a group that has made no
choice yet. A change is tried in a process of its own, then loaded beside what runs, and only then
switched to, between two calls. And a worker that cannot load the choice of its group says so and does
not take over.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from connserver.config import ClusterConfig
from connserver.errors import PluginLoadError
from connserver.ids import group_range
from connserver.limits import PLUGIN_PACKED_BYTES
from connserver.messages import Image
from connserver.plugin.package import pack
from partition.ledger import Ledger
from partition.objects import Store
from partition.plugins_check import Samples, dry_load, samples_of
from partition.plugins_choice import Choice, Row, Version, choice_oid, read_choice, read_code, write_choice
from partition.plugins_loading import (
    DEFAULT_HANDLER_TIMEOUT_MS,
    PluginShelf,
    Repertoire,
    check_needs,
    empty,
)
from partition.plugins_stage import Stage
from partition.table import PluginTable

ACTIONS = ("attach", "detach", "reload", "rollback")
FOLDER_CHARS = 1_000
LONGEST_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator wants. `code`: a package; `folder`: where that came from; `revision`: of the choice
    that the order was checked against, if it was."""

    action: str
    name: str
    code: bytes
    folder: str
    timeout_ms: int | None
    revision: int | None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Order:
        """Read an administrator's arguments; ValueError says what is wrong with them."""
        known = {"action", "name", "code", "folder", "timeout_ms", "revision", "group", "node"}
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise ValueError(f"unknown argument {unknown[0][:60]!r}")
        action, name = arguments.get("action"), arguments.get("name", "")
        code, folder = arguments.get("code", b""), arguments.get("folder", "")
        if action not in ACTIONS:
            raise ValueError(f"action: one of {', '.join(ACTIONS)} is wanted")
        if not isinstance(name, str) or len(name) > 32 or (not name and action != "attach"):
            raise ValueError("name: the name of a plugin is wanted")
        if not isinstance(folder, str) or len(folder) > FOLDER_CHARS:
            raise ValueError("folder: where the plugin comes from is wanted")
        if not isinstance(code, bytes) or len(code) > PLUGIN_PACKED_BYTES:
            raise ValueError(f"code: a package of at most {PLUGIN_PACKED_BYTES} bytes is wanted")
        if bool(code) != (action in ("attach", "reload")):
            raise ValueError("code: attach and reload bring a package, the others none")
        timeout_ms = _number(arguments, "timeout_ms", 10, LONGEST_TIMEOUT_MS)
        return cls(str(action), name, code, folder, timeout_ms, _number(arguments, "revision", 0, 1 << 53))


def _number(arguments: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = arguments.get(name)
    if value is not None and not (type(value) is int and least <= value <= most):
        raise ValueError(f"{name}: a number from {least} to {most} is wanted")
    return value


@dataclass(frozen=True, slots=True)
class Plan:
    """A change that was tried. `code`: what the new choice names; `row`: None after a detach."""

    before: Choice
    choice: Choice
    code: dict[str, bytes]
    name: str

    def told(self) -> dict[str, Any]:
        """For whoever asked."""
        was, now = self.before.row(self.name), self.choice.row(self.name)
        return {
            "name": self.name,
            "revision": self.before.revision,
            "was": was.chosen.version if was else "",
            "now": now.chosen.version if now else "",
            "digest": now.chosen.digest if now else "",
        }


class PluginDesk:
    """`current`: what is executed, or would be. `problem`: why the group's choice cannot be loaded, or ""."""

    def __init__(
        self, first_partition: int, shelf: PluginShelf, configured: Sequence[tuple[Path, int]]
    ) -> None:
        self.current: Repertoire = empty()
        self.problem = ""
        self._first_partition = first_partition
        self._oid = choice_oid(first_partition)
        self._shelf = shelf
        self._configured = configured
        self._initial = Choice()
        self._initial_code: dict[str, bytes] = {}
        self._initial_error: PluginLoadError | None = None
        self._wanted: Choice | None = None
        self._seen: Image | None = None
        self._trying: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        """Loading runs code of plugins, in a thread: one at a time."""

    # --- what cluster.toml says ---

    def prefetch(self) -> None:
        """Load what a group without a choice begins with; whether that worked counts when it is known
        that the group has none."""
        try:
            choice = Choice()
            for path, timeout_ms in self._configured:
                folder = path.resolve()
                package = pack(folder)
                copy = self._shelf.stage(package.data, str(folder))
                version = Version(copy.manifest.version, package.digest, str(folder))
                choice = choice.attached(copy.manifest.name, version, timeout_ms)
                self._initial_code[package.digest] = package.data
            self._initial = Choice(0, choice.rows)
            self.current = self._shelf.load(self._initial, self._initial_code)
        except (PluginLoadError, OSError) as error:
            self._initial_error = PluginLoadError(str(error))

    # --- following the group's state ---

    def is_behind(self, store: Store) -> bool:
        """Whether the state has another choice than when this was last asked."""
        image = store.image(self._oid)
        if image is self._seen:
            return False
        self._seen = image
        return True

    @property
    def begins_anew(self) -> bool:
        """Whether what cannot be loaded is what cluster.toml says, and not the group's own choice."""
        return self._initial_error is not None and self._wanted is None

    def adopt(self, store: Store) -> None:
        """Have what the state says; PluginLoadError, and then `problem` says why. Blocks while it loads."""
        self._seen = store.image(self._oid)
        choice = read_choice(store, self._first_partition)
        self.load(choice, read_code(store) if self._lacks(choice) else {})

    def wish(self, store: Store) -> tuple[Choice | None, dict[str, bytes]]:
        """What `load` takes, from the state as it is now."""
        choice = read_choice(store, self._first_partition)
        return choice, read_code(store) if self._lacks(choice) else {}

    def _lacks(self, choice: Choice | None) -> bool:
        return choice is not None and choice.rows != self.current.choice.rows

    def load(self, choice: Choice | None, code: Mapping[str, bytes]) -> None:
        """Bring `current` to a choice (None: the group has none); may run in a thread."""
        with self._lock:
            self._wanted = choice
            try:
                if choice is None:
                    if self._initial_error is not None:
                        raise self._initial_error
                    if self.current.choice.rows != self._initial.rows:
                        self.current = self._shelf.load(self._initial, self._initial_code)
                elif choice.rows != self.current.choice.rows:
                    self.current = self._shelf.load(choice, code)
                    self._shelf.tidy(choice.digests | self._trying)
                else:
                    self.current = replace(self.current, choice=choice)
            except PluginLoadError as error:
                self.problem = str(error)
                raise
            self.problem = ""

    def settle(self, store: Store, ledger: Ledger) -> None:
        """A group that has made no choice makes that of cluster.toml, in this turn."""
        if read_choice(store, self._first_partition) is None:
            choice = Choice(1, self.current.choice.rows)
            write_choice(ledger, self._first_partition, choice, self._initial_code)
            self.current = replace(self.current, choice=choice)
            self._seen = store.image(self._oid)

    # --- changes ---

    def basis(self, store: Store) -> tuple[Choice, dict[str, bytes], Samples]:
        """What `plan` needs of the state: the choice, its code, and samples of what is stored."""
        choice = read_choice(store, self._first_partition)
        if choice is None:
            return self.current.choice, dict(self._initial_code), samples_of(store)
        return choice, read_code(store), samples_of(store)

    def plan(self, order: Order, basis: tuple[Choice, dict[str, bytes], Samples]) -> Plan:
        """Work a change out and try it, in a process of its own; PluginLoadError. Blocks: for a thread."""
        before, code, samples = basis
        if order.revision is not None and order.revision != before.revision:
            raise PluginLoadError(
                f"somebody else has changed the plugins meanwhile (revision {before.revision}, not "
                f"{order.revision}); look at `cs-cluster plugin list` and try again"
            )
        name, after = self._changed(order, before, code)
        self._trying = frozenset(after.digests)
        with self._lock:
            copies = self._shelf.staged(after, code)
        check_needs(copy.manifest for copy, _ in copies)
        refused = dry_load(copies, samples, needs_login=self._shelf.needs_login)
        if refused:
            raise PluginLoadError(refused)
        return Plan(before, after, code, name)

    def _changed(self, order: Order, before: Choice, code: dict[str, bytes]) -> tuple[str, Choice]:
        if order.action == "detach":
            return order.name, before.detached(order.name)
        if order.action == "rollback":
            return order.name, before.rolled_back(order.name)
        copy = self._shelf.stage(order.code, order.folder)
        manifest = copy.manifest
        code[copy.digest] = order.code
        version = Version(manifest.version, copy.digest, order.folder)
        if order.action == "attach":
            return manifest.name, before.attached(
                manifest.name, version, order.timeout_ms or DEFAULT_HANDLER_TIMEOUT_MS
            )
        if manifest.name != order.name:
            raise PluginLoadError(f"{order.folder} is plugin {manifest.name}, not {order.name}")
        return order.name, before.reloaded(order.name, version, order.timeout_ms)

    def prepare(self, plan: Plan) -> Repertoire:
        """Load the new versions beside those that run; PluginLoadError. Blocks: for a thread."""
        with self._lock:
            return self._shelf.load(plan.choice, plan.code)

    def switched(self, plan: Plan, new: Repertoire, store: Store, ledger: Ledger) -> dict[str, Any]:
        """The dispatcher uses the new ones: the choice is kept in this turn. What is told of it."""
        told = {**plan.told(), "way_back": way_back(self.current.table, new.table, plan.name)}
        write_choice(ledger, self._first_partition, plan.choice, plan.code)
        self.current, self.problem = new, ""
        self._seen = store.image(self._oid)
        return told

    def tidy(self) -> None:
        """Nothing is tried now: forget what no choice names any more."""
        self._trying = frozenset()
        with self._lock:
            self._shelf.tidy(self.current.choice.digests | self._trying)

    # --- for status ---

    def rows(self) -> list[dict[str, Any]]:
        """What `plugin list` shows of this worker."""
        wanted = self._wanted if self.problem and self._wanted is not None else None
        choice = wanted or self.current.choice
        state = f"cannot be loaded: {self.problem}"[:FOLDER_CHARS] if self.problem else "attached"
        return [_shown(row, state) for row in choice.rows]


def plugin_desk(config: ClusterConfig, node_dir: Path, group: int) -> PluginDesk:
    """The desk of a node's worker of this group."""
    configured = [(one.path, one.handler_timeout_ms) for one in config.plugins if one.in_group(group)]
    limits_ms = {str(path.resolve()): timeout_ms for path, timeout_ms in configured}
    stage = Stage(node_dir / "plugins" / str(group))
    shelf = PluginShelf(stage, limits_ms, needs_login=config.auth.provider == "plugin")
    return PluginDesk(group_range(group, config.cluster.partition_groups)[0], shelf, configured)


def _shown(row: Row, state: str) -> dict[str, Any]:
    previous = row.previous
    return {
        "name": row.name,
        "version": row.chosen.version,
        "digest": row.chosen.digest,
        "state": state,
        "previous": previous.version if previous else "",
        "previous_digest": previous.digest if previous else "",
        "folder": row.chosen.folder,
    }


def way_back(old: PluginTable, new: PluginTable, name: str) -> str:
    """Why a reload of a plugin could not be rolled back once objects are written by it, or ""."""
    for kind in old.kinds.by_name.values():
        newer = new.kinds.by_name.get(kind.name)
        if kind.plugin != name or newer is None:
            continue
        for to in range(newer.schema - 1, kind.schema - 1, -1):
            if to not in newer.down and to not in kind.down:
                return f"@plugin.migrate({kind.name!r}, to={to}, down=True) is missing"
    return ""
