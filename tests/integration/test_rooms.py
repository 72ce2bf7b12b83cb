"""Rooms, views, bots, timers and a login by plugin, on real processes; workers die in between.

One cluster of three nodes and two groups for all; members, senders and rooms are in both groups.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import psycopg
import pytest

from connserver.encodings import Encoding
from connserver.storage.embedded import PORT, USER
from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.voices import PATIENCE_S, Closed, Message, Plain, Voice, names_in_groups, operator

pytestmark = pytest.mark.integration

GROUPS = 2

HALL = """
from connserver import Context, Login, Object, Plugin, Refused, transient

plugin = Plugin("hall", version="1.0.0")


@plugin.kind("guest")
class Guest(Object):
    rings: int = 0
    x: float = transient(0.0)


@plugin.login
def check(ctx: Context, user: str, token: str) -> Login | None:
    if token == "broken":
        raise RuntimeError("inner words")
    if token == "endless":
        while True:
            pass
    if token == "banned":
        raise Refused("hall.banned")
    return Login(roles=["visitor"]) if token == user[::-1] else None


@plugin.method("hall.me", roles=["visitor"])
def me(ctx: Context, me: Guest) -> dict:
    return {"rings": me.rings, "x": me.x}


@plugin.method("hall.move")
def move(ctx: Context, me: Guest, x: float) -> None:
    me.x = x
    ctx.view((x, 0), 10)
    ctx.room("field").update("pos", x, at=(x, 0))


@plugin.method("hall.wind")
def wind(ctx: Context, me: Guest, after_s: float) -> None:
    ctx.timer("bell").set(ring, after_s=after_s)


@plugin.internal
def ring(ctx: Context, me: Guest) -> None:
    me.rings += 1
    ctx.bot("usher").send("field", text=f"ring {me.rings}")


@plugin.method("hall.usher")
def usher(ctx: Context, me: Guest) -> None:
    ctx.bot("usher").join("field", hears=greet)


@plugin.internal
def greet(ctx: Context, me: Guest, room: str, sender: str) -> None:
    ctx.room(room).send(text=f"welcome {sender}")
"""

MORE = """
[auth]
provider = "plugin"

