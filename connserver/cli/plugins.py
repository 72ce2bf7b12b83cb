"""`cs-cluster plugin …`: which plugins the workers have attached, and changing that while people play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from connserver.cli.find import admin
from connserver.cli.output import console, json_option, print_json, table
from connserver.cli.plugin_build import build_command
from connserver.errors import ClusterError

if TYPE_CHECKING:
    from connserver.cli.find import Admin
    from connserver.cli.plugin_change import Change, Done

SHOWN_DIGITS: Final = 8

groups_option = click.option(
    "--groups", default="all", metavar="all|0,2", show_default=True, help="In these partition groups."
)
timeout_option = click.option(
    "--handler-timeout-ms",
    "timeout_ms",
    type=click.IntRange(10, 60_000),
    help="How long one of its callbacks may run; cluster.toml comes first.",
)


@click.group("plugin")
def plugin_command() -> None:
    """Which plugins are attached, and where; and changing that while people play.

    What is attached is kept with the group's objects: restarts and other nodes run the same code, until
    another version is attached or reloaded. Nobody is disconnected by any of these.

    \b
    Examples:
      cs-cluster plugin list
      cs-cluster plugin attach plugins/world
      cs-cluster plugin reload world
      cs-cluster plugin rollback world
    """


plugin_command.add_command(build_command)


@plugin_command.command("list")
@json_option
@click.pass_context
def list_command(context: click.Context, as_json: bool) -> None:
    """List the plugins of every worker: version, digest of the code, state, and what ran before.

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
            row.get("digest", "")[:SHOWN_DIGITS],
            row["node"],
            row["group"],
            "primary" if row["primary"] else "backup",
            row.get("state", "attached"),
            _previous(row),
        )
        for row in answer["plugins"]
    ]
    heads = ("plugin", "version", "digest", "node", "group", "role", "state", "previous")
    console().print(table(heads, rows))
    for line in changed_on_disk(answer["plugins"]):
        click.echo(line)


def _previous(row: Mapping[str, Any]) -> str:
    if not row.get("previous"):
        return ""
    return f"{row['previous']} ({row.get('previous_digest', '')[:SHOWN_DIGITS]})"


