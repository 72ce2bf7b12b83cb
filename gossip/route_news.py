"""When processes are told that groups are served elsewhere, and of which groups.

Every process of the cluster hears of routes from every gossip process, so with many groups what counts is
how often they are woken. Guards two rules: a change after some quiet is told at once, and only what
changed; while changes go on (a node died, a cluster starts) each waits a little longer for the next ones,
up to a bound. Pure: times in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from connserver.messages import RouteEntry

REST_S = (0.005, 0.08)
"""Between two tellings: at first, and at most. It doubles with each that had to wait."""


class RouteNews:
    """What was told last. `due`: when to ask again for what has to wait; inf: nothing has."""

    def __init__(self) -> None:
        self.due = inf
        self._told: dict[int, RouteEntry] = {}
        self._told_at = -inf
        self._rest_s = REST_S[0]

    def take(self, entries: Iterable[RouteEntry], now: float) -> list[RouteEntry]:
        """What to tell now of this table, the whole one."""
        news = [entry for entry in entries if self._told.get(entry.group) != entry]
        if news and now < self._told_at + self._rest_s:
            self.due = self._told_at + self._rest_s
            return []
        waited, self.due = self.due < inf, inf
        if news:
            self._rest_s = min(2 * self._rest_s, REST_S[1]) if waited else REST_S[0]
            self._tell(news, now)
        return news

    def all_told(self, entries: Iterable[RouteEntry], now: float) -> None:
        """The whole table was told; nothing has to wait."""
        self.due = inf
        self._tell(entries, now)

    def _tell(self, entries: Iterable[RouteEntry], now: float) -> None:
        self._told_at = now
        self._told.update({entry.group: entry for entry in entries})

    def check_invariants(self) -> None:
        """The pause is within its bounds, and nothing waits for longer."""
        assert REST_S[0] <= self._rest_s <= REST_S[1]
        assert self.due == inf or self.due == self._told_at + self._rest_s
