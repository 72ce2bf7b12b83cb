"""From a choice to what can be executed: the code is staged, loaded and assembled into a table.

Guards two rules. Loading changes nothing: a repertoire is complete or there is none. And one version is
loaded once in a worker's life, so that a change of one plugin leaves the classes of all others as they
are; what no choice names any more is let go of.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from connserver.errors import PluginLoadError
from connserver.plugin.declare import Plugin
from partition.assembly import assemble
from partition.deadline import Patience
from partition.loader import PACKAGE, load_manifest
from partition.manifest import Manifest
from partition.plugins_choice import Choice, Row, Version
from partition.plugins_stage import Stage, Staged, in_words_of
from partition.table import PluginTable

DEFAULT_HANDLER_TIMEOUT_MS = 250


@dataclass(frozen=True, slots=True)
class Repertoire:
    """A choice, the table it makes, and how long its callbacks may run."""

    choice: Choice
    table: PluginTable
    patience: Patience


def empty() -> Repertoire:
    """What a worker has before it knows its choice."""
    return Repertoire(Choice(), PluginTable(), patience_of(Choice(), {}))


def patience_of(choice: Choice, configured_ms: Mapping[str, int]) -> Patience:
    """The time limits of the attached plugins: what cluster.toml says of a plugin's folder comes first."""
    limits = {row.name: configured_ms.get(row.chosen.folder, row.timeout_ms) / 1000 for row in choice.rows}
    return Patience(limits, DEFAULT_HANDLER_TIMEOUT_MS / 1000)


def check_needs(manifests: Iterable[Manifest]) -> None:
    """PluginLoadError if a plugin needs one that is not among them."""
    listed = list(manifests)
    names = {manifest.name for manifest in listed}
    for manifest in listed:
        for needed in manifest.needs:
            if needed not in names:
                raise PluginLoadError(
                    f"plugin {manifest.name} {manifest.version} needs plugin {needed}, which is not attached"
                )


class PluginShelf:
    """The versions that a worker has loaded, and the copies they come from.

    `configured_ms`: the time limits in cluster.toml, by folder. `needs_login`: a plugin has to decide who
    logs in.
    """

    def __init__(self, stage: Stage, configured_ms: Mapping[str, int], *, needs_login: bool = False) -> None:
        self.needs_login = needs_login
        self._stage = stage
        self._configured_ms = configured_ms
        self._plugins: dict[str, tuple[Staged, Plugin]] = {}

    def stage(self, data: bytes, source: str) -> Staged:
        """Copy a package to this node; PluginLoadError."""
        return self._stage.take(data, source)

    def staged(self, choice: Choice, code: Mapping[str, bytes]) -> list[tuple[Staged, Staged | None]]:
        """The copies of a choice's versions, each with its lender's; made where they are missing."""
        return [
            (
                self._copy(row, row.chosen, code),
                None if row.lender is None else self._copy(row, row.lender, code),
            )
            for row in choice.rows
        ]

    def _copy(self, row: Row, version: Version, code: Mapping[str, bytes]) -> Staged:
        found = self._stage.find(row.name, version.digest, version.folder)
        if found is not None:
            return found
        data = code.get(version.digest)
        if data is None:
            raise PluginLoadError(
                f"plugin {row.name} {version.version}: its code ({version.digest[:8]}) is neither on this "
                f"node nor in the group's state; `cs-cluster plugin reload {row.name} PATH` brings it back"
            )
        return self._stage.take(data, version.folder)

    def load(self, choice: Choice, code: Mapping[str, bytes]) -> Repertoire:
        """Everything of a choice, ready to be executed; PluginLoadError says what cannot be and why."""
        copies = self.staged(choice, code)
        check_needs(copy.manifest for copy, _ in copies)
        plugins = [self._load(copy) for copy, _ in copies]
        lenders = [self._load(lender) for _, lender in copies if lender is not None]
        try:
            table = assemble(plugins, lenders)
            if self.needs_login:
                table.require_login()
        except PluginLoadError as error:
            raise PluginLoadError(_told(str(error), [*copies])) from None
        return Repertoire(choice, table, patience_of(choice, self._configured_ms))

    def _load(self, copy: Staged) -> Plugin:
        known = self._plugins.get(copy.digest)
        if known is not None:
            return known[1]
        try:
            plugin = load_manifest(copy.manifest)
        except PluginLoadError as error:
            forget_modules(copy.manifest.folder)
            raise PluginLoadError(in_words_of(str(error), copy.manifest.folder, copy.source)) from None
        self._plugins[copy.digest] = copy, plugin
        return plugin

    def tidy(self, digests: Set[str]) -> None:
        """Let go of all versions but these."""
        for digest in set(self._plugins) - digests:
            copy, _ = self._plugins.pop(digest)
            forget_modules(copy.manifest.folder)
        self._stage.keep(digests)


def _told(text: str, copies: list[tuple[Staged, Staged | None]]) -> str:
    for pair in copies:
        for copy in pair:
            if copy is not None:
                text = in_words_of(text, copy.manifest.folder, copy.source)
    return text


def forget_modules(folder: Path) -> None:
    """Take the modules that were imported from a folder out of the interpreter's table."""
    for name, module in list(sys.modules.items()):
        if name.startswith(PACKAGE):
            places = [*getattr(module, "__path__", ()), getattr(module, "__file__", "") or ""]
            if any(Path(place).is_relative_to(folder) for place in places if place):
                del sys.modules[name]
