"""The whole cluster as its clients meet it: four encodings, other people's clients, and little HTTP.

Members of a room are on different groups and gateways throughout.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from connserver.encodings import Encoding
from connserver.ids import format_oid, named_id
from tests.integration.cluster import Cluster, wait_for
from tests.integration.voices import PATIENCE_S, Closed, Message, Voice, login, names_in_groups, values

pytestmark = pytest.mark.integration

GROUPS = 4
ALL = list(Encoding)
TYPED = (Encoding.JSON, Encoding.MSGPACK)


@pytest.fixture(scope="module", autouse=True)
def serving(cluster: Cluster) -> None:
    wait_for("a call to be carried out", cluster.serves, 20)


@pytest.fixture
def address(cluster: Cluster) -> tuple[str, int]:
    return cluster.gateways[0]


def raw(address: tuple[str, int], data: bytes, *, half_close: bool = True) -> bytes:
    """Everything that comes back until the gateway closes."""
    with socket.create_connection(address, timeout=PATIENCE_S) as sock:
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        found = b""
        while part := sock.recv(65_536):
            found += part
    return found


# --- one scenario over all encodings --------------------------------------------------------------------


def scenario(cluster: Cluster, encoding: Encoding, user: str, room: str) -> Iterator[Message]:
    """What a client of this encoding hears, without what is never twice the same."""
    with Voice(cluster.gateways[1], encoding) as voice:
        hello = voice.good("hello", protocol=1, client="a test")
        assert abs(int(hello.pop("time_ms")) / 1000 - time.time()) < 60
        yield hello
        yield voice.good("ping", id=1, text='<a & "b">\n%41é', pos={"x": 1.5, "y": -2}, tags=["a", "b"])
        yield voice.good("ping", id="one", empty=[], nothing=None, none={}, yes=True)
        assert abs(float(voice.good("time")["time"]) - time.time()) < 60
        methods = voice.good("methods")
        assert {"chat.say", "world.move"} <= {row["name"] for row in methods["methods"]}
        yield methods
        answer = voice.good("login", user=user, id=2)
        assert answer.pop("resume").startswith(answer.pop("oid")[:4])
        assert answer.pop("user") == user
        yield answer
        yield voice.good("ping", id=3, deep=[[1, [2]], {"a": {"b": "c"}}], big=2**53 - 1, small=0.001)
        yield voice.good("room.join", room=room, id=4)
        yield voice.good("room.send", room=room, text="first", n1=1, maybe=False, id=5)
        event = voice.event("room.message")
        assert event.pop("from") == user
        yield event
        yield voice.good("room.who", room=room) | {"members": []}
        yield voice.good("room.update", room=room, key="pos", value={"x": 7})
        state = voice.event("room.state")
        assert float(state.pop("t")) > 0
        assert [change.pop("from") for change in state["changes"]] == [user]
        yield state
        wrongs: list[tuple[str, Message]] = [
            ("no.such.method", {}),
            ("room.join", {"room": ""}),
            ("room.leave", {"room": "elsewhere"}),
            ("room.send", {"room": "elsewhere", "text": "x"}),
            ("chat.say", {"room": room}),
            ("chat.say", {"room": room, "text": "x", "volume": "loud"}),
            ("chat.say", {"room": room, "text": "x", "colour": "red"}),
            ("chat.say", {"room": room, "text": "x"}),
            ("room.send", {"room": room, "seq": 5}),
            ("login", {"user": "other"}),
        ]
        for msg, fields in wrongs:
            refused = voice.call(msg, **fields)
            assert str(refused["status"]) == "1"
            yield {name: refused[name] for name in ("error", "code") if name in refused}
        yield voice.good("room.leave", room=room, id=6)
        yield voice.good("logout", id=7)
        with pytest.raises((Closed, ConnectionClosed)):
            while voice.receive()["msg"] == "goodbye":
                pass


def test_one_scenario_gives_the_same_values_in_every_encoding(cluster: Cluster) -> None:
    told = {}
    for encoding in ALL:
        # the same room name would give other seqs: each encoding has its own, of the same length
        room = f"scenario{int(encoding)}"
        heard = scenario(cluster, encoding, f"actor{int(encoding)}", room)
        told[encoding] = json.loads(json.dumps([values(message) for message in heard]).replace(room, "room"))
    assert len(told[Encoding.JSON]) == 24
    for encoding in ALL:
        for ours, theirs in zip(told[encoding], told[Encoding.JSON], strict=True):
            assert ours == theirs, encoding.name


def test_typed_encodings_keep_types(cluster: Cluster, address: tuple[str, int]) -> None:
    fields = {"i": -5, "f": 2.5, "b": True, "z": None, "s": "5", "l": [1, "1"], "m": {"a": 0}}
    for encoding in TYPED:
        with login(address, f"typed{int(encoding)}", encoding) as voice:
            answer = voice.good("ping", id=9, **fields)
            assert {name: answer[name] for name in fields} == fields
            assert [type(answer[name]) for name in fields] == [type(value) for value in fields.values()]
            assert answer["id"] == 9 and type(answer["status"]) is int


def test_the_wire_itself(address: tuple[str, int]) -> None:
    """Byte for byte, so that no codec of ours can hide a change from those that others wrote."""
    assert raw(address, b"msg:ping\nid:7\ntext:a%25\n\0") == b"msg:ping\nid:7\nstatus:0\ntext:a%25\n\0"
    assert raw(address, b"msg:ping\nid:7\n\n").startswith(b"msg:ping\nid:7\nstatus:0\n")
    assert raw(address, b"msg:ping\r\nid:8\r\n\r\n").startswith(b"msg:ping\nid:8\nstatus:0\n")
    assert (
        raw(address, b'<msg method="ping" id="7"><text>a &amp; b</text></msg>\0')
        == b'<msg method="ping" id="7" status="0" text="a &amp; b"/>\0'
    )
    assert raw(address, b'{"msg":"ping","id":7}\n') == b'{"msg":"ping","id":7,"status":0}\n'
    assert raw(address, b'{"msg":"ping","id":"7"}\0') == b'{"msg":"ping","id":"7","status":0}\0'
    assert raw(address, b'\xef\xbb\xbf\r\n {"msg":"ping"}\r\n') == b'{"msg":"ping","status":0}\n'


# --- a room across groups, gateways and encodings ---------------------------------------------------------


@pytest.fixture
def members(cluster: Cluster) -> Iterator[list[Voice]]:
    """One member per group, each in another encoding; gateways in turn."""
    names = names_in_groups("user", "member", GROUPS)
    voices = []
    try:
        for name, encoding, number in zip(names, ALL, range(GROUPS), strict=True):
            voices.append(login(cluster.gateways[number % 3], name, encoding))
        yield voices
    finally:
        for voice in voices:
            voice.close()


@pytest.mark.parametrize("home", range(GROUPS))
def test_all_members_see_the_same_order_without_gaps(members: list[Voice], home: int) -> None:
    room = names_in_groups("room", "order", GROUPS)[home]
    for voice in members:
        voice.good("room.join", room=room)
    for number in range(10):
        for voice in members:
            voice.send("room.send", room=room, number=number, text=f"{number}")
    seen = []
    for voice in members:
        events: list[Message] = []
        while len(events) < 10 * GROUPS:
            message = voice.receive()
            if "status" not in message:
                events.append(message)
        seen.append([(int(event["seq"]), event["from"], event["text"]) for event in [*voice.events, *events]])
    assert [seq for seq, _, _ in seen[0]] == list(range(1, 10 * GROUPS + 1))
    assert all(order == seen[0] for order in seen)


def test_who_history_and_leave(cluster: Cluster, members: list[Voice]) -> None:
    names = names_in_groups("user", "member", GROUPS)
    for voice in members:
        voice.good("room.join", room="club")
    assert values(members[0].good("room.who", room="club")["members"]) == sorted(names)
    page = members[2].good("room.who", room="club", limit=3)
    assert (page["members"], page["more"]) == (sorted(names)[:3], True)
    rest = members[2].good("room.who", room="club", limit=3, after=page["members"][-1])
    assert (rest["members"], rest["more"]) == (sorted(names)[3:], False)
    for number in range(3):
        members[1].good("room.send", room="club", number=number)
    with login(cluster.gateways[2], "late") as late:
        assert late.good("room.join", room="club", history=2)["seq"] == 3
        assert [late.event("room.message")["seq"] for _ in range(2)] == [2, 3]
        members[3].good("room.leave", room="club")
        assert late.good("room.who", room="club")["members"] == sorted([*names[:3], "late"])
        members[0].good("room.send", room="club", text="bye")
        assert late.event("room.message")["text"] == "bye"
        members[3].good("ping")
        assert all(event.get("text") != "bye" for event in members[3].events)
    assert members[3].call("room.send", room="club", text="x")["error"] == "forbidden"


def test_volatile_values_reach_members_and_newcomers_and_go_with_their_owner(
    cluster: Cluster, members: list[Voice]
) -> None:
    for voice in members:
        voice.good("room.join", room="field")
    owner = names_in_groups("user", "member", GROUPS)[2]
    for x in range(20):
        members[2].send("room.update", room="field", key="pos", value={"x": x})
    for voice in members:
        seen: list[int] = []
        while not seen or seen[-1] != 19:
            state = voice.event("room.state") if voice is not members[2] else _state_among_replies(voice)
            seen += [int(change["value"]["x"]) for change in state["changes"]]
        assert seen == sorted(seen)
    with login(cluster.gateways[1], "newcomer") as late:
        late.good("room.join", room="field")
        assert late.event("room.state")["changes"] == [{"from": owner, "key": "pos", "value": {"x": 19}}]
        members[2].send("room.leave", room="field")
        assert late.event("room.state")["changes"] == [{"from": owner, "key": "pos", "value": None}]


def _state_among_replies(voice: Voice) -> Message:
    while (message := voice.receive())["msg"] != "room.state":
        pass
    return message


# --- sessions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [Encoding.CLASSIC, Encoding.MSGPACK])
def test_resume_on_another_gateway_and_encoding_gives_what_was_missed(
    cluster: Cluster, encoding: Encoding
) -> None:
    first, second = names_in_groups("user", f"traveller{int(encoding)}", GROUPS)[1:3]
    room = f"station{int(encoding)}"
    other = login(cluster.gateways[0], second)
    with other, Voice(cluster.gateways[1]) as before:
        token = before.good("login", user=first)["resume"]
        before.good("room.join", room=room)
        other.good("room.join", room=room)
        other.good("room.send", room=room, text="one")
        assert before.event("room.message")["seq"] == 1
        before.close()
        other.good("room.send", room=room, text="two")
        with Voice(cluster.gateways[2], encoding) as after:
            answer = after.good("session.resume", resume=token, rooms=[{"room": room, "seq": 1}])
            assert answer["oid"] == format_oid(named_id("user", first))
            assert answer["resume"] != token
            assert after.event("room.message")["text"] == "two"
            other.good("room.send", room=room, text="three")
            assert after.event("room.message")["text"] == "three"
            assert str(after.good("room.send", room=room, text="four")["seq"]) == "4"


def test_resume_replaces_a_living_connection(cluster: Cluster) -> None:
    with Voice(cluster.gateways[0]) as before, Voice(cluster.gateways[1]) as after:
        token = before.good("login", user="two places")["resume"]
        after.good("session.resume", resume=token)
        assert before.event("goodbye")["code"] == 4002
        with pytest.raises(Closed):
            before.receive()
        assert after.good("world.inventory")["gold"] == 0


def test_a_wrong_token_is_refused_and_a_login_still_works(address: tuple[str, int]) -> None:
    with Voice(address) as voice:
        for token in ("", "nonsense", "ffff000000000001.00", 5):
            assert voice.call("session.resume", resume=token)["error"] in ("session_expired", "bad_argument")
        voice.good("login", user="after all")


def test_the_same_integer_id_runs_once(cluster: Cluster) -> None:
    with login(cluster.gateways[0], "once") as voice:
        voice.good("room.join", room="once")
        for _ in range(3):
            assert voice.good("room.send", room="once", text="x", id=5)["seq"] == 1
        assert voice.good("room.send", room="once", text="x", id="5")["seq"] == 2
        assert voice.good("room.send", room="once", text="x", id="5")["seq"] == 3


def test_replies_come_in_the_order_of_requests_and_all_before_the_close(address: tuple[str, int]) -> None:
    """Pipelined, some refused, some of other groups, and the sending half closed right away."""
    lines = [b'{"msg":"login","user":"hasty","id":0}']
    for number in range(1, 40):
        kind = number % 4
        lines.append(
            b'{"msg":"ping","id":%d}' % number
            if kind == 0
            else b'{"msg":"nothing.such","id":%d}' % number
            if kind == 1
            else b'{"msg":"world.inventory","id":%d}' % number
            if kind == 2
            else b'{"msg":5}'
        )
    found = [json.loads(line) for line in raw(address, b"\n".join(lines) + b"\n").splitlines()]
    replies = [message for message in found if "status" in message]
    assert len(replies) == 40
    assert [reply["id"] for reply in replies if "id" in reply] == [n for n in range(40) if n % 4 != 3]
    assert [reply["error"] for reply in replies if "id" not in reply] == ["bad_message"] * 10


# --- other people's clients -----------------------------------------------------------------------------


WIRES = {
    "connserver.v1.json": (json.dumps, json.loads),
    "connserver.v1.msgpack": (msgpack.packb, msgpack.unpackb),
    "connserver.v1.xml": (
        lambda message: f'<msg method="{message["msg"]}" id="{message["id"]}"/>',
        lambda text: {"id": 1, "status": 0} if 'id="1" status="0"' in text else text,
    ),
    "connserver.v1.classic": (
        lambda message: f"msg:{message['msg']}\nid:{message['id']}\n",
        lambda text: {"id": 1, "status": 0} if "\nid:1\nstatus:0\n" in text else text,
    ),
    "connserver.v1.stream": (
        lambda message: json.dumps(message).encode() + b"\0",
        lambda data: json.loads(data.removesuffix(b"\0")),
    ),
}


@pytest.mark.parametrize("name", WIRES)
def test_the_websockets_package(cluster: Cluster, name: str) -> None:
    write, read = WIRES[name]
    host, port = cluster.gateways[2]
    with connect(f"ws://{host}:{port}/", subprotocols=[Subprotocol(name)], proxy=None) as client:
        assert client.subprotocol == name
        client.send(write({"msg": "world.inventory", "id": 1}))
        answer = read(client.recv(timeout=PATIENCE_S))
        assert (answer["id"], answer["status"]) == (1, 0)
        client.ping().wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ('{"msg":"ping","id":1}', '{"msg":"ping","id":1,"status":0}'),
        ('{"msg":"ping","id":1}\0', '{"msg":"ping","id":1,"status":0}'),
        ('<msg method="ping" id="1"/>', '<msg method="ping" id="1" status="0"/>'),
        ("msg:ping\nid:1\n", "msg:ping\nid:1\nstatus:0\n"),
        (b'<msg method="ping" id="1"/>\0', b'<msg method="ping" id="1" status="0"/>\0'),
        (b"msg:ping\nid:1\n\0", b"msg:ping\nid:1\nstatus:0\n\0"),
    ],
)
def test_the_websockets_package_without_a_subprotocol(
    cluster: Cluster, sent: str | bytes, wanted: str | bytes
) -> None:
    host, port = cluster.gateways[0]
    with connect(f"ws://{host}:{port}/", proxy=None) as client:
        assert client.subprotocol is None
        client.send(sent)
        assert client.recv(timeout=PATIENCE_S) == wanted


def test_an_unknown_subprotocol_and_a_wrong_frame_are_told(address: tuple[str, int]) -> None:
    host, port = address
    with (
        pytest.raises(InvalidStatus),
        connect(f"ws://{host}:{port}/", subprotocols=[Subprotocol("chat.v9")], proxy=None),
    ):
        pass
    with connect(
        f"ws://{host}:{port}/", subprotocols=[Subprotocol("connserver.v1.json")], proxy=None
    ) as client:
        client.send(b"{}")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1003
    with connect(f"ws://{host}:{port}/", proxy=None, max_size=None) as client:
        client.send('{"msg":"ping","text":"' + "x" * 70_000 + '"}')
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_the_websocket_client_package_talks_to_a_raw_socket(cluster: Cluster) -> None:
    host, port = cluster.gateways[1]
    client = websocket.create_connection(
        f"ws://{host}:{port}/", timeout=PATIENCE_S, subprotocols=["connserver.v1.json"], http_no_proxy=["*"]
    )

    def ask(**message: Any) -> Any:
        client.send(json.dumps(message))
        while "status" not in (answer := json.loads(client.recv())):
            pass
        return answer

    try:
        assert ask(msg="login", user="framed", id=1)["status"] == 0
        assert ask(msg="room.join", room="bridge", id=2)["status"] == 0
        with login(cluster.gateways[0], "plain", Encoding.XML) as plain:
            plain.good("room.join", room="bridge")
            assert ask(msg="room.send", room="bridge", text="from afar", id=3)["seq"] == 1
            assert plain.event("room.message")["text"] == "from afar"
            plain.good("room.send", room="bridge", text="and back")
            while (event := json.loads(client.recv())).get("text") != "and back":
                pass
            assert (event["msg"], event["seq"], event["from"]) == ("room.message", 2, "plain")
        client.ping("x")
        assert client.recv_data_frame(control_frame=True)[1].opcode == websocket.ABNF.OPCODE_PONG
    finally:
        client.close()


@pytest.mark.skipif(shutil.which("nc") is None, reason="no nc in PATH")
@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (b"msg:ping\nid:1\n\0", b"msg:ping\nid:1\nstatus:0\n\0"),
        (b'{"msg":"ping","id":1}\n', b'{"msg":"ping","id":1,"status":0}\n'),
        (b'<msg method="ping" id="1"/>\0', b'<msg method="ping" id="1" status="0"/>\0'),
    ],
)
def test_nc(address: tuple[str, int], sent: bytes, wanted: bytes) -> None:
    host, port = address
    with subprocess.Popen(["nc", host, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(sent)
        process.stdin.flush()
        try:
            assert process.stdout.read(len(wanted)) == wanted
        finally:
            process.kill()


# --- HTTP, and what is off by default -----------------------------------------------------------------------


def http_answer(
    address: tuple[str, int], method: str, path: str, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_http_answers(address: tuple[str, int]) -> None:
    status, _, body = http_answer(address, "GET", "/healthz")
    assert (status, body) == (200, b"ok")
    status, headers, _ = http_answer(address, "GET", "/")
    assert (status, headers["upgrade"]) == (426, "websocket")
    for method in ("POST", "HEAD", "DELETE", "OPTIONS"):
        status, headers, _ = http_answer(address, method, "/healthz")
        assert (status, headers["allow"]) == (405, "GET")
    assert raw(address, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 3000 + b"\r\n").startswith(b"HTTP/1.1 431 ")
    assert raw(address, b"GET nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_the_policy_file_is_off_by_default(address: tuple[str, int]) -> None:
    answer = raw(address, b"<policy-file-request/>\0", half_close=False)
    assert b"allow-access-from" not in answer


def test_what_is_nothing_known_is_closed(address: tuple[str, int]) -> None:
    assert raw(address, b"\x01\x02\x03", half_close=False) == b""
    assert raw(address, b"\x16\x03\x01\x00", half_close=False) == b""


def test_only_pages_of_the_same_host_may_connect_by_default(address: tuple[str, int]) -> None:
    host, port = address
    with connect(f"ws://{host}:{port}/", origin=Origin(f"http://{host}:8000"), proxy=None) as client:
        client.send('{"msg":"ping"}')
        assert json.loads(client.recv(timeout=PATIENCE_S))["status"] == 0
    for origin in ("https://elsewhere.example", "null", f"http://{host}.elsewhere.example"):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"ws://{host}:{port}/", origin=Origin(origin), proxy=None),
        ):
            pass
        assert refused.value.response.status_code == 403


def test_before_login_large_messages_are_bounded_and_unfinished_ones_end(address: tuple[str, int]) -> None:
    flood = raw(address, b'{"msg":"ping","text":"' + b"x" * 80_000, half_close=False)
    assert json.loads(flood.splitlines()[0])["error"] == "too_large"
