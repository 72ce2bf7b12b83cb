"""A group as its clients and its neighbours see it: sessions, rooms and exactly-once across shards."""

from connserver.ids import format_oid, group_of, named_id, partition_of
from connserver.messages import OutputKind, RequestKind
from partition.session_desk import CLOSE_AGAIN, CLOSE_EXPIRED, CLOSE_REPLACED
from partition.table import PluginTable
from tests.unit.partition.shards import Shards


def user_in(group: int, groups: int = 2, beginning: str = "user") -> str:
    """A user name whose home is this group."""
    names = (f"{beginning}{number}" for number in range(10_000))
    return next(name for name in names if group_of(partition_of(named_id("user", name)), groups) == group)


def empty() -> Shards:
    return Shards(PluginTable())


def two_in_a_room() -> tuple[Shards, str, str]:
    shards = empty()
    alice, bob = user_in(0), user_in(1)
    shards.login(1, alice)
    shards.login(2, bob)
    for connection in (1, 2):
        assert shards.call(connection, "room.join", room="lobby", id=1)["status"] == 0
        shards.events(connection)
    return shards, alice, bob


def test_login_makes_a_session_and_a_user_object() -> None:
    shards = empty()
    reply = shards.login(1, "alice")
    assert reply["status"] == 0 and reply["oid"] == format_oid(named_id("user", "alice"))
    bound = shards.events(1)
    assert bound[0]["user"] == "alice" and bound[0]["resume"] == reply["resume"]
    assert shards.call(1, "ping", text="x", id="seven") == {
        "msg": "ping",
        "id": "seven",
        "status": 0,
        "text": "x",
    }


def test_a_login_that_is_sent_again_gives_the_same_session_and_a_token_that_works() -> None:
    shards = empty()
    first = shards.login(1, "alice")
    body = {"user": "alice", "roles": [], "encoding": 3, "message": {"msg": "login", "id": 0}}
    again = shards.send(1, RequestKind.LOGIN, body, 1)[-1]
    assert again["resume"][:17] == first["resume"][:17]
    assert len(shards.members[shards.home[1]].sessions) == 1
    assert shards.call(1, "login", user="bob")["error"] == "conflict"
    shards.home[2] = shards.home[1]
    resumed = shards.send(
        2, RequestKind.RESUME, {"resume": again["resume"], "message": {"msg": "session.resume"}}
    )
    assert resumed[-1]["status"] == 0


def test_hello_after_the_login_tells_the_limits() -> None:
    shards = empty()
    shards.login(1, "alice")
    reply = shards.call(1, "hello", protocol="7")
    assert (reply["protocol"], reply["limits"]["fields"], reply["keepalive_ms"]) == (1, 64, 30_000)
    assert shards.call(1, "hello", protocol=0)["error"] == "bad_argument"


def test_a_connection_without_a_session_is_refused() -> None:
    shards = empty()
    shards.home[1] = 0
    assert shards.call(1, "ping")["error"] == "unauthorized"
    assert shards.call(1, "methods")["status"] == 0


def test_members_on_different_shards_see_one_order() -> None:
    shards, alice, bob = two_in_a_room()
    for number in range(6):
        reply = shards.call(1 + number % 2, "room.send", room="lobby", text=f"t{number}", id=2 + number)
        assert reply["seq"] == number + 1
    seen = [[(event["seq"], event["from"], event["text"]) for event in shards.events(c)] for c in (1, 2)]
    assert seen[0] == seen[1] == [(n + 1, (alice, bob)[n % 2], f"t{n}") for n in range(6)]
    assert shards.call(1, "room.who", room="lobby", id=20)["members"] == sorted([alice, bob])


def test_an_id_that_is_sent_again_gets_the_same_reply_and_does_nothing() -> None:
    shards, _, _ = two_in_a_room()
    first = shards.call(1, "room.send", room="lobby", text="once", id=5)
    shards.reload(0)
    shards.reload(1)
    assert shards.call(1, "room.send", room="lobby", text="once", id=5) == first
    assert [event["text"] for event in shards.events(2)] == ["once"]


def test_a_request_without_id_that_is_sent_again_by_its_gateway_runs_once() -> None:
    shards, _, _ = two_in_a_room()
    shards.call(1, "room.send", room="lobby", text="once")
    again = shards.send(
        1, RequestKind.CALL, {"msg": "room.send", "room": "lobby", "text": "once"}, shards.sequences[1]
    )
    assert len(again) >= 1
    assert [event["text"] for event in shards.events(2)] == ["once"]


