"""The machine of a gossip process: what its parts decide, joined. Events and the time in, effects out.

Guards three rules. Whatever an event changed is settled before its effects leave: duties, then this
node's record, then routes and alerts. A node grants nothing while it has no placement to serve by. And
whatever arrives is checked here or in the part that takes it; what makes no sense becomes a Note and
nothing else.

The replicated logs (`gossip.replication`) come in at two places: `positioned`, where a node's replicas
stand, and `granted`, which worker may execute. They are told where they are placed by a Place, of their
workers by Hired and Gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from connserver.limits import FAREWELL_CHARS, GOSSIP_RECONNECT_MS, GOSSIP_RECORD_MS, GOSSIP_URGENT_MS
from connserver.messages import (
    Forward,
    Forwarded,
    GetIntroduction,
    GetRecords,
    GroupPosition,
    Heartbeat,
    Introduction,
    NodeRecord,
    Records,
    RecordVersion,
)
from gossip.alerts import CRITICAL, WARNING, Alert
from gossip.board import Board
from gossip.bootstrap import Placing
from gossip.effects import Effect, KeepIncarnation, KeepPlacement, Note, Place, Publish, Reconnect, SendPeer
from gossip.local import LocalDesk
from gossip.membership import Changed, Membership, MustRaise, Outcome, State, Timing
from gossip.node_records import OwnRecord, RecordBook
from gossip.orders import Log, orders
from gossip.peering import Identity, Peering
from gossip.picture import Picture
from gossip.placement import Placement
from gossip.route_news import RouteNews
from gossip.routing import READY

ROUTES_TOPIC = b"routes"
GOSSIP_TOPIC = b"gossip"
ROUTES_REPEAT_S = 1.0
NAME_FIGHT_S = 30.0
"""Being overtaken three times within this means that two processes use one name."""
OVERTAKEN_REST_S = 1.0
"""Least time between two raises against another process of this name, each of which costs a sync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a gossip process finds at its start. `wall_ms`: the Unix time, for the `since` of alerts;
    `boot`: the random number of this life, by which workers know it."""

    identity: Identity
    incarnation: int
    boot: int
    placement: Placement | None
    placement_damaged: bool
    wall_ms: int
    timing: Timing = field(default_factory=Timing)


class GossipNode:
    """All of a gossip process but its sockets, files, clock and log."""

    def __init__(
        self,
        beginning: Beginning,
        metrics: Callable[[], str],
        log: Log,
        archive: Callable[[int], dict[str, Any]],
        now: float,
    ) -> None:
        identity = self.identity = beginning.identity
        timing = beginning.timing
        self.membership = Membership(identity.node, identity.peers, beginning.incarnation, timing, now)
        self.peering = Peering(identity, refusal_s=timing.dead_s)
        self.placing = Placing(identity, beginning.placement, damaged=beginning.placement_damaged, now=now)
        self.book = RecordBook(identity.peers, identity.groups)
        self._farewell = ""
        self._farewells: dict[str, tuple[int, str]] = {}
        self._own = OwnRecord(identity.node, beginning.incarnation, now)
        self.board = Board(self._picture(), wall_ms=beginning.wall_ms, now=now)
        self.desk = LocalDesk(
            identity,
            beginning.boot,
            lambda: self.board.routes,
            self.board.answers(metrics),
            orders(identity.node, lambda: self.board.picture, log, archive),
        )
        self._positions: list[GroupPosition] = []
        self._placed: frozenset[int] | None = None
        self._heard_at = dict.fromkeys(identity.peers, now)
        self._overtaken: deque[float] = deque(maxlen=3)
        self.disk_problems: Sequence[str] = ()
        """What the write-ahead log lost, shown until the next start, and what is wrong with its disk now."""
        self._leaving = False
        self._effects: list[Effect] = []
        self._changed = True
        self._settled_at = self._published_at = self._spoke_at = float("-inf")
        self._news = RouteNews()

    # --- events ---------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: call this every `timing.heartbeat_s`."""
        self._outcomes(self.membership.tick(now), now)
        self._changed |= self.peering.tick(now)
        self.desk.tick(now, self.membership.late_s)
        self._decide_placement(now)
        self._reconnect(now)
        self._settle(now)
        if now - self._published_at >= ROUTES_REPEAT_S:
            self._publish_routes(now)
        if self._spoke_at < now:
            self._speak(now)
        return self._done(now)

    def published(self, via: str, message: Any, now: float) -> list[Effect]:
        """A message on the PUB socket at the address of node `via`."""
        self._heard_at[via] = now
        if not isinstance(message, Heartbeat):
            self._warn("peer.refused", node=via, reason=f"{type(message).__name__} is not published to peers")
            return self._done(now)
        before = self.peering.standing(via)
        accepted = self.peering.examine(via, message, now)
        self._changed |= before != self.peering.standing(via)
        if accepted:
            self._accept(via, message, now)
        elif self.peering.differs(message):
            self._ask_introduction([via], now)
        return self._done(now)

    def direct(self, peer: str, message: Any, now: float) -> list[Effect]:
        """A message from another gossip process to this one alone."""
        match message:
            case GetIntroduction():
                if message.cluster == self.identity.cluster:
                    self._effects.append(SendPeer(peer, self._introduction()))
            case Introduction():
                self._introduced(peer, message, now)
            case GetRecords():
                self._effects += [SendPeer(peer, Records([record])) for record in self._known(message.nodes)]
            case _ if not self.peering.accepts(peer):
                self._warn("peer.refused", node=peer, reason="no heartbeat of it has been accepted yet")
            case Records():
                self._take_records(peer, message)
            case Forward():
                self.desk.forward(peer, message, now)
            case Forwarded():
                self.desk.forwarded(peer, message, now)
            case _:
                reason = f"{type(message).__name__} is no message between gossip processes"
                self._warn("peer.refused", node=peer, reason=reason)
        return self._done(now)

    def local(self, identity: bytes, message: Any, now: float) -> list[Effect]:
        """A message from a process of this node, or from an administrator."""
        self.desk.handle(identity, message, now)
        return self._done(now)

    def process_died(self, pid: int, now: float) -> list[Effect]:
        """A watched process is dead."""
        self.desk.process_died(pid)
        return self._done(now)

    def not_sent(self, message: Any, now: float) -> list[Effect]:
        """A message for a peer or a local process could not be handed over."""
        self.desk.not_sent(message)
        return self._done(now)

    def positioned(self, rows: list[GroupPosition], now: float, *, urgent: bool) -> list[Effect]:
        """Where all replicas of this node stand. `urgent`: more than numbers is different."""
        self._positions = rows
        self._changed |= urgent
        self.desk.stale = True
        return self._done(now)

    def granted(self, grants: Iterable[tuple[int, int]], now: float) -> list[Effect]:
        """The replicas of these groups gave their workers these grants, or took them away (0)."""
        for group, grant in grants:
            self.desk.granted(group, grant)
        return self._done(now)

    def accepts(self, peer: str) -> bool:
        """Whether what this peer says counts for the replicated logs; nothing does while we may not serve."""
        return self.peering.accepts(peer) and not self._refusal()

    def stopping(self, now: float) -> list[Effect]:
        """This process stops in order; the others need not wait for it to be silent."""
        self._leaving = True
        self._speak(now)
        return self._done(now)

    def dying(self, why: str, now: float) -> list[Effect]:
        """This process has to end at once; the others learn why while there is still somebody to say it."""
        self._farewell = why[:FAREWELL_CHARS]
        self._speak(now)
        return self._done(now)

    # --- other nodes ----------------------------------------------------------------------------

    def _accept(self, via: str, said: Heartbeat, now: float) -> None:
        self.placing.said(via, said.placement)
        if said.farewell:
            self._farewells[via] = said.incarnation, said.farewell
        sightings = said.sightings
        self._outcomes(
            self.membership.heard(via, said.incarnation, said.number, said.leaving, sightings, now), now
        )
        wanted = self.book.behind(said.records, now)
        if wanted:
            self._effects.append(SendPeer(via, GetRecords(wanted)))
        self._decide_placement(now)

    def _outcomes(self, outcomes: Iterable[Outcome], now: float) -> None:
        for outcome in outcomes:
            match outcome:
                case Changed(node, state, incarnation, cause):
                    self._changed = True
                    level = "info" if state is State.ALIVE else "warning"
                    facts = {"node": node, "incarnation": incarnation, "cause": cause}
                    self._effects.append(Note(level, f"node.{state.value}", facts))
                case MustRaise(incarnation, overtaken):
                    self._must_raise(incarnation, overtaken, now)

    def _must_raise(self, incarnation: int, overtaken: bool, now: float) -> None:
        if self._leaving or incarnation <= self.membership.incarnation:
            return
        if overtaken:
            if self._overtaken and now - self._overtaken[-1] < OVERTAKEN_REST_S:
                return
            self._overtaken.append(now)
        cause = "others know a higher one" if overtaken else "others held this node for dead"
        self._raise(incarnation, now, cause)

    def _raise(self, incarnation: int, now: float, cause: str) -> None:
        self._effects.append(KeepIncarnation(incarnation))
        self._warn("incarnation.raised", incarnation=incarnation, cause=cause)
        self.membership.raised(incarnation)
        self._changed = True
        self._spoke_at = float("-inf")  # a refutation does not wait for the next heartbeat

    def _take_records(self, peer: str, message: Records) -> None:
        for record in message.records:
            outcome = self.book.offer(record)
            self._changed |= outcome == ""
            if outcome:
                self._warn("record.refused", node=peer, about=record.node[:40], reason=outcome)

    def _known(self, names: Iterable[str]) -> list[NodeRecord]:
        known = {self.identity.node: self._own.record, **self.book.records}
        return [known[name] for name in dict.fromkeys(names) if name in known]

    def _introduction(self) -> Introduction:
        own, placement = self.identity, self.placing.placement
        rows = placement.rows() if placement else []
        return Introduction(own.cluster, own.node, self.membership.incarnation, dict(own.sections), rows)

    def _introduced(self, peer: str, said: Introduction, now: float) -> None:
        self.peering.introduced(peer, said)
        self._changed = True
        if self.peering.accepts(peer):
            try:
                self.placing.offered(said.placement)
            except ValueError as error:
                self._warn("placement.refused", node=peer, reason=str(error))
            self._decide_placement(now)

    def _ask_introduction(self, peers: Iterable[str], now: float) -> None:
        asked = self.peering.to_ask(peers, now)
        self._effects += [SendPeer(peer, GetIntroduction(self.identity.cluster)) for peer in asked]

    def _reconnect(self, now: float) -> None:
        for peer, at in self._heard_at.items():
            if now - at >= GOSSIP_RECONNECT_MS / 1000:
                self._heard_at[peer] = now
                self._effects.append(Reconnect(peer))

    def _decide_placement(self, now: float) -> None:
        decision = self.placing.decide(now)
        self._ask_introduction(decision.ask, now)
        if decision.placement is not None:
            self._effects.append(KeepPlacement(decision.placement))
            self._effects.append(Note("info", "placement.decided", {"digest": decision.placement.digest}))
            self._changed = True

    def _refusal(self) -> str:
        return self.placing.refusal(self.peering.placements)

    # --- settling -------------------------------------------------------------------------------

    def _done(self, now: float) -> list[Effect]:
        self._settle(now)
        self._fetch_desk(now)
        effects, self._effects = self._effects, []
        return effects

    def _settle(self, now: float) -> None:
        """Make everything follow from what has changed; also once a second, for what time changes."""
        changed = self._changed or self.desk.changed
        if not changed and now - self._settled_at < GOSSIP_RECORD_MS / 1000:
            return
        self._settled_at = now
        self._fetch_desk(now)
        refusal = self._refusal()
        if changed:
            self._place(refusal)
        changed |= self._raise_alerts(now)
        if changed or self.desk.stale:
            self._tell(refusal, now)
            self.desk.stale = self._own.deferred
        self._changed = self.desk.changed = False
        self.board.watch(now)

    def _tell(self, refusal: str, now: float) -> None:
        """Bring this node's record and what follows from all records up to date."""
        urgent = self._own.put(self._describe(refusal, now), now)
        if self.board.show(self._picture(), now):
            self._publish_news(now)
        if urgent and now - self._spoke_at >= GOSSIP_URGENT_MS / 1000:
            self._speak(now)

    def _fetch_desk(self, now: float) -> None:
        effects, noted = self.desk.drain()
        self._effects += effects
        for alert in noted:
            self.board.note(alert, now)

    def _place(self, refusal: str) -> None:
        """Once this node may serve by its placement, its replicas come to be; they never go."""
        placement = self.placing.usable
        placed = placement.groups_of(self.identity.node) if placement else None
        self.desk.placed(placed)
        if placement and placed and not refusal and self._placed != placed:
            self._placed = placed
            self._effects.append(Place({group: placement.replicas(group) for group in sorted(placed)}))

    def _raise_alerts(self, now: float) -> bool:
        node = self.identity.node
        holding = [*self.peering.alerts(), *self.placing.alerts(self.peering.placements)]
        if self.desk.reporters.supervisor_silent(now):
            text = f"The supervisor of node {node}'s host is silent: processes that die are not replaced."
            holding.append(Alert(f"node:{node}", WARNING, f"{text} Start it again with cs-cluster up."))
        for text in self.disk_problems:
            holding.append(Alert(f"node:{node}", WARNING, f"Replicated log of node {node}: {text}."))
        for row in self._positions:
            if row.problem:
                holding.append(Alert(f"group:{row.group}", CRITICAL, f"{row.problem} (on {node})"))
        fights = self._overtaken
        if len(fights) == fights.maxlen and now - fights[0] < NAME_FIGHT_S:
            text = f"Another gossip process uses the name {node}: stop one of them (see --node on each host)."
            holding.append(Alert(f"node:{node}", CRITICAL, text))
        new, over = self.board.own_alerts(holding, now)
        for alert in new:
            self._warn("alert.raised", about=alert.about, severity=alert.severity, text=alert.text)
        for alert in over:
            self._effects.append(Note("info", "alert.over", {"about": alert.about, "text": alert.text}))
        return bool(new or over)

    def _describe(self, refusal: str, now: float) -> NodeRecord:
        desk = self.desk
        return NodeRecord(
            node=self.identity.node,
            incarnation=self.membership.incarnation,
            version=1,
            refusal=refusal,
            positions=self._positions,
            workers=desk.workers.rows(),
            gateways=desk.reporters.gateways(),
            processes=desk.reporters.processes,
            storage=desk.reporters.storage,
            alerts=self.board.own_alert_records(now),
        )

    def _picture(self) -> Picture:
        own, membership = self.identity, self.membership
        refused = self.peering.refused()
        states = {name: membership.state(name).value for name in own.names}
        return Picture(
            cluster=own.cluster,
            node=own.node,
            groups=own.groups,
            states=states | dict.fromkeys(refused, "refused"),
            incarnations={name: membership.incarnation_of(name) for name in own.names},
            records={**self.book.records, own.node: self._own.record},
            placement=self.placing.usable,
            waiting=self._refusal(),
            farewells={
                name: text
                for name, (incarnation, text) in self._farewells.items()
                if incarnation == membership.incarnation_of(name)
            },
        )

    # --- speaking -------------------------------------------------------------------------------

    def _speak(self, now: float) -> None:
        membership = self.membership
        own = RecordVersion(self.identity.node, self._own.record.incarnation, self._own.record.version)
        heartbeat = Heartbeat(
            cluster=self.identity.cluster,
            node=self.identity.node,
            incarnation=membership.incarnation,
            number=membership.next_number(),
            leaving=self._leaving,
            digest=self.identity.digest,
            placement=self.placing.digest,
            sightings=membership.sightings(),
            records=[own, *self.book.versions()],
            farewell=self._farewell,
        )
        self._spoke_at = now
        self._effects.append(Publish(GOSSIP_TOPIC, heartbeat))

    def _publish_routes(self, now: float) -> None:
        self._published_at = now
        self._news.all_told(self.board.routes.entries, now)
        self._effects.append(Publish(ROUTES_TOPIC, self.board.routes))

    def _publish_news(self, now: float) -> None:
        news = self._news.take(self.board.routes.entries, now)
        if news:
            self._effects.append(Publish(ROUTES_TOPIC, replace(self.board.routes, entries=news)))

    @property
    def due(self) -> float:
        """When to call `wake`; inf: nothing waits."""
        return self._news.due

    def wake(self, now: float) -> list[Effect]:
        """The time `due` has come."""
        self._publish_news(now)
        return self._done(now)

    def _warn(self, event: str, **facts: Any) -> None:
        self._effects.append(Note("warning", event, facts))

    def check_invariants(self) -> None:
        """What holds after every event; called by the tests."""
        self.membership.check_invariants()
        self.book.check_invariants()
        self.desk.check_invariants()
        self._news.check_invariants()
        assert len(self.board.routes.entries) == self.identity.groups
        served = [entry.node for entry in self.board.routes.entries if entry.state == READY]
        assert not (self._refusal() and self.identity.node in served), "a node serves that may not"
