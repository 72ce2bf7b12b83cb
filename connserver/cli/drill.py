"""`cs-cluster drill`: breaks something on purpose, under load, and counts what was lost or doubled."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from connserver.cli.find import Admin, load
from connserver.cli.output import json_option, print_json
from connserver.cli.waiting import confirm, until
from connserver.errors import ClusterError

if TYPE_CHECKING:
    from connserver.cli.drill_judge import Verdict
    from connserver.cli.drill_load import Address, Course, Plan
    from connserver.config import AuthConfig, ClusterConfig

KINDS: Final = ("worker", "gossip", "node", "gateway")
OWN_OF_A_NODE: Final = ("gossip", "worker", "gateway")
"""Roles that belong to a node; the others are the host's."""
SENDERS_PER_ROOM: Final = 4
OPERATIONS_PER_SENDER: Final = 25.0
"""A second; a session may have eight times as many."""
SENDERS: Final = (4, 64)
"""Fewest and most."""
REPORTED_S: Final = 5.0
"""For gateways to report: each does about once a second."""
TOKEN_S: Final = 600


@dataclass(frozen=True, slots=True)
class Victim:
    """What is killed: (process, pid), and the groups that `node` leads, whose rooms are used."""

    node: str
    processes: tuple[tuple[str, int], ...]
    groups: tuple[int, ...]
    gateway: str = ""
    """The endpoint of the gateway among them."""


@click.command("drill")
@click.option("--kill", type=click.Choice(KINDS), required=True, help="What is killed with SIGKILL.")
@click.option("--group", type=click.IntRange(min=0), help="Around this partition group; else the first.")
@click.option(
    "--load",
    "per_s",
    type=click.FloatRange(1, 5000),
    default=200.0,
    show_default=True,
    metavar="N",
    help="Operations a second.",
)
@click.option("--seconds", type=click.FloatRange(3, 600), default=9.0, show_default=True, metavar="S")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def drill_command(
    context: click.Context,
    kill: str,
    group: int | None,
    per_s: float,
    seconds: float,
    yes: bool,
    as_json: bool,
) -> int:
    """Kill a part of this host's cluster under load, and count what was lost or doubled.

    Sessions of its own send to rooms of their own through the gateways; every acknowledged event has
    to come to every member once, in one order. Prints the pause (the longest time without an
    acknowledgement, over the sessions) and exits with 1 if anything was lost or doubled. The
    supervisor starts again what was killed; the rooms are forgotten ten minutes later.

    \b
    Examples:
      cs-cluster drill --kill worker
      cs-cluster drill --kill node --load 500 --yes
      cs-cluster drill --kill gateway --json --yes
    """
    config = load(context)
    plan, victim = _prepare(config, kill, group, per_s, seconds)
    names = ", ".join(name for name, _ in victim.processes)
    confirm(f"This kills {names} of the running cluster {config.cluster.name!r}.", yes=yes)

    def say(text: str) -> None:
        click.echo(text, err=True)

    rooms = len({session.room for session in plan.sessions})
    say(f"{len(plan.sessions)} sessions in {rooms} rooms, {per_s:g} operations a second, {seconds:g} s")
    course, verdict = _run(plan, victim, say)
    if as_json:
        p50, p99, most = verdict.pause_ms
        pauses = {"p50": p50, "p99": p99, "max": most}
        counts = {"acked": verdict.acked, "lost": verdict.lost, "duplicated": verdict.duplicated}
        print_json({**counts, "pause_ms": pauses})
    else:
        click.echo(report(verdict, names))
    for example in verdict.examples:
        say(example)
    if not course.drained:
        say("not everything was answered, or given to all members, at the end")
    return int(not verdict.good)


def report(verdict: Verdict, names: str) -> str:
    """The outcome in words."""
    p50, p99, most = verdict.pause_ms
    lines = [
        f"killed      {names}",
        f"acked       {verdict.acked}",
        f"lost        {verdict.lost}",
        f"duplicated  {verdict.duplicated}",
        f"pause       p50 {p50} ms, p99 {p99} ms, max {most} ms",
    ]
    if verdict.doubted:
        lines.append(f"in doubt    {verdict.doubted} (their session expired before they were answered)")
    if verdict.refused:
        lines.append(f"refused     {verdict.refused}")
    return "\n".join(lines)


