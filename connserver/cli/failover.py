"""`cs-cluster failover`: hands a group's primacy to another replica, in order and without loss."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from connserver.cli.find import admin
from connserver.cli.output import json_option, print_json
from connserver.cli.waiting import route_of, until
from connserver.errors import ClusterError

HANDOFF_S: Final = 8.0
"""A replica calls a handoff off after two seconds; the rest is for a worker that loads."""


@click.command("failover")
@click.argument("group", type=click.IntRange(min=0))
@click.option("--to", "target", metavar="NODE", help="To this node's replica; else to one that is in step.")
@json_option
@click.pass_context
def failover_command(context: click.Context, group: int, target: str | None, as_json: bool) -> None:
    """Hand partition group GROUP to another of its nodes, and wait until that one serves it.

    Nothing is lost and nobody has to ask again: the primary takes nothing more in, finishes what it
    has, and the next one goes on from there.

    \b
    Examples:
      cs-cluster failover 0
      cs-cluster failover 2 --to n3
    """
    with admin(context) as cluster:
        before = route_of(cluster, group)
        if before["state"] != "ready":
            raise ClusterError(f"group {group} is {before['state']}: {before['reason']}")
        begun = time.monotonic()
        arguments = {"group": group} | ({"to": target} if target is not None else {})
        cluster.ask("failover", **arguments)

        def moved() -> dict[str, Any] | None:
            row = route_of(cluster, group)
            newer = (row["era"], row["view"]) > (before["era"], before["view"])
            return dict(row) if newer and row["state"] == "ready" else None

        after = until(moved, HANDOFF_S)
        took_ms = round((time.monotonic() - begun) * 1000)
        if after is None:
            now = route_of(cluster, group)
            where = (
                f"is with {now['node']} still"
                if now["node"] == before["node"]
                else f"waits for {now['node']}"
            )
            raise ClusterError(
                f"group {group} {where} after {HANDOFF_S:g} s ({now['state']} {now['reason']}): no replica "
                "was in step with a worker ready in time; look at `cs-cluster status`"
            )
    if as_json:
        view = after["view"]
        print_json(
            {"group": group, "from": before["node"], "to": after["node"], "view": view, "took_ms": took_ms}
        )
    else:
        click.echo(
            f"group {group}: {before['node']} → {after['node']} in {took_ms} ms (view {after['view']})"
        )
    if target is not None and after["node"] != target:
        raise ClusterError(
            f"group {group} went to {after['node']} and not to {target}; look at `cs-cluster status`"
        )
