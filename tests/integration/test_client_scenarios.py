"""One set of stories for both client libraries: asyncio over TCP and WebSocket, a browser and node.

The browser gets connserver.min.js, as pages do; node the source that it is made from.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from connserver.client import Client
from tests.integration.client_drivers import HERE, LIBRARY, Driver, InPython, javascript
from tests.integration.client_story import GROUPS, SCENARIOS, Story
from tests.integration.cluster import Cluster, new_cluster, wait_for
from tests.integration.test_browser import CHROMIUM, Browser

pytestmark = pytest.mark.integration

NODE = shutil.which("node")
START_S = 40.0
"""For a browser on a busy machine."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with two gateways, of which one may be killed."""
    with new_cluster(nodes=1, gateways=2, groups=GROUPS, plugins=[HERE / "counter"]) as made:
        made.up()
        wait_for("a call to be carried out", made.serves)
        yield made
        assert made.down() == 0


async def all_stories(cluster: Cluster, driver: Driver, prefix: str) -> None:
    for number, scenario in enumerate(SCENARIOS):
        await Story(cluster, driver, f"{prefix}{number}-").run(scenario)


@pytest.mark.parametrize(
    ("scheme", "encoding"), [("tcp://", "json"), ("ws://", "json"), ("ws://", "msgpack")]
)
def test_python(cluster: Cluster, scheme: str, encoding: str) -> None:
    asyncio.run(all_stories(cluster, InPython(scheme, encoding), f"{scheme[:2]}-{encoding}-"))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome in PATH")
def test_javascript_in_a_browser(cluster: Cluster, tmp_path: Path) -> None:
    async def story() -> None:
        async with javascript() as driver:
            with Browser(tmp_path / "profile", driver.page):
                await asyncio.wait_for(asyncio.shield(driver.connected), START_S)
                await all_stories(cluster, driver, "browser-")

    asyncio.run(story())


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome in PATH")
def test_the_room_page(cluster: Cluster, tmp_path: Path) -> None:
    """The page that README points to joins its room."""

    async def story() -> None:
        gateways = [f"{host}:{port}" for host, port in cluster.gateways]
        async with Client(*gateways, user="host") as host, javascript() as server:
            room = await host.join("parlour")
            query = urlencode([("room", "parlour"), ("user", "web"), *(("gateway", one) for one in gateways)])
            url = server.page.replace("/page", f"/room.html?{query}")
            with Browser(tmp_path / "profile", url):
                async with asyncio.timeout(START_S):
                    while await room.who() != ["host", "web"]:
                        await asyncio.sleep(0.05)

    asyncio.run(story())


@pytest.mark.skipif(NODE is None, reason="no node in PATH")
def test_javascript_in_node(cluster: Cluster, tmp_path: Path) -> None:
    assert NODE is not None
    for file in (LIBRARY, HERE / "client_driver.js"):
        shutil.copy(file, tmp_path)
    (tmp_path / "package.json").write_text('{"type":"module"}')
    script = str(tmp_path / "client_driver.js")

    async def story() -> None:
        async with javascript() as driver:
            command = [str(NODE), "--experimental-websocket", script, driver.url]
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                try:
                    await asyncio.wait_for(asyncio.shield(driver.connected), START_S)
                    await all_stories(cluster, driver, "node-")
                finally:
                    process.kill()

    asyncio.run(story())
