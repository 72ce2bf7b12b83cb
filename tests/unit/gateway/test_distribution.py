"""Workers' outputs on their way to connections: whose they are, and what they change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from connserver.encodings import Encoding
from connserver.errors import ClientError
from connserver.limits import Limits
from connserver.messages import OutputKind, Outputs, RequestKind, RouteEntry, StreamOpened
from connserver.model import Message, pack, unpack
from gateway.authentication import Anonymous
from gateway.delivery import Broadcast, Outbox
from gateway.distribution import Counts, Distribution
from gateway.effects import Effect, Shut
from gateway.entrance import Rules
from gateway.forwarding import Link
from gateway.line import Line
from gateway.session import Session
from gateway.states import State

REPLY, EVENT, BOUND, CLOSE, VOLATILE = (
    OutputKind.REPLY,
    OutputKind.EVENT,
    OutputKind.BOUND,
    OutputKind.CLOSE,
    OutputKind.VOLATILE,
)
RULES = Rules(Limits(), 2, 30_000, Anonymous(lambda: "0badcafe"), lambda: 0.0)
SESSION = "00000000000001"


class Listener:
    """Stands for a client connection and notes what it is told."""

    def __init__(self, number: int, link: Link | None) -> None:
        self.number = number
        self.session = Session(number, RULES, 0.0)
        self.session.detected(Encoding.JSON)
        self.outbox = Outbox()
        self.is_blocked = False
        self.heard: list[Message] = []
        self.shuts: list[Shut] = []
        self.worked = 0
        self.line: Line | None = None
        if link is not None:
            self.line = Line(number)
            link.join(self.line)

    def say(self, message: Message) -> None:
        self.heard.append(message)

    def deliver(self, broadcast: Broadcast) -> None:
        self.heard.append(broadcast.message)

    def perform(self, effects: list[Effect]) -> None:
        self.shuts += [effect for effect in effects if isinstance(effect, Shut)]

    def shut(self, effect: Shut) -> None:
        self.shuts.append(effect)

    def bound(self) -> None:
        self.session.bound()

    def work_soon(self) -> None:
        self.worked += 1


class World:
    """Two groups' links, and connections 1 and 2 at home in group 0, 3 in group 1, 4 nowhere."""

    def __init__(self) -> None:
        self.links = [Link(group, "gw", 7, 0.0) for group in range(2)]
        for link in self.links:
            link.routed(RouteEntry(link.group, 0, 1, 1, 0, 1, "n1", "ipc://x", [], "ready", ""), 0.0)
            link.receive(StreamOpened(1), 0.0)
        homes = {1: self.links[0], 2: self.links[0], 3: self.links[1], 4: None}
        self.clients = {number: Listener(number, link) for number, link in homes.items()}
        loop: Any = SimpleNamespace(time=lambda: 0.0)
        self.distribution = Distribution(loop, self.clients, self.links, Counts())  # type: ignore[arg-type]

    def client(self, number: int) -> tuple[Listener, Line]:
        client = self.clients[number]
        assert client.line is not None
        return client, client.line

    def asks(self, number: int, kind: int = RequestKind.CALL, **fields: Any) -> None:
        _, line = self.client(number)
        self.links[line.group].add(line, [(kind, pack(fields))], 0.0)

    def logs_in(self, number: int, *, implicit: bool = False) -> None:
        client, _ = self.client(number)
        client.session._step("login")
        message = {} if implicit else {"message": {"msg": "login", "id": 1}}
        self.asks(number, RequestKind.LOGIN, user="ann", **message)

    def says(self, group: int, *items: tuple[list[int], int, int, Message]) -> None:
        targets, kinds, answers, messages = zip(*items, strict=True)
        bodies = [pack(message) for message in messages]
        outputs = Outputs(1, 1, 0, 0, 0, list(targets), [int(kind) for kind in kinds], list(answers), bodies)
        self.distribution.outputs(self.links[group], outputs)
        for link in self.links:
            link.check_invariants()


def bound_body(session: int = 1, secret: str = "s") -> Message:
    return {
        "session": "",
        "user": "ann",
        "roles": ["gm"],
        "oid": "",
        "resume": f"{SESSION}{session:02}.{secret}",
    }


