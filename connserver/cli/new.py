"""`cs-cluster new`: a game to begin with."""

from __future__ import annotations

import os
from pathlib import Path

import click

from connserver.cli.output import json_option, print_json
from connserver.cli.screen import program
from connserver.errors import ClusterError


@click.command("new")
@click.argument("game")
@click.option("--gateway-port", type=click.IntRange(1, 65_535), default=9000, show_default=True)
@json_option
def new_command(game: str, gateway_port: int, as_json: bool) -> None:
    """Make a folder GAME with a plugin, its test, a cluster.toml and a browser page.

    \b
    Example:
      cs-cluster new meadow
      cd meadow
      cs-cluster dev
    """
    from connserver.scaffold import RESERVED, Game, is_game_name, scaffold

    folder = Path(game)
    if not is_game_name(folder.name) or folder.name in RESERVED:
        raise click.BadParameter(
            "a game's name has at most 32 of a-z, 0-9 and '-', begins with a letter, and is none of "
            + ", ".join(sorted(RESERVED)),
            param_hint="GAME",
        )
    try:
        written = scaffold(Game(name=folder.name, gateway_port=gateway_port), folder)
    except FileExistsError:
        raise ClusterError(f"{folder} is there already; choose another name, or remove it") from None
    except OSError as error:
        raise ClusterError(f"{folder} cannot be made: {error.strerror}") from None
    if as_json:
        print_json({"game": folder.name, "files": [os.fspath(path) for path in written]})
        return
    for path in written:
        click.echo(f"  {path}")
    click.echo(f"\nNow try:\n  cd {folder}\n  {program(Path(folder))} dev")
