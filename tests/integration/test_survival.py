"""What survives what: a cluster is stopped, killed, robbed of its parts and of its database.

One cluster for all; each test leaves it running. What was acknowledged counts, archived or not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import psutil
import psycopg
import pytest

from connserver.errors import ClusterError
from connserver.ids import format_oid, named_id
from connserver.storage.embedded import PORT, USER
from tests.integration.cluster import Cluster, new_cluster, shipped_plugins, wait_for
from tests.integration.voices import Closed, Message, Voice, login, names_in_groups, operator

pytestmark = pytest.mark.integration

GROUPS = 2
KINDS = ("player", "zone", "chat-profile", "chat-channel", "mark")

FAULTS = """
import os
import signal
import time

from connserver import Context, Object, Plugin, Ref, Reply

plugin = Plugin("faults", version="1.0.0")


@plugin.kind("mark")
class Mark(Object):
    key: str = ""


@plugin.method("mark.add")
def add(ctx: Context, me: Object, key: str) -> dict:
    return {"oid": ctx.objects.create(Mark, near=me, key=key).ref}


@plugin.method("mark.there")
def there(ctx: Context, me: Object, to: Ref[Object], key: str) -> Reply:
    return ctx.call(to, add_here, key=key)


@plugin.internal
def add_here(ctx: Context, me: Object, key: str) -> dict:
    return {"oid": ctx.objects.create(Mark, near=me, key=key).ref}


@plugin.method("fault.loop")
def loop(ctx: Context, me: Object) -> None:
    ctx.objects.create(Mark, near=me, key="never")
    while True:
        try:
            sum(range(100))
        except Exception:
            pass


@plugin.method("fault.sleep")
def sleep(ctx: Context, me: Object) -> None:
    ctx.objects.create(Mark, near=me, key="never")
    time.sleep(60)


@plugin.method("fault.stuck")
def stuck(ctx: Context, me: Object) -> None:
    sum(range(10**15))


@plugin.method("fault.raise")
def fail(ctx: Context, me: Object) -> None:
    ctx.objects.create(Mark, near=me, key="never")
    secret = "inner words"
    raise ValueError(secret)


@plugin.method("fault.exit")
def leave(ctx: Context, me: Object) -> None:
    os._exit(3)


