"""Administration: checked arguments, one worker asked once, and a sentence when it does not answer."""

from __future__ import annotations

from typing import Any

import pytest

from connserver.errors import ClusterError
from connserver.limits import ADMIN_PENDING
from connserver.messages import RouteEntry
from gossip.administration import Administration, AdminOutcome, Answer, Origin, ToWorker

ORIGIN = Origin(7, identity=b"cli:1")
GROUPS = 4


def entry(group: int, state: str = "ready") -> RouteEntry:
    node = f"n{group % 3 + 1}"
    reason = "" if state == "ready" else f"node {node} is dead"
    replicas = [node, *({"n1", "n2", "n3"} - {node})]
    return RouteEntry(group, 0, 0, 1, 0, 5, node, "ipc://w", replicas, state, reason)


class Story:
    """Group g is served on node g mod 3 + 1."""

    def __init__(self) -> None:
        self.routes = [entry(group) for group in range(GROUPS)]
        self.now = 0.0

        def echo(arguments: Any, now: float) -> Any:
            if arguments.get("fail"):
                raise ClusterError("it failed")
            return {"now": now}

        answers = {"echo": (frozenset({"fail"}), echo)}
        self.ordered: list[tuple[int, dict[str, Any]]] = []
        orders = {"hand": (frozenset({"to"}), self._hand)}
        self.machine = Administration(GROUPS, lambda: self.routes, answers, "n1", orders)

    def _hand(self, group: int, arguments: Any, now: float) -> Any:
        if arguments.get("to") == "nobody":
            raise ClusterError("there is nobody")
        self.ordered.append((group, dict(arguments)))
        return {"done": group}

    def ask(self, command: str, **arguments: Any) -> AdminOutcome:
        outcome = self.machine.request(ORIGIN, command, arguments, self.now)
        self.machine.check_invariants()
        return outcome

    def forwarded(self, command: str, **arguments: Any) -> ToWorker:
        outcome = self.ask(command, **arguments)
        assert isinstance(outcome, ToWorker), outcome
        return outcome

    def error(self, command: str, **arguments: Any) -> str:
        outcome = self.ask(command, **arguments)
        assert isinstance(outcome, Answer) and outcome.result is None, outcome
        return outcome.error

    def answer(self, asked: ToWorker, result: Any, error: str = "") -> list[AdminOutcome]:
        return self.machine.answered(asked.number, asked.node, None, result, error, self.now)


@pytest.fixture
def story() -> Story:
    return Story()


def test_what_it_knows_itself_is_answered_at_once(story: Story) -> None:
    assert story.ask("echo") == Answer(ORIGIN, {"now": 0.0}, "")
    assert story.error("echo", fail=True) == "it failed"


def test_an_unknown_command_lists_the_known_ones(story: Story) -> None:
    error = story.error("statsu")
    assert error == (
        "unknown command 'statsu'; known: echo, hand, object.delete, object.get, object.list, object.put, "
        "replica.…, worker.…"
    )


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("echo", {"x": 1}, "unknown argument 'x'; this command takes fail"),
        ("object.get", {}, "`oid` is missing"),
        ("object.get", {"oid": 5}, "`oid` is missing or no text"),
        ("object.get", {"oid": "hello"}, "is no object id"),
        ("object.get", {"oid": "7:1", "kind": "x"}, "unknown argument 'kind'"),
        ("object.put", {"oid": "", "kind": "", "fields": {}}, "`kind` is missing"),
        ("object.put", {"oid": "", "kind": "thing", "fields": []}, "`fields`, a map"),
        ("object.put", {"oid": "", "kind": "thing", "fields": {1: 2}}, "`fields`, a map"),
        ("object.put", {"oid": "", "kind": "thing", "fields": {}, "near": "x"}, "is no object id"),
        ("object.list", {"limit": 0}, "from 1 to 1000"),
        ("object.list", {"limit": 1001}, "from 1 to 1000"),
        ("object.list", {"limit": True}, "from 1 to 1000"),
        ("object.list", {"group": 4}, "from 0 to 3"),
        ("object.list", {"group": "1"}, "from 0 to 3"),
        ("object.list", {"kind": "x" * 300}, "`kind`"),
        ("worker.kick", {}, "from 0 to 3"),
        ("worker.kick", {"group": -1}, "from 0 to 3"),
        ("worker.kick", {"group": True}, "from 0 to 3"),
        ("hand", {}, "from 0 to 3"),
        ("hand", {"group": 4}, "from 0 to 3"),
        ("hand", {"group": 0, "from": "n1"}, "unknown argument 'from'"),
        ("hand", {"group": 0, "node": "n9"}, "'n9' holds no replica of group 0; those are n1"),
        ("hand", {"group": 0, "node": ["n1"]}, "holds no replica of group 0"),
    ],
)
def test_arguments_are_checked(story: Story, command: str, arguments: dict[str, Any], words: str) -> None:
    assert words in story.error(command, **arguments)


