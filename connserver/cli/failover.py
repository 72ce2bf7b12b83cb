"""`cs-cluster failover`: hands a group's primacy to another replica, in order and without loss."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from connserver.cli.find import admin
from connserver.cli.output import json_option, print_json
from connserver.cli.waiting import route_of, until
from connserver.errors import ClusterError

if TYPE_CHECKING:
    from connserver.cli.find import Admin

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
        cluster.ask("failover", group=group, **({} if target is None else {"to": target}))
        after = _moved(cluster, group, before["node"])
        took_ms = round((time.monotonic() - begun) * 1000)
    nodes = {"from": before["node"], "to": after["node"]}
    if as_json:
        print_json({"group": group, **nodes, "view": after["view"], "took_ms": took_ms})
    else:
        click.echo(f"group {group}: {nodes['from']} → {nodes['to']} in {took_ms} ms (view {after['view']})")
    if target is not None and after["node"] != target:
        raise ClusterError(f"group {group} went to {after['node']}, not to {target}: see `cs-cluster status`")


def _moved(cluster: Admin, group: int, node: str) -> Mapping[str, Any]:
    """The group's route once another node than this serves it; ClusterError if none does in time."""

    def away() -> Mapping[str, Any] | None:
        row = route_of(cluster, group)
        return row if row["node"] != node and row["state"] == "ready" else None

    after = until(away, HANDOFF_S)
    if after is not None:
        return after
    now = route_of(cluster, group)
    where = f"is with {node} still" if now["node"] == node else f"waits for {now['node']}: {now['reason']}"
    raise ClusterError(
        f"group {group} {where}, {HANDOFF_S:g} s after it was told to move: no other replica was in step "
        "with a worker ready in time; look at `cs-cluster status`"
    )
