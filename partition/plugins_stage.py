"""The node's copies of the plugins' code: one folder per content, from which it is imported.

Guards three rules. What runs is what was attached: a copy lies under the digest of its contents and is
made anew if it holds anything else. A copy is there whole or not at all. And only the group's own
worker removes copies, so each group has its own folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from connserver.errors import PluginLoadError
from connserver.plugin.package import digest_of, pack, unpack
from partition.manifest import Manifest, read_manifest

BEGUN = ".new-"
"""A folder that is being written; one that is found was left by a worker that died."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A plugin's copy: `folder`/plugin.toml and so on. `source`: where it came from, for messages."""

    manifest: Manifest
    digest: str
    source: str


class Stage:
    """The copies below `root`/NAME/DIGEST."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def take(self, data: bytes, source: str) -> Staged:
        """Copy a package; PluginLoadError if it is none, or its plugin.toml is wrong."""
        files = unpack(data)
        digest = digest_of(files)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        begun = Path(tempfile.mkdtemp(prefix=BEGUN, dir=self._root))
        try:
            for name, content in files.items():
                path = begun / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            name = self._manifest(begun, source).name
            final = self._root / name / digest
            if not self._is_whole(final, digest):
                shutil.rmtree(final, ignore_errors=True)
                final.parent.mkdir(exist_ok=True)
                begun.rename(final)
        except OSError as error:
            raise PluginLoadError(f"{error.filename}: {error.strerror}; the plugin was not copied") from None
        finally:
            shutil.rmtree(begun, ignore_errors=True)
        return Staged(self._manifest(final, source), digest, source)

    def find(self, name: str, digest: str, source: str) -> Staged | None:
        """The copy of a version; None if it is not there, or not what it should be."""
        folder = self._root / name / digest
        return (
            Staged(self._manifest(folder, source), digest, source) if self._is_whole(folder, digest) else None
        )

    def keep(self, digests: Set[str]) -> None:
        """Remove all other copies, and what was left half made."""
        for folder in self._root.glob("*"):
            if folder.name.startswith(BEGUN):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for copy in folder.glob("*"):
                if copy.name not in digests:
                    shutil.rmtree(copy, ignore_errors=True)

    def _is_whole(self, folder: Path, digest: str) -> bool:
        try:
            return folder.is_dir() and pack(folder).digest == digest
        except PluginLoadError:
            return False

    def _manifest(self, folder: Path, source: str) -> Manifest:
        try:
            return read_manifest(folder)
        except PluginLoadError as error:
            raise PluginLoadError(in_words_of(str(error), folder, source)) from None


def in_words_of(text: str, copy: Path, source: str) -> str:
    """A message about the copy as one about the folder that the author knows."""
    return text.replace(str(copy), source) if source else text
