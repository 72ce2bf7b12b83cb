"""failover, recover and status against a cluster that is a script: what is asked of it, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connserver.cli import failover, group, recover, waiting
from connserver.cli.status import _group_rows, _report, _troubles, replica_words
from connserver.errors import ClusterError

NODES = ("n1", "n2", "n3")


class FakeCluster:
    """Three groups led by n1; `orders` are carried out by whoever the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.routes = [route(number) for number in range(3)]
        self.holdings = {name: holding(name) for name in NODES}
        self.states = dict.fromkeys(NODES, "alive")
        self.archive: dict[str, Any] = {"state": "known", "era": 1, "view": 3, "op": 80}
        self.on: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def ask(self, command: str, **arguments: Any) -> Any:
        self.asked.append((command, arguments))
        if command in self.on:
            return self.on[command](**arguments)
        if command == "routes":
            return {"routes": [dict(row) for row in self.routes]}
        if command == "status":
            groups = [{"id": row["group"], "state": row["state"]} for row in self.routes]
            return {"nodes": [{"name": n, "state": s} for n, s in self.states.items()], "groups": groups}
        assert command == "recover.look", command
        return {**self.holdings[arguments["node"]], "archive": self.archive}

    def told(self, command: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.asked if name == command]

    def move(self, number: int, node: str) -> None:
        self.routes[number] |= {"node": node, "view": self.routes[number]["view"] + 1, "state": "ready"}


def route(number: int) -> dict[str, Any]:
    names = {"group": number, "node": "n1", "replicas": list(NODES), "state": "ready", "reason": ""}
    return {**names, "era": 1, "view": 0}


def holding(node: str, status: str = "normal") -> dict[str, Any]:
    able = status in ("normal", "view_change")
    numbers = {"era": 1, "view": 4, "log_view": 3 if able else -1, "head": 100 * able, "commit": 95 * able}
    return {"node": node, "status": status, **numbers, "base": 10 * able}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    for module in (failover, recover):
        monkeypatch.setattr(module, "admin", lambda context: made)
    monkeypatch.setattr(failover, "HANDOFF_S", 0.1)
    monkeypatch.setattr(recover, "ARCHIVE_S", 0.1)
    monkeypatch.setattr(recover, "SERVED_S", 0.1)
    monkeypatch.setattr(waiting, "LOOK_S", 0.001)
    return made


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(group, list(arguments), input=given)


class TestFailover:
    def test_it_waits_for_the_new_primary_and_says_who_it_is(self, cluster: FakeCluster) -> None:
        cluster.on["failover"] = lambda group: cluster.move(group, "n3")
        done = run("failover", "2")
        assert done.exit_code == 0, done.output
        assert done.output.startswith("group 2: n1 → n3 in ") and done.output.endswith(" ms (view 1)\n")
        assert cluster.told("failover") == [{"group": 2}]

    def test_to_a_node_as_json(self, cluster: FakeCluster) -> None:
        cluster.on["failover"] = lambda group, to: cluster.move(group, to)
        answer = json.loads(run("failover", "0", "--to", "n2", "--json").output)
        assert answer.pop("took_ms") >= 0
        assert answer == {"group": 0, "from": "n1", "to": "n2", "view": 1}

    def test_one_that_lands_elsewhere_is_a_failure(self, cluster: FakeCluster) -> None:
        cluster.on["failover"] = lambda group, to: cluster.move(group, "n3")
        error = run("failover", "0", "--to", "n2").exception
        assert isinstance(error, ClusterError) and "went to n3, not to n2" in str(error)

    def test_one_that_was_called_off_is_told_so(self, cluster: FakeCluster) -> None:
        cluster.on["failover"] = lambda group: cluster.move(group, "n1")
        error = run("failover", "0").exception
        assert isinstance(error, ClusterError) and "group 0 is with n1 still" in str(error)
        cluster.on["failover"] = lambda group: cluster.routes[0].update(
            node="n2", state="starting", reason="it loads"
        )
        error = run("failover", "0").exception
        assert isinstance(error, ClusterError) and "group 0 waits for n2: it loads" in str(error)

    def test_nothing_is_moved_that_is_not_served_or_not_there(self, cluster: FakeCluster) -> None:
        cluster.routes[0] |= {"state": "unavailable", "reason": "n2 is dead"}
        error = run("failover", "0").exception
        assert isinstance(error, ClusterError) and "group 0 is unavailable: n2 is dead" in str(error)
        error = run("failover", "7").exception
        assert isinstance(error, ClusterError) and "there are 0 to 2" in str(error)
        assert not cluster.told("failover")


