"""Plugins in C++ on a cluster: they are built at the command line, serve, and take down only their worker."""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.voices import login, names_in_groups
from tests.native import KEPT_APART, compiler, folder, library, sample

pytestmark = pytest.mark.integration

GROUPS = 2

FAULTS = """
#include "connserver.h"

#include <stdlib.h>

static const cs_host *host;

static int32_t fine(void *data, cs_context *context, uint64_t me, cs_view arguments) { return CS_OK; }

static int32_t segfault(void *data, cs_context *context, uint64_t me, cs_view arguments) {
    *(volatile int *)0 = 1;
    return CS_OK;
}

static int32_t abortion(void *data, cs_context *context, uint64_t me, cs_view arguments) { abort(); }

static int32_t loop(void *data, cs_context *context, uint64_t me, cs_view arguments) {
    for (volatile int i = 0;; i = 0) {
    }
}

static int32_t busy(void *data, cs_context *context, uint64_t me, cs_view arguments) {
    double number;
    while (host->random(context, &number) == CS_OK) {
    }
    return CS_OK;
}

#define METHOD(name, run) {sizeof(cs_method), CS_CLIENT, 0, 0, name, 0, 0, 0, 0, {0, 0}, run, 0}
static const cs_method methods[] = {
    METHOD("fault.none", fine), METHOD("fault.segfault", segfault), METHOD("fault.abort", abortion),
    METHOD("fault.loop", loop), METHOD("fault.busy", busy),
};
static const cs_plugin plugin = {sizeof plugin, CS_ABI, CS_ABI, 0, 5, 0, "faults", "1.0.0", 0, methods, 0};

CS_EXPORT const cs_plugin *connserver_plugin(const cs_host *table) {
    host = table;
    return &plugin;
}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    faults = library(folder() / "faults", FAULTS, *KEPT_APART, plugin="faults")
    with new_cluster(groups=GROUPS, plugins=[sample("world_native"), faults]) as made:
        made.up()
        wait_for("a cluster in full", lambda: in_full(made), 40)
        yield made
        assert made.down() == 0


def in_full(cluster: Cluster) -> bool:
    """Every worker is ready and every group has one that serves."""
    shown = cluster.status()
    workers = [row for row in shown["processes"] if row["role"] == "worker"]
    return (
        len(workers) == 3 * GROUPS
        and all(row["state"] == "ready" for row in workers)
        and not [alert for alert in shown["alerts"] if alert["about"].startswith("group:")]
    )


def deaths(cluster: Cluster, group: int) -> int:
    """How often workers of a group were started again, on all nodes together."""
    rows = cluster.status()["processes"]
    return sum(row["restarts"] for row in rows if re.fullmatch(rf"w-n\d-{group}", row["name"]))


def test_the_world_in_cpp_serves_clients_of_both_groups(cluster: Cluster) -> None:
    first, second = names_in_groups("user", "native", GROUPS)
    with login(cluster.gateways[0], first) as ann, login(cluster.gateways[1], second) as bob:
        ann.good("world.go", zone="plain")
        bob.good("world.go", zone="plain")
        wait_for("both in the zone", lambda: len(bob.good("room.who", room="plain")["members"]) == 2)
        ann.good("world.move", x=1.5)
        state = bob.event("room.state")
        assert {"from": first, "key": "pos", "value": {"x": 1.5}} in state["changes"]
        refused = ann.call("world.move", x=9)
        assert (refused["error"], refused["code"]) == ("refused", "world.too_fast")
        assert ann.call("trade.buy", seller="user:" + second, thing="x", price=0)["code"] == "trade.gone"
    versions = {(row["name"], row["version"]) for row in cluster.ask("plugin", "list")["plugins"]}
    assert versions == {("world", "2.0.0"), ("faults", "1.0.0")}


@pytest.mark.parametrize(("method", "group"), [("segfault", 0), ("abort", 1), ("loop", 0)])
def test_what_ends_its_worker_twice_is_quarantined_and_others_go_on(
    cluster: Cluster, method: str, group: int
) -> None:
    name = names_in_groups("user", f"poison{method}", GROUPS)[group]
    before = deaths(cluster, group)
    with login(cluster.gateways[0], name) as voice, login(cluster.gateways[1], name) as other:
        voice.send(f"fault.{method}", id=1)
        answer = voice.reply(60)
        if answer["error"] != "quarantined":
            # the gateway has waited for as long as it waits for anything: asked again, it is known
            assert answer["error"] == "timeout", answer
            answer = voice.call(f"fault.{method}", id=1)
        assert answer["error"] == "quarantined", answer
        voice.good("fault.none")
        other.good("fault.none")
    wait_for("a cluster in full", lambda: in_full(cluster), 40)
    assert deaths(cluster, group) == before + 2


def test_a_loop_that_calls_the_host_is_interrupted_and_costs_nobody_else(cluster: Cluster) -> None:
    name = names_in_groups("user", "busy", GROUPS)[1]
    before = deaths(cluster, 1)
    with login(cluster.gateways[0], name) as voice:
        refused = voice.call("fault.busy", id=1)
        assert refused["error"] == "timeout"
        voice.good("fault.none")
    assert deaths(cluster, 1) == before
    shown = cluster.cli("logs", "--incident", str(refused["incident"]))
    assert "fault.busy of plugin faults 1.0.0" in shown.stdout and "libsmall.so" in shown.stdout


SIGN = """
#include "connserver.h"

