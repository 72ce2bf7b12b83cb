"""`cs-cluster status`, `routes` and `route`: what the cluster believes of itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from connserver.cli.find import Admin, admin
from connserver.cli.output import console, json_option, print_json, table
from connserver.errors import ClusterError

if TYPE_CHECKING:
    from rich.console import RenderableType

WATCH_S: Final = 1.0


@click.command("status")
@click.option("--watch", is_flag=True, help="Again every second, until ^C.")
@json_option
@click.pass_context
def status_command(context: click.Context, watch: bool, as_json: bool) -> None:
    """Show nodes, processes, gateways, groups, storage and alerts.

    A group's replicas are on one line each: whether they lead, are in step with the log or behind it,
    and what else keeps them; numbers of different nodes are up to a second apart. With --json exactly
    the keys cluster, nodes, processes, gateways, groups, storage, alerts; with --watch one document a
    line.

    \b
    Examples:
      cs-cluster status
      cs-cluster status --watch
      cs-cluster status --json
    """
    with admin(context) as cluster:
        if as_json:
            print_json(cluster.ask("status"), pretty=not watch)
            while watch:
                time.sleep(WATCH_S)
                print_json(cluster.ask("status"), pretty=False)
        elif watch:
            _watch(cluster)
        else:
            console().print(_report(cluster.ask("status", verbose=True)))


def _watch(cluster: Admin) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(console=console(), auto_refresh=False, screen=True) as live:
        while True:
            try:
                shown = _report(cluster.ask("status", verbose=True))
            except ClusterError as error:
                shown = Text(f"{error}\nasking again …", style="yellow")
            live.update(shown, refresh=True)
            time.sleep(WATCH_S)


def _report(status: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    storage = status["storage"]
    words = f"storage {storage['state']}, {storage['lag_ops']} operations not archived yet"
    words += f": {storage['error']}" if storage.get("error") else ""
    parts: list[RenderableType] = [
        Text(f"cluster {status['cluster']}", style="bold"),
        Text(words),
        *_alerts(status["alerts"]),
        Text(),
        table(
            ("node", "state", "incarnation"),
            [(node["name"], node["state"], node["incarnation"]) for node in status["nodes"]],
        ),
        Text(),
        _processes(status["processes"]),
        Text(),
        _gateways(status["gateways"]),
        Text(),
        _groups(status["groups"]),
    ]
    return Group(*parts)


def _alerts(alerts: list[dict[str, Any]]) -> list[RenderableType]:
    from rich.text import Text

    if not alerts:
        return [Text("no alerts", style="green")]
    styles = {"critical": "bold red", "warning": "yellow"}
    return [
        Text(f"{alert['severity']} since {alert['since']}, {alert['about']}: {alert['text']}", style=style)
        for alert in alerts
        for style in [styles.get(alert["severity"], "")]
    ]


def _processes(processes: list[dict[str, Any]]) -> RenderableType:
    columns = ("node", "process", "pid", "state", "restarts", "endpoint", "reason")
    return table(
        columns,
        [
            (
                row["node"],
                row["name"],
                row["pid"] or "",
                row["state"],
                row["restarts"] or "",
                row["endpoint"].rsplit("/", 1)[-1] if row["endpoint"].startswith("ipc:") else row["endpoint"],
                _about_process(row),
            )
            for row in processes
        ],
    )


def _about_process(row: Mapping[str, Any]) -> str:
    """What keeps it, or how it ended the last time."""
    ended = row.get("last_end", "")
    return row.get("reason") or (f"well again; last it ended so: {ended}" if ended else "")


def _gateways(gateways: list[dict[str, Any]]) -> RenderableType:
    return table(
        ("gateway", "node", "clients", "messages/s"),
        [
            (row["endpoint"], row["node"], row["clients"], f"{row.get('messages_per_s', 0):.0f}")
            for row in gateways
        ],
    )


def _groups(groups: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    columns = ("group", "partitions", "state", "view", "node", "replica", "commit", "lag", "archived")
    rows = [row for group in groups for row in _group_rows(group)]
    told = [Text(line, style="yellow") for group in groups for line in _troubles(group)]
    return Group(table(columns, rows), *told)


def _troubles(group: Mapping[str, Any]) -> list[str]:
    """Why a group is not served, and what keeps replicas of one that is."""
    reason = group.get("reason", "")
    lines = [f"group {group['id']} is {group['state']}: {reason}"] if reason else []
    for member in group["members"]:
        if member["problem"] and member["problem"] not in reason:
            lines.append(f"group {group['id']} on {member['node']}: {member['problem']}")
    return lines


def _group_rows(group: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """A group's replicas, one a row; what is the whole group's stands in the first."""
    partitions = f"{group['first_partition']}–{group['last_partition']}"
    head = (group["id"], partitions, group.get("state", ""), group["view"])
    members = group["members"]
    if not members:
        return [(*head, "none yet", "", group["commit"], "", group["archived"])]
    rows = []
    for number, member in enumerate(members):
        served = group.get("state", "ready") == "ready"
        leads = served and member["node"] == group["primary"] and member["status"] == "normal"
        known = [_shown(member[name]) for name in ("commit", "lag")]
        archived = group["archived"] if leads else _shown(member["archived"])
        words = replica_words(member, leads=leads, served=served)
        rows.append((*(head if not number else ("", "", "", "")), member["node"], words, *known, archived))
    return rows


def _shown(number: int | None) -> str:
    return "" if number is None else str(number)


REPLICA_WORDS: Final = {
    "unknown": "no word",
    "blank": "being formed",
    "forming": "being formed",
    "view_change": "changing view",
    "recovering": "recovering",
}


def replica_words(member: Mapping[str, Any], *, leads: bool, served: bool) -> str:
    """What a replica does, for a person; in a group that is not served, what it has."""
    if member["status"] != "normal":
        return REPLICA_WORDS.get(member["status"], str(member["status"]))
    if not served:
        return f"has the log up to op {member['head']}"
    behind = f"behind by {member['lag']} ops" if member["lag"] else "in step"
    words = "leads" if leads else behind
    return words if member["ready"] else f"{words}, no worker ready"


@click.command("routes")
@json_option
@click.pass_context
def routes_command(context: click.Context, as_json: bool) -> None:
    """Show the routing table: where each partition group is served.

    \b
    Example:
      cs-cluster routes
    """
    with admin(context) as cluster:
        answer = cluster.ask("routes")
    if as_json:
        print_json(answer)
        return
    columns = ("group", "partitions", "state", "node", "view", "grant", "endpoint", "replicas", "reason")
    rows = [
        (
            row["group"],
            f"{row['first_partition']}–{row['last_partition']}",
            row["state"],
            row["node"] or "none yet",
            row["view"],
            row["grant"],
            row["endpoint"].rsplit("/", 1)[-1],
            " ".join(row["replicas"]),
            row["reason"],
        )
        for row in answer["routes"]
    ]
    console().print(table(columns, rows))


@click.command("route")
@click.argument("target")
@json_option
@click.pass_context
def route_command(context: click.Context, target: str, as_json: bool) -> None:
    """Show who serves TARGET: an object id, a partition, room:NAME or user:NAME.

    \b
    Examples:
      cs-cluster route user:ada
      cs-cluster route room:lobby
      cs-cluster route 4242
    """
    with admin(context) as cluster:
        answer = cluster.ask("route", target=target)
    if as_json:
        print_json(answer)
        return
    primary = answer["primary"]
    lines = [
        f"object     {answer['oid']}" if answer["oid"] else "",
        f"partition  {answer['partition']}",
        f"group      {answer['group']}, view {answer['view']}, {answer['state']}"
        + (f": {answer['reason']}" if answer["reason"] else ""),
        f"primary    {primary['node']} at {primary['endpoint']}"
        if primary["node"]
        else "primary    none yet",
        f"replicas   {' '.join(answer['replicas'])}",
        f"gateways   {' '.join(gateway['endpoint'] for gateway in answer['gateways'])}",
    ]
    click.echo("\n".join(line for line in lines if line))
