"""Where each partition group is served: a pure function of what is known of all nodes.

Guards two rules. Gossip processes that have the same records compute the same table, so it holds no
times and nothing that only one of them knows. And an entry's era and view never go back: they are the
greatest in which a replica took part. While a primary has no worker, the last grant that its node gave
in its present life stands in; a node that has just started has given none, and leaves the view.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from connserver.ids import (
    PARTITIONS,
    ObjectId,
    PartitionId,
    group_range,
    named_id,
    parse_oid,
    partition_of,
)
from connserver.messages import GroupPosition, RouteEntry
from gossip.picture import LIVING, Picture
from gossip.workers import DOWN, worker_name

READY, STARTING, UNAVAILABLE = "ready", "starting", "unavailable"
FIRST_POSITION = (1, 0)
"""Era and view of a group whose log has not said anything else."""
ABLE, UNBORN, RECOVERING = ("normal", "view_change"), ("blank", "forming"), "recovering"
"""States of a replica: able to be counted for a majority; of a group that was never open, or a lost disk;
known to have lost its log."""
SERVING = "serving"
"""State of a worker that holds a grant."""
TARGET_CHARS = 300
"""Longest name that `route` looks up; no room or user is called anything near it."""


def table(picture: Picture) -> list[RouteEntry]:
    """One entry per partition group, in order."""
    known: dict[int, dict[str, GroupPosition]] = {group: {} for group in range(picture.groups)}
    for name, record in picture.records.items():
        for row in record.positions if not record.refusal else ():
            if row.group in known:
                known[row.group][name] = row
    return [_entry(picture, group, rows) for group, rows in known.items()]


def _entry(picture: Picture, group: int, rows: dict[str, GroupPosition]) -> RouteEntry:
    first, last = group_range(group, picture.groups)
    if picture.placement is None:
        return RouteEntry(group, first, last, *FIRST_POSITION, 0, "", "", [], STARTING, picture.waiting)
    replicas = picture.placement.replicas(group)
    able = [(row.era, row.view) for name, row in rows.items() if row.status in ABLE and name in replicas]
    era, view = max(able, default=FIRST_POSITION)
    node = picture.placement.primary(group, view)
    worker = picture.worker(node, group)
    grant, endpoint = (worker.grant, worker.endpoint) if worker else (0, "")
    state, reason = _condition(picture, group, node, rows)
    return RouteEntry(group, first, last, era, view, grant, node, endpoint, list(replicas), state, reason)


def _condition(picture: Picture, group: int, node: str, rows: dict[str, GroupPosition]) -> tuple[str, str]:
    """Whether a group is served by its primary `node`, and if not, why."""
    assert picture.placement is not None
    replicas = picture.placement.replicas(group)
    away = {name: why for name in replicas if (why := _absence(picture, name))}
    needed = len(replicas) // 2 + 1
    if len(replicas) - len(away) < needed:
        return UNAVAILABLE, f"group {group} needs {needed} of its nodes: {'; '.join(away.values())}"
    problems = [row.problem for name, row in rows.items() if row.problem and name not in away]
    able = [name for name, row in rows.items() if row.status in ABLE and name not in away]
    if problems and len(able) < needed:
        return UNAVAILABLE, problems[0]
    lost = [name for name, row in rows.items() if row.status == RECOVERING and name not in away]
    if lost and away and len(able) < needed:
        return UNAVAILABLE, _without_log(group, lost, away)
    if rows and not able and all(row.status in UNBORN for row in rows.values()):
        missing = "; ".join(away.values()) or "they are coming to terms"
        return STARTING, f"group {group} begins when all of its nodes are there for the first time: {missing}"
    if node in away:
        return STARTING, f"{away[node]}; another replica of group {group} takes over"
    return _worker_condition(picture, group, node)


def _without_log(group: int, lost: list[str], away: dict[str, str]) -> str:
    """A disk was lost while another node is down: what there is left is no majority."""
    names, them = " and ".join(lost), "its log and gets it" if len(lost) == 1 else "their logs and get them"
    return (
        f"{names} lost {them} back only when all other replicas of group {group} are there: "
        f"{'; '.join(away.values())}; if a disk is lost there as well, see `cs-cluster recover {group}`"
    )


def _absence(picture: Picture, node: str) -> str:
    """Why a node takes no part now, "" if it may."""
    match picture.states[node]:
        case "refused":
            return f"node {node} is refused by the others: see alerts"
        case "dead":
            return f"node {node} is dead: start it again (cs-cluster up)"
        case "stopped":
            return f"node {node} was stopped: start it again"
    record = picture.current(node)
    if record is not None and record.refusal:
        return f"node {node} serves nothing: {record.refusal}"
    return ""


def _worker_condition(picture: Picture, group: int, node: str) -> tuple[str, str]:
    name = worker_name(node, group)
    row = picture.worker(node, group)
    if row and row.state == SERVING:
        return READY, ""
    if row and row.state == "ready":
        return STARTING, f"{name} is attached and not primary yet"
    if row and row.state == "loading":
        waits = f"; storage: {row.storage_error}" if row.storage_error else ""
        return STARTING, f"{name} is loading the objects of group {group}{waits}"
    process = picture.process(node, name)
    if process and process.state == "failed":
        return UNAVAILABLE, f"{name} is down: {process.reason or 'it failed'}; see its log, then restart it"
    if process and process.reason:
        return STARTING, f"{name} is not attached: {process.reason}"
    if process and process.state in DOWN:
        return STARTING, f"{name} is not attached: its process is in state {process.state}"
    if picture.states[node] not in LIVING or picture.current(node) is None:
        return STARTING, f"node {node}, primary of group {group}, is back and has not named its workers yet"
    return STARTING, f"{name} has not attached yet"


# --- looking something up ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What `route` was asked for; `oid` None when only a partition was named."""

    oid: ObjectId | None
    partition: PartitionId


_PARTITION = re.compile(r"[0-9]{1,5}\Z")
_NAMED = re.compile(r"(room|user):(.+)\Z", re.DOTALL)


def find(target: str) -> Target:
    """Read an object id, a partition number, room:NAME or user:NAME; ValueError in words."""
    if len(target) > TARGET_CHARS:
        raise ValueError(f"a target of {len(target)} characters; at most {TARGET_CHARS} are looked up")
    named = _NAMED.match(target)
    if named:
        oid = named_id(named[1], named[2])
        return Target(oid, partition_of(oid))
    if _PARTITION.match(target):
        if int(target) >= PARTITIONS:
            raise ValueError(f"partition {target} is not within 0..{PARTITIONS - 1}")
        return Target(None, PartitionId(int(target)))
    try:
        oid = parse_oid(target)
    except ValueError as error:
        hint = "or a partition number, room:NAME or user:NAME"
        raise ValueError(f"{error}; {hint}" if "write" in str(error) else str(error)) from None
    return Target(oid, partition_of(oid))
