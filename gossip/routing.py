"""Where each partition group is served: a pure function of what is known of all nodes.

Guards two rules. Gossip processes that have the same records compute the same table, so it holds no
times and nothing that only one of them knows. And an entry never goes back: while a primary has no
worker to name, the last grant it gave, or the least of its new incarnation, stands in.
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
from connserver.messages import RouteEntry
from gossip.grants import make_grant
from gossip.picture import Picture
from gossip.workers import DOWN, worker_name

READY, STARTING, UNAVAILABLE = "ready", "starting", "unavailable"
FIRST_POSITION = (1, 0)
"""Era and view of a group whose log has not said anything else."""
TARGET_CHARS = 300
"""Longest name that `route` looks up; no room or user is called anything near it."""


def table(picture: Picture) -> list[RouteEntry]:
    """One entry per partition group, in order."""
    positions = _positions(picture)
    return [_entry(picture, group, positions.get(group, FIRST_POSITION)) for group in range(picture.groups)]


def _positions(picture: Picture) -> dict[int, tuple[int, int]]:
    """The greatest (era, view) of each group that a replica of it says it is in."""
    positions: dict[int, tuple[int, int]] = {}
    if picture.placement is None:
        return positions
    for name, record in picture.records.items():
        if record.refusal:
            continue
        for row in record.positions:
            if row.group < picture.groups and name in picture.placement.replicas(row.group):
                known = positions.get(row.group, FIRST_POSITION)
                positions[row.group] = max(known, (row.era, row.view))
    return positions


def _entry(picture: Picture, group: int, position: tuple[int, int]) -> RouteEntry:
    first, last = group_range(group, picture.groups)
    era, view = position
    if picture.placement is None:
        return RouteEntry(group, first, last, era, view, 0, "", "", [], STARTING, picture.waiting)
    node = picture.placement.primary(group, view)
    row = picture.worker(node, group)
    grant = row.grant if row else 0
    if not grant and picture.incarnations[node]:
        grant = make_grant(picture.incarnations[node], 0)
    state, reason = _condition(picture, group, node)
    endpoint = row.endpoint if row else ""
    replicas = list(picture.placement.replicas(group))
    return RouteEntry(group, first, last, era, view, grant, node, endpoint, replicas, state, reason)


def _condition(picture: Picture, group: int, node: str) -> tuple[str, str]:
    match picture.states[node]:
        case "refused":
            return UNAVAILABLE, f"node {node}, primary of group {group}, is refused by the others: see alerts"
        case "dead":
            return (
                UNAVAILABLE,
                f"node {node}, primary of group {group}, is dead: start it again (cs-cluster up)",
            )
        case "stopped":
            return UNAVAILABLE, f"node {node}, primary of group {group}, was stopped: start it again"
    record = picture.current(node)
    if record is None:
        return STARTING, f"node {node}, primary of group {group}, is back and has not named its workers yet"
    if record.refusal:
        return UNAVAILABLE, f"node {node}, primary of group {group}, serves nothing: {record.refusal}"
    return _worker_condition(picture, group, node)


def _worker_condition(picture: Picture, group: int, node: str) -> tuple[str, str]:
    name = worker_name(node, group)
    row = picture.worker(node, group)
    if row and row.state == "ready":
        return (READY, "") if row.grant else (STARTING, f"{name} is attached and not primary yet")
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
