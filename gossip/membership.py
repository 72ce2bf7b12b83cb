"""Who is alive: a pure machine fed with heartbeats and the time (monotonic seconds).

Guards three rules. A node is silent only if *nobody* hears it: every heartbeat passes on the newest
(incarnation, number) its sender has seen of each node, so one cut link accuses no one. Suspicion is
a rumour that any newer heartbeat of the accused ends, but death is final for an incarnation: only
the accused itself comes back, by raising its incarnation, so what was known of its former life stays
void. And a node whose own loop was late gives the others that time in addition.

    ALIVE ──silent for suspect_s, or told so──▶ SUSPECT ──silent for dead_s, or told so──▶ DEAD
      ▲ ▲                                          │                                        │
      │ └──────────── newer heartbeat ─────────────┘      it said that it leaves: STOPPED   │
      └─────────────────────────── higher incarnation ─────────────────────────────────────┘

After SWIM (Das, Gupta, Motivala 2002) for rumour and refutation, and van Renesse's gossip-style
detector (1998) for the numbers that travel with the rumours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from connserver.limits import GOSSIP_DEAD_MS, GOSSIP_HEARTBEAT_MS, GOSSIP_SUSPECT_MS, INCARNATION_LIMIT
from connserver.messages import Sighting


class State(Enum):
    """What is thought of a node."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    STOPPED = "stopped"


