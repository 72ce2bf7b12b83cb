"""`cs-cluster`: one module per group of commands, imported when one of its commands is run.

Guards two rules. `cs-cluster --help` costs next to nothing, so nothing but click is imported here.
And every failure ends the same way: a sentence that says what happened and what to do, on standard
error, and exit status 1 (2 for a command line that cannot be understood).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final, NoReturn

import click

COMMANDS: Final = {
    "up": ("connserver.cli.up", "Start this host's processes and watch over them."),
    "down": ("connserver.cli.down", "Stop them in order."),
    "status": ("connserver.cli.status", "Nodes, processes, gateways, groups, storage and alerts."),
    "routes": ("connserver.cli.status", "Where each partition group is served."),
    "route": ("connserver.cli.status", "From an object, partition, room or user to who serves it."),
    "send": ("connserver.cli.talk", "Send one message to a gateway and print the reply."),
    "client": ("connserver.cli.talk", "A client at the terminal, in any encoding."),
    "object": ("connserver.cli.objects", "Look at and change objects of the running world."),
    "session": ("connserver.cli.people", "Who is logged in; end a user's sessions."),
    "room": ("connserver.cli.people", "Which rooms there are, and who is in them."),
    "call": ("connserver.cli.people", "Calls between objects that wait for an operator."),
    "plugin": ("connserver.cli.plugins", "Attach, detach, reload, roll back and list plugins."),
    "failover": ("connserver.cli.failover", "Hand a group's primacy to another node, in order."),
    "recover": ("connserver.cli.recover", "A new era for groups that lost their logs on a majority."),
    "drill": ("connserver.cli.drill", "Break something under load, and count what was lost."),
    "logs": ("connserver.cli.logs", "All processes' logs in one stream; an incident's traceback."),
    "check": ("connserver.cli.check", "Every fault of a cluster.toml, with its line."),
    "new": ("connserver.cli.new", "Make a new game: plugin, test, cluster.toml and a page."),
    "dev": ("connserver.cli.dev", "Run the game in this folder, reloading when a file is saved."),
}
"""Command → where it is and its line in the help."""

FAILED: Final = 1
INTERRUPTED: Final = 130


class LazyGroup(click.Group):
    """Knows its commands by name; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a first day, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, from COMMANDS alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="connserver", prog_name="cs-cluster")
@click.option(
    "--cluster",
    type=click.Path(dir_okay=False),
    envvar="CS_CLUSTER",
    default="cluster.toml",
    metavar="FILE",
    help="Which cluster is meant: its cluster.toml. Without it $CS_CLUSTER, then ./cluster.toml.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Where its state lies, if not where the configuration says.",
)
@click.option("--node", metavar="NAME", help="Which node of the cluster this host is.")
@click.pass_context
def group(ctx: click.Context, cluster: str, state_dir: str | None, node: str | None) -> None:
    """Runs a ConnServer cluster: partitioned, replicated live state for games and rooms.

    \b
    Examples:
      cs-cluster up cluster.toml
      cs-cluster status
      cs-cluster send '{"msg":"ping"}'
    """
    ctx.obj = {"cluster": cluster, "state_dir": state_dir, "node": node}


def main(arguments: list[str] | None = None) -> NoReturn:
    """The program `cs-cluster`."""
    try:
        status = group.main(arguments, prog_name="cs-cluster", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has had enough; closing it again would say so.
        sys.stdout = None
        sys.exit(FAILED)
    except Exception as error:
        from connserver.errors import ConnServerError

        if not isinstance(error, ConnServerError):
            raise
        click.echo(click.style("cs-cluster: ", fg="red", bold=True) + str(error), err=True)
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)
