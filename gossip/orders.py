"""What an administrator orders the gossip process of one node to do with its replica of a group.

Guards one rule: a new era ends whatever the others still hold, so it begins only where no majority
is left that could go on without it, by this node's own knowledge and not by the asker's word. Handoff
and looking change nothing that could be lost. Pure but for what the replicas do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from connserver.errors import ClusterError
from gossip import members
from gossip.administration import Arguments, Orders, flag_argument, name_argument
from gossip.picture import Picture
from gossip.replica import ReplicaStatus
from gossip.routing import table
from gossip.workers import LARGEST_POSITION


class Log(Protocol):
    """This node's replicas, as far as an administrator may reach into them."""

    def holds(self, group: int) -> ReplicaStatus | None:
        """What this node's replica of a group holds; None: there is none."""

    def resign(self, group: int, target: str | None) -> str:
        """Begin a planned handoff; why not, or ""."""

    def begin_era(self, group: int, base: int | None, above: tuple[int, int]) -> str:
        """Begin an era and a view greater than `above`, with the log that is here or after op `base` of
        the archive; why not, or ""."""


def orders(
    node: str, picture: Callable[[], Picture], log: Log, archive: Callable[[int], dict[str, Any]]
) -> Orders:
    """The orders that the gossip process of `node` takes.

    `archive` says where the archive of a group stands, as ArchiveEras.look does.
    """
    desk = _Desk(node, picture, log, archive)
    return {
        "failover": (frozenset({"to"}), desk.failover),
        "recover.look": (frozenset(), desk.look),
        "recover.begin": (frozenset({"archive", "above"}), desk.begin),
    }


class _Desk:
    def __init__(
        self,
        node: str,
        picture: Callable[[], Picture],
        log: Log,
        archive: Callable[[int], dict[str, Any]],
    ) -> None:
        self._node = node
        self._picture = picture
        self._log = log
        self._archive = archive

    def failover(self, group: int, arguments: Arguments, now: float) -> dict[str, Any]:
        """Hand primacy to `to`, or to whoever is ready."""
        held = self._held(group)
        target = name_argument(arguments, "to")
        if len(held.placement) == 1:
            raise ClusterError(f"group {group} has one replica, on {self._node}: nobody can take over")
        if target == self._node and held.primary == self._node:
            raise ClusterError(f"group {group} is led by {target} already")
        refusal = self._log.resign(group, target)
        if refusal:
            raise ClusterError(refusal)
        return {"group": group, "from": self._node, "view": held.view}

    def look(self, group: int, arguments: Arguments, now: float) -> dict[str, Any]:
        """What is held here, and where the archive stands."""
        held = self._held(group)
        return {
            "node": self._node,
            "era": held.era,
            "view": held.view,
            "log_view": held.log_view,
            "status": held.status.value,
            "head": held.head,
            "commit": held.commit,
            "base": held.base,
            "archive": self._archive(group),
        }

    def begin(self, group: int, arguments: Arguments, now: float) -> dict[str, Any]:
        """Begin a new era with the log that is here, or, with `archive`, from the archive.

        `above`: the greatest era and the greatest view that were seen anywhere, so that no number is
        used for two histories.
        """
        held = self._held(group)
        from_archive = flag_argument(arguments, "archive")
        era, view = _above(arguments)
        archived = self._archive(group)
        known = archived["state"] == "known"
        if from_archive and not known:
            error = archived.get("error") or "it is being read: try again in a moment"
            raise ClusterError(f"the archive of group {group} cannot be read: {error}")
        fits = not known or _fits(held, archived)
        fine = self._able(group)
        if len(fine) > len(held.placement) // 2 and (fits or not from_archive):
            raise ClusterError(
                f"a majority of group {group} holds its log ({', '.join(fine)}): there is nothing to recover"
            )
        if not from_archive and not fits:
            raise ClusterError(
                f"the archive of group {group} (op {archived['op']}, era {archived['era']}) does not fit the "
                f"log of {self._node} (op {held.head}, era {held.era}): go on from the archive"
            )
        above = (max(era, archived["era"]), max(view, archived["view"])) if known else (era, view)
        refusal = self._log.begin_era(group, archived["op"] if from_archive else None, above)
        if refusal:
            raise ClusterError(refusal)
        return {"group": group, "node": self._node, "era": self._held(group).era}

    def _held(self, group: int) -> ReplicaStatus:
        held = self._log.holds(group)
        if held is None:
            raise ClusterError(f"{self._node} has no replica of group {group} yet: see `cs-cluster status`")
        return held

    def _able(self, group: int) -> list[str]:
        """Living nodes whose replica has its log."""
        picture = self._picture()
        rows = members.positions(picture, table(picture)[group])
        return [name for name, row in rows.items() if row.status in members.ABLE]


def _above(arguments: Arguments) -> tuple[int, int]:
    given = arguments.get("above", [0, 0])
    whole = isinstance(given, list) and len(given) == 2
    if not whole or not all(type(number) is int and 0 <= number <= LARGEST_POSITION for number in given):
        raise ClusterError("`above` is an era and a view")
    return given[0], given[1]


def _fits(held: ReplicaStatus, archived: Mapping[str, Any]) -> bool:
    """Whether what the archive has is surely part of the log: else an era with this log would not go on
    from it. What was committed by then is in every log that is good in a later view, and in that one's."""
    if archived["era"] != held.era:
        return bool(archived["era"] < held.era)
    op = archived["op"]
    return bool(op <= held.commit or (held.log_view >= archived["view"] and op <= held.head))
