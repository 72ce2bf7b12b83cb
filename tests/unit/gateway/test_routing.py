"""Routes from several gossip processes, and who is at home where."""

from __future__ import annotations

import pytest

from connserver.ids import format_oid, group_of, named_id, partition_of
from connserver.messages import RouteEntry, Routes
from gateway.routing import (
    OWNER_SILENCE_S,
    RouteTable,
    home_of_connection,
    home_of_token,
    home_of_user,
)


def entry(
    *, grant: int = 1, view: int = 0, era: int = 1, node: str = "n1", state: str = "ready", group: int = 0
) -> RouteEntry:
    reason = "" if state == "ready" else "its worker died"
    return RouteEntry(
        group, 0, 65_535, era, view, grant, node, f"ipc://{node}-{grant}", ["n1", "n2"], state, reason
    )


def routes(*entries: RouteEntry, sender: str = "n1", cluster: str = "demo") -> Routes:
    return Routes(cluster, sender, 1, list(entries))


def test_the_greatest_era_view_and_grant_wins_whoever_says_it() -> None:
    table = RouteTable("demo", 1)
    assert table.merge(routes(entry(view=3, grant=5)), 0.0) == [entry(view=3, grant=5)]
    assert table.merge(routes(entry(view=2, grant=9), sender="n2"), 0.1) == []
    assert table.merge(routes(entry(view=3, grant=4), sender="n2"), 0.2) == []
    newer = entry(view=4, grant=1, node="n2")
    assert table.merge(routes(newer, sender="n3"), 0.3) == [newer]
    newest = entry(era=2, view=0, grant=1)
    assert table.merge(routes(newest, sender="n3"), 0.4) == [newest]
    assert table.entry(0) == newest
    table.check_invariants()


def test_about_its_own_worker_a_node_is_believed_before_others() -> None:
    table = RouteTable("demo", 1)
    table.merge(routes(entry(), sender="n1"), 10.0)
    down = entry(state="unavailable")
    assert table.merge(routes(down, sender="n2"), 11.0) == []
    assert table.entry(0) == entry()
    assert table.merge(routes(down, sender="n1"), 11.5) == [down]
    assert table.merge(routes(entry(), sender="n2"), 12.0) == []


def test_others_are_believed_about_a_node_that_is_silent() -> None:
    table = RouteTable("demo", 1)
    table.merge(routes(entry(), sender="n1"), 10.0)
    down = entry(state="unavailable")
    assert table.merge(routes(down, sender="n2"), 10.0 + OWNER_SILENCE_S + 0.1) == [down]


def test_what_another_node_said_first_is_corrected_by_anyone_later() -> None:
    table = RouteTable("demo", 1)
    starting = entry(state="starting")
    table.merge(routes(starting, sender="n2"), 0.0)
    assert table.merge(routes(entry(), sender="n3"), 0.1) == [entry()]


def test_foreign_clusters_and_groups_are_ignored() -> None:
    table = RouteTable("demo", 1)
    assert table.merge(routes(entry(), cluster="other"), 0.0) == []
    assert table.merge(routes(entry(group=1), entry(group=-1)), 0.0) == []
    assert table.entry(0) is None and not table.complete


def test_complete_means_that_every_group_has_a_ready_worker() -> None:
    table = RouteTable("demo", 2)
    table.merge(routes(entry(group=0), entry(group=1, state="starting")), 0.0)
    assert not table.complete
    table.merge(routes(entry(group=1)), 0.1)
    assert table.complete


def test_a_user_and_the_tokens_of_its_sessions_have_the_same_home() -> None:
    for name in ("ann", "bob", "Zoë", "x" * 64):
        oid, group = home_of_user(name, 7)
        assert oid == named_id("user", name)
        assert group == group_of(partition_of(oid), 7)
        session = (partition_of(oid) << 48) | 256
        assert home_of_token(f"{format_oid(session)}.secret", 7) == group


@pytest.mark.parametrize(
    "token",
    ["", ".", "0123456789abcdef", "0123456789abcdef.", "xyz.s", "12345:1234567890.s", "g" * 16 + ".s"],
)
def test_what_is_no_token_has_no_home(token: str) -> None:
    with pytest.raises(ValueError, match=r"token|object id"):
        home_of_token(token, 4)


def test_connections_without_a_session_are_spread_over_all_groups() -> None:
    assert {home_of_connection(number, 4) for number in range(1, 9)} == {0, 1, 2, 3}
