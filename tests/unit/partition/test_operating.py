"""What an operator asks a worker: complete lists in pages, ends of sessions, another try of a parked call."""

from typing import Any

import pytest

from connserver import Context, Object, Plugin, Reply, Result
from connserver.ids import format_oid, named_id
from partition.assembly import assemble
from partition.operating import operate
from tests.unit.partition.shards import Shards
from tests.unit.partition.test_group import user_in

broken: list[bool] = []


def shards() -> Shards:
    plugin = Plugin("post", version="1")

    @plugin.kind("player")
    class Player(Object):
        letters: int = 0

    @plugin.method("post.send")
    def send(ctx: Context, me: Player, to: str) -> Reply:
        return ctx.call(ctx.objects.user(to), take, then=sent)

    @plugin.internal
    def take(ctx: Context, me: Player) -> None:
        me.letters += 1

    @plugin.internal
    def sent(ctx: Context, me: Player, result: Result) -> int:
        if broken:
            raise RuntimeError("no ink")
        return me.letters

    return Shards(assemble([plugin]))


def ask(world: Shards, group: int, command: str, **arguments: Any) -> Any:
    return operate(world.members[group], command, arguments, world.now)


def test_sessions_come_in_pages_until_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partition.operating.ADMIN_ROWS", 2)
    world = shards()
    users = [user_in(0, beginning=f"user{letter}") for letter in "abcde"]
    for connection, user in enumerate(users, 1):
        world.login(connection, user)
    seen, after = [], ""
    for _ in range(3):
        page = ask(world, 0, "worker.sessions", after=after)
        seen += [row["user"] for row in page["sessions"]]
        after = page["next"]
    assert sorted(seen) == sorted(users) and after == ""
    assert ask(world, 1, "worker.sessions") == {"sessions": [], "next": ""}


def test_rooms_and_members_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partition.operating.ADMIN_ROWS", 1)
    monkeypatch.setattr("partition.operating.ROOM_WHO_PAGE", 1)
    world = shards()
    for connection, user in enumerate(("alice", "bob"), 1):
        world.login(connection, user)
        for room in ("attic", "bath", "cellar"):
            world.call(connection, "room.join", room=room)
    names = []
    for group in (0, 1):
        after = ""
        while True:
            page = ask(world, group, "worker.rooms", after=after)
            names += [row["room"] for row in page["rooms"]]
            after = page["next"]
            if not after:
                break
    assert sorted(names) == ["attic", "bath", "cellar"]
    home = next(group for group in (0, 1) if "attic" in world.members[group].rooms.names())
    assert ask(world, home, "worker.members", room="attic") == {"members": ["alice"], "next": "alice"}
    assert ask(world, home, "worker.members", room="attic", after="alice") == {"members": ["bob"], "next": ""}
    with pytest.raises(ValueError, match="room: a text of at most"):
        ask(world, home, "worker.members", room=7)


def test_a_kicked_user_has_no_session() -> None:
    world = shards()
    alice = user_in(0)
    world.login(1, alice)
    oid = format_oid(named_id("user", alice))
    assert ask(world, 0, "worker.kick", oid=oid) == {"sessions": 1}
    assert ask(world, 0, "worker.sessions")["sessions"] == []


def test_a_then_that_raises_is_listed_and_can_be_tried_again() -> None:
    world = shards()
    alice, bob = user_in(0), user_in(1)
    world.login(1, alice)
    world.login(2, bob)
    broken.append(True)
    try:
        assert world.call(1, "post.send", to=bob, id=1)["error"] == "plugin_error"
        (row,) = ask(world, 0, "worker.parked")["calls"]
        assert (row["then"], row["user"]) == ("post.sent", alice) and row["incident"]
        ask(world, 0, "worker.retry", oid=row["call"])
        (again,) = ask(world, 0, "worker.parked")["calls"]
        assert again["call"] == row["call"] and again["incident"] != row["incident"]
    finally:
        broken.clear()
    ask(world, 0, "worker.retry", oid=row["call"])
    assert ask(world, 0, "worker.parked") == {"calls": [], "next": ""}
    with pytest.raises(ValueError, match="no parked call"):
        ask(world, 0, "worker.retry", oid=row["call"])