def test_an_answer_is_given_once_whoever_brings_it() -> None:
    world = World()
    client, line = world.client(1)
    world.asks(1, msg="a")
    answer: Message = {"msg": "a", "status": 0}
    world.says(1, ([1], REPLY, 1, answer))
    world.says(0, ([1], REPLY, 1, answer), ([1], REPLY, 2, answer), ([9], REPLY, 1, answer))
    assert client.heard == [answer] and line.pending == {}


def test_a_login_binds_and_its_answer_follows() -> None:
    world = World()
    client, line = world.client(1)
    world.logs_in(1)
    world.says(0, ([1], BOUND, 0, bound_body()), ([1], REPLY, 1, {"msg": "login", "status": 0}))
    assert client.session.state is State.BOUND and line.pending == {}
    assert unpack(line.rebind())["resume"] == f"{SESSION}01.s"
    assert [message["msg"] for message in client.heard] == ["login"]


def test_an_implicit_login_is_over_when_it_is_bound() -> None:
    world = World()
    client, line = world.client(1)
    world.logs_in(1, implicit=True)
    world.asks(1, msg="a")
    world.says(0, ([1], BOUND, 0, bound_body()))
    assert list(line.pending) == [2] and client.session.state is State.BOUND and client.heard == []


def test_an_implicit_login_that_was_refused_shows_in_the_next_answer() -> None:
    world = World()
    client, line = world.client(1)
    world.logs_in(1, implicit=True)
    world.asks(1, msg="a")
    world.says(0, ([1], REPLY, 2, {"msg": "a", "status": 1, "error": "unauthorized", "reason": ""}))
    assert line.pending == {} and client.session.state is State.OPEN and len(client.heard) == 1


def test_a_refused_login_leaves_the_connection_open() -> None:
    world = World()
    client, _ = world.client(1)
    world.logs_in(1)
    world.says(0, ([1], REPLY, 1, {"msg": "login", "status": 1, "error": "conflict", "reason": ""}))
    assert client.session.state is State.OPEN and client.shuts == []


def test_only_the_worker_of_a_session_binds_or_closes_it() -> None:
    world = World()
    client, line = world.client(1)
    world.logs_in(1)
    world.says(1, ([1], BOUND, 0, bound_body()), ([1], CLOSE, 0, {"code": 4003, "reason": "kicked"}))
    world.says(1, ([4], CLOSE, 0, {"code": 4003, "reason": "kicked"}), ([9], BOUND, 0, bound_body()))
    assert client.session.state is State.LOGGING_IN and client.shuts == [] and line.token == ""
    world.says(0, ([1], CLOSE, 0, {"code": 4003, "reason": "kicked"}))
    assert client.shuts == [Shut(4003, "kicked", spoken=True)]


@pytest.mark.parametrize("code", [7, "4003", None, 70_000])
def test_a_close_without_a_proper_code_is_an_ordinary_one(code: Any) -> None:
    world = World()
    world.says(0, ([1], CLOSE, 0, {"code": code, "reason": "why"}))
    assert world.clients[1].shuts == [Shut(1000, "why", spoken=True)]


def test_what_is_for_connections_that_are_closed_is_ignored_whatever_it_is() -> None:
    """A new worker's stream begins with outputs for clients that may be gone by then."""
    world = World()
    left = world.clients.pop(1)
    assert left.line is not None
    world.links[0].leave(left.line, 0.0, gone=True)
    world.asks(2, msg="a")
    world.says(
        0,
        ([1], BOUND, 0, bound_body()),
        ([1], REPLY, 1, {"msg": "a", "status": 0}),
        ([1], EVENT, 0, {"msg": "told", "n": 3}),
        ([1], VOLATILE, 0, {"msg": "room.state", "room": "a", "changes": []}),
        ([1], CLOSE, 0, {"code": 4003, "reason": "kicked"}),
        ([1, 2], EVENT, 0, {"msg": "room.message", "room": "a", "seq": 1}),
        ([2], REPLY, 1, {"msg": "a", "status": 0}),
    )
    assert left.heard == [] and left.shuts == []
    assert [message["msg"] for message in world.clients[2].heard] == ["room.message", "a"]


