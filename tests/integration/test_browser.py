"""A browser's own WebSocket: a page that a headless Chromium loads speaks with a raw socket in a room."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from connserver.encodings import Encoding
from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.voices import login

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PAGE_S = 40.0
"""For a browser to start on a busy machine, and for its page to be done."""

PAGE = """<!doctype html><meta charset="utf-8"><title>a test</title><script>
const asked = new URLSearchParams(location.search);
const told = {messages: []};
const tell = what => fetch("/told", {method: "POST", body: JSON.stringify({what, ...told})});
const protocols = asked.get("protocol") ? [asked.get("protocol")] : [];
const socket = new WebSocket("ws://127.0.0.1:" + asked.get("port") + "/", protocols);
const send = message => socket.send(JSON.stringify(message));
let opened = false;
socket.onopen = () => {
  opened = true;
  told.protocol = socket.protocol;
  send({msg: "login", user: "page", id: 1});
  send({msg: "room.join", room: "web", id: 2});
};
socket.onmessage = event => {
  const message = JSON.parse(event.data);
  told.messages.push(message);
  if (message.id === 2) send({msg: "room.send", room: "web", text: "from the page: \\u00e9\\u4e16", id: 3});
  if (message.msg === "room.message" && message.text === "enough") socket.close(1000);
};
socket.onclose = event => { told.code = event.code; tell(opened ? "closed" : "refused"); };
</script>"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome in PATH"),
]


@dataclass
class Site:
    """Serves the page on loopback and keeps what it tells."""

    told: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(PAGE.encode() if self.path.startswith("/page") else b"")

            def do_POST(self) -> None:
                told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster(site: Site) -> Iterator[Cluster]:
    """Only pages of the site, by its number, may connect."""
    allowed = f'[gateway]\nallowed_origins = ["http://127.0.0.1:{site.port}"]\n'
    with new_cluster(nodes=1, groups=2, more=allowed) as made:
        made.up()
        wait_for("a call to be carried out", made.serves)
        yield made
        assert made.down() == 0


class Browser:
    """A Chromium with a profile of its own; nothing of it is left."""

    def __init__(self, profile: Path, url: str) -> None:
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # its session is ours to end: we began it
        self._process.wait()


def url(site: Site, host: str, cluster: Cluster, protocol: str) -> str:
    asked = urlencode({"port": cluster.ports[0], "protocol": protocol})
    return f"http://{host}:{site.port}/page?{asked}"


@pytest.mark.parametrize("protocol", ["connserver.v1.json", ""])
def test_a_page_joins_a_room_and_talks_with_a_raw_socket(
    cluster: Cluster, site: Site, tmp_path: Path, protocol: str
) -> None:
    with login(cluster.gateways[0], "raw", Encoding.CLASSIC) as raw:
        first = int(raw.good("room.join", room="web")["seq"]) + 1
        with Browser(tmp_path / "profile", url(site, "127.0.0.1", cluster, protocol)):
            heard = raw.event("room.message", PAGE_S)
            assert (heard["from"], heard["text"], int(heard["seq"])) == ("page", "from the page: é世", first)
            raw.good("room.send", room="web", text="from a socket: é世\n%41")
            raw.good("room.send", room="web", text="enough")
            told = site.told.get(timeout=PAGE_S)
    assert (told["what"], told["protocol"], told["code"]) == ("closed", protocol, 1000)
    replies = [message for message in told["messages"] if "status" in message]
    assert [(reply["id"], reply["status"]) for reply in replies] == [(1, 0), (2, 0), (3, 0)]
    events = [message for message in told["messages"] if message["msg"] == "room.message"]
    assert [(event["seq"], event["from"], event["text"]) for event in events] == [
        (first, "page", "from the page: é世"),
        (first + 1, "raw", "from a socket: é世\n%41"),
        (first + 2, "raw", "enough"),
    ]


def test_a_page_of_another_origin_is_refused(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", url(site, "localhost", cluster, "connserver.v1.json")):
        told = site.told.get(timeout=PAGE_S)
    assert (told["what"], told["code"], told["messages"]) == ("refused", 1006, [])
