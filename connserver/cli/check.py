"""`cs-cluster check`: every fault of a configuration at once."""

from __future__ import annotations

import click

from connserver.cli.find import load
from connserver.cli.login_check import login_problem
from connserver.cli.output import json_option, print_json
from connserver.errors import ConfigError, Fault


@click.command("check")
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@json_option
@click.pass_context
def check_command(context: click.Context, file: str | None, as_json: bool) -> int:
    """Print every fault of a cluster.toml as `file:line: what is wrong and what to do`.

    Reads what `up` would read: the file, local.toml beside it, and CS_… variables. Where a plugin
    decides who may log in, the plugins are loaded too, in a process of their own. Exit status 1 if
    there is a fault.

    \b
    Example:
      cs-cluster check cluster.toml
    """
    try:
        config = load(context, file)
        if config.auth.provider == "plugin":
            problem = login_problem(config)
            if problem:
                raise ConfigError([Fault(config.file.name, 0, problem)])
    except ConfigError as error:
        if as_json:
            faults = [
                {"file": fault.file, "line": fault.line, "message": fault.message} for fault in error.faults
            ]
            print_json({"faults": faults})
        else:
            for fault in error.faults:
                click.echo(str(fault))
        return 1
    if as_json:
        print_json({"faults": []})
    else:
        gateways = sum(len(node.gateways) for node in config.nodes)
        click.echo(
            f"{config.file.name}: no faults ({config.cluster.name}: {len(config.nodes)} nodes, "
            f"{gateways} gateways, {config.cluster.partition_groups} partition groups)"
        )
    return 0
