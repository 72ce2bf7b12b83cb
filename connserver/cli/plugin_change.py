"""How the plugins of a running cluster are changed: tried everywhere first, then switched group by group.

Guards two rules. A change that any node or any group refuses changes nothing: backups on every node try
it, then every primary, before the first group switches. And what ends halfway says so: which groups have
it, which have not, and the command that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connserver.errors import ClusterError, PluginLoadError
from connserver.limits import ADMIN_PLUGIN_MS
from connserver.plugin.package import Package, pack

if TYPE_CHECKING:
    from connserver.cli.find import Admin

PATIENCE_S: Final = ADMIN_PLUGIN_MS / 1000 + 1.0

UNCHANGED: Final = "; nothing was changed"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is wanted. `name` is empty for an attach: the package says it. `folder`: where that is from."""

    action: str
    name: str = ""
    package: Package | None = None
    folder: str = ""
    timeout_ms: int | None = None

    def arguments(self) -> dict[str, Any]:
        """For a worker."""
        found: dict[str, Any] = {"action": self.action, "name": self.name, "folder": self.folder}
        if self.package is not None:
            found["code"] = self.package.data
        if self.timeout_ms is not None:
            found["timeout_ms"] = self.timeout_ms
        return found


@dataclass(frozen=True, slots=True)
class Done:
    """What happened. `groups`: those that were changed; `same`: those that had it already."""

    name: str
    was: Sequence[str]
    now: str
    groups: Sequence[int]
    same: Sequence[int]
    way_back: str
    took_ms: int


def package_of(folder: Path) -> Package:
    """The package of a folder here; ClusterError says what is wrong with it."""
    try:
        return pack(folder.resolve())
    except PluginLoadError as error:
        raise ClusterError(str(error)) from None


def running(cluster: Admin, groups: Iterable[int]) -> list[Row]:
    """What the primaries of these groups run at this moment, a row for each plugin and group."""
    return [
        {**row, "group": group}
        for group in groups
        for row in cluster.ask("worker.plugin.rows", group=group)["plugins"]
    ]


def groups_of(cluster: Admin, text: str) -> list[int]:
    """The groups that `--groups` means; ClusterError if there are none such."""
    count = len(cluster.ask("routes")["routes"])
    if text == "all":
        return list(range(count))
    try:
        groups = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ClusterError(f"--groups {text}: write all, or numbers such as 0,2") from None
    if not all(0 <= group < count for group in groups):
        raise ClusterError(f"--groups {text}: there are the partition groups 0 to {count - 1}")
    return groups


def apply(cluster: Admin, change: Change, groups: Sequence[int]) -> Done:
    """Make the change in these groups; ClusterError, and then nothing was changed unless it says so."""
    begun = time.monotonic()
    open_groups, same = _without_same(cluster, change, groups)
    tried: set[str] = set()
    plans = {group: _tried(cluster, change, group, tried) for group in open_groups}
    done: list[Mapping[str, Any]] = []
    for number, group in enumerate(open_groups):
        try:
            done.append(_switched(cluster, change, group, plans[group]))
        except ClusterError as error:
            if not number:
                raise
            raise ClusterError(_halfway(change, open_groups, number, str(error))) from None
    last = done[-1] if done else {}
    return Done(
        name=last.get("name", change.name),
        was=sorted({row["was"] for row in done}),
        now=last.get("now", ""),
        groups=open_groups,
        same=same,
        way_back=next((row["way_back"] for row in done if row["way_back"]), ""),
        took_ms=round((time.monotonic() - begun) * 1000),
    )


def follow_files(cluster: Admin, folders: Mapping[Path, int]) -> list[str]:
    """Bring every group to exactly the plugins in these folders (with their time limits), as `dev` wants it.

    Returns the names that were changed; ClusterError at the first that is refused.
    """
    groups = groups_of(cluster, "all")
    rows = running(cluster, groups)
    by_folder = {row["folder"]: row for row in rows}
    wanted = {str(folder.resolve()): timeout_ms for folder, timeout_ms in folders.items()}
    changed = []
    for row in {row["name"]: row for row in rows if row["folder"] not in wanted}.values():
        changed.append(apply(cluster, Change(action="detach", name=row["name"]), groups).name)
    for folder, timeout_ms in wanted.items():
        package, found = package_of(Path(folder)), by_folder.get(folder)
        if found is None:
            change = Change(action="attach", package=package, folder=folder, timeout_ms=timeout_ms)
        elif found["digest"] != package.digest:
            change = Change(action="reload", name=found["name"], package=package, folder=folder)
        else:
            continue
        changed.append(apply(cluster, change, groups).name)
    return changed


def _without_same(
    cluster: Admin, change: Change, groups: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """The groups in which something is left to do, and the others: after half a change it can be repeated."""
    rows = running(cluster, groups)
    if change.action == "detach":
        there = {row["group"] for row in rows if row["name"] == change.name}
        same = [group for group in groups if group not in there]
    elif change.package is not None and change.timeout_ms is None:
        has = {row["group"] for row in rows if row["digest"] == change.package.digest}
        same = [group for group in groups if group in has]
    else:
        same = []
    if len(same) == len(groups):
        return groups, []  # let the workers say that there is nothing to do
    return [group for group in groups if group not in same], same


def _tried(cluster: Admin, change: Change, group: int, tried: set[str]) -> Mapping[str, Any]:
    """Try a change on a group's backups, where their nodes have not tried it yet, and on its primary;
    what that says of it."""
    route = cluster.ask("routes")["routes"][group]
    if route["state"] != "ready":
        raise ClusterError(f"group {group} is {route['state']}: {route['reason']}; nothing was changed")
    alive = {row["name"] for row in cluster.ask("status")["nodes"] if row["state"] == "alive"}
    backups = [node for node in route["replicas"] if node != route["node"] and node in alive - tried]
    plan: Mapping[str, Any] = {}
    for node in [*backups, route["node"]]:
        try:
            plan = cluster.ask_patiently(
                PATIENCE_S, "replica.plugin.check", group=group, node=node, **change.arguments()
            )
        except ClusterError as error:
            why = str(error).removesuffix(UNCHANGED)
            raise ClusterError(f"{why} (group {group} on {node}){UNCHANGED}") from None
        tried.add(node)
    return plan


def _switched(cluster: Admin, change: Change, group: int, plan: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = {**change.arguments(), "revision": plan["revision"]}
    try:
        told: Mapping[str, Any] = cluster.ask_patiently(
            PATIENCE_S, "worker.plugin.set", group=group, **arguments
        )
    except ClusterError as error:
        raise ClusterError(f"{error} (group {group})") from None
    return told


def _halfway(change: Change, groups: Sequence[int], number: int, why: str) -> str:
    has, left = _listed(groups[:number]), ",".join(map(str, groups[number:]))
    what = change.folder if change.action == "attach" else change.name
    more = f" {change.folder}" if change.action == "reload" else ""
    return (
        f"{why}. The {change.action} was done in group {has} and not in the others: those go on as before. "
        f"Go on with `cs-cluster plugin {change.action} {what}{more} --groups {left}`"
    )


def _listed(groups: Sequence[int]) -> str:
    return ", ".join(map(str, groups))
