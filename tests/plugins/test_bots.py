"""The guards: they find their way, run after whom they see, and a thousand of them think in one call."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partition.testing import Client, TestWorld
from tests.native import PLUGINS, compiler, loaded

pytestmark = pytest.mark.timeout(300)  # a compiler on a busy machine takes its time

SIDE = 64


@pytest.fixture
def world() -> Iterator[TestWorld]:
    world = TestWorld([loaded("bots_native")])
    yield world
    world.check()


def ok(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["status"] == 0, reply
    return reply


def fill(world: TestWorld, count: int) -> Client:
    builder = world.login("builder", roles=["builder"])
    ok(builder.call("bots.fill", arena="yard", count=count, seed=3))
    return builder


def standing(client: Client) -> list[tuple[int, int]]:
    return [(x, y) for x, y in ok(client.call("bots.report", arena="yard"))["bots"]]


def test_guards_walk_one_cell_at_a_time_and_never_into_walls(world: TestWorld) -> None:
    builder = fill(world, 60)
    world.advance(0.1)
    before, walked = standing(builder), set()
    for _ in range(40):
        world.advance(0.1)
        after = standing(builder)
        for (x, y), (u, v) in zip(before, after, strict=True):
            assert abs(x - u) + abs(y - v) <= 1
        walked.update(after)
        before = after
    assert len(walked) > 300, "they stand still"
    visitor = world.login("visitor")
    ok(visitor.call("bots.enter", arena="yard"))
    for x, y in sorted(walked)[:50]:
        world.advance(0.05)
        ok(visitor.call("bots.move", x=x, y=y))


def test_who_is_seen_is_caught_and_told(world: TestWorld) -> None:
    fill(world, 40)
    ann = world.login("ann")
    entered = ok(ann.call("bots.enter", arena="yard"))
    assert 0 < entered["x"] < SIDE and 0 < entered["y"] < SIDE
    world.advance(10)
    events = ann.events()
    (caught,) = [event for event in events if event["msg"] == "bots.caught"]
    assert (caught["arena"], caught["times"]) == ("yard", 1)
    assert world.fields(ann)["caught"] == 1
    states = [event for event in events if event["msg"] == "room.state"]
    assert len(states[-1]["changes"][0]["value"]) == 2 * 40


WAYS = """
#include <cstdio>

#include "maze.hpp"

int main() {
    int ways = 0;
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        bots::Maze maze(seed);
        for (int i = 0; i < 200; ++i) {
            const int from = maze.open_near(seed * 1000 + i), to = maze.open_near(seed * 2000 + i);
            for (const bool searching : {true, false}) {
                int at = from, steps = 0;
                while (at != to && steps <= bots::cells) {
                    at = searching ? maze.first_step(at, to, bots::cells * 4) : maze.step_to(at, to, i);
                    ++steps;
                }
                if (steps != maze.to(to)[from]) return std::printf("%d to %d: %d steps", from, to, steps), 1;
                ways += steps > 0;
            }
            if (maze.first_step(from, to, 0) != from) return std::puts("a search without end"), 1;
        }
    }
    std::printf("%d ways", ways);
}
"""


def test_both_searches_take_a_shortest_way(tmp_path: Path) -> None:
    source, program = tmp_path / "ways.cpp", tmp_path / "ways"
    source.write_text(WAYS)
    command = [*compiler(), "-std=c++17", "-O1", f"-I{PLUGINS / 'bots_native'}", str(source)]
    subprocess.run([*command, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) > 1900


def test_guards_are_not_lost_with_their_worker(world: TestWorld) -> None:
    builder = fill(world, 20)
    ann = world.login("ann")
    ok(ann.call("bots.enter", arena="yard"))
    world.crash_after(1)
    world.advance(10)
    assert world.fields(ann)["caught"] == ok(builder.call("bots.report", arena="yard"))["catches"]
    assert len(standing(builder)) == 20


def test_too_many_guards_and_walls_are_refused(world: TestWorld) -> None:
    builder = fill(world, 1000)
    world.advance(0.1)
    assert len(standing(builder)) == 1000
    assert builder.call("bots.fill", arena="yard", count=1001)["code"] == "bots.too_many"
    ann = world.login("ann")
    assert ann.call("bots.fill", arena="yard", count=1)["error"] == "forbidden"
    assert ann.call("bots.move", x=1, y=1)["code"] == "bots.nowhere"
    ok(ann.call("bots.enter", arena="yard"))
    assert ann.call("bots.move", x=0, y=0)["code"] == "bots.wall"
