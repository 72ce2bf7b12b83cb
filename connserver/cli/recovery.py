"""Where a lost group goes on: which log or the archive a new era begins from, and what may be missing.

Guards two rules. A group that can still go on by itself, now or once a node is started, is refused: a
new era ends whatever the others hold. And the choice is by (era, log_view, head), never by length
alone, since a longer log of an older view may hold what never was committed. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connserver.errors import ClusterError

ABLE = ("normal", "view_change")
"""States of a replica that holds its group's log."""
FORMING = ("blank", "forming")
"""States of a replica of a group that is being made."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one node's replica of a group holds."""

    node: str
    status: str
    era: int
    view: int
    log_view: int
    head: int
    commit: int
    base: int

    @property
    def able(self) -> bool:
        """Whether there is a log."""
        return self.status in ABLE

    @property
    def rank(self) -> tuple[int, int, int]:
        """Of two logs the greater goes on."""
        return self.era, self.log_view, self.head

    def fits(self, archive: Archive) -> bool:
        """Whether what the archive has is surely part of this log.

        What was committed by then is in every log that is good in a later view, and in that one's.
        """
        if archive.error or archive.era < self.era:
            return True
        if archive.era > self.era:
            return False
        return archive.op <= self.commit or (self.log_view >= archive.view and archive.op <= self.head)


@dataclass(frozen=True, slots=True)
class Archive:
    """A primary of `view` wrote everything up to `op` of `era`; with `error` it could not be read."""

    era: int = 0
    view: int = 0
    op: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """`node` begins an era and a view greater than `above`, with its log or, if `archive`, from the
    archive; the group goes on after `op`. `missing` says in words what may be lost.
    """

    group: int
    node: str
    archive: bool
    op: int
    missing: str
    above: tuple[int, int]

    @property
    def source(self) -> str:
        """In words."""
        return f"the archive, begun by {self.node}" if self.archive else f"the log of {self.node}"


def choose(
    group: int,
    replicas: Sequence[str],
    holdings: Sequence[Holding],
    archive: Archive,
    *,
    node: str | None = None,
    from_archive: bool = False,
) -> Choice:
    """Where the group goes on; `node` or `from_archive` is the operator's wish.

    ClusterError says why there is nothing to recover, or what to do first.
    """
    if not holdings:
        raise ClusterError(f"no node with a replica of group {group} can be reached: start {_all(replicas)}")
    silent = [name for name in replicas if name not in {row.node for row in holdings}]
    best = max(holdings, key=lambda row: (row.able, row.rank))
    ahead = best.able and not best.fits(archive)
    _refuse_healthy(group, replicas, holdings, silent, ahead=ahead)
    if node is not None:
        return _from_log(group, _named(group, holdings, node), archive, holdings, silent)
    if not from_archive and silent and archive.era > max(row.era for row in holdings):
        raise ClusterError(
            f"the archive of group {group} is of era {archive.era}, which no reachable node knows: start "
            f"{_all(silent)} first, or go on from the archive, with --archive"
        )
    if from_archive or not best.able or ahead:
        return _from_archive(group, best, archive, holdings)
    return _from_log(group, best, archive, holdings, silent)


def _refuse_healthy(
    group: int, replicas: Sequence[str], holdings: Sequence[Holding], silent: Sequence[str], *, ahead: bool
) -> None:
    """ClusterError for a group that needs no new era."""
    majority = len(replicas) // 2 + 1
    able = [row.node for row in holdings if row.able]
    lost = [row.node for row in holdings if not row.able and row.status not in FORMING]
    if ahead:
        return
    if len(able) >= majority:
        raise ClusterError(
            f"a majority of group {group} holds its log ({', '.join(able)}): there is nothing to recover; "
            "if it is not served, `cs-cluster status` says why"
        )
    if not lost:
        if silent:
            raise ClusterError(f"group {group} has lost no log that is known of: start {_all(silent)} first")
        raise ClusterError(f"group {group} is being made: `cs-cluster status` says what it waits for")
    if len(lost) < majority and able:
        raise ClusterError(
            f"group {group} is complete again once {_all(silent)} is there: start it first; "
            "a replacement machine takes its name with an empty disk"
        )


def _named(group: int, holdings: Sequence[Holding], node: str) -> Holding:
    for row in holdings:
        if row.node == node and row.able:
            return row
    able = [row.node for row in holdings if row.able]
    raise ClusterError(f"{node} holds no log of group {group}; {_all(able) or 'no reachable node'} does")


def _from_log(
    group: int, row: Holding, archive: Archive, holdings: Sequence[Holding], silent: Sequence[str]
) -> Choice:
    if not row.fits(archive):
        raise ClusterError(
            f"the archive of group {group} (op {archive.op}, era {archive.era}) does not fit the log of "
            f"{row.node} (op {row.head}, era {row.era}): go on from the archive, with --archive"
        )
    if not archive.error and archive.op < row.base:
        raise ClusterError(
            f"the log of {row.node} begins after op {row.base} of group {group}, and the archive has only "
            f"op {archive.op}: restore a newer backup of PostgreSQL first"
        )
    known = max(other.commit for other in holdings if other.era == row.era)
    words = f"everything up to op {row.head} goes on"
    if known > row.head:
        words += f"; {known - row.head} committed operations after it are LOST"
    else:
        away = [other.node for other in holdings if not other.able] + list(silent)
        words += f"; what {_all(away)} may have committed after it is lost" if away else ""
    if archive.error:
        words += f". The archive could not be compared ({archive.error})"
    return Choice(group, row.node, False, row.head, words, _above(archive, holdings))


def _from_archive(group: int, best: Holding, archive: Archive, holdings: Sequence[Holding]) -> Choice:
    if archive.error:
        raise ClusterError(
            f"no reachable node holds a log of group {group}, and the archive cannot be read: {archive.error}"
            if not best.able
            else f"the archive of group {group} cannot be read: {archive.error}"
        )
    known = max((row.commit for row in holdings if row.era == archive.era), default=0)
    words = f"everything up to op {archive.op} goes on; "
    if known > archive.op:
        words += f"{known - archive.op} committed operations after it are LOST"
    else:
        words += "what was committed after it is lost: usually less than a second of work"
    return Choice(group, best.node, True, archive.op, words, _above(archive, holdings))


def _above(archive: Archive, holdings: Sequence[Holding]) -> tuple[int, int]:
    """The greatest era and view of all that were seen: a new history takes none of their numbers."""
    eras, views = [row.era for row in holdings], [row.view for row in holdings]
    return max(archive.era, *eras), max(archive.view, *views)


def _all(names: Sequence[str]) -> str:
    return " and ".join(names)
