"""A game from nothing: `new`, its own test, and `dev` with a page, a client and a saved file."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.integration.cluster import START_S, STOP_S, free_ports, wait_for
from tests.integration.test_browser import CHROMIUM, PAGE_S, Browser

pytestmark = pytest.mark.integration

CLI = [sys.executable, "-P", "-m", "connserver.cli"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cs-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def gateway_port() -> int:
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="module")
def game(place: Path, gateway_port: int) -> Path:
    done = subprocess.run(
        [*CLI, "new", "star-field", "--gateway-port", str(gateway_port), "--json"],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["game"] == "star-field"
    return place / "star-field"


class Dev:
    """`cs-cluster dev` and what it says, a document a line."""

    def __init__(self, game: Path) -> None:
        self.process = subprocess.Popen(
            [*CLI, "--state-dir", str(game.parent / "state"), "dev", "--port", "0", "--json"],
            cwd=game,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        self.urls = self.next(START_S)

    def next(self, timeout_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        assert readable, f"dev said nothing for {timeout_s} s"
        answer = json.loads(self.process.stdout.readline())
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(scope="module")
def dev(game: Path) -> Iterator[Dev]:
    running = Dev(game)
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(STOP_S) == 0


class Player:
    """A browser's side of the page."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.number = 0

    def call(self, msg: str, **fields: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"msg": msg, "id": self.number, **fields}))
        while True:
            message = json.loads(self.socket.recv(timeout=10))
            if message.get("id") == self.number:
                assert isinstance(message, dict)
                return message

    def event(self, msg: str, timeout_s: float) -> dict[str, Any]:
        while True:
            message = json.loads(self.socket.recv(timeout=timeout_s))
            if message["msg"] == msg:
                assert isinstance(message, dict)
                return message


@pytest.fixture
def player(dev: Dev, gateway_port: int) -> Iterator[Player]:
    origin = Origin(dev.urls["page"].rstrip("/"))
    where = f"ws://127.0.0.1:{gateway_port}/"
    with connect(where, origin=origin, subprotocols=[Subprotocol("connserver.v1.json")]) as socket:
        made = Player(socket)
        assert made.call("login", user="ann")["status"] == 0
        assert made.call("room.join", room="star-field", history=0)["status"] == 0
        yield made


def test_the_new_game_passes_its_own_test(game: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=game,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_folder_that_is_there_is_left_alone(game: Path) -> None:
    before = (game / "plugin" / "main.py").read_text()
    done = subprocess.run(
        [*CLI, "new", "star-field"], cwd=game.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert (game / "plugin" / "main.py").read_text() == before


@pytest.mark.parametrize("name", ["room", "Star", "1st", "a" * 33, "x/../Y"])
def test_a_game_has_a_sensible_name(place: Path, name: str) -> None:
    done = subprocess.run([*CLI, "new", name], cwd=place, capture_output=True, check=False)
    assert done.returncode == 2


def test_the_page_is_served_and_nothing_else(dev: Dev, game: Path, gateway_port: int) -> None:
    page = urllib.request.urlopen(dev.urls["page"], timeout=5)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f":{gateway_port}`" in page.read().decode()
    library = urllib.request.urlopen(dev.urls["page"] + "connserver.min.js", timeout=5)
    assert library.headers["Content-Type"] == "text/javascript; charset=utf-8"
    for target in ("../cluster.toml", "%2e%2e/cluster.toml", "..%2fcluster.toml", "plugin/main.py"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(dev.urls["page"] + target, timeout=5)
    foreign = urllib.request.Request(dev.urls["page"], headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(foreign, timeout=5)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome in PATH")
def test_the_page_plays(dev: Dev, player: Player, tmp_path: Path) -> None:
    """It logs in, joins and goes somewhere, all through the library that was copied beside it."""
    with Browser(tmp_path / "profile", dev.urls["page"]):
        change = player.event("room.state", PAGE_S)["changes"][0]
        assert change["from"].startswith("player-") and change["key"] == "place"
        assert 0 <= change["value"]["x"] <= 100
        assert change["from"] in player.call("room.who", room="star-field")["members"]


def test_a_saved_plugin_serves_the_same_connection_within_two_seconds(
    dev: Dev, game: Path, player: Player
) -> None:
    assert player.call("star-field.collect")["status"] == 0
    file = game / "plugin" / "main.py"
    text = file.read_text()
    stars = wait_for("a call", lambda: player.call("star-field.collect").get("stars"))
    file.write_text(text.replace('return {"stars": me.stars}', 'return {"stars": me.stars, "new": 1}'))
    begun = time.monotonic()
    reply = wait_for(
        "a call by the new version",
        lambda: reply if (reply := player.call("star-field.collect")).get("new") else None,
    )
    took = time.monotonic() - begun
    assert reply["stars"] > stars
    assert dev.next(5) == {"reload": "main.py: reloaded"}
    assert took < 5  # two seconds on a quiet machine

    file.write_text("def broken(:\n")
    told = dev.next(10)["reload"]
    assert "not reloaded" in told and "main.py:1: SyntaxError" in told
    assert wait_for("a call", lambda: player.call("star-field.collect").get("new")) == 1
    file.write_text(text)
    assert dev.next(10) == {"reload": "main.py: reloaded"}


def test_the_page_in_a_browser_of_another_site_is_refused(dev: Dev, gateway_port: int) -> None:
    with pytest.raises(Exception, match="403"):
        connect(f"ws://127.0.0.1:{gateway_port}/", origin=Origin("http://evil.example"))


def test_dev_is_for_one_node(place: Path) -> None:
    nodes = "".join(f'[[nodes]]\nname = "n{number}"\n' for number in (1, 2, 3))
    (place / "three.toml").write_text(nodes)
    done = subprocess.run(
        [*CLI, "--cluster", str(place / "three.toml"), "dev"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "dev runs one" in done.stderr
