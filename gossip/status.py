"""The answers of `status`, `routes`, `route` and `plugin.list`: documents made of what is known.

Guards one rule: the keys of `status` are a contract with scripts; what goes beyond them is there only
when asked for with `verbose`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from connserver.ids import format_oid, group_of
from connserver.limits import ADMIN_ROWS
from connserver.messages import AlertRecord, GatewayRecord, RouteEntry, Routes, WorkerRecord
from gossip import members
from gossip.picture import LIVING, Picture
from gossip.routing import find

STORAGE_RANKS = {"unknown": 0, "ok": 1, "lagging": 2, "down": 3}
"""The four words that `status` has for storage; the worst is shown."""
STORAGE_WORDS = {
    "": "unknown",
    "unknown": "unknown",
    "ok": "ok",
    "standby": "ok",
    "lagging": "lagging",
    "deposed": "lagging",
}
"""What workers and supervisors say, in those words; everything else is trouble: "down"."""


def status(
    picture: Picture,
    routes: Sequence[RouteEntry],
    alerts: Iterable[AlertRecord],
    *,
    verbose: bool,
) -> dict[str, Any]:
    """The cluster in the seven parts that every reader of it may rely on."""
    document: dict[str, Any] = {
        "cluster": picture.cluster,
        "nodes": [_node(picture, name, verbose=verbose) for name in picture.states],
        "processes": _processes(picture, verbose=verbose),
        "gateways": [_gateway(node, row, verbose=verbose) for node, row in _living_gateways(picture)],
        "groups": [_group(picture, entry, verbose=verbose) for entry in routes],
        "storage": _storage(picture, routes, verbose=verbose),
        "alerts": merged_alerts(alerts),
    }
    if verbose:
        document["answered_by"] = picture.node
    return document


def all_routes(routes: Routes) -> dict[str, Any]:
    """The whole table."""
    return {"routes": [asdict(entry) for entry in routes.entries], "version": routes.version}


def route(picture: Picture, routes: Sequence[RouteEntry], target: str) -> dict[str, Any]:
    """From an object, partition, room or user to its primary; ValueError if it is none of these."""
    found = find(target)
    group = group_of(found.partition, picture.groups)
    entry = routes[group]
    return {
        "target": target,
        "oid": "" if found.oid is None else format_oid(found.oid),
        "partition": int(found.partition),
        "group": int(group),
        "view": entry.view,
        "primary": {"node": entry.node, "endpoint": entry.endpoint},
        "replicas": entry.replicas,
        "state": entry.state,
        "reason": entry.reason,
        "gateways": [{"node": node, "endpoint": row.endpoint} for node, row in _living_gateways(picture)],
    }


def plugins(picture: Picture, routes: Sequence[RouteEntry]) -> dict[str, Any]:
    """Which plugins the living workers have attached."""
    primaries = {entry.group: entry.node for entry in routes}
    rows = [
        {**plugin, "node": name, "group": row.group, "primary": primaries.get(row.group) == name}
        for name in picture.states
        for row in _living_workers(picture, name)
        for plugin in row.plugins
    ]
    return {"plugins": rows[:ADMIN_ROWS], "more": len(rows) > ADMIN_ROWS}


def merged_alerts(alerts: Iterable[AlertRecord]) -> list[dict[str, Any]]:
    """Each alert once with its earliest time; critical ones first, then by time, causes before effects."""
    earliest: dict[tuple[str, str], AlertRecord] = {}
    for alert in alerts:
        known = earliest.get((alert.about, alert.text))
        if known is None or alert.since_ms < known.since_ms:
            earliest[alert.about, alert.text] = alert
    ranked = sorted(earliest.values(), key=_urgency)
    return [
        {"since": timestamp(row.since_ms), "severity": row.severity, "text": row.text, "about": row.about}
        for row in ranked[:ADMIN_ROWS]
    ]


def _urgency(alert: AlertRecord) -> tuple[bool, int, bool, str]:
    effect = alert.about.startswith("group:")  # of a node, a process or a placement that is told as well
    return alert.severity != "critical", alert.since_ms // 1000, effect, alert.about


def timestamp(unix_ms: int) -> str:
    """ISO 8601 in UTC, to the second; a time that no calendar has becomes the first of all."""
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return "1970-01-01T00:00:00Z"


# --- one part each ------------------------------------------------------------------------------------


def _node(picture: Picture, name: str, *, verbose: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "state": picture.states[name],
        "incarnation": picture.incarnations[name],
    }
    if verbose:
        record = picture.current(name)
        row["refusal"] = record.refusal if record else ""
    return row


def _processes(picture: Picture, *, verbose: bool) -> list[dict[str, Any]]:
    rows = []
    for process in picture.processes():
        row = asdict(process)
        if not verbose:
            del row["reason"], row["last_end"]
        rows.append(row)
    return rows


def _gateway(node: str, row: GatewayRecord, *, verbose: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"node": node, "endpoint": row.endpoint, "clients": row.clients}
    if verbose:
        shown |= {"name": row.name, "pid": row.pid, "messages_per_s": row.messages_per_s}
    return shown


def _group(picture: Picture, entry: RouteEntry, *, verbose: bool) -> dict[str, Any]:
    worker = picture.worker(entry.node, entry.group) if entry.node else None
    commit = members.group_commit(members.positions(picture, entry))
    shown: dict[str, Any] = {
        "id": entry.group,
        "first_partition": entry.first_partition,
        "last_partition": entry.last_partition,
        "view": entry.view,
        "primary": entry.node,
        "replicas": entry.replicas,
        "members": members.members(picture, entry),
        "commit": max(commit, worker.commit if worker else 0),
        "archived": worker.archived if worker else 0,
    }
    if verbose:
        names = ("era", "grant", "endpoint", "state")
        shown |= {name: getattr(entry, name) for name in names}
        shown["reason"] = members.why(picture, entry)
    return shown


def _storage(picture: Picture, routes: Sequence[RouteEntry], *, verbose: bool) -> dict[str, Any]:
    state, error, lag = "unknown", "", 0
    for word, text in [*_supervised_storage(picture), *_worker_storage(picture)]:
        if STORAGE_RANKS[word] > STORAGE_RANKS[state]:
            state, error = word, text
    for entry in routes:
        worker = picture.worker(entry.node, entry.group) if entry.node else None
        if worker:
            lag += max(0, worker.commit - worker.archived)
    return {"state": state, "lag_ops": lag, **({"error": error} if verbose else {})}


def _supervised_storage(picture: Picture) -> Iterable[tuple[str, str]]:
    for name in picture.states:
        record = picture.current(name)
        if record and record.storage and picture.states[name] in LIVING:
            facts: Mapping[str, Any] = record.storage
            said = str(facts.get("state", ""))
            yield STORAGE_WORDS.get(said, "down"), str(facts.get("error", ""))


def _worker_storage(picture: Picture) -> Iterable[tuple[str, str]]:
    for name in picture.states:
        for row in _living_workers(picture, name):
            yield STORAGE_WORDS.get(row.storage, "down"), row.storage_error


def _living_workers(picture: Picture, node: str) -> list[WorkerRecord]:
    record = picture.current(node) if picture.states[node] in LIVING else None
    return [row for row in record.workers if row.state != "gone"] if record else []


def _living_gateways(picture: Picture) -> list[tuple[str, GatewayRecord]]:
    rows = []
    for name in picture.states:
        record = picture.current(name) if picture.states[name] in LIVING else None
        rows += [(name, row) for row in record.gateways] if record else []
    return rows
