"""`@plugin.login`: a plugin at the user's home decides who is let in, and with which roles."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import ClientError, Context, Login, Object, Plugin, Refused
from connserver.errors import PluginLoadError
from partition.assembly import assemble
from partition.testing import TestWorld

doors = Plugin("doors", version="1.0.0")


@doors.kind("player")
class Player(Object):
    secret: str = ""
    visits: int = 0


@doors.login
def check(ctx: Context, user: str, token: str, mode: int = 0) -> Any:
    assert ctx.user is None and ctx.session == 0
    known = ctx.objects.get(ctx.objects.user(user), Player)
    if known is not None:
        known.visits += 1
    match token:
        case "open":
            return Login(roles=["gm", "gm"] if mode else [])
        case "mine" if known is not None and known.secret == "s3":
            return Login()
        case "banned":
            raise Refused("doors.banned", "not you")
        case "broken":
            raise RuntimeError("inner words")
        case "careless":
            return {"roles": ["gm"]}
    return None


@doors.method("doors.me")
def me(ctx: Context, me: Player) -> dict[str, Any]:
    return {"roles": sorted(ctx.roles), "visits": me.visits}


@pytest.fixture
def world() -> TestWorld:
    return TestWorld([doors])


def refusal(world: TestWorld, **proof: Any) -> ClientError:
    """What the login of ann was refused with."""
    client = world.login
    with pytest.raises(ClientError) as caught:
        client("ann", **proof)
    return caught.value


def test_the_plugin_gives_the_roles_whatever_else_is_claimed(world: TestWorld) -> None:
    assert world.login("ann", ["gm"], token="open").call("doors.me")["roles"] == []
    assert world.login("bob", token="open", mode="1").call("doors.me")["roles"] == ["gm"]


def test_nobody_is_let_in_by_default(world: TestWorld) -> None:
    for proof in ({"token": "wrong"}, {"token": "banned"}, {"token": "x", "mode": 1}):
        assert refusal(world, **proof).error == "unauthorized"
    assert refusal(world).error == "bad_argument"
    assert refusal(world, token="open", more=1).error == "bad_argument"
    assert world.all("player") == {} and not world.incidents


def test_a_callback_that_fails_or_answers_something_else_lets_nobody_in(world: TestWorld) -> None:
    for token in ("broken", "careless"):
        error = refusal(world, token=token)
        assert error.error == "plugin_error" and "inner" not in error.reason
    assert len(world.incidents) == 2 and world.all("player") == {}


def test_it_reads_the_users_object_and_what_it_did_for_nothing_is_undone(world: TestWorld) -> None:
    ann = world.login("ann", token="open")
    world.put(ann, secret="s3")
    assert world.login("ann", token="mine").call("doors.me")["visits"] == 1
    refusal(world, token="wrong")
    assert ann.call("doors.me")["visits"] == 1
    world.check()


def test_one_plugin_decides_and_says_whom_it_is_about() -> None:
    other, blind = Plugin("other", version="1"), Plugin("blind", version="1")
    other.login(check)
    with pytest.raises(PluginLoadError, match=r"one callback decides.*doors"):
        assemble([doors, other])

    @blind.login
    def anybody(ctx: Context, token: str) -> Login:
        return Login()

    with pytest.raises(PluginLoadError, match="has to take `user`"):
        assemble([blind])
    with pytest.raises(PluginLoadError, match=r"declares @plugin\.login"):
        assemble([Plugin("none", version="1")]).require_login()
    for roles in (["no name"], "gm", ["r"] * 2 + [f"r{number}" for number in range(40)]):
        with pytest.raises(ValueError, match="role"):
            Login(roles=roles)  # type: ignore[arg-type]
