"""The commands that a person or a script types, about a running cluster and about none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connserver.cli import COMMANDS
from tests.integration.cluster import Cluster, new_cluster, wait_for

pytestmark = pytest.mark.integration

REPORTING = [
    ["up"],
    ["down"],
    ["status"],
    ["routes"],
    ["route"],
    ["send"],
    ["client"],
    ["check"],
    ["logs"],
    ["new"],
    ["dev"],
    ["failover"],
    ["recover"],
    ["drill"],
    ["plugin", "list"],
    *(["session", action] for action in ("list", "kick")),
    *(["room", action] for action in ("list", "who")),
    *(["call", action] for action in ("list", "retry")),
    *(["object", action] for action in ("get", "list", "put", "delete")),
]
ACTIONS = [command for command in REPORTING if len(command) > 1]

FAULTS = """\
[cluster]
name = "Demo"
partition_groops = 4
[[nodes]]
name = "n1"
gateways = ["127.0.0.1:99999"]
[replication]
heartbeat_ms = "soon"
"""


def run(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "connserver.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        timeout=30,
        check=False,
    )


@pytest.fixture(scope="module")
def single() -> Iterator[Cluster]:
    """One node with one group, running."""
    with new_cluster(nodes=1, groups=1) as made:
        made.up()
        wait_for("a call to be carried out", made.serves)
        yield made
        assert made.down() == 0


class TestHelp:
    @pytest.mark.parametrize("command", [[name] for name in COMMANDS] + ACTIONS, ids=" ".join)
    def test_every_command_has_an_example(self, command: list[str]) -> None:
        done = run(*command, "--help")
        assert done.returncode == 0
        assert re.search(rf"Examples?:\n +(cd .+\n +)?.*cs-cluster {' '.join(command)}", done.stdout), (
            done.stdout
        )

    @pytest.mark.parametrize("command", REPORTING, ids=" ".join)
    def test_every_command_that_reports_speaks_json(self, command: list[str]) -> None:
        assert "--json" in run(*command, "--help").stdout

    def test_help_imports_nothing_but_click(self) -> None:
        code = "import sys; from connserver.cli import group; group.main(['--help'], standalone_mode=False); "
        code += (
            "print(sorted({'rich', 'zmq', 'alembic', 'psycopg', 'asyncio', 'tomlkit'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_what_cannot_be_understood_is_a_usage_error(self) -> None:
        assert run("stauts").returncode == 2
        assert run("status", "--jsno").returncode == 2


class TestCheck:
    def test_every_fault_is_named_with_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "cluster.toml").write_text(FAULTS)
        done = run("check", "cluster.toml", folder=tmp_path)
        assert done.returncode == 1
        assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
            f"cluster.toml:{number}" for number in (2, 3, 6, 8)
        ]
        assert "partition_groups" in done.stdout

    def test_the_same_as_json(self, tmp_path: Path) -> None:
        (tmp_path / "cluster.toml").write_text(FAULTS)
        faults = json.loads(run("check", "--json", folder=tmp_path).stdout)["faults"]
        assert [(Path(fault["file"]).name, fault["line"]) for fault in faults] == [
            ("cluster.toml", number) for number in (2, 3, 6, 8)
        ]

    def test_up_tells_them_too_and_starts_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "cluster.toml").write_text(FAULTS)
        done = run("--state-dir", str(tmp_path / "state"), "up", "cluster.toml", folder=tmp_path)
        assert done.returncode == 1
        assert "cluster.toml:2: " in done.stderr and "cluster.toml:8: " in done.stderr
        assert not (tmp_path / "state").exists()

    def test_a_good_file_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "cluster.toml").write_text('[[nodes]]\nname = "n1"\n')
        done = run("check", folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "no faults" in done.stdout


class TestWithoutACluster:
    def test_which_cluster_is_meant_has_to_be_said(self, tmp_path: Path) -> None:
        done = run("status", folder=tmp_path)
        assert done.returncode == 1
        assert "--cluster" in done.stderr and "CS_CLUSTER" in done.stderr

    def test_the_variable_names_it(self, tmp_path: Path) -> None:
        file = tmp_path / "other.toml"
        file.write_text('[cluster]\nname = "other"\n[[nodes]]\nname = "n1"\n')
        done = run("--state-dir", str(tmp_path), "status", CS_CLUSTER=str(file))
        assert done.returncode == 1
        assert "'other' does not run on this host" in done.stderr
        assert f"cs-cluster up {file}" in done.stderr

    def test_no_gateway_is_said_so(self, tmp_path: Path) -> None:
        done = run("send", "msg:ping", "--gateway", "127.0.0.1:1", folder=tmp_path)
        assert done.returncode == 1
        assert "127.0.0.1:1" in done.stderr and "refused" in done.stderr

    def test_a_gateway_address_is_checked(self) -> None:
        assert run("send", "msg:ping", "--gateway", "nowhere").returncode == 2


class TestTalking:
    @pytest.mark.parametrize(
        ("message", "reply"),
        [
            (['{"msg":"ping","text":"hi"}'], '{"msg":"ping","status":0,"text":"hi"}\n'),
            (['<msg method="ping" text="hi"/>'], '<msg method="ping" status="0" text="hi"/>\n'),
            (["msg:ping", "text:hi"], "msg:ping\nstatus:0\ntext:hi\n"),
        ],
    )
    def test_a_message_is_answered_in_its_encoding(
        self, single: Cluster, message: list[str], reply: str
    ) -> None:
        done = single.cli("send", *message)
        assert (done.returncode, done.stdout) == (0, reply)

    @pytest.mark.parametrize("message", ['{"msg":"no.such"}', '<msg method="no.such"/>', "msg:no.such"])
    def test_an_error_reply_is_a_failure(self, single: Cluster, message: str) -> None:
        done = single.cli("send", message)
        assert done.returncode == 1
        assert "unknown_method" in done.stdout

    def test_any_encoding_reads_as_json(self, single: Cluster) -> None:
        assert single.ask("send", "msg:ping") == {"msg": "ping", "status": "0"}

    def test_a_client_reads_lines_and_prints_all_replies(self, single: Cluster) -> None:
        done = single.cli(
            "client", given='ping number=1 text="two words"\n{"msg":"ping","number":2}\n\nping text\n'
        )
        assert [json.loads(line).get("number") for line in done.stdout.splitlines()] == [1, 2]
        assert json.loads(done.stdout.splitlines()[0])["text"] == "two words"
        assert "'text' is no field" in done.stderr
        assert done.returncode == 0

    def test_a_client_speaks_classic(self, single: Cluster) -> None:
        done = single.cli("client", "--encoding", "classic", given="msg:ping\\ntext:hi\n")
        assert done.stdout == "msg:ping\nstatus:0\ntext:hi\n"

    def test_events_are_printed_while_waiting(self, single: Cluster) -> None:
        done = single.cli("client", given='room.join room="den"\nroom.send room="den" text="hi"\n')
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        assert [m["msg"] for m in messages if m["msg"] == "room.message"] == ["room.message"]


class TestLookingIn:
    def test_routes_and_route(self, single: Cluster) -> None:
        (entry,) = single.ask("routes")["routes"]
        assert (entry["node"], entry["replicas"]) == ("n1", ["n1"])
        found = single.ask("route", "room:lobby")
        assert (found["group"], found["primary"]["node"]) == (0, "n1")
        assert "n1" in single.cli("route", found["oid"]).stdout
        assert single.cli("route", "nonsense").returncode == 1

    def test_one_replica_has_nobody_to_hand_over_to(self, single: Cluster) -> None:
        (row,) = single.status()["groups"][0]["members"]
        assert (row["node"], row["status"]) == ("n1", "normal")
        done = single.cli("failover", "0")
        assert done.returncode == 1 and "group 0 has one replica, on n1" in done.stderr

    def test_one_gateway_alone_is_not_drilled(self, single: Cluster) -> None:
        done = single.cli("drill", "--kill", "gateway", "--yes")
        assert done.returncode == 1 and "no other gateway" in done.stderr

    def test_plugins(self, single: Cluster) -> None:
        wait_for("the worker's report", lambda: single.ask("plugin", "list")["plugins"])
        assert "world" in single.cli("plugin", "list").stdout

    def test_an_object_is_made_looked_at_changed_and_deleted(self, single: Cluster) -> None:
        made = single.ask("object", "put", "new", "--kind", "thing", '{"zone": "z1", "name": "lamp"}')
        oid = made["oid"]
        assert single.ask("object", "get", oid)["fields"]["name"] == "lamp"
        single.ask("object", "put", oid, "--kind", "thing", '{"zone": "z2", "name": "lamp"}')
        listed = single.ask("object", "list", "--kind", "thing")["objects"]
        assert [(row["oid"], row["fields"]["zone"]) for row in listed] == [(oid, "z2")]
        single.ask("object", "delete", oid)
        done = single.cli("object", "get", oid)
        assert done.returncode == 1
        assert oid in done.stderr

    def test_who_is_there_and_who_has_to_go(self, single: Cluster) -> None:
        single.cli("client", given='login user="mallory"\nroom.join room="den"\n')
        (row,) = single.ask("session", "list", "--user", "mallory")["sessions"]
        assert (row["user"], row["group"]) == ("mallory", 0) and "den" in row["rooms"]
        assert row["session"] in single.cli("session", "list").stdout
        assert "mallory" in single.ask("room", "who", "den")["members"]
        assert "den" in [room["room"] for room in single.ask("room", "list")["rooms"]]
        assert single.ask("session", "kick", "mallory") == {"user": "mallory", "sessions": 1}
        assert single.ask("session", "list", "--user", "mallory")["sessions"] == []
        assert "mallory" not in single.ask("room", "who", "den")["members"]
        again = single.cli("session", "kick", "mallory")
        assert again.returncode == 1 and "mallory has no session" in again.stderr

    def test_no_call_is_parked(self, single: Cluster) -> None:
        assert single.ask("call", "list") == {"calls": []}
        done = single.cli("call", "retry", "0000000000000001")
        assert done.returncode == 1 and "no parked call" in done.stderr
        assert single.cli("call", "retry", "nonsense").returncode == 2

    def test_fields_have_to_be_json(self, single: Cluster) -> None:
        assert single.cli("object", "put", "new", "--kind", "thing", "{zone").returncode == 2
        assert single.cli("object", "put", "new", "--kind", "thing", "[1]").returncode == 2

    def test_logs_of_all_processes_are_one_stream_in_order(self, single: Cluster) -> None:
        lines = single.cli("logs", "-n", "1000").stdout.splitlines()
        times = [found[1] for line in lines if (found := re.match(r"time=(\S+) ", line))]
        assert len(times) > 5 and times == sorted(times)
        rows = [json.loads(line) for line in single.cli("logs", "--json").stdout.splitlines()]
        assert {"w-n1-0", "g-n1", "gw-n1-0"} <= {row["process"] for row in rows}
        only = single.cli("logs", "--process", "g-n1").stdout.splitlines()
        assert only and all("process=g-n1" in line for line in only)
        unknown = single.cli("logs", "--process", "w-n9-9")
        assert unknown.returncode == 1 and "w-n1-0" in unknown.stderr
        assert single.cli("logs", "--incident", "none-1").returncode == 1

    def test_no_escape_reaches_a_pipe(self, single: Cluster) -> None:
        for command in (["status"], ["routes"], ["logs"], ["plugin", "list"]):
            assert "\x1b" not in single.cli(*command).stdout

    def test_status_for_people_names_what_is_there(self, single: Cluster) -> None:
        shown = single.cli("status").stdout
        for word in ("n1", "w-n1-0", "gw-n1-0", "storage", f"127.0.0.1:{single.ports[0]}", "no alerts"):
            assert word in shown, word
