"""How each replica of a group is doing, and why a group is not served: for `status`.

Guards one rule: what a node said before it died is not shown as if it held now; of such a node there is
no word. Numbers of different nodes are up to GOSSIP_RECORD_MS apart. Pure.
"""

from __future__ import annotations

from typing import Any

from connserver.messages import GroupPosition, RouteEntry
from gossip.picture import LIVING, UNKNOWN, Picture
from gossip.routing import READY

ABLE = ("normal", "view_change")
"""States of a replica in which it counts for a majority."""
RECOVERING = "recovering"


def positions(picture: Picture, entry: RouteEntry) -> dict[str, GroupPosition]:
    """Where the replicas of a group stand, by node; of the living nodes that have said so."""
    found = {}
    for name in entry.replicas:
        record = picture.current(name) if picture.states[name] in LIVING else None
        for row in record.positions if record else ():
            if row.group == entry.group:
                found[name] = row
    return found


def members(picture: Picture, entry: RouteEntry) -> list[dict[str, Any]]:
    """One row per replica in the order of the placement.

    `status` is that of the replica, or "unknown" with numbers that are None; `lag`: so many committed
    ops it does not have; `ready`: a worker could take over there.
    """
    rows = positions(picture, entry)
    commit = group_commit(rows)
    return [_member(name, rows.get(name), commit) for name in entry.replicas]


def group_commit(rows: dict[str, GroupPosition]) -> int:
    """The greatest op that a replica of the newest era knows as committed."""
    era = max((row.era for row in rows.values()), default=0)
    return max((row.commit for row in rows.values() if row.era == era), default=0)


def _member(name: str, row: GroupPosition | None, commit: int) -> dict[str, Any]:
    if row is None:
        return {
            "node": name,
            "status": UNKNOWN,
            "commit": None,
            "head": None,
            "lag": None,
            "archived": None,
            "ready": False,
            "problem": "",
        }
    return {
        "node": name,
        "status": row.status,
        "commit": row.commit,
        "head": row.head,
        "lag": max(0, commit - row.head),
        "archived": row.archived,
        "ready": row.ready,
        "problem": row.problem,
    }


def why(picture: Picture, entry: RouteEntry) -> str:
    """Why a group is not served, in sentences a person can act on; "" if it is."""
    if entry.state == READY:
        return ""
    rows = positions(picture, entry)
    told = [entry.reason] if entry.reason else []
    for name, row in rows.items():
        if row.problem and not any(row.problem in text for text in told):
            told.append(f"{name}: {row.problem}")
    lost = [name for name, row in rows.items() if row.status == RECOVERING]
    able = [row for row in rows.values() if row.status in ABLE]
    if len(lost) > len(entry.replicas) // 2 and not any("recover" in text for text in told):
        told.append(f"{' and '.join(lost)} have lost their logs: see `cs-cluster recover {entry.group}`")
    elif len(able) > len(entry.replicas) // 2 and not any(row.ready for row in able):
        told.append("no worker is ready to take over")
    return "; ".join(told)
