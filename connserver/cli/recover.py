"""`cs-cluster recover`: a new era for groups of which no majority holds the log any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from connserver.cli.find import admin
from connserver.cli.output import json_option, print_json
from connserver.cli.recovery import Archive, Choice, Holding, choose
from connserver.cli.waiting import confirm, route_of, until
from connserver.errors import ClusterError

if TYPE_CHECKING:
    from connserver.cli.find import Admin

ARCHIVE_S: Final = 8.0
"""For the archive to be read, or to be given up."""
SERVED_S: Final = 30.0
"""For a worker to load the group and serve it."""
LIVING: Final = ("alive", "suspect")


@click.command("recover")
@click.argument("groups", type=click.IntRange(min=0), nargs=-1, metavar="[GROUP]…")
@click.option("--all", "every", is_flag=True, help="Every group that needs it.")
@click.option("--from", "node", metavar="NODE", help="Go on from this node's log.")
@click.option("--archive", "from_archive", is_flag=True, help="Go on from PostgreSQL, not from a log.")
@click.option("--yes", is_flag=True, help="Do not ask: what may be missing is accepted.")
@json_option
@click.pass_context
def recover_command(
    context: click.Context,
    groups: tuple[int, ...],
    every: bool,
    node: str | None,
    from_archive: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Let a group go on whose logs were lost on a majority of its nodes.

    Asks all nodes what they hold, takes the best log that is left, or PostgreSQL if none is, says what
    may be missing, and begins a new era: whatever other nodes still hold of the group is void then.
    Refused where a majority is fine, or would be with one more node.

    \b
    Examples:
      cs-cluster recover 2
      cs-cluster recover --all --yes
      cs-cluster recover 2 --from n3 --yes
    """
    if bool(groups) == every:
        raise click.UsageError("name the groups, or say --all")
    if node is not None and from_archive:
        raise click.UsageError("--from NODE takes that node's log, --archive takes none: say one of them")
    with admin(context) as cluster:
        choices = _choose(cluster, groups, node=node, from_archive=from_archive)
        if not as_json or not yes:
            for choice in choices:
                click.echo(f"group {choice.group} from {choice.source}: {choice.missing}.", err=as_json)
        if choices:
            which = "group" if len(choices) == 1 else f"{len(choices)} groups"
            confirm(f"A new era of the {which} voids what other nodes hold of it.", yes=yes)
        rows = [_begin(cluster, choice) for choice in choices]
        for row in rows:
            row["primary"] = _served(cluster, row["group"])
    if as_json:
        print_json({"groups": rows})
        return
    for row in rows:
        click.echo(f"group {row['group']} is in era {row['era']}, led by {row['primary']}")
    if not rows:
        click.echo("no group needs it")


def _choose(cluster: Admin, groups: tuple[int, ...], *, node: str | None, from_archive: bool) -> list[Choice]:
    """Where each group goes on; without `groups` of all that need it."""
    status = cluster.ask("status", verbose=True)
    states = {row["name"]: row["state"] for row in status["nodes"]}
    found = []
    for group in groups or range(len(status["groups"])):
        replicas = route_of(cluster, group)["replicas"]
        if not groups and status["groups"][group]["state"] == "ready":
            continue
        reachable = [name for name in replicas if states.get(name) in LIVING]
        holdings, archive = _survey(cluster, group, reachable)
        try:
            chosen = choose(group, replicas, holdings, archive, node=node, from_archive=from_archive)
        except ClusterError as error:
            if groups:
                raise
            click.echo(f"group {group} is left alone: {error}", err=True)
            continue
        found.append(chosen)
    return found


def _survey(cluster: Admin, group: int, nodes: list[str]) -> tuple[list[Holding], Archive]:
    """What the reachable nodes hold of a group, and where the archive stands."""
    holdings, archive = [], Archive(error="no node has answered")
    for name in nodes:
        try:
            held = cluster.ask("recover.look", group=group, node=name)
        except ClusterError as error:
            click.echo(f"{name} is left out: {error}", err=True)
            continue
        holdings.append(
            Holding(
                name,
                held["status"],
                held["era"],
                held["view"],
                held["log_view"],
                held["head"],
                held["commit"],
                held["base"],
            )
        )
        if archive.error:
            archive = _archive(cluster, group, name, held["archive"])
    return holdings, archive


def _archive(cluster: Admin, group: int, name: str, said: Mapping[str, Any]) -> Archive:
    """Where the archive stands; asked of one node again until it has read it."""

    def read() -> Mapping[str, Any] | None:
        again: Mapping[str, Any] = cluster.ask("recover.look", group=group, node=name)["archive"]
        return again if again["state"] != "asked" else None

    answer = said if said["state"] != "asked" else until(read, ARCHIVE_S)
    if answer is None:
        return Archive(error=f"{name} has not read it within {ARCHIVE_S:g} s")
    if answer["state"] != "known":
        return Archive(error=answer["error"])
    return Archive(answer["era"], answer["view"], answer["op"])


def _begin(cluster: Admin, choice: Choice) -> dict[str, Any]:
    begun = _order(cluster, choice)
    return {
        "group": choice.group,
        "node": choice.node,
        "from": "archive" if choice.archive else "log",
        "op": choice.op,
        "missing": choice.missing,
        "era": begun["era"],
    }


def _order(cluster: Admin, choice: Choice) -> Mapping[str, Any]:
    """Tell the chosen node; once more while it reads the archive again."""

    def told() -> Mapping[str, Any] | None:
        looked = cluster.ask("recover.look", group=choice.group, node=choice.node)
        if choice.archive and looked["archive"]["state"] == "asked":
            return None
        answer: Mapping[str, Any] = cluster.ask(
            "recover.begin",
            group=choice.group,
            node=choice.node,
            archive=choice.archive,
            above=list(choice.above),
        )
        return answer

    answer = until(told, ARCHIVE_S)
    if answer is None:
        raise ClusterError(f"{choice.node} has not read the archive of group {choice.group} in time")
    return answer


def _served(cluster: Admin, group: int) -> str:
    """The node that serves a group again; ClusterError if none does in time."""

    def ready() -> str | None:
        row = route_of(cluster, group)
        return str(row["node"]) if row["state"] == "ready" else None

    node = until(ready, SERVED_S)
    if node is None:
        row = route_of(cluster, group)
        raise ClusterError(
            f"the new era of group {group} has begun, but it is {row['state']} after {SERVED_S:g} s: "
            f"{row['reason']}; look at `cs-cluster status`"
        )
    return node