[limits]
unsent_bytes = 65536
messages_per_s = 10000
bytes_per_s = 10000000
"""


def plugin_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "plugin.toml").write_text(
        'name = "hall"\nversion = "1.0.0"\nlanguage = "python"\nentry = "main.py"\n'
    )
    (folder / "main.py").write_text(HALL)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = plugin_folder(tmp_path_factory.mktemp("plugins") / "hall")
    with new_cluster(groups=GROUPS, plugins=[folder], more=MORE) as made:
        assert made.cli("check", str(made.file)).returncode == 0
        made.up()
        wait_for("a login in each group", lambda: all(map(serves(made), range(GROUPS))), 30)
        yield made
        assert made.down() == 0


def serves(cluster: Cluster) -> Any:
    names = names_in_groups("user", "probe", GROUPS)

    def try_it(group: int) -> bool:
        try:
            enter(cluster, 0, names[group]).close()
        except (AssertionError, OSError, Closed, TimeoutError):
            return False
        return True

    return try_it


def enter(cluster: Cluster, gateway: int, user: str) -> Voice:
    voice = Voice(cluster.gateways[gateway])
    voice.good("login", user=user, token=user[::-1])
    return voice


def kill_primary(cluster: Cluster, group: int) -> None:
    """kill -9 of the worker that executes this group."""
    with operator(cluster) as admin:
        status = admin.ask("status")
    row = next(row for row in status["groups"] if row["id"] == group)
    pid = next(one["pid"] for one in status["processes"] if one["name"] == f"w-{row['primary']}-{group}")
    os.kill(pid, signal.SIGKILL)


def archived(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    (sockets,) = (cluster.folder / "state").glob("*/**/sockets")
    with psycopg.connect(f"host='{sockets}' port={PORT} user={USER} dbname=postgres") as connection:
        rows = connection.execute("SELECT data FROM objects WHERE kind = %s", (kind,)).fetchall()
    return [msgpack.unpackb(data, strict_map_key=False) for (data,) in rows]


# --- a plugin decides who logs in -------------------------------------------------------------------------


def test_only_the_plugin_lets_anybody_in(cluster: Cluster) -> None:
    for user in names_in_groups("user", "door", GROUPS):
        with Voice(cluster.gateways[1]) as voice:
            assert voice.call("login", user=user, token="wrong")["error"] == "unauthorized"
            banned = voice.call("login", user=user, token="banned")
            assert (banned["error"], banned["code"]) == ("unauthorized", "hall.banned")
            assert voice.call("login", user=user)["error"] == "bad_argument"
            broken = voice.call("login", user=user, token="broken")
            assert broken["error"] == "plugin_error" and "inner" not in str(broken)
            assert voice.call("login", user=user, token="endless")["error"] == "timeout"
            assert voice.call("hall.me")["error"] == "unauthorized"
            voice.good("login", user=user, token=user[::-1])
            assert voice.good("hall.me")["rings"] == 0
    tokens = [path for path in cluster.log_dir.iterdir() if b"niorb" in path.read_bytes()]
    assert tokens == []


def test_a_provider_that_no_plugin_is_is_found_beforehand(tmp_path: Path) -> None:
    folder = plugin_folder(tmp_path / "hall")
    file = folder / "main.py"
    file.write_text(file.read_text().replace("@plugin.login\n", ""))
    with new_cluster(nodes=1, groups=GROUPS, plugins=[folder], more=MORE) as made:
        done = made.cli("check", str(made.file))
        assert done.returncode == 1 and "@plugin.login" in done.stdout


# --- views ------------------------------------------------------------------------------------------------


def test_moves_are_seen_by_those_nearby_in_whatever_group_and_gateway(cluster: Cluster) -> None:
    names = [name for run in ("near", "far") for name in names_in_groups("user", run, GROUPS)]
    voices = [enter(cluster, number % 3, name) for number, name in enumerate(names)]
    try:
        for voice in voices:
            voice.good("room.join", room="field")
        for place, voice in zip((0, 5, 500, 505), voices, strict=True):
            voice.good("hall.move", x=place)
        screens = [screen_with(voice, set(pair)) for voice, pair in zip(voices, pairs(names), strict=True)]
        assert all(set(screen) == set(pair) for screen, pair in zip(screens, pairs(names), strict=True))
        voices[1].good("hall.move", x=502)
        gone = screen_with(voices[0], {names[0]}, screens[0])
        assert set(gone) == {names[0]}
        assert set(screen_with(voices[3], {names[1], names[2], names[3]}, screens[3])) == set(names[1:])
    finally:
        for voice in voices:
            voice.close()


def pairs(names: list[str]) -> list[list[str]]:
    """Who is to be seen by whom."""
    return [names[:2], names[:2], names[2:], names[2:]]


def screen_with(voice: Voice, wanted: set[str], screen: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the client's screen shows once it shows these; it waits for them, not for a time."""
    screen = screen if screen is not None else {}
    until = time.monotonic() + PATIENCE_S
    while set(screen) != wanted:
        state = voice.event("room.state", until - time.monotonic())
        if state.get("all"):
            screen.clear()
        for change in state["changes"]:
            if change["value"] is None:
                screen.pop(change["from"], None)
            else:
                screen[change["from"]] = change["value"]
    return screen


# --- a client that does not read --------------------------------------------------------------------------


def test_who_does_not_read_is_cut_and_comes_back_to_everything_ordered_once(cluster: Cluster) -> None:
    names = names_in_groups("user", "reader", GROUPS)
    slow = deaf(cluster.gateways[0])
    token = slow.good("login", user=names[0], token=names[0][::-1])["resume"]
    slow.good("room.join", room="busy")
    with enter(cluster, 1, names[1]) as loud:
        loud.good("room.join", room="busy")
        sent = 0
        while cut(cluster) == 0:
            # both kinds, while somebody reads nothing; history keeps 256
            loud.good("room.send", room="busy", number=sent, padding="x" * 30_000)
            loud.good("room.update", room="busy", key="pos", value=sent)
            sent += 1
            assert sent < 240, "a client that reads nothing has to be cut"
        for _ in range(5):
            loud.good("room.send", room="busy", number=sent)
            sent += 1
        seen = read_to_the_end(slow)
        assert len(seen) < sent
        with Voice(cluster.gateways[2]) as back:
            back.good("session.resume", resume=token, n=0, rooms=[{"room": "busy", "seq": len(seen)}])
            while len(seen) < sent:
                seen.append(back.event("room.message"))
            back.events.clear()
            assert back.good("room.send", room="busy", number=sent)["seq"] == sent + 1
    assert [(event["seq"], event["number"]) for event in seen] == [(n + 1, n) for n in range(sent)]