static const cs_host *host;
static int32_t read(void *, cs_context *context, uint64_t, cs_view) {
    return host->reply(context, cs_view{"\\x81\\xa4sign\\xa3" SAYS, 10});
}
static const cs_method method = {sizeof method, CS_CLIENT, 0, 0, "sign.read", 0, 0, 0, 0, {0, 0}, read, 0};
static const cs_plugin plugin = {sizeof plugin, CS_ABI, CS_ABI, 0, 1, 0, "sign", "1.0.0", 0, &method, 0};

extern "C" const cs_plugin *connserver_plugin(const cs_host *table) {
    host = table;
    return &plugin;
}
"""


def test_dev_compiles_what_was_saved_and_says_what_the_compiler_said() -> None:
    with new_cluster(nodes=1, groups=1, plugins=[]) as made:
        sign = made.folder / "sign"
        sign.mkdir()
        (sign / "plugin.toml").write_text(
            'name = "sign"\nversion = "1.0.0"\nlanguage = "c++"\nentry = "libsign.so"\n'
        )
        source = sign / "sign.cpp"
        source.write_text(SIGN.replace("SAYS", '"old"'))
        compiler()
        with made.file.open("a") as file:
            file.write(f'\n[[plugins]]\npath = "{sign}"\n')
        build = made.cli("plugin", "build", str(sign), timeout_s=200)
        assert build.returncode == 0, build.stderr
        made.process = subprocess.Popen(
            [*made.command, "dev", "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=made.environ(),
        )
        assert "gateways" in told(made, 60)
        with login(made.gateways[0], "ann") as voice:
            assert voice.good("sign.read")["sign"] == "old"
            source.write_text(SIGN.replace("SAYS", '"new"'))
            assert told(made, 120) == {"reload": "sign.cpp: reloaded"}
            wait_for("the new plugin", lambda: voice.good("sign.read")["sign"] == "new")
            source.write_text(SIGN)
            reload = str(told(made, 120)["reload"])
            assert "not reloaded" in reload and "error: " in reload and "sign.cpp" in reload
            assert voice.good("sign.read")["sign"] == "new"
        assert made.down(signal.SIGINT) == 0


def told(cluster: Cluster, timeout_s: float) -> dict[str, object]:
    """The next line of `dev`."""
    assert cluster.process is not None and cluster.process.stdout is not None
    readable, _, _ = select.select([cluster.process.stdout], [], [], timeout_s)
    assert readable, f"dev said nothing for {timeout_s} s"
    line = json.loads(cluster.process.stdout.readline())
    assert isinstance(line, dict)
    return line
