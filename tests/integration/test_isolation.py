"""What a plugin does wrong costs its caller the call, and its group a pause at most.

One cluster for all. What only fails is answered; what ends its worker ends it twice, on whichever nodes,
and is then turned away, named in `status`, and released by an operator. Each time somebody else of the same
group is served afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.voices import Message, login, names_in_groups, operator
from tests.unit.partition.plugin_folders import plugin_folder

pytestmark = pytest.mark.integration

GROUPS = 2
MEMORY_MB = 512

HARM = """
import ctypes, os, sys

@plugin.kind("victim")
class Victim(Object):
    value: int = 0

@plugin.method("harm.count")
def count(ctx: Context, me: Object) -> dict:
    ctx.objects.create(Victim, near=me)
    return {"there": len(ctx.objects.where(Victim))}

@plugin.method("harm.exit")
def leave(ctx: Context, me: Object) -> None:
    ctx.objects.create(Victim, near=me)
    sys.exit(3)

@plugin.method("harm.recursion")
def recursion(ctx: Context, me: Object) -> None:
    ctx.objects.create(Victim, near=me)
    recursion(ctx, me)

@plugin.method("harm.garbage")
def garbage(ctx: Context, me: Object) -> dict:
    ctx.objects.create(Victim, near=me)
    return {"value": object(), 5: 6}

@plugin.method("harm.memory")
def memory(ctx: Context, me: Object) -> dict:
    ctx.objects.create(Victim, near=me)
    return {"size": len(bytearray(2 << 30))}

@plugin.method("harm.segfault")
def segfault(ctx: Context, me: Object) -> None:
    ctypes.string_at(0)

@plugin.method("harm.abort")
def abort(ctx: Context, me: Object) -> None:
    os.abort()

@plugin.method("harm.close")
def close(ctx: Context, me: Object) -> None:
    os.closerange(3, 1024)

@plugin.method("harm.later")
def later(ctx: Context, me: Object) -> None:
    ctx.timer("harm").set(bang, after_s=0.1)

@plugin.internal
def bang(ctx: Context, me: Object) -> None:
    ctypes.string_at(0)

@plugin.on_join
def join(ctx: Context, me: Object) -> None:
    if me.named.startswith("cursed"):
        ctypes.string_at(0)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = plugin_folder(tmp_path_factory.mktemp("plugins") / "harm", "harm", HARM)
    more = f"[limits]\nworker_memory_mb = {MEMORY_MB}\n"
    with new_cluster(groups=GROUPS, plugins=[folder], more=more) as made:
        made.up()
        yield made
        assert made.down() == 0


def status(cluster: Cluster) -> dict[str, Any]:
    with operator(cluster) as admin:
        answer: dict[str, Any] = admin.ask("status")
    return answer


def alert(cluster: Cluster, word: str) -> str | None:
    """The text of an alert about a plugin with this word in it."""
    return next(
        (
            row["text"]
            for row in status(cluster)["alerts"]
            if row["about"] == "plugin:harm" and word in row["text"]
        ),
        None,
    )


def in_full(cluster: Cluster) -> bool:
    return all(row["state"] == "ready" for row in status(cluster)["processes"])


@pytest.mark.parametrize(
    ("method", "error", "word"),
    [
        ("harm.exit", "plugin_error", "SystemExit"),
        ("harm.recursion", "plugin_error", "RecursionError"),
        ("harm.garbage", "plugin_error", "the answer"),
        ("harm.memory", "plugin_error", "MemoryError"),
    ],
)
def test_a_call_that_only_fails_costs_that_call(cluster: Cluster, method: str, error: str, word: str) -> None:
    name = names_in_groups("user", "caller", GROUPS)[0]
    before = {row["name"]: row["pid"] for row in status(cluster)["processes"]}
    with login(cluster.gateways[0], name) as voice:
        there = voice.good("harm.count")["there"]
        refused = voice.call(method)
        assert (refused["error"], voice.good("harm.count")["there"]) == (error, there + 1)
    told = cluster.cli("logs", "--incident", refused["incident"]).stdout
    assert word in told and f"{method} of plugin harm 1.0" in told
    assert {row["name"]: row["pid"] for row in status(cluster)["processes"]} == before


@pytest.mark.parametrize(("method", "group"), [("harm.segfault", 0), ("harm.abort", 1), ("harm.close", 0)])
def test_a_request_that_ends_its_worker_is_quarantined_and_named(
    cluster: Cluster, method: str, group: int
) -> None:
    name = names_in_groups("user", "killer", GROUPS)[group]
    with login(cluster.gateways[0], name) as voice, login(cluster.gateways[1], name) as other:
        voice.send(method, id=1)
        refused: Message = voice.reply(30)
        assert refused["error"] == "quarantined"
        other.good("harm.count")
    told = wait_for("an alert", lambda: alert(cluster, method))
    incident = refused["incident"]
    assert f"{method} of plugin harm 1.0 has ended its worker" in told and f"group {group}" in told
    assert f"`cs-cluster plugin release {incident}`" in told
    assert method in cluster.cli("logs", "--incident", incident).stdout
    assert cluster.ask("plugin", "release", incident)["released"][0]["method"] == method
    wait_for("the end of the alert", lambda: alert(cluster, method) is None)
    assert cluster.cli("plugin", "release", incident).returncode == 1
    wait_for("a cluster in full", lambda: in_full(cluster), 30)


def test_a_timer_that_ends_its_worker_waits_for_another_version(cluster: Cluster) -> None:
    name = names_in_groups("user", "clock", GROUPS)[1]
    with login(cluster.gateways[0], name) as voice:
        voice.good("harm.later")
        told = wait_for("an alert", lambda: alert(cluster, "harm.bang"), 30)
        assert "plugin harm 1.0" in told
        voice.good("harm.count")
    wait_for("a cluster in full", lambda: in_full(cluster), 30)


def test_a_login_that_ends_its_worker_is_refused(cluster: Cluster) -> None:
    name = names_in_groups("user", "cursed", GROUPS)[0]
    with login(cluster.gateways[0], names_in_groups("user", "calm", GROUPS)[0]) as other:
        with pytest.raises(AssertionError, match="quarantined"):
            login(cluster.gateways[1], name)
        other.good("harm.count")
    wait_for("a cluster in full", lambda: in_full(cluster), 30)