def deaf(address: tuple[str, int]) -> Voice:
    """A client whose system takes little for it."""
    voice = Voice(address)
    assert isinstance(voice.transport, Plain)
    voice.transport.socket.close()
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    small.settimeout(PATIENCE_S)
    small.connect(address)
    voice.transport.socket = small
    return voice


def cut(cluster: Cluster) -> int:
    """How many clients the gateways have cut because they did not read."""
    log = [path.read_text() for path in cluster.log_dir.iterdir() if path.name.startswith("gw-")]
    return sum(text.count("client.too_slow") for text in log)


def read_to_the_end(voice: Voice) -> list[Message]:
    """The ordered events that a slow client gets when it reads at last, until it is cut."""
    seen: list[Message] = []
    try:
        while True:
            message = voice.receive()
            if message["msg"] == "room.message":
                seen.append(message)
    except (Closed, OSError, TimeoutError):
        pass
    voice.close()
    return seen


# --- deaths -----------------------------------------------------------------------------------------------


def test_timers_bots_views_and_transient_fields_outlive_workers(cluster: Cluster) -> None:
    ann, bob = names_in_groups("user", "owner", GROUPS)
    with enter(cluster, 0, ann) as one, enter(cluster, 1, bob) as two:
        for voice in (one, two):
            voice.good("room.join", room="field")
        one.good("hall.usher")
        wait_for("the bot", lambda: "usher" in one.good("room.who", room="field")["members"])
        one.good("room.send", room="field", text="hello")
        assert heard(two, 2) == [(ann, "hello"), ("usher", f"welcome {ann}")]
        assert heard(one, 2) == [(ann, "hello"), ("usher", f"welcome {ann}")]
        one.good("hall.move", x=7.5)
        wait_for("a snapshot", lambda: any(x == 7.5 for x in snapshots(cluster)), 20)
        one.good("hall.wind", after_s=2.0)
        for group in range(GROUPS):
            kill_primary(cluster, group)
        assert one.good("hall.me")["x"] == 7.5
        # the timer was set before, and is due after both workers died
        assert heard(two, 1, 30) == [("usher", "ring 1")]
        assert heard(one, 1, 30) == [("usher", "ring 1")]
        assert one.good("hall.me")["rings"] == 1
        two.good("room.send", room="field", text="again")
        assert heard(one, 2) == [(bob, "again"), ("usher", f"welcome {bob}")]
        assert {ann, bob, "usher"} <= set(one.good("room.who", room="field")["members"])
        two.good("hall.move", x=500.0)
        two.good("hall.move", x=8.0)
        assert screen_with(one, {bob}) == {bob: 8.0}


def snapshots(cluster: Cluster) -> list[float]:
    return [kept["fields"]["x"] for kept in archived(cluster, "cs.transient")]


def heard(voice: Voice, count: int, timeout_s: float = PATIENCE_S) -> list[tuple[str, str]]:
    """The next so many ordered events; what comes beside them is kept for later."""
    found, others = [], []
    until = time.monotonic() + timeout_s
    while len(found) < count:
        message = voice.events.popleft() if voice.events else voice.receive(until - time.monotonic())
        if message["msg"] == "room.message":
            found.append((message["from"], message["text"]))
        else:
            others.append(message)
    voice.events.extendleft(reversed(others))
    return found


def test_every_encoding_knows_what_a_snapshot_is(cluster: Cluster) -> None:
    (name, _) = names_in_groups("user", "typed", GROUPS)
    with enter(cluster, 0, name) as sender:
        sender.good("room.join", room="shown")
        sender.good("room.update", room="shown", key="hat", value="red")
        for encoding in Encoding:
            with Voice(cluster.gateways[1], encoding) as voice:
                voice.good("login", user=f"{name}{int(encoding)}", token=f"{name}{int(encoding)}"[::-1])
                voice.good("room.join", room="shown")
                state = voice.event("room.state")
                assert str(state["all"]).lower() in ("true", "1") and "red" in str(state["changes"])