def test_a_dead_neighbour_delays_and_loses_nothing() -> None:
    shards, _, _ = two_in_a_room()
    home = group_of(partition_of(named_id("room", "lobby")), 2)
    sender = 1 if home == 1 else 2
    shards.lost_groups = {home}
    assert (
        shards.send(sender, RequestKind.CALL, {"msg": "room.send", "room": "lobby", "text": "x", "id": 9})
        == []
    )
    shards.lost_groups = set()
    shards.reload(home)
    texts = [event["text"] for event in shards.events(sender) if event["msg"] == "room.message"]
    assert texts == ["x"]
    reply = shards.call(sender, "room.send", room="lobby", text="x", id=9)
    assert reply["seq"] == 1


def test_not_a_member_cannot_speak_or_look() -> None:
    shards = empty()
    shards.login(1, "alice")
    for msg in ("room.send", "room.who", "room.update"):
        assert shards.call(1, msg, room="lobby", key="k", id=1)["error"] in ("forbidden", "bad_argument")
    assert shards.call(1, "room.leave", room="lobby", id=5)["error"] == "not_found"
    assert shards.call(1, "room.join", room="", id=6)["error"] == "bad_argument"
    assert shards.call(1, "room.join", room="r", history=257, id=7)["error"] == "bad_argument"


def test_history_comes_after_the_answer_to_join() -> None:
    shards, _, _ = two_in_a_room()
    for number in range(5):
        shards.call(1, "room.send", room="lobby", text=f"t{number}", id=10 + number)
    shards.login(3, user_in(0, beginning="late"))
    shards.received[3] = []
    shards.call(3, "room.join", room="lobby", history=3, id=1)
    kinds = [(kind, message.get("seq")) for kind, _, message in shards.received[3]]
    event, reply = OutputKind.EVENT, OutputKind.REPLY
    assert kinds[:4] == [(reply, 5), (event, 3), (event, 4), (event, 5)]


def test_resume_on_another_connection_replays_what_was_missed() -> None:
    shards = empty()
    alice, bob = user_in(0), user_in(1)
    token = shards.login(1, alice)["resume"]
    shards.login(2, bob)
    for connection in (1, 2):
        shards.call(connection, "room.join", room="lobby", id=1)
    shards.call(2, "room.send", room="lobby", text="seen", id=2)
    shards.send(1, RequestKind.GONE, None)
    shards.call(2, "room.send", room="lobby", text="missed", id=3)
    shards.home[7] = shards.home[1]
    body = {
        "resume": token,
        "n": 0,
        "rooms": [{"room": "lobby", "seq": 1}],
        "encoding": 3,
        "message": {"msg": "session.resume", "id": 1},
    }
    reply = shards.send(7, RequestKind.RESUME, body)[-1]
    assert reply["status"] == 0 and reply["resume"] != token
    events = [event for event in shards.events(7) if event.get("msg") == "room.message"]
    assert [event["text"] for event in events] == ["missed"]
    shards.call(2, "room.send", room="lobby", text="live", id=4)
    assert [event["text"] for event in shards.events(7)] == ["live"]


def test_who_resumes_is_told_from_which_direct_event_on() -> None:
    """The gateway says it to the next worker: what was had before the resume is not sent again."""
    shards = empty()
    token = shards.login(1, "alice")["resume"]
    (session,) = shards.members[shards.home[1]].sessions.everyone()
    for text in ("one", "two"):
        shards.members[shards.home[1]].sessions.tell(session, {"msg": "told", "text": text})
    for connection, said, n in ((7, {"n": 1}, 1), (8, {"n": 2}, 2), (9, {"n": 99}, 2), (10, {}, 2)):
        shards.home[connection] = shards.home[1]
        body = {"resume": token, **said, "message": {"msg": "session.resume", "id": 1}}
        token = shards.send(connection, RequestKind.RESUME, body)[-1]["resume"]
        bound, *events = [event for event in shards.events(connection) if "user" in event or "n" in event]
        assert bound["n"] == n and [event["n"] for event in events] == list(range(n + 1, 3))


def test_resume_takes_a_living_connection_over() -> None:
    shards = empty()
    token = shards.login(1, "alice")["resume"]
    shards.events(1)
    shards.home[7] = shards.home[1]
    body = {"resume": token, "message": {"msg": "session.resume"}}
    assert shards.send(7, RequestKind.RESUME, body)[-1]["status"] == 0
    assert [event["code"] for event in shards.events(1)] == [CLOSE_REPLACED]
    body = {"resume": token[:-1] + "x", "message": {"msg": "session.resume"}}
    assert shards.send(7, RequestKind.RESUME, body)[-1]["error"] == "session_expired"


def test_a_rebind_after_a_restart_keeps_the_session_and_an_unknown_one_is_closed() -> None:
    shards = empty()
    token = shards.login(1, "alice")["resume"]
    shards.reload(shards.home[1])
    shards.send(1, RequestKind.RESUME, {"resume": token, "rebind": True})
    assert shards.call(1, "ping")["status"] == 0
    shards.home[2] = shards.home[1]
    shards.send(2, RequestKind.RESUME, {"resume": "00000000000000ff.x", "rebind": True})
    assert [event["code"] for event in shards.events(2)] == [CLOSE_EXPIRED]