def _run(plan: Plan, victim: Victim, say: Any) -> tuple[Course, Verdict]:
    from connserver.cli.drill_load import Load

    def strike() -> None:
        # Of a node some may end by themselves when others of it are gone.
        killed = [name for name, pid in victim.processes if kill_process(name, pid)]
        if not killed:
            raise ClusterError("what was to be killed has ended by itself: drill again")

    course = asyncio.run(Load(plan, strike, say).run())
    if course is None:
        raise ClusterError("the drill's sessions could not log in and join their rooms; nothing was killed")
    names = [session.name for session in plan.senders]
    return course, plan.judge.verdict(course.struck_at, course.stopped_at, names)


def kill_process(name: str, pid: int) -> bool:
    """SIGKILL, if this pid is that process still; whether it was."""
    if not runs_here(name, pid):
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise ClusterError(f"{name} (pid {pid}) belongs to another user: run the drill as that one") from None
    return True


def runs_here(name: str, pid: int) -> bool:
    """Whether this pid is a process of this host with the name that a supervisor gives it."""
    import psutil

    try:
        return psutil.Process(pid).name() == f"cs:{name}"[:15]
    except psutil.Error:
        return False


# --- before ---------------------------------------------------------------------------------------------


def _prepare(
    config: ClusterConfig, kill: str, group: int | None, per_s: float, seconds: float
) -> tuple[Plan, Victim]:
    from connserver.config import Places

    with Admin(config, Places(config)) as cluster:
        status = _status(cluster)
    fault = unhealthy(status)
    if fault:
        raise ClusterError(f"no drill on a cluster that is not healthy: {fault}")
    victim = choose(status, kill, group)
    strangers = [name for name, pid in victim.processes if not runs_here(name, pid)]
    if strangers:
        raise ClusterError(f"{', '.join(strangers)} does not run on this host: drill there")
    return _plan(config, status, victim, per_s, seconds), victim


def unhealthy(status: Mapping[str, Any]) -> str:
    """Why a drill would harm, as a sentence; "" if it would not."""
    for node in status["nodes"]:
        if node["state"] != "alive":
            return f"node {node['name']} is {node['state']}"
    for group in status["groups"]:
        if group["state"] != "ready":
            return f"group {group['id']} is {group['state']}: {group['reason']}"
        for member in group["members"]:
            if member["status"] != "normal" or not member["ready"]:
                return f"the replica of group {group['id']} on {member['node']} is not ready to take over"
    for row in status["processes"]:
        if row["state"] != "ready":
            return f"{row['name']} is in state {row['state']}"
    return ""


def choose(status: Mapping[str, Any], kill: str, group: int | None) -> Victim:
    """What is killed: around the primary of a group; ClusterError if there is no such group or gateway."""
    groups = {row["id"]: row for row in status["groups"]}
    chosen = min(groups) if group is None else group
    if chosen not in groups:
        raise ClusterError(f"there is no partition group {chosen}; there are 0 to {max(groups)}")
    node = groups[chosen]["primary"]
    led = tuple(number for number, row in groups.items() if row["primary"] == node)
    rows = [row for row in status["processes"] if row["node"] == node and row["role"] in OWN_OF_A_NODE]
    gateways = [row for row in rows if row["role"] == "gateway"]
    if kill == "gateway" and not gateways:
        gateways = [row for row in status["processes"] if row["role"] == "gateway"]
    killed = {
        "worker": [row for row in rows if row["name"] == f"w-{node}-{chosen}"],
        "gossip": [row for row in rows if row["role"] == "gossip"],
        "gateway": gateways[:1],
        "node": rows,
    }[kill]
    if not killed:
        raise ClusterError(f"there is no {kill} to kill on {node}; look at `cs-cluster status`")
    return Victim(
        node=killed[0]["node"],
        processes=tuple((row["name"], row["pid"]) for row in killed),
        groups=(chosen,) if kill == "worker" else led,
        gateway=killed[0]["endpoint"] if kill == "gateway" else "",
    )


