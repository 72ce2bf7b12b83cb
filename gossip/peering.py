"""Whom this node accepts: same cluster, same configuration, the name it is expected under.

Guards one rule: a node that runs another configuration is refused by name and by section, before any
of what it says has an effect, because two halves of a cluster with different rules damage more than
one node that is missing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from connserver.limits import FAREWELL_CHARS, GOSSIP_ASK_MS, INCARNATION_LIMIT, RECORD_ROWS
from connserver.messages import Heartbeat, Introduction
from gossip.alerts import CRITICAL, Alert
from gossip.membership import State

_STATES = frozenset(state.value for state in State)
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a gossip process is. `names`: all nodes in the order of the file, this one included."""

    cluster: str
    node: str
    names: tuple[str, ...]
    groups: int
    digest: str
    sections: Mapping[str, str]

    @property
    def peers(self) -> tuple[str, ...]:
        """All nodes but this one."""
        return tuple(name for name in self.names if name != self.node)


@dataclass(slots=True)
class _Refusal:
    at: float
    text: str


@dataclass(slots=True)
class Peering:
    """Accepted and refused peers, by the name of the node whose address they speak from."""

    identity: Identity
    refusal_s: float
    placements: dict[str, str] = field(default_factory=dict)
    """What each accepted peer said of its placement last; "" none yet."""
    _accepted: set[str] = field(default_factory=set)
    _refused: dict[str, _Refusal] = field(default_factory=dict)
    _sections: dict[str, dict[str, str]] = field(default_factory=dict)
    _asked_at: dict[str, float] = field(default_factory=dict)

    def accepts(self, peer: str) -> bool:
        """Whether what this peer says counts."""
        return peer in self._accepted

    def refused(self) -> Iterable[str]:
        """Peers that speak and are refused."""
        return self._refused.keys()

    def standing(self, peer: str) -> tuple[bool, str | None]:
        """Whether a peer is refused, and which placement it holds as far as it counts."""
        return peer in self._refused, self.placements.get(peer)

    def examine(self, via: str, said: Heartbeat, now: float) -> bool:
        """A heartbeat from the address of node `via`: whether it counts."""
        fault = self._fault(via, said)
        if not fault:
            self._accepted.add(via)
            self._refused.pop(via, None)
            self.placements[via] = said.placement
            return True
        self._accepted.discard(via)
        self.placements.pop(via, None)
        self._refused[via] = _Refusal(now, fault)
        return False

    def differs(self, said: Heartbeat) -> bool:
        """Whether this heartbeat is refused for its configuration alone, so that asking more helps."""
        own = self.identity
        return (said.cluster, said.node in own.names) == (own.cluster, True) and said.digest != own.digest

    def introduced(self, peer: str, said: Introduction) -> None:
        """A peer said what its configuration is, so that the difference can be named."""
        if said.cluster == self.identity.cluster and said.node == peer:
            self._sections[peer] = dict(said.sections)

    def to_ask(self, peers: Iterable[str], now: float) -> list[str]:
        """Those of `peers` that may be asked for an Introduction now."""
        asked = [
            peer for peer in peers if now - self._asked_at.get(peer, float("-inf")) >= GOSSIP_ASK_MS / 1000
        ]
        self._asked_at.update(dict.fromkeys(asked, now))
        return asked

    def tick(self, now: float) -> bool:
        """A refused peer that is silent is no longer refused: it is not there. True if there was one."""
        silent = [peer for peer, row in self._refused.items() if now - row.at >= self.refusal_s]
        for peer in silent:
            del self._refused[peer]
        return bool(silent)

    def alerts(self) -> list[Alert]:
        """Every refusal in words."""
        return [Alert(f"node:{peer}", CRITICAL, row.text) for peer, row in self._refused.items()]

    def _fault(self, via: str, said: Heartbeat) -> str:
        own = self.identity
        if said.cluster != own.cluster:
            return (
                f"A gossip process of cluster {said.cluster[:40]!r} speaks from the address of node {via} "
                f"of cluster {own.cluster!r}: it is ignored. Give each cluster ports of its own."
            )
        if said.node != via:
            return (
                f"The gossip process at the address of node {via} says that it is {said.node[:40]!r}: it is "
                "ignored. Check host and gossip_port of both, and --node on their hosts."
            )
        if said.digest != own.digest:
            differing = self._differing(via)
            where = ", ".join(f"[{name}]" for name in differing) or "a part that it has not named yet"
            return (
                f"Node {via} runs with another cluster.toml; {where} differs, so it is refused. "
                "Make the files equal and restart the node whose file was wrong."
            )
        if not 0 < said.incarnation < INCARNATION_LIMIT or not 0 < said.number <= _LARGEST:
            return f"Node {via} sends heartbeats with numbers that cannot be: it is ignored. Restart it."
        if len(said.sightings) > RECORD_ROWS or len(said.records) > RECORD_ROWS:
            return f"Node {via} sends heartbeats with too many rows: it is ignored. Restart it."
        if len(said.farewell) > FAREWELL_CHARS:
            return f"Node {via} sends heartbeats with too long a farewell: it is ignored. Restart it."
        for row in said.sightings:
            if row.state not in _STATES or not (
                0 <= row.incarnation < INCARNATION_LIMIT and 0 <= row.number <= _LARGEST
            ):
                return f"Node {via} sends heartbeats with impossible sightings: it is ignored. Restart it."
        return ""

    def _differing(self, peer: str) -> list[str]:
        theirs, own = self._sections.get(peer), self.identity.sections
        if theirs is None:
            return []
        return sorted(name for name in {*theirs, *own} if theirs.get(name) != own.get(name))[:16]
