"""Plugins are attached, detached, reloaded and rolled back while people play, and nobody notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connserver.cli.plugin_change import Row, running
from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.crowd import Crowd
from tests.integration.voices import login, names_in_groups, operator
from tests.unit.partition.plugin_folders import plugin_folder

pytestmark = pytest.mark.integration

GROUPS = 2
CLIENTS = 200

TALLY = """
@plugin.kind("tally")
class Tally(Object):
    value: int = 0

@plugin.method("tally.add")
def add(ctx: Context, me: Tally) -> dict:
    me.value += 1
    return {"value": me.value, "by": plugin.version}
"""
TALLY_2 = """
@plugin.kind("tally", schema=2)
class Tally(Object):
    count: int = 0

@plugin.migrate("tally", to=2)
def up(fields):
    return {"count": fields["value"]}

@plugin.migrate("tally", to=1, down=True)
def down(fields):
    return {"value": fields["count"]}

@plugin.method("tally.add")
def add(ctx: Context, me: Tally) -> dict:
    me.count += 1
    return {"value": me.count, "by": plugin.version}
"""
TOYS = """
@plugin.method("toys.play")
def play(ctx: Context, me: Object) -> dict:
    return {"sound": "squeak"}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("plugins")
    return {
        "tally": plugin_folder(place / "tally", "tally", TALLY),
        "tally-2": plugin_folder(place / "tally-2", "tally", TALLY_2, version="2.0"),
        "broken": plugin_folder(place / "broken", "tally", "def broken(:", version="3.0"),
        "toys": plugin_folder(place / "toys", "toys", TOYS),
    }


@pytest.fixture(scope="module")
def cluster(folders: dict[str, Path]) -> Iterator[Cluster]:
    with new_cluster(groups=GROUPS, plugins=[folders["tally"]]) as made:
        made.up()
        yield made
        assert made.down() == 0


def change(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    """A `cs-cluster plugin …` that has to succeed."""
    answer: dict[str, Any] = cluster.ask("plugin", *arguments)
    return answer


def rows(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """What `plugin list` shows, which may be a second late."""
    with operator(cluster) as admin:
        return [row for row in admin.ask("plugin.list")["plugins"] if row["name"] == name]


def now(cluster: Cluster) -> list[Row]:
    """What the primaries run."""
    with operator(cluster) as admin:
        return running(admin, range(GROUPS))


def primary(cluster: Cluster, group: int) -> str:
    with operator(cluster) as admin:
        node: str = admin.ask("routes")["routes"][group]["node"]
    return node


@pytest.mark.timeout(300)
def test_nobody_notices_a_change_of_plugins(cluster: Cluster, folders: dict[str, Path]) -> None:
    with login(cluster.gateways[0], "watcher") as voice, Crowd(cluster.gateways, CLIENTS) as crowd:
        assert voice.call("toys.play")["error"] == "unknown_method"
        assert change(cluster, "attach", str(folders["toys"]))["groups"] == [0, 1]
        assert voice.good("toys.play")["sound"] == "squeak"

        told = change(cluster, "reload", "tally", str(folders["tally-2"]))
        assert (told["was"], told["now"], told["way_back"]) == (["1.0"], "2.0", "")
        wait_for("the new version", lambda: crowd.served_by("2.0"))

        refused = cluster.cli("plugin", "reload", "tally", str(folders["broken"]))
        assert refused.returncode == 1
        assert "main.py:3: SyntaxError" in refused.stderr and "nothing was changed" in refused.stderr
        change(cluster, "detach", "toys")
        assert voice.call("toys.play")["error"] == "unknown_method"

        os.kill(cluster.pid(f"w-{primary(cluster, 0)}-0"), signal.SIGKILL)
        served = [client.value for client in crowd.clients]
        wait_for(
            "everybody to be served again",
            lambda: all(
                client.value > before + 16 for client, before in zip(crowd.clients, served, strict=True)
            ),
            30,
        )
        assert crowd.served_by("2.0")

        assert change(cluster, "rollback", "tally")["now"] == "1.0"
        wait_for("the version before", lambda: crowd.served_by("1.0"))
    assert {tuple(client.versions) for client in crowd.clients} == {("1.0", "2.0", "1.0")}

    plugin_folder(folders["tally"], "tally", TALLY.replace("+= 1", "+= 100"), version="1.1")
    cluster.down()
    cluster.up()
    wait_for("all workers", lambda: len(rows(cluster, "tally")) == 3 * GROUPS)
    assert {(row["version"], row["previous"], row["state"]) for row in rows(cluster, "tally")} == {
        ("1.0", "2.0", "attached")
    }
    for client in crowd.clients[:5]:
        with login(cluster.gateways[0], client.name) as voice:
            answer = voice.good("tally.add")
            assert (answer["value"], answer["by"]) == (client.value + 1, "1.0")
    told = cluster.cli("plugin", "list").stdout
    assert "is not what runs: `cs-cluster plugin reload tally` takes it" in " ".join(told.split())


def test_two_versions_run_side_by_side(cluster: Cluster, folders: dict[str, Path]) -> None:
    told = change(cluster, "reload", "tally", str(folders["tally-2"]), "--groups", "1")
    assert told["groups"] == [1]
    served = []
    for name in names_in_groups("user", "side", GROUPS):
        with login(cluster.gateways[0], name) as voice:
            served.append(voice.good("tally.add")["by"])
    assert served == ["1.0", "2.0"]
    wait_for(
        "both in the list",
        lambda: (
            {(row["group"], row["version"]) for row in rows(cluster, "tally")} == {(0, "1.0"), (1, "2.0")}
        ),
    )
    told = change(cluster, "reload", "tally", str(folders["tally-2"]))
    assert (told["groups"], told["same"]) == ([0], [1])


def test_what_does_not_fit_is_told_and_changes_nothing(cluster: Cluster, folders: dict[str, Path]) -> None:
    before = now(cluster)
    for arguments, words in (
        (("attach", "nowhere"), "there is no folder nowhere"),
        (("attach", str(folders["tally"])), "is attached already"),
        (("detach", "toys"), "plugin toys is not attached"),
        (("rollback", "toys"), "plugin toys is not attached"),
        (("reload", "tally", str(folders["toys"])), "is plugin toys, not tally"),
        (("attach", str(folders["toys"]), "--groups", "7"), "there are the partition groups 0 to 1"),
    ):
        done = cluster.cli("plugin", *arguments)
        assert done.returncode == 1 and words in done.stderr, done.stderr
    assert now(cluster) == before