class TestRecover:
    @pytest.fixture
    def lost(self, cluster: FakeCluster) -> FakeCluster:
        """Group 1 has lost two logs."""
        cluster.routes[1] |= {"state": "unavailable", "reason": "two disks were lost"}
        cluster.holdings |= {name: holding(name, "recovering") for name in ("n1", "n2")}

        def begin(group: int, node: str, archive: bool, above: list[int]) -> dict[str, Any]:
            cluster.move(group, node)
            return {"group": group, "node": node, "era": above[0] + 1}

        cluster.on["recover.begin"] = begin
        return cluster

    def test_all_are_those_that_need_it(self, lost: FakeCluster) -> None:
        done = run("recover", "--all", "--yes")
        assert done.exit_code == 0, (done.output, done.exception)
        assert "group 1 from the log of n3: everything up to op 100 goes on" in done.output
        assert done.output.endswith("group 1 is in era 2, led by n3\n")
        assert lost.told("recover.begin") == [{"group": 1, "node": "n3", "archive": False, "above": [1, 4]}]

    def test_as_json(self, lost: FakeCluster) -> None:
        (row,) = json.loads(run("recover", "1", "--yes", "--json").output)["groups"]
        assert (row["group"], row["node"], row["from"], row["op"], row["era"]) == (1, "n3", "log", 100, 2)
        assert row["primary"] == "n3"

    def test_without_a_yes_nothing_is_done(self, lost: FakeCluster) -> None:
        error = run("recover", "1").exception
        assert isinstance(error, ClusterError) and "--yes" in str(error)
        assert not lost.told("recover.begin")

    def test_a_person_at_a_terminal_is_asked(
        self, lost: FakeCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "at_terminal", lambda: True)
        assert run("recover", "1", given="n\n").exit_code == 1
        assert not lost.told("recover.begin")
        assert run("recover", "1", given="y\n").exit_code == 0
        assert len(lost.told("recover.begin")) == 1

    def test_a_group_that_is_fine_is_refused_by_name_and_passed_over_by_all(self, lost: FakeCluster) -> None:
        lost.holdings = {name: holding(name) for name in NODES}
        error = run("recover", "0", "--yes").exception
        assert isinstance(error, ClusterError) and "nothing to recover" in str(error)
        done = run("recover", "--all", "--yes")
        assert done.exit_code == 0 and "group 1 is left alone" in done.output
        assert "no group needs it" in done.output

    def test_the_dead_are_not_asked_and_who_does_not_answer_is_left_out(self, lost: FakeCluster) -> None:
        lost.states["n1"] = "dead"
        assert run("recover", "1", "--yes").exception is not None
        assert "n1" not in {arguments["node"] for arguments in lost.told("recover.look")}

        def look(group: int, node: str) -> dict[str, Any]:
            if node == "n1":
                raise ClusterError("the gossip process of n1 did not answer")
            return {**lost.holdings[node], "archive": lost.archive}

        lost.states["n1"] = "alive"
        lost.on["recover.look"] = look
        done = run("recover", "1", "--yes")
        assert "n1 is left out: the gossip process of n1 did not answer" in done.output

    def test_the_archive_is_waited_for_and_then_gone_on_from(self, lost: FakeCluster) -> None:
        lost.holdings = {name: holding(name, "recovering") for name in NODES}
        answers = iter([{"state": "asked"}] * 3)
        lost.on["recover.look"] = lambda group, node: {
            **lost.holdings[node],
            "archive": next(answers, lost.archive),
        }
        done = run("recover", "1", "--yes")
        assert "from the archive, begun by n1: everything up to op 80 goes on" in done.output, done.exception
        assert [row["archive"] for row in lost.told("recover.begin")] == [True]

    def test_an_archive_that_does_not_answer_is_given_up(self, lost: FakeCluster) -> None:
        lost.holdings = {name: holding(name, "recovering") for name in NODES}
        lost.archive = {"state": "asked"}
        error = run("recover", "1", "--yes").exception
        assert isinstance(error, ClusterError) and "has not read it within" in str(error)
        lost.archive = {"state": "failed", "error": "no connection"}
        error = run("recover", "1", "--yes").exception
        assert isinstance(error, ClusterError) and "no connection" in str(error)

    def test_one_that_is_not_served_afterwards_is_told_so(self, lost: FakeCluster) -> None:
        lost.on["recover.begin"] = lambda **arguments: {"era": 2}
        error = run("recover", "1", "--yes").exception
        assert isinstance(error, ClusterError)
        assert "has begun, but it is unavailable" in str(error) and "two disks were lost" in str(error)

    @pytest.mark.parametrize("arguments", [[], ["1", "--all"], ["1", "--from", "n1", "--archive"]])
    def test_what_is_meant_has_to_be_said(self, cluster: FakeCluster, arguments: list[str]) -> None:
        assert run("recover", *arguments).exit_code == 2