def _plan(
    config: ClusterConfig, status: Mapping[str, Any], victim: Victim, per_s: float, seconds: float
) -> Plan:
    from connserver.cli.drill_judge import Judge
    from connserver.cli.drill_load import Plan
    from connserver.cli.drill_session import DrillSession

    run = secrets.token_hex(4)
    count = min(max(round(per_s / OPERATIONS_PER_SENDER), SENDERS[0]), SENDERS[1])
    rooms = room_names(run, -(-count // SENDERS_PER_ROOM), victim.groups, len(status["groups"]))
    senders = [(f"s{number}", rooms[number % len(rooms)]) for number in range(count)]
    witnesses = [(f"witness{number}", room) for number, room in enumerate(rooms)]
    judge = Judge(dict([*senders, *witnesses]))
    logins = iter(_logins(config.auth, run, count + len(rooms)))
    sessions = [DrillSession(name, room, next(logins), judge) for name, room in [*senders, *witnesses]]
    attacked, safe = gateways_of(status, victim)
    ways = [_rotated(attacked, number) + [a for a in safe if a not in attacked] for number in range(count)]
    ways += [_rotated(safe, number) for number in range(len(witnesses))]
    return Plan(sessions, sessions[:count], ways, judge, per_s, seconds)


def _status(cluster: Admin) -> Mapping[str, Any]:
    """The status of a cluster whose gateways have reported; right after `up` that takes a moment."""

    def reported() -> Mapping[str, Any] | None:
        status: Mapping[str, Any] = cluster.ask("status", verbose=True)
        return status if status["gateways"] else None

    return until(reported, REPORTED_S) or cluster.ask("status", verbose=True)


def gateways_of(status: Mapping[str, Any], victim: Victim) -> tuple[list[Address], list[Address]]:
    """Where the senders connect, and where the witnesses, which are to come through untouched.

    Senders begin at the gateway that is killed, if one is; else they are spread over all.
    """
    rows = [(row["node"], row["endpoint"]) for row in status["gateways"]]
    if not rows:
        raise ClusterError("no gateway has reported: see `cs-cluster status`")
    dying = {victim.gateway} if victim.gateway else set()
    if any(name.startswith("gw-") for name, _ in victim.processes):
        dying |= {endpoint for node, endpoint in rows if node == victim.node and not victim.gateway}
    every = [endpoint for _, endpoint in rows]
    safe = [endpoint for endpoint in every if endpoint not in dying]
    if not safe:
        raise ClusterError("the cluster has no other gateway: nobody could resume; give it a second one")
    first = [victim.gateway] if victim.gateway else every
    return [_address(endpoint) for endpoint in first], [_address(endpoint) for endpoint in safe]


def _address(endpoint: str) -> Address:
    from connserver.config import Endpoint

    found = Endpoint.parse(endpoint)
    return found.host, found.port


def _rotated(addresses: Sequence[Address], by: int) -> list[Address]:
    by %= len(addresses)
    return [*addresses[by:], *addresses[:by]]


def room_names(run: str, count: int, groups: Sequence[int], all_groups: int) -> list[str]:
    """So many names of rooms that are at home in these groups, of `all_groups`, in turn."""
    from connserver.ids import group_of, named_id, partition_of

    found: list[str] = []
    for number in itertools.count():
        name = f"drill-{run}-{number}"
        if group_of(partition_of(named_id("room", name)), all_groups) == groups[len(found) % len(groups)]:
            found.append(name)
            if len(found) == count:
                return found
    raise AssertionError("unreachable")


def _logins(auth: AuthConfig, run: str, count: int) -> list[dict[str, Any]]:
    """What so many sessions log in with: as guests, or with tokens signed with the cluster's secret."""
    if auth.provider == "anonymous":
        return [{} for _ in range(count)]
    if auth.provider != "hmac" or auth.secret_file is None:
        raise ClusterError(
            f"the drill cannot log in where [auth] provider = {auth.provider!r}: it can with 'anonymous' "
            "and, where it may read the secret, with 'hmac'"
        )
    from joserfc import jwt
    from joserfc.jwk import OctKey

    try:
        key = OctKey.import_key(auth.secret_file.read_bytes().strip())
    except OSError as error:
        raise ClusterError(f"the drill cannot read {auth.secret_file}: {error.strerror}") from None
    claims: dict[str, Any] = {"exp": int(time.time()) + TOKEN_S, "roles": ["guest"]}
    claims |= {"iss": auth.jwt_issuer} if auth.jwt_issuer else {}
    claims |= {"aud": auth.jwt_audience} if auth.jwt_audience else {}
    users = [f"drill-{run}-{number}" for number in range(count)]
    return [{"token": jwt.encode({"alg": "HS256"}, {**claims, "sub": user}, key)} for user in users]
