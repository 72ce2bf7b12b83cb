"""`cs-cluster session …`, `room …`, `call …`: who is in a running world, and what waits in it.

Guards one rule: a list is complete. Groups are asked one after another, each a page at a time, until
there is no more; a group that cannot answer ends the command with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from connserver.cli.find import Admin, admin, load
from connserver.cli.output import console, json_option, print_json, table
from connserver.errors import ClusterError
from connserver.ids import ObjectId, format_oid, group_of, named_id, parse_oid, partition_of


@click.group("session")
def session_command() -> None:
    """Who is logged in.

    \b
    Examples:
      cs-cluster session list
      cs-cluster session kick alice
    """


@session_command.command("list")
@click.option("--user", metavar="NAME", help="Of this user only.")
@json_option
@click.pass_context
def list_sessions_command(context: click.Context, user: str | None, as_json: bool) -> None:
    """List all sessions, also those whose client is away and may resume.

    \b
    Example:
      cs-cluster session list --user alice
    """
    groups = _groups(context)
    chosen = range(groups) if user is None else [_home("user", user, groups)]
    with admin(context) as cluster:
        rows = list(_rows(cluster, "worker.sessions", "sessions", chosen))
    if user is not None:
        rows = [row for row in rows if row["user"] == user]
    if as_json:
        print_json({"sessions": rows})
        return
    shown = [
        (
            row["session"],
            row["user"],
            row["oid"],
            "connected" if row["connected"] else "away",
            ", ".join(row["rooms"]),
        )
        for row in rows
    ]
    console().print(table(("session", "user", "object", "client", "rooms"), shown))


@session_command.command("kick")
@click.argument("user")
@json_option
@click.pass_context
def kick_command(context: click.Context, user: str, as_json: bool) -> None:
    """End all sessions of a user, by name; they may log in again.

    \b
    Example:
      cs-cluster session kick alice
    """
    groups = _groups(context)
    oid = format_oid(named_id("user", user))
    with admin(context) as cluster:
        answer = cluster.ask("worker.kick", group=_home("user", user, groups), oid=oid)
    if as_json:
        print_json({"user": user, **answer})
    elif not answer["sessions"]:
        raise ClusterError(f"{user} has no session; `cs-cluster session list` shows all")
    else:
        click.echo(f"{user}: ended {answer['sessions']} sessions")


@click.group("room")
def room_command() -> None:
    """Which rooms there are, and who is in them.

    \b
    Examples:
      cs-cluster room list
      cs-cluster room who lobby
    """


@room_command.command("list")
@json_option
@click.pass_context
def list_rooms_command(context: click.Context, as_json: bool) -> None:
    """List all rooms with their members, newest seq and kept events.

    \b
    Example:
      cs-cluster room list --json
    """
    groups = _groups(context)
    with admin(context) as cluster:
        rows = list(_rows(cluster, "worker.rooms", "rooms", range(groups)))
    rows.sort(key=lambda row: str(row["room"]))
    if as_json:
        print_json({"rooms": rows})
        return
    shown = [(row["room"], row["members"], row["seq"], row["kept"], row["group"]) for row in rows]
    console().print(table(("room", "members", "seq", "kept", "group"), shown))


@room_command.command("who")
@click.argument("room")
@json_option
@click.pass_context
def who_command(context: click.Context, room: str, as_json: bool) -> None:
    """List the names of a room's members, in order.

    \b
    Example:
      cs-cluster room who lobby
    """
    groups = _groups(context)
    with admin(context) as cluster:
        members = list(_pages(cluster, "worker.members", "members", _home("room", room, groups), room=room))
    if as_json:
        print_json({"room": room, "members": members})
    else:
        for name in members:
            click.echo(name)


@click.group("call")
def call_command() -> None:
    """Calls between objects whose `then` failed: they wait here, and nothing of them is lost.

    \b
    Examples:
      cs-cluster call list
      cs-cluster call retry 00fe800000000001
    """


@call_command.command("list")
@json_option
@click.pass_context
def list_calls_command(context: click.Context, as_json: bool) -> None:
    """List the parked calls, with the incident that parked each.

    \b
    Example:
      cs-cluster call list
    """
    groups = _groups(context)
    with admin(context) as cluster:
        rows = list(_rows(cluster, "worker.parked", "calls", range(groups)))
    if as_json:
        print_json({"calls": rows})
        return
    shown = [(row["call"], row["then"], row["object"], row["user"], row["incident"]) for row in rows]
    console().print(table(("call", "then", "object", "user", "incident"), shown))
    if rows:
        click.echo("`cs-cluster logs --incident N` shows why; `cs-cluster call retry CALL` runs it again")


@call_command.command("retry")
@click.argument("call")
@json_option
@click.pass_context
def retry_command(context: click.Context, call: str, as_json: bool) -> None:
    """Run the `then` of a parked call again, once its cause is gone.

    \b
    Example:
      cs-cluster call retry 00fe800000000001
    """
    try:
        oid = parse_oid(call)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="CALL") from None
    group = group_of(partition_of(oid), _groups(context))
    with admin(context) as cluster:
        cluster.ask("worker.retry", group=group, oid=format_oid(oid))
        parked = {row["call"]: row for row in _pages(cluster, "worker.parked", "calls", group)}
    again = parked.get(format_oid(oid))
    if again is not None:
        raise ClusterError(
            f"it failed again, incident {again['incident']}: `cs-cluster logs --incident {again['incident']}`"
        )
    if as_json:
        print_json({"call": format_oid(oid), "done": True})
    else:
        click.echo(f"{format_oid(oid)}: done")


def _groups(context: click.Context) -> int:
    return load(context).cluster.partition_groups


def _home(kind: str, name: str, groups: int) -> int:
    oid: ObjectId = named_id(kind, name)
    return group_of(partition_of(oid), groups)


def _rows(cluster: Admin, command: str, key: str, groups: range | list[int]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for row in _pages(cluster, command, key, group):
            yield {**row, "group": group}


def _pages(cluster: Admin, command: str, key: str, group: int, **arguments: Any) -> Iterator[Any]:
    after = ""
    while True:
        answer = cluster.ask(command, group=group, after=after, **arguments)
        yield from answer[key]
        after = answer["next"]
        if not after:
            return