def member(node: str, status: str = "normal", **more: Any) -> dict[str, Any]:
    row = {"node": node, "status": status, "commit": 7, "head": 9, "lag": 0, "archived": 5}
    return {**row, "ready": True, "problem": "", **more}


class TestStatus:
    GROUP: dict[str, Any] = {  # noqa: RUF012
        "id": 2,
        "first_partition": 0,
        "last_partition": 65535,
        "view": 4,
        "state": "ready",
        "primary": "n1",
        "commit": 7,
        "archived": 6,
        "reason": "",
        "members": [
            member("n1"),
            member("n2", lag=3),
            member("n3", "unknown", commit=None, lag=None, archived=None),
        ],
    }

    def test_the_groups_facts_are_in_its_first_row_alone(self) -> None:
        assert _group_rows(self.GROUP) == [
            (2, "0–65535", "ready", 4, "n1", "leads", "7", "0", 6),
            ("", "", "", "", "n2", "behind by 3 ops", "7", "3", "5"),
            ("", "", "", "", "n3", "no word", "", "", ""),
        ]

    def test_a_group_without_a_placement_has_a_row(self) -> None:
        assert len(_group_rows({**self.GROUP, "members": []})) == 1

    @pytest.mark.parametrize(
        ("row", "leads", "served", "words"),
        [
            (member("n1"), True, True, "leads"),
            (member("n1", ready=False), True, True, "leads, no worker ready"),
            (member("n1"), False, True, "in step"),
            (member("n1", lag=2, ready=False), False, True, "behind by 2 ops, no worker ready"),
            (member("n1"), False, False, "has the log up to op 9"),
            (member("n1", "view_change"), False, True, "changing view"),
            (member("n1", "recovering"), False, False, "recovering"),
            (member("n1", "blank"), False, False, "being formed"),
            (member("n1", "strange"), False, True, "strange"),
        ],
    )
    def test_what_a_replica_does_in_words(
        self, row: dict[str, Any], leads: bool, served: bool, words: str
    ) -> None:
        assert replica_words(row, leads=leads, served=served) == words

    def test_why_a_group_is_not_served_is_told_once(self) -> None:
        problem = "two replicas lost their disks"
        sick = {**self.GROUP, "state": "unavailable", "reason": f"n2: {problem}"}
        sick["members"] = [member("n2", "recovering", problem=problem), member("n3", problem="it is full")]
        assert _troubles(sick) == [
            f"group 2 is unavailable: n2: {problem}",
            "group 2 on n3: it is full",
        ]
        assert _troubles(self.GROUP) == []

    def test_four_groups_fit_on_a_screen(self) -> None:
        from rich.console import Console

        status = {
            "cluster": "demo",
            "nodes": [],
            "processes": [],
            "gateways": [],
            "groups": [{**self.GROUP, "id": number} for number in range(4)],
            "storage": {"state": "ok", "lag_ops": 0},
            "alerts": [],
        }
        console = Console(width=100)
        with console.capture() as shown:
            console.print(_report(status))
        lines = shown.get().splitlines()
        assert sum("behind by 3 ops" in line for line in lines) == 4, lines
        assert len(lines) < 30