def test_an_object_is_asked_of_its_groups_primary(story: Story) -> None:
    asked = story.forwarded("object.get", oid="65535:9")
    assert (asked.node, asked.group, asked.command) == ("n1", 3, "object.get")
    assert asked.arguments == {"oid": "ffff000000000009"}
    assert story.answer(asked, {"kind": "thing"}) == [Answer(ORIGIN, {"kind": "thing"}, "")]
    assert story.answer(asked, "twice") == []


def test_a_workers_error_is_passed_back(story: Story) -> None:
    asked = story.forwarded("object.delete", oid="0:9")
    assert story.answer(asked, {"ignored": 1}, "there is no such object") == [
        Answer(ORIGIN, None, "there is no such object")
    ]


def test_worker_commands_go_to_the_group_that_is_named(story: Story) -> None:
    asked = story.forwarded("worker.kick", group=2, oid="x")
    assert (asked.node, asked.group, asked.arguments) == ("n3", 2, {"group": 2, "oid": "x"})


def test_a_replicas_worker_is_asked_whether_it_executes_or_not(story: Story) -> None:
    asked = story.forwarded("replica.plugin.check", group=1, node="n3", action="detach")
    assert (asked.node, asked.group, asked.arguments["action"]) == ("n3", 1, "detach")
    story.routes[1] = entry(1, "unavailable")
    assert story.forwarded("replica.plugin.check", group=1, node="n3").node == "n3"
    assert "holds no replica of group 1" in story.error("replica.plugin.check", group=1, node="n9")
    assert "has no primary yet" in story.error("replica.plugin.check", group=1)


def test_a_change_of_plugins_has_longer_than_other_commands(story: Story) -> None:
    story.forwarded("worker.plugin.set", group=0)
    story.now = 29.0
    assert story.machine.tick(story.now) == []
    (late,) = story.machine.tick(31.0)
    assert isinstance(late, Answer) and "did not answer within 30 s" in late.error


def test_only_who_was_asked_may_answer(story: Story) -> None:
    asked = story.forwarded("object.get", oid="0:9")
    assert story.machine.answered(asked.number, "n3", None, 1, "", 0.0) == []
    assert story.machine.answered(asked.number, "n1", 3, 1, "", 0.0) == []
    assert story.machine.answered(asked.number, "n1", 0, 1, "", 0.0) == [Answer(ORIGIN, 1, "")]


def test_a_new_object_goes_near_another_or_round_the_ready_groups(story: Story) -> None:
    assert story.forwarded("object.put", kind="t", fields={}, near="65535:1").group == 3
    story.routes[1] = entry(1, "unavailable")
    groups = [story.forwarded("object.put", oid="", kind="t", fields={"a": 1}).group for _ in range(6)]
    assert sorted(groups) == [0, 0, 2, 2, 3, 3]
    story.routes = [entry(group, "starting") for group in range(GROUPS)]
    assert "no partition group is ready" in story.error("object.put", kind="t", fields={})


