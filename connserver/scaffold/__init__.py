"""What `cs-cluster new` writes: the files of a small game, as templates.

Each template is a file of this folder with `.template` at its end; GAME_NAME, GAME_MODULE and
GATEWAY_PORT in it stand for what was asked for. Nothing else is replaced, so that a template reads
like the file it becomes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

TEMPLATES: Final = {
    "cluster.toml": "cluster.toml",
    "README.md": "README.md",
    "index.html": "web/index.html",
    "plugin.toml": "plugin/plugin.toml",
    "main.py": "plugin/main.py",
    "test_game.py": "tests/test_GAME_MODULE.py",
}
"""Template → where it goes in the new folder."""

PLUGIN_TEMPLATES: Final = {"plugin_alone.toml": "plugin.toml", "plugin_main.py": "main.py"}
"""The same for a plugin alone."""

COPIES: Final = {"connserver.min.js": "web/connserver.min.js"}
"""File of connserver.client → where it goes, as it is."""

RESERVED: Final = frozenset({"cs", "room", "session"})
"""Names that belong to the built-in methods."""

is_game_name = re.compile(r"[a-z][a-z0-9-]{0,31}\Z").match
"""A game's name is also its cluster's and its plugin's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """What the templates are filled with."""

    name: str
    gateway_port: int

    def fill(self, text: str) -> str:
        """A template's text, or a path, with this game in it."""
        words = {
            "GAME_NAME": self.name,
            "GAME_MODULE": self.name.replace("-", "_"),
            "GATEWAY_PORT": str(self.gateway_port),
        }
        return re.sub("|".join(words), lambda found: words[found[0]], text)


def scaffold(game: Game, folder: Path) -> list[Path]:
    """Write the game into a new folder; its files. FileExistsError if the folder is there already."""
    written = _write(TEMPLATES, game, folder)
    for source, target in COPIES.items():
        path = folder / target
        path.write_bytes(files("connserver.client").joinpath(source).read_bytes())
        written.append(path)
    return written


def scaffold_plugin(name: str, folder: Path) -> list[Path]:
    """Write a plugin alone into a new folder; its files. FileExistsError if the folder is there already."""
    return _write(PLUGIN_TEMPLATES, Game(name=name, gateway_port=0), folder)


def _write(templates: Mapping[str, str], game: Game, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    written = []
    for template, target in templates.items():
        text = files(__package__).joinpath(f"{template}.template").read_text(encoding="utf-8")
        path = folder / game.fill(target)
        path.parent.mkdir(exist_ok=True)
        path.write_text(game.fill(text), encoding="utf-8")
        written.append(path)
    return written
