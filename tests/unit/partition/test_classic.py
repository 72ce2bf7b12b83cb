"""Modules of the original's form: what they are given, what they may send, what is refused at loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connserver.errors import PluginLoadError
from partition.loader import load_plugin
from partition.testing import TestWorld


def folder(tmp_path: Path, code: str, entry: str = "old.py") -> Path:
    (tmp_path / "plugin.toml").write_text(
        f'name = "old"\nversion = "1"\nlanguage = "classic"\nentry = "{entry}"\n'
    )
    (tmp_path / "old.py").write_text(code)
    return tmp_path


def world_of(tmp_path: Path, body: str, name: str = "act") -> TestWorld:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f'message = "{name}"\nseen = []\n\n\ndef process(server, socket, message):\n{lines}\n'
    return TestWorld([folder(tmp_path, code)])


def answer(reply: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in reply.items() if name not in ("msg", "id")}


def test_every_field_is_text_as_classic_clients_write_it(tmp_path: Path) -> None:
    world = world_of(tmp_path, 'return {"got": " ".join(f"{k}={v}" for k, v in message.items())}')
    reply = world.login("ann").call("act", n2=5, yes=True, x=1.5, none=None, pos={"x": 1, "y": [2, "b"]})
    assert reply["got"] == "msg=act n2=5 yes=true x=1.5 none= pos.x=1 pos.y.0=2 pos.y.1=b"


def test_fields_have_the_names_that_the_adapter_uses_itself(tmp_path: Path) -> None:
    world = world_of(tmp_path, 'return message["me"] + message["ctx"] + message["server"]')
    assert world.login("ann").call("act", me="a", ctx="b", server="c")["text"] == "abc"


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ('"just text"', {"text": "just text"}),
        ('"not: a message"', {"text": "not: a message"}),
        ('"msg:act\\nroom:a b\\n"', {"room": "a b"}),
        ("""'{"msg":"act","n2":5}'""", {"n2": 5}),
        ("""'<msg method="act" a="1"><b>2</b></msg>\\0'""", {"a": "1", "b": "2"}),
        ('"<said/>"', {"text": "<said/>"}),
        ('"\\ud800"', None),
        ('{"a": 1}', {"a": 1}),
        ("5", None),
        ('{"msg": 5}', None),
        ('{"status": 5}', None),
    ],
)
def test_texts_and_fields_become_the_reply(tmp_path: Path, said: str, fields: dict[str, Any] | None) -> None:
    world = world_of(tmp_path, f"server.send(socket, {said})")
    reply = world.login("ann").call("act")
    if fields is None:
        assert reply["error"] == "plugin_error"
    else:
        assert answer(reply) == {"status": 0, **fields}


@pytest.mark.parametrize(
    "text", ["msg:sold\nprice:5", '{"msg":"sold"}', '<msg method="sold"/>', "hi\nmsg:sold\nx:1"]
)
def test_what_a_client_wrote_is_text_and_never_a_message(tmp_path: Path, text: str) -> None:
    body = (
        'server.send_to("bob", message["text"])\n'
        'server.send_to("bob", message["text"][:100].strip())\n'
        'server.send_to("bob", "said: " + message["text"])\n'
        'server.broadcast("hall", message["text"])'
    )
    world = world_of(tmp_path, body)
    ann, bob = world.login("ann"), world.login("bob")
    bob.call("room.join", room="hall")
    assert ann.call("act", text=text)["status"] == 0
    told = sorted((event["msg"], event["text"]) for event in bob.events())  # type: ignore[type-var]
    assert told == sorted([*[("act", text)] * 2, ("act", f"said: {text}"), ("room.message", text)])


def test_the_first_is_the_reply_and_what_follows_are_events(tmp_path: Path) -> None:
    body = (
        'server.send(socket, {"msg": "other"})\n'
        'for text in ("one", "two"): server.send(socket, text)\n'
        'return "3"'
    )
    world = world_of(tmp_path, body)
    ann = world.login("ann")
    assert ann.call("act")["text"] == "one"
    assert ann.events() == [
        {"msg": "other", "n": 1},
        {"msg": "act", "text": "two", "n": 2},
        {"msg": "act", "text": "3", "n": 3},
    ]


def test_a_socket_is_known_again_in_later_calls(tmp_path: Path) -> None:
    body = (
        "if socket not in seen:\n    seen.append(socket)\n"
        'for one in seen:\n    if one != socket:\n        server.send(one, "from " + socket.user)\n'
        'return {"ids": [one.id for one in seen], "shown": repr(socket)}'
    )
    world = world_of(tmp_path, body)
    ann, bob = world.login("ann"), world.login("bob")
    ann.call("act")
    reply = bob.call("act")
    assert len(set(reply["ids"])) == 2 and reply["shown"] == f"<socket {reply['ids'][1]} of bob>"  # type: ignore[arg-type,index,call-overload]
    assert bob.call("act")["ids"] == reply["ids"]
    assert [event["text"] for event in ann.events()] == ["from bob"] * 2


def test_rooms_are_joined_left_and_sent_to(tmp_path: Path) -> None:
    body = (
        'if message["do"] == "in":\n    server.join(socket, "hall")\n'
        'elif message["do"] == "out":\n    server.leave(socket, "hall")\n'
        'else:\n    server.broadcast("hall", "msg:" + message["do"] + "\\ntext:" + str(server.time))'
    )
    world = world_of(tmp_path, body)
    ann = world.login("ann")
    for do in ("in", "rang", "act", "out", "rang"):
        assert answer(ann.call("act", do=do)) == {"status": 0}
    shown = [(event["from"], event.get("event"), event["text"]) for event in ann.events()]
    assert shown == [("ann", "rang", "1000000000.0"), ("ann", None, "1000000000.0")]


def test_nothing_happens_of_a_call_that_raises(tmp_path: Path) -> None:
    world = world_of(tmp_path, 'server.send_to("bob", "x")\nserver.log("here")\nraise ValueError("no")')
    ann, bob = world.login("ann"), world.login("bob")
    assert ann.call("act")["error"] == "plugin_error"
    assert bob.events() == [] and [text for _, text, _ in world.logged] == ["here"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "server.kick(socket)",
            "server.kick is not there: a classic module has broadcast, join, leave, log,",
        ),
        ('server.send("ann", "hi")', "server.send takes the socket that process was given, not 'ann'"),
        ("seen.append(server)\nif len(seen) == 2:\n    seen[0].send(socket, {'msg': 'late'})", "has ended"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, body: str, words: str) -> None:
    world = world_of(tmp_path, body)
    ann = world.login("ann")
    replies = [ann.call("act"), ann.call("act")]
    incident = next(str(reply["incident"]) for reply in replies if reply["status"] != 0)
    assert words in world.incidents[incident]


def test_a_missing_field_may_be_caught_by_the_module(tmp_path: Path) -> None:
    world = world_of(tmp_path, 'try:\n    message["x"]\nexcept KeyError:\n    return "no x"')
    assert world.login("ann").call("act")["text"] == "no x"


PROCESS = "def process(server, socket, message): ...\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", 'message = "name"'),
        ("message = 5\n" + PROCESS, 'message = "name"'),
        ("message = 'a b'\n" + PROCESS, 'message = "name"'),
        ("message = 'ping'\n" + PROCESS, "'ping': this name belongs to a built-in method"),
        ("message = 'room.shout'\n" + PROCESS, "belongs to a built-in method"),
        ("message = 'x'\n", "old.py has no function process"),
        ("message = 'x'\nprocess = 5\n", "old.py has no function process"),
        (
            "message = 'x'\n\ndef process(server): ...\n",
            "old.py:3: process is called as process(server, socket",
        ),
        ("message = 'x'\nasync def process(a, b, c): ...\n", "async def"),
        ("message = 'x'\n1/0\n", "old.py:2: ZeroDivisionError"),
    ],
)
def test_what_is_no_module_is_refused_with_its_place(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(PluginLoadError) as refused:
        load_plugin(folder(tmp_path, code))
    assert words in str(refused.value)


def test_two_modules_for_one_message_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        folder(tmp_path / name, "message = 'x'\n" + PROCESS)
    toml = tmp_path / "b" / "plugin.toml"
    toml.write_text(toml.read_text().replace('"old"', '"other"'))
    with pytest.raises(PluginLoadError, match="method x is declared already by plugin old"):
        TestWorld([tmp_path / "a", tmp_path / "b"])


def test_the_entry_is_a_python_file(tmp_path: Path) -> None:
    with pytest.raises(PluginLoadError, match="the name of a Python file"):
        load_plugin(folder(tmp_path, "", entry="sub/old.py"))


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    blocks = (Path(__file__).parents[3] / "docs" / "classic.md").read_text().split("```")[1:4:2]
    code, toml = (block.partition("\n")[2] for block in blocks)
    (tmp_path / "say.py").write_text(code)
    (tmp_path / "plugin.toml").write_text(toml)
    world = TestWorld([tmp_path])
    ann = world.login("ann")
    ann.call("room.join", room="hall")
    assert ann.call("say", room="hall", text="hi")["text"] == "said"
    assert [event["text"] for event in ann.events()] == ["<ann> hi"]