def changed_on_disk(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to do about plugins whose folder on this machine is not what runs."""
    from connserver.cli.plugin_change import package_of

    lines = []
    for folder, name in sorted({(row.get("folder", ""), row.get("name", "")) for row in rows}):
        if not folder or not Path(folder).is_dir():
            continue
        try:
            digest = package_of(Path(folder)).digest
        except ClusterError as error:
            lines.append(f"{name}: {error}")
            continue
        if any(row.get("folder") == folder and row.get("digest") != digest for row in rows):
            lines.append(f"{folder} is not what runs: `cs-cluster plugin reload {name}` takes it")
    return lines


@plugin_command.command("attach")
@click.argument("path", metavar="PATH|NAME")
@groups_option
@timeout_option
@json_option
@click.pass_context
def attach_command(
    context: click.Context, path: str, groups: str, timeout_ms: int | None, as_json: bool
) -> None:
    """Attach the plugin in the folder PATH (or plugins/NAME beside cluster.toml).

    Every node and group tries it first, in a process of its own; if one refuses it, nothing is changed.

    \b
    Examples:
      cs-cluster plugin attach plugins/world
      cs-cluster plugin attach chat --groups 0,2
    """
    from connserver.cli.plugin_change import Change, package_of

    folder = _folder(context, path)
    change = Change(
        action="attach", package=package_of(folder), folder=str(folder.resolve()), timeout_ms=timeout_ms
    )
    _change(context, change, groups, as_json)


@plugin_command.command("detach")
@click.argument("name")
@groups_option
@json_option
@click.pass_context
def detach_command(context: click.Context, name: str, groups: str, as_json: bool) -> None:
    """Detach the plugin NAME. Its objects and timers stay, and wait until it is attached again.

    \b
    Example:
      cs-cluster plugin detach world
    """
    from connserver.cli.plugin_change import Change

    _change(context, Change(action="detach", name=name), groups, as_json)


@plugin_command.command("reload")
@click.argument("name")
@click.argument("path", required=False, metavar="[PATH]")
@groups_option
@timeout_option
@json_option
@click.pass_context
def reload_command(
    context: click.Context, name: str, path: str | None, groups: str, timeout_ms: int | None, as_json: bool
) -> None:
    """Switch the plugin NAME to what its folder holds now, or to the version in PATH.

    The new version is loaded beside the old one and switched to between two calls; the old one is kept
    for `rollback`. If it cannot be loaded, the old one goes on. With --groups one group runs the new
    version beside the old one in others.

    \b
    Examples:
      cs-cluster plugin reload world
      cs-cluster plugin reload world ../world-2.1 --groups 1
    """
    from connserver.cli.plugin_change import Change, package_of

    with admin(context) as cluster:
        folder = _folder(context, path) if path is not None else _source(cluster, name, groups)
        change = Change(
            action="reload",
            name=name,
            package=package_of(folder),
            folder=str(folder.resolve()),
            timeout_ms=timeout_ms,
        )
        _tell(_applied(cluster, change, groups), change, as_json)


@plugin_command.command("rollback")
@click.argument("name")
@groups_option
@json_option
@click.pass_context
def rollback_command(context: click.Context, name: str, groups: str, as_json: bool) -> None:
    """Switch the plugin NAME back to the version that ran before its last reload.

    Refused beforehand if stored objects could not be read by it. Another rollback goes forward again.

    \b
    Example:
      cs-cluster plugin rollback world
    """
    from connserver.cli.plugin_change import Change

    _change(context, Change(action="rollback", name=name), groups, as_json)


@plugin_command.command("release")
@click.argument("incident")
@json_option
@click.pass_context
def release_command(context: click.Context, incident: str, as_json: bool) -> None:
    """Let what is quarantined under INCIDENT run again, once its plugin is repaired.

    \b
    Example:
      cs-cluster plugin release n1-4f09a1c2
    """
    released = []
    with admin(context) as cluster:
        for group in range(len(cluster.ask("routes")["routes"])):
            released += cluster.ask("worker.release", group=group, incident=incident)["released"]
    if not released:
        raise ClusterError(f"nothing is quarantined under {incident}: `cs-cluster status` shows what is")
    if as_json:
        print_json({"released": released})
        return
    for row in released:
        click.echo(f"{row['method']} of plugin {row['plugin'] or '?'} {row['version']} may run again")


@plugin_command.command("new")
@click.argument("path", metavar="NAME")
@json_option
def new_command(path: str, as_json: bool) -> None:
    """Make a folder NAME with a plugin to begin with.

    \b
    Example:
      cs-cluster plugin new fishing
      cs-cluster plugin attach fishing
    """
    from connserver.scaffold import RESERVED, is_game_name, scaffold_plugin

    folder = Path(path)
    if not is_game_name(folder.name) or folder.name in RESERVED:
        raise click.BadParameter(
            "a plugin's name has at most 32 of a-z, 0-9 and '-', begins with a letter, and is none of "
            + ", ".join(sorted(RESERVED)),
            param_hint="NAME",
        )
    try:
        written = scaffold_plugin(folder.name, folder)
    except FileExistsError:
        raise ClusterError(f"{folder} is there already; choose another name, or remove it") from None
    except OSError as error:
        raise ClusterError(f"{folder} cannot be made: {error.strerror}") from None
    if as_json:
        print_json({"plugin": folder.name, "files": [str(file) for file in written]})
        return
    for file in written:
        click.echo(f"  {file}")


# --- shared ---------------------------------------------------------------------------------------------


def _folder(context: click.Context, path: str) -> Path:
    """The folder that PATH|NAME means: that one, or plugins/NAME beside cluster.toml."""
    from connserver.cli.find import load

    folder = Path(path)
    if not folder.is_dir() and "/" not in path:
        beside = load(context).file.parent / "plugins" / path
        if beside.is_dir():
            return beside
    if not folder.is_dir():
        raise ClusterError(f"there is no folder {path} here, and no plugins/{path} beside cluster.toml")
    return folder


def _source(cluster: Admin, name: str, groups: str) -> Path:
    """The folder that an attached plugin came from, on this machine."""
    from connserver.cli.plugin_change import groups_of, running

    rows = running(cluster, groups_of(cluster, groups))
    folders = sorted({row["folder"] for row in rows if row["name"] == name})
    if not folders:
        raise ClusterError(f"plugin {name} is not attached there: see `cs-cluster plugin list`")
    if len(folders) > 1:
        raise ClusterError(
            f"plugin {name} came from {' and '.join(folders)}; say which one: "
            f"cs-cluster plugin reload {name} PATH"
        )
    if not Path(folders[0]).is_dir():
        raise ClusterError(
            f"{folders[0]}, where plugin {name} came from, is not on this machine: "
            f"cs-cluster plugin reload {name} PATH"
        )
    return Path(folders[0])


def _change(context: click.Context, change: Change, groups: str, as_json: bool) -> None:
    with admin(context) as cluster:
        _tell(_applied(cluster, change, groups), change, as_json)


def _applied(cluster: Admin, change: Change, groups: str) -> Done:
    from connserver.cli.plugin_change import apply, groups_of

    return apply(cluster, change, groups_of(cluster, groups))


def _tell(done: Done, change: Change, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "action": change.action,
                "plugin": done.name,
                "was": list(done.was),
                "now": done.now,
                "groups": list(done.groups),
                "same": list(done.same),
                "way_back": done.way_back,
                "took_ms": done.took_ms,
            }
        )
        return
    was = " and ".join(done.was) or "–"
    where = ", ".join(map(str, done.groups))
    click.echo(f"{done.name}: {was} → {done.now or '–'} in group {where}, in {done.took_ms} ms")
    if done.same:
        click.echo(f"group {', '.join(map(str, done.same))} had it so already")
    if done.way_back:
        click.echo(f"There is no rollback once objects are written by it: {done.way_back}")