def test_an_object_of_its_own_is_put_where_it_belongs(story: Story) -> None:
    asked = story.forwarded("object.put", oid="65535:1", kind="t", fields={"a": 1})
    assert (asked.group, asked.arguments["oid"]) == (3, "ffff000000000001")


def test_a_group_that_is_not_served_says_why(story: Story) -> None:
    story.routes[0] = entry(0, "unavailable")
    assert story.error("object.get", oid="0:1") == "group 0 is unavailable: node n1 is dead"


def test_no_answer_within_five_seconds_is_a_sentence(story: Story) -> None:
    asked = story.forwarded("object.get", oid="0:1")
    assert story.machine.tick(4.9) == []
    (answer,) = story.machine.tick(5.0)
    assert isinstance(answer, Answer)
    assert "group 0 on n1 did not answer within 5 s" in answer.error and "w-n1-0" in answer.error
    assert story.answer(asked, "late") == []


def test_the_death_of_the_worker_is_told_at_once(story: Story) -> None:
    story.forwarded("object.get", oid="0:1")
    story.forwarded("object.get", oid="65535:1")
    (answer,) = story.machine.lost("n1", 0)
    assert isinstance(answer, Answer) and "died before it answered" in answer.error


def test_what_is_pending_is_bounded(story: Story) -> None:
    for _ in range(ADMIN_PENDING):
        story.forwarded("object.get", oid="0:1")
    assert "requests to workers wait for their answers" in story.error("object.get", oid="0:1")
    story.machine.tick(5.0)
    story.forwarded("object.get", oid="0:1")


def test_a_relayed_request_is_bounded_and_checked_too(story: Story) -> None:
    origin = Origin(3, peer="n2")
    asked = story.machine.relay(origin, "n1", 0, "object.get", {"oid": "x"}, 0.0)
    assert isinstance(asked, ToWorker) and asked.arguments == {"oid": "x"}
    assert story.machine.relay(origin, "n1", 9, "x", {}, 0.0) == Answer(
        origin, None, "there is no partition group 9"
    )
    assert story.machine.answered(asked.number, "n1", 0, 1, "", 0.0) == [Answer(origin, 1, "")]


def rows(*oids: int) -> list[dict[str, str]]:
    return [{"oid": f"{oid:016x}"} for oid in oids]


def test_a_list_goes_on_through_all_groups(story: Story) -> None:
    asked = story.forwarded("object.list", kind="t", limit=10)
    assert (asked.group, asked.arguments) == (0, {"kind": "t", "after": "", "limit": 10})
    (asked,) = story.answer(asked, {"objects": rows(1, 2), "next": None})  # type: ignore[assignment]
    assert (asked.group, asked.arguments["limit"]) == (1, 8)
    (asked,) = story.answer(asked, {"objects": [], "next": ""})  # type: ignore[assignment]
    (asked,) = story.answer(asked, {"objects": rows(3), "next": None})  # type: ignore[assignment]
    assert asked.group == 3
    assert story.answer(asked, {"objects": rows(4), "next": None}) == [
        Answer(ORIGIN, {"objects": rows(1, 2, 3, 4), "next": ""}, "")
    ]


def test_a_full_page_ends_a_list_and_the_next_begins_there(story: Story) -> None:
    asked = story.forwarded("object.list", limit=2)
    (answer,) = story.answer(asked, {"objects": rows(1, 2), "next": f"{2:016x}"})
    assert answer == Answer(ORIGIN, {"objects": rows(1, 2), "next": f"{2:016x}"}, "")
    asked = story.forwarded("object.list", limit=2, after=f"{2:016x}")
    assert (asked.group, asked.arguments["after"]) == (0, f"{2:016x}")
    (answer,) = story.answer(asked, {"objects": rows(3, 4), "next": None})
    assert isinstance(answer, Answer) and answer.result["next"] == f"{4:016x}", "there may be other groups"


