"""What this process shows: the routing table, the alerts, and the answers made of them. Pure.

Guards one rule: everything is computed from one picture, so that a route, a state and an alert that
belong together never contradict each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from connserver.messages import AlertRecord, Routes
from gossip import routing, status
from gossip.administration import Arguments, flag_argument, text_argument
from gossip.alerts import Alert, AlertBook, cluster_alerts
from gossip.picture import LIVING, Picture

Answers = Mapping[str, tuple[frozenset[str], Callable[[Arguments, float], Any]]]


class Board:
    """The newest picture with its routes and alerts. `wall_ms`: the Unix time at `now`."""

    def __init__(self, picture: Picture, *, wall_ms: int, now: float) -> None:
        self.picture = picture
        self.routes = Routes(picture.cluster, picture.node, 1, routing.table(picture))
        self._own, self._cluster = AlertBook(), AlertBook()
        self._starting_since: dict[int, float] = {}
        self._shown = True
        self._started, self._wall_ms = now, wall_ms

    def note(self, alert: Alert, now: float) -> None:
        """Something happened here that a person should know for a while."""
        self._own.note(alert, now)

    def own_alerts(self, holding: Iterable[Alert], now: float) -> tuple[list[Alert], list[Alert]]:
        """What this node alone knows to be wrong; gives what is new and what is over."""
        return self._own.update(holding, now)

    def own_alert_records(self, now: float) -> list[AlertRecord]:
        """This node's own alerts, for its record."""
        return self._own.records(self._wall(now), now)

    def show(self, picture: Picture, now: float) -> bool:
        """Take a new picture; True: the routing table is another one."""
        self.picture = picture
        self._shown = True
        entries = routing.table(picture)
        starting = [entry.group for entry in entries if entry.state == routing.STARTING]
        self._starting_since = {group: self._starting_since.get(group, now) for group in starting}
        if entries == self.routes.entries:
            return False
        self.routes = Routes(picture.cluster, picture.node, self.routes.version + 1, entries)
        return True

    def watch(self, now: float) -> None:
        """Raise and end the alerts that follow from the picture, and from the time a start takes."""
        if not self._shown and not self._starting_since:
            return
        self._shown = False
        holding = cluster_alerts(self.picture, self.routes.entries, self._starting_since, now)
        self._cluster.update(holding, now)

    def answers(self, metrics: Callable[[], str]) -> Answers:
        """The commands that are answered from here, with the arguments each may have."""
        return {
            "status": (frozenset({"verbose"}), self._status),
            "routes": (frozenset(), lambda _, now: status.all_routes(self.routes)),
            "route": (frozenset({"target"}), self._route),
            "plugin.list": (frozenset(), lambda _, now: status.plugins(self.picture, self.routes.entries)),
            "metrics": (frozenset(), lambda _, now: {"text": metrics()}),
        }

    def _status(self, arguments: Arguments, now: float) -> dict[str, Any]:
        verbose = flag_argument(arguments, "verbose")
        return status.status(self.picture, self.routes.entries, self._all_alerts(now), verbose=verbose)

    def _route(self, arguments: Arguments, now: float) -> dict[str, Any]:
        return status.route(self.picture, self.routes.entries, text_argument(arguments, "target"))

    def _all_alerts(self, now: float) -> list[AlertRecord]:
        found = self.own_alert_records(now) + self._cluster.records(self._wall(now), now)
        for name, state in self.picture.states.items():
            record = self.picture.current(name) if state in LIVING else None
            if record and name != self.picture.node:
                found += record.alerts
        return found

    def _wall(self, now: float) -> int:
        return self._wall_ms + round((now - self._started) * 1000)
