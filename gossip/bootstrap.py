"""How a node comes to a placement, and whether it may serve by the one it has. Pure.

Guards one rule: the placement is decided at the first start and never computed again from the file,
since a group's data lies where it was placed. Computing is deterministic, so several nodes may do it
at once; what must not happen is that *one* node does it anew from a file that was changed since,
after its folder was lost. Therefore:

* a node that has a placement uses it, whatever the file says;
* one that has none takes it from any node that has one;
* it is computed at once if every node of the cluster answers and has none (the first start of
  all), and after PLACEMENT_WAIT_MS if a majority answers and has none (some machine is not there
  yet); never by a minority, and never if this node's file was there and is damaged;
* nodes that differ all the same say so, and whoever is not of the greater number serves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connserver.limits import PLACEMENT_WAIT_MS
from gossip.alerts import CRITICAL, WARNING, Alert
from gossip.peering import Identity
from gossip.placement import Placement, compute, from_rows, misfit, verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """What a node without a placement does: take or compute `placement`, ask `ask`, or wait for `wait`."""

    placement: Placement | None = None
    ask: tuple[str, ...] = ()
    wait: str = ""


class Bootstrap:
    """How a node without a placement comes to one. Pure: told what others say, asked what to do."""

    def __init__(
        self, cluster: str, nodes: Sequence[str], node: str, groups: int, *, damaged: bool, now: float
    ) -> None:
        self._cluster = cluster
        self._nodes = tuple(nodes)
        self._others = tuple(name for name in nodes if name != node)
        self._groups = groups
        self._damaged = damaged
        self._since = now
        self._said: dict[str, str] = {}
        self._offered: dict[str, Placement] = {}

    def said(self, node: str, digest: str) -> None:
        """A node that this one accepts holds this placement ("" none)."""
        self._said[node] = digest

    def offered(self, placement: Placement) -> None:
        """A node that this one accepts sent its placement."""
        self._offered[placement.digest] = placement

    def decide(self, now: float) -> Decision:
        """What to do now."""
        held = Counter(filter(None, self._said.values()))
        if held:
            return self._take(held)
        silent = [name for name in self._others if name not in self._said]
        if self._damaged:
            return Decision(
                wait="this node's placement file is damaged and no other node has answered with the "
                f"placement yet: start {_names(silent or self._others)}, or restore the file from a backup"
            )
        waited = now - self._since >= PLACEMENT_WAIT_MS / 1000
        majority = len(self._nodes) - len(silent) > len(self._nodes) // 2
        if not silent or (waited and majority):
            return Decision(compute(self._cluster, self._nodes, self._groups))
        more = "" if majority else ", with a majority of the nodes,"
        return Decision(
            wait=f"the first placement of the partition groups waits for {_names(silent)}{more} to be heard"
        )

    def _take(self, held: Counter[str]) -> Decision:
        ranked = held.most_common()
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            holders = _names([name for name, digest in self._said.items() if digest])
            return Decision(
                wait=f"{holders} hold different placements and this node has none: "
                "stop the one whose state folder is of another cluster"
            )
        digest = ranked[0][0]
        placement = self._offered.get(digest)
        if placement is not None:
            return Decision(placement)
        ask = tuple(name for name, said in self._said.items() if said == digest)
        return Decision(ask=ask, wait=f"the placement is being fetched from {_names(ask)}")


class Placing:
    """This node's placement, from the start that finds none to the verdict about the one it has."""

    def __init__(self, identity: Identity, kept: Placement | None, *, damaged: bool, now: float) -> None:
        self._identity = identity
        self._take(kept)
        self._bootstrap = Bootstrap(
            identity.cluster, identity.names, identity.node, identity.groups, damaged=damaged, now=now
        )
        self._waiting = "this node has just started"
        self._weighed: tuple[Placement, dict[str, str], str] | None = None  # the last refusal, and of what

    @property
    def digest(self) -> str:
        """The placement's, "" without one."""
        return self.placement.digest if self.placement else ""

    @property
    def usable(self) -> Placement | None:
        """The placement if the configuration can be run on it."""
        return None if self._misfit else self.placement

    def said(self, peer: str, digest: str) -> None:
        """An accepted peer holds this placement ("" none)."""
        self._bootstrap.said(peer, digest)

    def offered(self, rows: Sequence[Sequence[str]]) -> None:
        """An accepted peer sent its placement; ValueError if it can be none."""
        if self.placement is None and rows:
            self._bootstrap.offered(from_rows(self._identity.cluster, rows))

    def decide(self, now: float) -> Decision:
        """What to do about a placement; a decision with one is taken over at once."""
        if self.placement is not None:
            return Decision()
        decision = self._bootstrap.decide(now)
        self._waiting = decision.wait
        self._take(decision.placement)
        return decision

    def refusal(self, others: Mapping[str, str]) -> str:
        """Why this node serves nothing, "" if it does. `others`: placement digests by accepted peer."""
        if self.placement is None:
            return self._waiting
        if self._misfit:
            return self._misfit
        known = self._weighed  # asked for every message of the logs
        if known is not None and known[0] is self.placement and known[1] == others:
            return known[2]
        weighed = verdict(self.placement.digest, others)
        differing = f"its placement differs from that of {_names(weighed.differing)}"
        fault = "" if weighed.serves else differing
        self._weighed = self.placement, dict(others), fault
        return fault

    def alerts(self, others: Mapping[str, str]) -> list[Alert]:
        """The same for a person, and what concerns others."""
        node = self._identity.node
        if self.placement is None:
            return [Alert("placement", WARNING, f"Node {node} serves nothing yet: {self._waiting}.")]
        fault = self._misfit
        if fault:
            return [Alert("placement", CRITICAL, f"Node {node} serves nothing: {fault}.")]
        weighed = verdict(self.placement.digest, others)
        if not weighed.differing:
            return []
        consequence = "" if weighed.serves else f" Until then {node} serves nothing."
        text = (
            f"Nodes {node} and {_names(weighed.differing)} hold different placements of the partition "
            "groups: one of their state folders is of another cluster. Stop the node whose folder is wrong, "
            f"move its file `placement` away and start it: it takes the others'.{consequence}"
        )
        return [Alert("placement", CRITICAL, text)]

    def _take(self, placement: Placement | None) -> None:
        own = self._identity
        self.placement = placement
        self._misfit = misfit(placement, own.cluster, own.names, own.groups) if placement else ""


def _names(nodes: Sequence[str]) -> str:
    return ", ".join(nodes)
