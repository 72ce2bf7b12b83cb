"""When changed routes are told: at once after quiet, more and more together while changes go on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf

from connserver.messages import RouteEntry
from gossip.route_news import REST_S, RouteNews

FIRST_S, MOST_S = REST_S
ENTRIES = [RouteEntry(group, 0, 1, 1, 0, 7, "n1", "ipc://x", ["n1"], "ready", "") for group in range(3)]


def changed(group: int, grant: int) -> list[RouteEntry]:
    """The table with another grant of one group."""
    return [replace(entry, grant=grant) if entry.group == group else entry for entry in ENTRIES]


def quiet() -> RouteNews:
    """All was told, a while ago."""
    news = RouteNews()
    news.all_told(ENTRIES, 0.0)
    return news


def test_after_some_quiet_only_what_changed_is_told_at_once() -> None:
    news = quiet()
    assert news.take(changed(1, 8), 1.0) == [changed(1, 8)[1]]
    assert news.due == inf
    assert news.take(changed(1, 8), 2.0) == [], "it was told"
    news.check_invariants()


def test_what_changes_right_after_waits_and_is_not_forgotten() -> None:
    news = quiet()
    news.take(changed(1, 8), 1.0)
    assert news.take(changed(1, 9), 1.0 + FIRST_S / 2) == []
    assert news.due == 1.0 + FIRST_S
    assert news.take(changed(1, 9), news.due) == [changed(1, 9)[1]]
    assert news.due == inf
    news.check_invariants()


def test_while_changes_go_on_the_pauses_grow_up_to_a_bound() -> None:
    news = quiet()
    told, now = [], 1.0
    for step in range(4_000):
        now = 1.0 + step / 4_000
        if news.take(changed(1, 8 + step), now):
            told.append(now)
        news.check_invariants()
    pauses = [later - earlier for earlier, later in pairwise(told)]
    assert pauses[0] < 1.1 * FIRST_S and max(pauses) < 1.1 * MOST_S
    assert pauses == sorted(pauses[:5]) + pauses[5:] and len(told) < 20
    news.take(changed(1, 9_000), now + 0.5)
    assert news.take(changed(2, 1), now + 1), "after some quiet at once again"
    assert news.take(changed(2, 2), now + 1 + 1.1 * FIRST_S)


def test_a_change_that_is_taken_back_is_not_told() -> None:
    news = quiet()
    news.take(changed(1, 8), 1.0)
    news.take(changed(2, 8), 1.001)
    assert news.due < inf
    assert news.take(changed(1, 8), 1.002) == [] and news.due == inf


def test_the_whole_table_tells_what_waited() -> None:
    news = quiet()
    news.take(changed(1, 8), 1.0)
    news.take(changed(1, 9), 1.001)
    news.all_told(changed(1, 9), 1.002)
    assert news.due == inf and news.take(changed(1, 9), 2.0) == []