def test_a_resume_that_another_worker_gets_again_replays_nothing_twice() -> None:
    shards, alice, _ = two_in_a_room()
    token = shards.login(1, alice)["resume"]
    shards.send(1, RequestKind.GONE, None)
    for number in (2, 3):
        shards.call(2, "room.send", room="lobby", text=str(number), id=number)
    shards.home[7] = shards.home[1]
    body = {
        "resume": token,
        "n": 0,
        "rooms": [{"room": "lobby", "seq": 0}],
        "message": {"msg": "session.resume", "id": 1},
    }
    assert shards.send(7, RequestKind.RESUME, body, 1)[-1]["status"] == 0
    assert [event["seq"] for event in shards.events(7) if event.get("msg") == "room.message"] == [1, 2]
    shards.reload(shards.home[1])
    assert shards.send(7, RequestKind.RESUME, body, 1) == [], "the first worker's answer is on its way"
    assert shards.events(7) == []
    fresh = {**body, "resume": token, "rooms": [{"room": "lobby", "seq": 1}]}
    assert shards.send(7, RequestKind.RESUME, fresh, 2)[-1]["status"] == 0, "another request is no repeat"
    assert [event["seq"] for event in shards.events(7) if event.get("msg") == "room.message"] == [2]


def test_a_lost_session_expires_and_leaves_its_rooms() -> None:
    shards, alice, bob = two_in_a_room()
    shards.send(1, RequestKind.GONE, None)
    shards.advance(119.0)
    assert shards.call(2, "room.who", room="lobby", id=7)["members"] == sorted([alice, bob])
    shards.advance(3.0)
    assert shards.call(2, "room.who", room="lobby", id=8)["members"] == [bob]
    assert len(shards.members[0].sessions) == 0


def test_a_guest_leaves_nothing_behind_and_a_named_user_stays() -> None:
    shards = empty()
    for connection, user, roles in ((1, "guest-1", ["guest"]), (2, "alice", [])):
        shards.home[connection] = group_of(partition_of(named_id("user", user)), 2)
        shards.send(connection, RequestKind.LOGIN, {"user": user, "roles": roles})
        shards.call(connection, "logout")
    stores = [group.store for group in shards.members]
    assert not any(named_id("user", "guest-1") in store for store in stores)
    assert any(named_id("user", "alice") in store for store in stores)


def test_volatile_values_reach_members_on_other_shards() -> None:
    shards, alice, _ = two_in_a_room()
    assert shards.call(1, "room.update", room="lobby", key="pos", value={"x": 3}, id=4)["status"] == 0
    shards.advance(0.1)
    states = [event for event in shards.events(2) if event["msg"] == "room.state"]
    assert [state["changes"] for state in states] == [[{"from": alice, "key": "pos", "value": {"x": 3}}]]


def test_logout_answers_closes_and_ends_the_session() -> None:
    shards = empty()
    shards.login(1, "alice")
    shards.events(1)
    assert shards.call(1, "logout", id=3) == {"msg": "logout", "id": 3, "status": 0}
    assert [event["reason"] for event in shards.events(1)] == ["logged out"]
    assert len(shards.members[shards.home[1]].sessions) == 0


def test_members_of_other_groups_are_told_that_a_rooms_events_were_lost() -> None:
    shards = empty()
    room_home = group_of(partition_of(named_id("room", "lobby")), 2)
    near, far = user_in(room_home), user_in(1 - room_home)
    tokens = {}
    for connection, name in ((1, near), (2, far), (3, far)):
        tokens[connection] = shards.login(connection, name)["resume"]
    for connection in (1, 2):
        shards.call(connection, "room.join", room="lobby", id=1)
    for connection in (1, 2, 3):
        shards.events(connection)
    for number in range(300):
        shards.call(1, "room.send", room="lobby", number=number, id=2 + number)
    shards.received.clear()  # these outputs were given up on the way
    shards.members[room_home].gateway_lacks(1, shards.now)
    shards.settle()
    assert [event["code"] for event in shards.events(2)] == [CLOSE_AGAIN]
    assert shards.events(3) == [], "who is in no room there has missed nothing"
    shards.home[4] = shards.home[2]
    body = {
        "resume": tokens[2],
        "rooms": [{"room": "lobby", "seq": 10}],
        "message": {"msg": "session.resume"},
    }
    assert shards.send(4, RequestKind.RESUME, body)[-1]["status"] == 0
    events = [event for event in shards.events(4) if event.get("msg", "").startswith("room.")]
    assert events[0] == {"msg": "room.gap", "room": "lobby", "from": 11, "to": 44}
    assert [event["seq"] for event in events[1:]] == list(range(45, 301))