def test_a_list_of_one_group_stays_there(story: Story) -> None:
    asked = story.forwarded("object.list", group=2, limit=5)
    assert asked.group == 2
    assert story.answer(asked, {"objects": rows(1), "next": None}) == [
        Answer(ORIGIN, {"objects": rows(1), "next": ""}, "")
    ]


def test_a_list_has_five_seconds_in_all(story: Story) -> None:
    asked = story.forwarded("object.list")
    story.now = 4.0
    story.answer(asked, {"objects": [], "next": None})
    (answer,) = story.machine.tick(5.0)
    assert isinstance(answer, Answer) and "group 1 on n2 did not answer" in answer.error


@pytest.mark.parametrize("result", [None, [], {"objects": 1}, {"objects": [], "next": 5}])
def test_a_worker_that_answers_nonsense(story: Story, result: Any) -> None:
    (answer,) = story.answer(story.forwarded("object.list"), result)
    assert isinstance(answer, Answer) and "gave no list of objects" in answer.error


def test_a_list_over_a_group_that_is_not_served_says_so(story: Story) -> None:
    story.routes[1] = entry(1, "unavailable")
    (answer,) = story.answer(story.forwarded("object.list"), {"objects": [], "next": None})
    assert isinstance(answer, Answer) and "group 1 is unavailable" in answer.error


# --- orders: what the gossip process of one certain node does --------------------------------------------


def test_an_order_to_this_node_is_carried_out_at_once(story: Story) -> None:
    assert story.ask("hand", group=0) == Answer(ORIGIN, {"done": 0}, "")
    assert story.ask("hand", group=1, node="n1", to="n3") == Answer(ORIGIN, {"done": 1}, "")
    assert story.ordered == [(0, {}), (1, {"to": "n3"})]
    assert story.error("hand", group=0, to="nobody") == "there is nobody"


def test_an_order_goes_to_the_primarys_node_or_to_the_one_that_is_named(story: Story) -> None:
    asked = story.forwarded("hand", group=1, to="n3")
    assert (asked.node, asked.group, asked.command, asked.arguments) == ("n2", 1, "hand", {"to": "n3"})
    assert story.forwarded("hand", group=0, node="n3").node == "n3"
    assert story.ordered == []
    assert story.answer(asked, {"done": 1}) == [Answer(ORIGIN, {"done": 1}, "")]


def test_an_order_does_not_need_the_group_to_be_served_but_somebody_to_carry_it_out(story: Story) -> None:
    story.routes[1] = entry(1, "unavailable")
    assert story.forwarded("hand", group=1).node == "n2"
    story.routes[1] = RouteEntry(1, 0, 0, 1, 0, 0, "", "", [], "starting", "there is no placement yet")
    assert story.error("hand", group=1) == "group 1 has no primary yet: there is no placement yet"


def test_a_relayed_order_is_carried_out_here_and_not_by_a_worker(story: Story) -> None:
    origin = Origin(3, peer="n2")
    assert story.machine.relay(origin, "n1", 2, "hand", {"to": "n3"}, 0.0) == Answer(origin, {"done": 2}, "")
    assert story.ordered == [(2, {"to": "n3"})]
    refused = story.machine.relay(origin, "n1", 2, "hand", {"to": "nobody"}, 0.0)
    assert refused == Answer(origin, None, "there is nobody")
    assert story.machine.relay(origin, "n1", 9, "hand", {}, 0.0).error  # type: ignore[union-attr]


def test_an_order_that_is_not_answered_names_the_gossip_process(story: Story) -> None:
    story.forwarded("hand", group=1)
    (answer,) = story.machine.tick(5.0)
    assert isinstance(answer, Answer)
    assert "the gossip process of n2 did not answer" in answer.error and "log of g-n2" in answer.error
