"""`cs-cluster plugin …`: which plugins the workers have attached."""

from __future__ import annotations

import click

from connserver.cli.find import admin
from connserver.cli.output import console, json_option, print_json, table
from connserver.cli.plugin_build import build_command


@click.group("plugin")
def plugin_command() -> None:
    """Which plugins are attached, and where.

    \b
    Example:
      cs-cluster plugin list
    """


plugin_command.add_command(build_command)


@plugin_command.command("list")
@json_option
@click.pass_context
def list_command(context: click.Context, as_json: bool) -> None:
    """List the plugins of every worker, with their versions.

    \b
    Example:
      cs-cluster plugin list --json
    """
    with admin(context) as cluster:
        answer = cluster.ask("plugin.list")
    if as_json:
        print_json(answer)
        return
    rows = [
        (
            row.get("name", ""),
            row.get("version", ""),
            row["node"],
            row["group"],
            "primary" if row["primary"] else "backup",
            row.get("state", "ready"),
        )
        for row in answer["plugins"]
    ]
    console().print(table(("plugin", "version", "node", "group", "role", "state"), rows))