GONE = frozenset({State.DEAD, State.STOPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. `dead_s` counts from the last heartbeat, as `suspect_s` does."""

    heartbeat_s: float = GOSSIP_HEARTBEAT_MS / 1000
    suspect_s: float = GOSSIP_SUSPECT_MS / 1000
    dead_s: float = GOSSIP_DEAD_MS / 1000


@dataclass(frozen=True, slots=True)
class Changed:
    """A node's state or incarnation is another one; `cause` in words for the log."""

    node: str
    state: State
    incarnation: int
    cause: str


@dataclass(frozen=True, slots=True)
class MustRaise:
    """This node has to take `incarnation`, durably, and then call `raised`.

    `overtaken`: somebody else was seen under this node's name, or its folder is older than it was;
    otherwise others held it dead.
    """

    incarnation: int
    overtaken: bool


Outcome = Changed | MustRaise


@dataclass(slots=True)
class Peer:
    """What is known of another node. `progress_at`: when its newest heartbeat became known here."""

    name: str
    progress_at: float
    since: float
    state: State = State.SUSPECT
    incarnation: int = 0
    number: int = 0
    heard_at: float | None = None
    accused: bool = False


class Membership:
    """All nodes of the cluster but this one, which speaks through `sightings` and `number`."""

    def __init__(self, node: str, peers: Iterable[str], incarnation: int, timing: Timing, now: float) -> None:
        self.node = node
        self.incarnation = incarnation
        self.number = 0
        self.peers = {name: Peer(name, progress_at=now, since=now) for name in peers}
        self._timing = timing
        self._ticked_at = now
        self.late_s = 0.0
        """How late the last tick came, where that was more than an interval."""
        assert node not in self.peers

    # --- what is said ---------------------------------------------------------------------------

    def next_number(self) -> int:
        """The number of the heartbeat that leaves now."""
        self.number += 1
        return self.number

    def sightings(self) -> list[Sighting]:
        """What this node's heartbeat says of the others; nothing of those it never heard of."""
        return [
            Sighting(peer.name, peer.incarnation, peer.number, peer.state.value, peer.accused)
            for peer in self.peers.values()
            if peer.incarnation
        ]

    def raised(self, incarnation: int) -> None:
        """The incarnation that MustRaise asked for is on the disk; numbers begin anew."""
        assert incarnation > self.incarnation
        self.incarnation = incarnation
        self.number = 0

    # --- what is heard --------------------------------------------------------------------------

    def heard(
        self,
        sender: str,
        incarnation: int,
        number: int,
        leaving: bool,
        sightings: Iterable[Sighting],
        now: float,
    ) -> list[Outcome]:
        """A heartbeat that came from `sender` itself. Those of an earlier life change nothing."""
        peer = self.peers[sender]
        if incarnation < peer.incarnation:
            return []
        peer.heard_at = now
        outcomes: list[Outcome] = []
        state = State.STOPPED if leaving else State.ALIVE
        self._learn(peer, incarnation, number, state, "heard", now, outcomes)
        for sighting in sightings:
            if sighting.node == self.node:
                self._accused_myself(sighting, outcomes)
            elif sighting.node in self.peers and sighting.node != sender:
                self._told(sender, sighting, now, outcomes)
        return outcomes

    def tick(self, now: float) -> list[Outcome]:
        """Time has passed; silence becomes suspicion, and suspicion death."""
        timing = self._timing
        late = now - self._ticked_at - timing.heartbeat_s
        self._ticked_at = now
        self.late_s = late if late > timing.heartbeat_s else 0.0
        for peer in self.peers.values():
            peer.progress_at = min(now, peer.progress_at + self.late_s)
        outcomes: list[Outcome] = []
        for peer in self.peers.values():
            silent = now - peer.progress_at
            if peer.state not in GONE and silent >= timing.dead_s:
                self._to(peer, State.DEAD, _silence(peer, timing.dead_s), now, outcomes)
            elif peer.state is State.ALIVE and silent >= timing.suspect_s:
                self._to(peer, State.SUSPECT, _silence(peer, timing.suspect_s), now, outcomes)
        return outcomes

    def state(self, name: str) -> State:
        """What is thought of a node; this one is alive."""
        return State.ALIVE if name == self.node else self.peers[name].state

    def incarnation_of(self, name: str) -> int:
        """The highest incarnation known of a node; 0 if it was never heard of."""
        return self.incarnation if name == self.node else self.peers[name].incarnation

    # --- how it is weighed ----------------------------------------------------------------------

    def _told(self, sender: str, sighting: Sighting, now: float, outcomes: list[Outcome]) -> None:
        peer = self.peers[sighting.node]
        known = (peer.incarnation, peer.number)
        told = (sighting.incarnation, sighting.number)
        state = State(sighting.state)
        cause = f"{sender} says so"
        if told > known:
            self._learn(peer, *told, state, cause, now, outcomes)
        elif told == known and state not in (State.ALIVE, peer.state) and peer.state not in GONE:
            self._to(peer, state, cause, now, outcomes)
        if sighting.incarnation == peer.incarnation and peer.state not in GONE:
            # whoever holds it dead will not take it back, so the accused has to hear of it
            peer.accused = peer.accused or sighting.accused or state in GONE

    def _learn(
        self,
        peer: Peer,
        incarnation: int,
        number: int,
        state: State,
        cause: str,
        now: float,
        outcomes: list[Outcome],
    ) -> None:
        """Take over a newer (incarnation, number); an older one says nothing."""
        if (incarnation, number) <= (peer.incarnation, peer.number):
            return
        reborn = incarnation > peer.incarnation
        peer.incarnation, peer.number = incarnation, number
        if reborn:
            peer.accused = False
        elif peer.state in GONE:
            return  # final for this incarnation
        if state not in (State.DEAD, State.SUSPECT):
            peer.progress_at = now
        if state is not peer.state or reborn:
            self._to(peer, state, cause, now, outcomes)

    def _accused_myself(self, sighting: Sighting, outcomes: list[Outcome]) -> None:
        told = (sighting.incarnation, sighting.number)
        if told > (self.incarnation, self.number):
            overtaken = True
        elif sighting.incarnation == self.incarnation and (sighting.accused or State(sighting.state) in GONE):
            overtaken = False
        else:
            return
        wanted = sighting.incarnation + 1
        if wanted < INCARNATION_LIMIT:
            outcomes.append(MustRaise(wanted, overtaken))

    def _to(self, peer: Peer, state: State, cause: str, now: float, outcomes: list[Outcome]) -> None:
        peer.state = state
        peer.since = now
        if state in GONE:
            peer.accused = False
        outcomes.append(Changed(peer.name, state, peer.incarnation, cause))

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        assert 0 < self.incarnation < INCARNATION_LIMIT
        for peer in self.peers.values():
            assert (peer.incarnation == 0) == (peer.number == 0), peer
            assert peer.state is not State.ALIVE or peer.incarnation, peer
            assert not (peer.accused and peer.state in GONE), peer


def _silence(peer: Peer, limit_s: float) -> str:
    if not peer.incarnation:
        return "never heard since this node started"
    return f"nobody heard it for {limit_s:g} s"