def test_an_event_reaches_members_of_every_group() -> None:
    world = World()
    event: Message = {"msg": "room.message", "room": "a", "seq": 1}
    world.says(1, ([1, 3, 9], EVENT, 0, event))
    assert [len(world.clients[number].heard) for number in (1, 2, 3)] == [1, 0, 1]


def test_a_direct_event_is_not_given_twice() -> None:
    world = World()
    client, line = world.client(1)
    for n in (1, 2, 1, 2, 3):
        world.says(0, ([1], EVENT, 0, {"msg": "told", "n": n}))
    assert [message["n"] for message in client.heard] == [1, 2, 3] and line.last_event == 3


def test_the_events_of_another_session_are_counted_anew_those_of_the_same_are_not() -> None:
    world = World()
    client, line = world.client(1)
    world.logs_in(1)
    world.says(0, ([1], BOUND, 0, bound_body(1)), ([1], EVENT, 0, {"msg": "told", "n": 5}))
    world.says(0, ([1], BOUND, 0, bound_body(1, "fresh")), ([1], EVENT, 0, {"msg": "told", "n": 5}))
    assert line.last_event == 5 and line.token.endswith("fresh")
    world.says(0, ([1], BOUND, 0, bound_body(2)), ([1], EVENT, 0, {"msg": "told", "n": 1}))
    assert [message["n"] for message in client.heard] == [5, 1]


def test_what_a_client_had_before_it_resumed_is_not_told_it_again_by_a_later_worker() -> None:
    world = World()
    client, line = world.client(1)
    world.asks(1, RequestKind.RESUME, resume="", message={"msg": "session.resume"})
    world.says(0, ([1], BOUND, 0, {**bound_body(), "n": 7}))
    assert unpack(line.rebind())["n"] == 7, "a new worker is asked for all since the session began"
    world.says(0, ([1], EVENT, 0, {"msg": "told", "n": 7}), ([1], EVENT, 0, {"msg": "told", "n": 8}))
    assert [message["n"] for message in client.heard] == [8] and line.last_event == 8


def test_volatile_values_wait_for_a_client_that_is_behind() -> None:
    world = World()
    world.clients[1].is_blocked = True
    state: Message = {"msg": "room.state", "room": "a", "changes": []}
    world.says(0, ([1, 2], VOLATILE, 0, state))
    assert world.clients[1].heard == [] and world.clients[1].outbox.take_states() == [state]
    assert world.clients[2].heard == [state]


def test_one_bad_item_costs_none_of_the_others() -> None:
    world = World()
    outputs = Outputs(
        1,
        1,
        0,
        0,
        0,
        [[1], [], [1], [1], [1], [1]],
        [int(EVENT), int(REPLY), int(BOUND), int(CLOSE), 99, int(EVENT)],
        [0, 0, 0, 0, 0, 0],
        [b"\xc1", b"", b"", pack({"a": 1})[:-1], b"", pack({"msg": "fine"})],
    )
    world.distribution.outputs(world.links[0], outputs)
    assert world.clients[1].heard == [{"msg": "fine"}]


def test_who_gets_no_answer_is_told_and_can_log_in_again() -> None:
    world = World()
    client, line = world.client(1)
    world.logs_in(1)
    world.asks(1, msg="a", id=2)
    world.asks(1, RequestKind.REJECTED, msg="error", status=1, error="bad_message", reason="")
    requests = world.links[0].give_up(line)
    world.distribution.expired(line, requests, ClientError("unavailable", "nobody there"))
    assert [(message["msg"], message.get("id"), message["error"]) for message in client.heard] == [
        ("login", 1, "unavailable"),
        ("a", 2, "unavailable"),
        ("error", None, "bad_message"),
    ]
    assert client.session.state is State.OPEN and client.worked == 1


def test_whoever_waits_for_an_answer_goes_on() -> None:
    world = World()
    client, _ = world.client(1)
    world.asks(1, msg="a")
    client.session.backlog.append(b"{}")
    world.says(0, ([1], REPLY, 1, {"msg": "a", "status": 0}))
    assert client.worked == 1