@plugin.method("fault.kill")
def kill(ctx: Context, me: Object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@plugin.method("fault.kill_there")
def kill_there(ctx: Context, me: Object, to: Ref[Object]) -> Reply:
    return ctx.call(to, kill_here)


@plugin.internal
def kill_here(ctx: Context, me: Object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    plugin = tmp_path_factory.mktemp("plugins") / "faults"
    plugin.mkdir()
    (plugin / "plugin.toml").write_text(
        'name = "faults"\nversion = "1.0.0"\nlanguage = "python"\nentry = "main.py"\n'
    )
    (plugin / "main.py").write_text(FAULTS)
    with new_cluster(groups=GROUPS, plugins=[*shipped_plugins(), plugin]) as made:
        made.up()
        yield made
        assert made.down() == 0


@pytest.fixture
def cluster(living: Cluster) -> Cluster:
    """The module's cluster, in full."""
    if living.process is None:
        living.up()
    wait_for("a cluster in full", lambda: in_full(living), 40)
    return living


# --- looking ------------------------------------------------------------------------------------------


def status(cluster: Cluster) -> dict[str, Any]:
    with operator(cluster) as admin:
        answer: dict[str, Any] = admin.ask("status")
    return answer


def in_full(cluster: Cluster) -> bool:
    """Every process is ready, every gateway says it serves, and calls are answered in every group."""
    try:
        rows = status(cluster)["processes"]
        if len(rows) != 15 or any(row["state"] != "ready" for row in rows):
            return False
        for name in names_in_groups("user", "probe", GROUPS):
            for address in cluster.gateways:
                with login(address, name) as voice:
                    voice.good("world.inventory")
    except (AssertionError, OSError, Closed, ClusterError, TimeoutError):
        return False
    return True


def process(cluster: Cluster, name: str) -> dict[str, Any]:
    """Its row in `status`; a gossip process that has just started may have to hear of it first."""

    def row() -> dict[str, Any] | None:
        return next((row for row in status(cluster)["processes"] if row["name"] == name), None)

    return wait_for(f"{name} in status", row)


def settled(cluster: Cluster) -> None:
    """Everything that was acknowledged is in PostgreSQL."""

    def looked() -> bool:
        found = status(cluster)
        groups = found["groups"]
        same = all(group["commit"] == group["archived"] for group in groups)
        return found["storage"] == {"state": "ok", "lag_ops": 0} and same

    # what status shows is a second old at most: what was acknowledged before is in it by then
    time.sleep(1.2)
    wait_for("lag 0", looked, 30)


def objects(cluster: Cluster, *kinds: str) -> dict[str, Message]:
    """All objects of these kinds by id, from the running world, as soon as all groups are there."""

    def there() -> bool:
        with operator(cluster) as admin:
            return all(row["state"] == "ready" for row in admin.ask("routes")["routes"])

    wait_for("all groups", there, 20)
    found: dict[str, Message] = {}
    with operator(cluster) as admin:
        for kind in kinds:
            page: Message = {"next": ""}
            while page["next"] or "objects" not in page:
                page = admin.ask("object.list", kind=kind, after=page["next"], limit=1000)
                found |= {row["oid"]: row for row in page["objects"]}
    for row in found.values():
        row["fields"].pop("sessions", 0)  # of a chat profile: they come and go with every look
    return found


def archived(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    """The same from the database."""
    (sockets,) = (cluster.folder / "state").glob("*/**/sockets")
    with psycopg.connect(f"host='{sockets}' port={PORT} user={USER} dbname=postgres") as connection:
        rows = connection.execute("SELECT data FROM objects WHERE kind = %s", (kind,)).fetchall()
    return [msgpack.unpackb(data, strict_map_key=False) for (data,) in rows]


def history(cluster: Cluster, room: str) -> list[tuple[Any, ...]]:
    with login(cluster.gateways[0], "historian") as voice:
        count = voice.good("room.join", room=room, history=256)["seq"]
        events = [voice.event("room.message") for _ in range(min(count, 256))]
        voice.good("logout")
    return [(event["seq"], event["from"], event.get("text", event.get("event", ""))) for event in events]


def kill_all(cluster: Cluster) -> None:
    """kill -9 of the supervisor and of everything below it."""
    below = cluster.below()
    assert cluster.process is not None
    cluster.process.kill()
    for mark in below:
        with contextlib.suppress(ProcessLookupError):
            if mark.alive():
                os.kill(mark.pid, signal.SIGKILL)
    cluster.kill()
    wait_for("the end of all processes", lambda: not any(mark.alive() for mark in below))


# --- how it is tried ---------------------------------------------------------------------------------


def survives(cluster: Cluster, tag: str, end: Callable[[Cluster], None]) -> None:
    """Build a small world, end everything, start it again, and compare."""
    names = names_in_groups("user", f"keeper{tag}", GROUPS)
    rooms = names_in_groups("room", f"hall{tag}", GROUPS)
    tokens = []
    for name, room in zip(names, rooms, strict=True):
        with Voice(cluster.gateways[1]) as voice:
            tokens.append(voice.good("login", user=name)["resume"])
            with operator(cluster) as admin:
                fields = {"gold": 41, "bag": ["lamp", "rope", "sword"], "zone": f"cave{tag}"}
                admin.ask("object.put", oid=format_oid(named_id("user", name)), kind="player", fields=fields)
            voice.good("world.drop", thing="rope")
            voice.good("trade.offer", thing="sword", price=7)
            voice.good("chat.join", room=f"den{tag}")
            for joined in rooms:
                voice.good("room.join", room=joined)
            for number in range(5):
                voice.good("room.send", room=room, text=f"{number}", id=number + 1)
    before, told = objects(cluster, *KINDS), [history(cluster, room) for room in rooms]
    assert [len(events) for events in told] == [5, 5]
    end(cluster)
    cluster.up()
    wait_for("a cluster in full", lambda: in_full(cluster), 40)
    after = objects(cluster, *KINDS)
    assert {oid: row for oid, row in after.items() if oid in before} == before
    assert [history(cluster, room) for room in rooms] == told
    voices = [Voice(cluster.gateways[2]) for _ in names]
    with contextlib.ExitStack() as stack:
        for voice, token, name in zip(voices, tokens, names, strict=True):
            stack.enter_context(voice)
            seen = [{"room": room, "seq": 3} for room in rooms]
            answer = voice.good("session.resume", resume=token, rooms=seen)
            assert answer["oid"] == format_oid(named_id("user", name))
            missed = sorted((event["room"], event["seq"]) for event in _missed(voice, 4))
            assert missed == sorted((room, seq) for room in rooms for seq in (4, 5))
        # its requests are known still: the fifth is not done again
        assert voices[0].good("room.send", room=rooms[0], text="4", id=5)["seq"] == 5
        assert voices[0].good("room.send", room=rooms[0], text="5", id=6)["seq"] == 6
        assert voices[1].event("room.message")["text"] == "5"
        bag = voices[0].good("world.inventory")
        assert (bag["gold"], bag["bag"], bag["offers"]) == (41, ["lamp"], {"sword": 7})
        voices[1].good("trade.buy", seller=format_oid(named_id("user", names[0])), thing="sword", price=7)
        assert voices[0].good("world.inventory")["gold"] == 48


def _missed(voice: Voice, count: int) -> list[Message]:
    return [voice.event("room.message") for _ in range(count)]


def stop(cluster: Cluster) -> None:
    """As an operator does; nothing of it is left."""
    assert cluster.down() == 0


def deaths(cluster: Cluster, group: int) -> int:
    """How often a worker of the group has been started again, on all nodes together."""
    rows = status(cluster)["processes"]
    return sum(row["restarts"] for row in rows if row["name"] in {f"w-n{n}-{group}" for n in (1, 2, 3)})


def quarantined(cluster: Cluster, method: str, group: int) -> None:
    """A request that kills its worker on each node it comes to, beside one that does not."""
    name = names_in_groups("user", "poison", GROUPS)[group]
    before = deaths(cluster, group)
    with login(cluster.gateways[0], name) as voice, login(cluster.gateways[1], name) as other:
        voice.send(method, id=1)
        other.good("mark.add", key=f"beside {method}")
        assert voice.reply(30)["error"] == "quarantined"
        voice.good("mark.add", key="afterwards")
        other.good("mark.add", key="afterwards")
    wait_for("a cluster in full", lambda: in_full(cluster), 40)
    assert deaths(cluster, group) == before + 2


# The order of the tests matters in one way: a worker that dies five times within a minute is left down,
# and a start of the whole cluster begins a new count.

# --- parts are killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["w-n1-0", "w-n2-1", "w-n3-0", "g-n2", "gw-n3-0"])
def test_a_killed_part_comes_again_and_others_go_on(cluster: Cluster, victim: str) -> None:
    names = names_in_groups("user", f"bystander{victim}", GROUPS)
    with contextlib.ExitStack() as stack:
        voices = [stack.enter_context(login(cluster.gateways[0], name)) for name in names]
        for voice in voices:
            voice.good("room.join", room=f"square {victim}")
            voice.good("mark.add", key=f"before {victim}")
        kept = objects(cluster, *KINDS)
        old = process(cluster, victim)
        os.kill(old["pid"], signal.SIGKILL)
        for number, voice in enumerate(voices):
            voice.good("mark.add", key=f"after {victim}")
            voice.good("room.send", room=f"square {victim}", text=str(number))
        for voice in voices:
            assert [voice.event("room.message")["text"] for _ in names] == ["0", "1"]
        wait_for(f"a new {victim}", lambda: process(cluster, victim)["pid"] not in (0, old["pid"]), 20)
        wait_for(f"{victim} ready", lambda: process(cluster, victim)["state"] == "ready", 20)
        wait_for("its restart counted", lambda: process(cluster, victim)["restarts"] == old["restarts"] + 1)
        after = objects(cluster, *KINDS)
        assert {oid: row for oid, row in after.items() if oid in kept} == kept
        new = [
            row["fields"]["key"] for oid, row in after.items() if oid not in kept and row["kind"] == "mark"
        ]
        assert new == [f"after {victim}"] * len(voices)


def test_a_client_of_a_killed_gateway_resumes_elsewhere(cluster: Cluster) -> None:
    with Voice(cluster.gateways[2]) as before, login(cluster.gateways[0], "stays") as other:
        token = before.good("login", user="moves")["resume"]
        before.good("room.join", room="dock")
        other.good("room.join", room="dock")
        os.kill(process(cluster, "gw-n3-0")["pid"], signal.SIGKILL)
        with pytest.raises(Closed):
            before.receive()
        other.good("room.send", room="dock", text="missed")
        with Voice(cluster.gateways[1]) as after:
            after.good("session.resume", resume=token, rooms=[{"room": "dock", "seq": 0}])
            assert after.event("room.message")["text"] == "missed"
            after.good("room.send", room="dock", text="back")
            assert other.event("room.message")["text"] == "missed"
            assert other.event("room.message")["text"] == "back"


def test_what_is_kept_survives_down_and_up(cluster: Cluster) -> None:
    survives(cluster, "down", stop)


@pytest.mark.parametrize("victim", ["w-n1-0", "w-n2-1"])
def test_groups_go_on_calling_each_other_after_a_kill_under_load(cluster: Cluster, victim: str) -> None:
    """What was answered before the kill, and what is asked afterwards, has run, exactly once."""
    names = names_in_groups("user", f"caller{victim}", GROUPS)
    oids = [format_oid(named_id("user", name)) for name in names]
    with contextlib.ExitStack() as stack:
        voices = [stack.enter_context(login(cluster.gateways[0], name)) for name in names]
        pid = process(cluster, victim)["pid"]
        for number in range(40):
            for voice, other in zip(voices, reversed(oids), strict=True):
                voice.good("mark.there", to=other, key=f"load {victim} {number}")
        os.kill(pid, signal.SIGKILL)
        for number in range(60):
            for voice, other in zip(voices, reversed(oids), strict=True):
                voice.good("mark.there", to=other, key=f"after {victim} {number}")
        keys = [row["fields"]["key"] for row in objects(cluster, "mark").values()]
        for number in range(40):
            assert keys.count(f"load {victim} {number}") == 2, number
        for number in range(60):
            assert keys.count(f"after {victim} {number}") == 2, number


def test_a_client_that_logged_in_right_before_its_worker_died_is_not_thrown_out(cluster: Cluster) -> None:
    name = names_in_groups("user", "unlucky", GROUPS)[1]
    pid = process(cluster, "w-n2-1")["pid"]
    with login(cluster.gateways[0], name) as voice:
        os.kill(pid, signal.SIGKILL)
        assert voice.good("mark.add", key="lucky")["oid"]


def test_a_request_that_ends_its_worker_twice_is_quarantined(cluster: Cluster) -> None:
    quarantined(cluster, "fault.exit", 0)


def test_what_was_acknowledged_survives_kill_9_of_everything(cluster: Cluster) -> None:
    survives(cluster, "kill", kill_all)


def test_a_request_that_kills_its_worker_twice_is_quarantined(cluster: Cluster) -> None:
    quarantined(cluster, "fault.kill", 1)


def test_a_callback_that_no_signal_reaches_costs_its_worker_and_then_no_more(cluster: Cluster) -> None:
    name = names_in_groups("user", "stuck", GROUPS)[0]
    with login(cluster.gateways[0], name) as voice, login(cluster.gateways[1], name) as other:
        voice.send("fault.stuck", id=1)
        assert voice.reply(40)["error"] in ("quarantined", "timeout")
        other.good("mark.add", key="unstuck")


def test_sessions_of_killed_gateways_wait_for_their_clients_and_no_longer(cluster: Cluster) -> None:
    """After everything was killed nobody tells a worker that the old gateways are gone."""
    name = "ghost"
    with login(cluster.gateways[0], name) as voice:
        voice.good("room.join", room="haunted")
        kill_all(cluster)
    cluster.up()

    def connected() -> list[bool]:
        rows: list[Message] = []
        with operator(cluster) as admin:
            for group in range(GROUPS):
                rows += admin.ask("worker.sessions", group=group)["sessions"]
        return [row["connected"] for row in rows if row["user"] == name]

    wait_for("a cluster in full", lambda: in_full(cluster), 40)
    wait_for("its session to wait", lambda: connected() == [False], 15)


def test_a_call_that_kills_the_callees_worker_is_quarantined_too(cluster: Cluster) -> None:
    first, second = names_in_groups("user", "venom", GROUPS)
    before = deaths(cluster, 1)
    with login(cluster.gateways[0], first) as voice, login(cluster.gateways[1], second) as other:
        voice.send("fault.kill_there", to=format_oid(named_id("user", second)), id=1)
        assert voice.reply(30)["error"] == "quarantined"
        other.good("mark.add", key="afterwards")
        voice.good("mark.there", to=format_oid(named_id("user", second)), key="afterwards")
    wait_for("a cluster in full", lambda: in_full(cluster), 40)
    assert deaths(cluster, 1) == before + 2


# --- the database ---------------------------------------------------------------------------------------


class Writer(threading.Thread):
    """Writes as fast as it is answered; `acknowledged` are the keys that were."""

    def __init__(self, address: tuple[str, int], user: str) -> None:
        super().__init__(daemon=True)
        self.voice = login(address, user)
        self.user = user
        self.acknowledged: list[str] = []
        self.longest_s = 0.0
        self.failure: BaseException | None = None
        self.enough = threading.Event()

    def run(self) -> None:
        try:
            number = 0
            while not self.enough.wait(0.01):
                number += 1
                key = f"{self.user}/{number}"
                begun = time.monotonic()
                self.voice.good("mark.add", key=key, id=number)
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                self.acknowledged.append(key)
        except BaseException as error:
            self.failure = error
        finally:
            self.voice.close()


def postgres(cluster: Cluster) -> psutil.Process:
    (server,) = (
        child
        for child in psutil.Process(process(cluster, "storage")["pid"]).children()
        if "postgres" in child.name()
    )
    return server


def _freeze(server: psutil.Process) -> Callable[[], None]:
    everyone = [server, *server.children(recursive=True)]
    for one in everyone:
        one.suspend()

    def thaw() -> None:
        for one in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()

    return thaw


def _ended(server: psutil.Process, number: int) -> Callable[[], None]:
    """It ends, and whoever would start it again at once is held back: else status may never see it."""
    keeper = server.parent()
    assert keeper is not None
    keeper.suspend()
    server.send_signal(number)
    return keeper.resume


def _killed(server: psutil.Process) -> Callable[[], None]:
    return _ended(server, signal.SIGKILL)


def _stopped(server: psutil.Process) -> Callable[[], None]:
    return _ended(server, signal.SIGINT)  # its "fast" shutdown


@pytest.mark.parametrize("harm", [_freeze, _killed, _stopped])
def test_calls_go_on_without_postgres_and_nothing_is_lost(
    cluster: Cluster, harm: Callable[[psutil.Process], Callable[[], None]]
) -> None:
    users = names_in_groups("user", f"writer{harm.__name__}", GROUPS)
    writers = [Writer(cluster.gateways[number], user) for number, user in enumerate(users)]
    for writer in writers:
        writer.start()
    cure = harm(postgres(cluster))
    try:
        shown = wait_for("trouble in status", lambda: _trouble(cluster), 20)
        assert shown["storage"]["state"] in ("lagging", "down")
        begun = [len(writer.acknowledged) for writer in writers]
        wait_for(
            "calls to go on",
            lambda: all(
                len(writer.acknowledged) >= before + 20 for writer, before in zip(writers, begun, strict=True)
            ),
        )
    finally:
        cure()
    for writer in writers:
        writer.enough.set()
        writer.join(20)
    assert [writer.failure for writer in writers] == [None, None]
    assert max(writer.longest_s for writer in writers) < 2
    settled(cluster)
    wait_for("the end of the alert", lambda: not _storage_alerts(status(cluster)))
    kept = [mark["key"] for mark in archived(cluster, "mark")]
    for writer in writers:
        assert [key for key in writer.acknowledged if kept.count(key) != 1] == []


def _trouble(cluster: Cluster) -> dict[str, Any] | None:
    found = status(cluster)
    return found if found["storage"]["state"] != "ok" and _storage_alerts(found) else None


def _storage_alerts(found: dict[str, Any]) -> list[Message]:
    return [alert for alert in found["alerts"] if alert["about"] in ("storage", "process:storage")]


# --- plugins that fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        ("fault.loop", "timeout", "HandlerTimeout"),
        ("fault.sleep", "timeout", "time.sleep(60)"),
        ("fault.raise", "plugin_error", "ValueError: inner words"),
    ],
)
def test_a_callback_that_fails_costs_its_caller_one_call(
    cluster: Cluster, method: str, error: str, words: str
) -> None:
    name = names_in_groups("user", "clumsy", GROUPS)[0]
    before = status(cluster)["processes"]
    with login(cluster.gateways[0], name) as voice, login(cluster.gateways[1], name) as other:
        refused = voice.call(method, id=1)
        assert refused["error"] == error
        assert "inner words" not in str(refused)
        begun = time.monotonic()
        other.good("mark.add", key="other")
        assert time.monotonic() - begun < 2
        assert voice.call(method, id=1) == refused  # not run again
        voice.good("mark.add", key="same")
    assert "never" not in [row["fields"]["key"] for row in objects(cluster, "mark").values()]
    shown = cluster.cli("logs", "--incident", refused["incident"])
    assert shown.returncode == 0, shown.stderr
    assert words in shown.stdout
    assert method in shown.stdout
    assert _lives(status(cluster)["processes"]) == _lives(before)


def _lives(rows: list[Message]) -> list[tuple[str, int, int]]:
    return [(row["name"], row["pid"], row["restarts"]) for row in rows]
