"""connserver.hpp: typed arguments and fields, objects as a call sees them, exceptions, timers, hooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connserver.ids import named_id
from partition.loader import load_plugin
from partition.testing import TestWorld
from tests.native import KEPT_APART, folder, library

pytestmark = pytest.mark.timeout(300)  # a compiler on a busy machine takes its time

SOURCE = Path(__file__).with_name("wrapper.cpp")


@pytest.fixture
def world() -> Iterator[TestWorld]:
    where = folder() / "wrapper"
    if not where.exists():
        library(where, "// c++\n" + SOURCE.read_text(), "-std=c++17", *KEPT_APART, plugin="wrapper")
    world = TestWorld([load_plugin(where)])
    yield world
    world.check()


def ok(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["status"] == 0, reply
    return {name: value for name, value in reply.items() if name not in ("msg", "id", "status")}


def test_arguments_and_fields_of_every_type(world: TestWorld) -> None:
    ann, bob = world.login("ann"), world.login("bob")
    assert world.fields(ann) == {
        "nick": None,
        "seal": b"\x01\xff",
        "memo": None,
        "friends": [],
        "marks": {},
        "small": 0,
        "rings": 0,
    }
    given = {
        "nick": "Änn",
        "seal": b"\x00\xfe",
        "memo": {"deep": [1, -2, 3.5, None, True, {"x": b"\x00"}], "far": 2**53 - 1, "near": -(2**53) + 1},
        "friends": [bob.oid],
        "marks": {"maths": [1.0, 2.5]},
        "small": -(2**31),
    }
    assert ok(ann.call("wrapper.keep", **given)) == given
    assert world.fields(ann) == {**given, "rings": 0}
    usual = {"nick": None, "seal": b"s", "memo": "x", "friends": [], "marks": {}, "small": 3}
    assert ok(ann.call("wrapper.keep", memo="x")) == usual
    assert ann.call("wrapper.keep", memo=1, nick=5)["error"] == "bad_argument"
    assert ann.call("wrapper.keep")["error"] == "bad_argument"
    assert ann.call("wrapper.keep", memo=1, friends=["nobody"])["error"] == "bad_argument"
    ok(ann.call("wrapper.keep", memo=1, nick="one"))
    assert ok(ann.call("wrapper.both", a="1", b="2"))["result"] == ["1", "2"]
    assert ok(ann.call("wrapper.add", a=1, b=2))["result"] == 3


def test_an_integer_that_does_not_fit_its_type_is_not_cut(world: TestWorld) -> None:
    ann = world.login("ann")
    assert ann.call("wrapper.keep", memo=1, small=2**31)["error"] == "plugin_error"
    (told,) = world.incidents.values()
    assert "cs::BadValue: the integer 2147483648 does not fit its type" in told
    world.incidents.clear()


def test_objects_are_what_this_call_made_of_them(world: TestWorld) -> None:
    place = next(
        user
        for user in map(str, range(1 << 20))
        if named_id("user", user) >> 48 == named_id("stone", "rock") >> 48
    )
    ann = world.login(place)
    assert ok(ann.call("wrapper.pile")) == {
        "one": True,
        "other": True,
        "named": True,
        "gone": True,
        "found": 2,
    }
    assert sorted(stone["weight"] for stone in world.all("stone").values()) == [1, 5]
    assert ok(ann.call("wrapper.stones", colour="red")) == {"result": 6}
    assert ok(ann.call("wrapper.stones", colour="grey")) == {"result": 0}
    again = ann.call("wrapper.pile")
    assert (again["error"], len(world.all("stone"))) == ("conflict", 2)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (0, "std::out_of_range: beyond"),
        (1, "something was thrown that is no std::exception"),
        (2, "std::out_of_range: basic_string::at"),
        (3, "WrongPartition"),
        (4, "wrapper.nothing_like_it is no internal method"),
        (5, "UnicodeDecodeError|'utf-8' codec"),
        (6, "WrongPartition"),
    ],
)
def test_an_exception_undoes_the_call_and_is_told(world: TestWorld, how: int, words: str) -> None:
    ann = world.login("ann")
    assert ann.call("wrapper.fail", how=how)["error"] == "plugin_error"
    (told,) = world.incidents.values()
    assert any(word in told for word in words.split("|")), told
    assert "libsmall.so" in told or how == 5
    world.incidents.clear()
    assert world.fields(ann)["rings"] == 0 and not world.all("stone")


def test_timers_are_set_and_forgotten(world: TestWorld) -> None:
    ann = world.login("ann")
    ok(ann.call("wrapper.ring", after=1.0))
    world.crash_after(1)
    world.advance(2)
    assert world.fields(ann)["rings"] == 2
    ok(ann.call("wrapper.ring", after=1.0))
    ok(ann.call("wrapper.quiet"))
    world.advance(2)
    assert world.fields(ann)["rings"] == 2
    ok(ann.call("logout"))
    assert world.fields(ann)["rings"] == -1


def test_a_call_knows_who_calls(world: TestWorld) -> None:
    ann = world.login("ann", roles=["builder", "artist"])
    told = ok(ann.call("wrapper.who"))
    assert told == {
        "me": ann.oid,
        "name": "ann",
        "roles": ["artist", "builder"],
        "user": ann.oid,
        "now": 1e9,
        "partition": int(ann.oid, 16) >> 48,
        "session": True,
        "dt": 0.0,
    }
