"""A game's next version and the one before it, on real processes: each reads what the last one kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import Cluster, new_cluster

pytestmark = pytest.mark.integration

FIRST = """
from connserver import Context, Object, Plugin

plugin = Plugin("purse", version="1.0.0")


@plugin.kind("player")
class Player(Object):
    coins: int = 0


@plugin.method("purse.put")
def put(ctx: Context, me: Player, coins: int) -> dict:
    me.coins += coins
    return {"coins": me.coins}
"""
DOWN = """

@plugin.migrate(Player, to=1, down=True)
def gold_was_coins(fields: dict) -> dict:
    return {"coins": fields["gold"] * 10 + fields["silver"]}
"""
SECOND = """
from connserver import Context, Object, Plugin

plugin = Plugin("purse", version="2.0.0")


@plugin.kind("player", schema=2)
class Player(Object):
    gold: int = 0
    silver: int = 0


@plugin.migrate(Player, to=2)
def coins_become_gold(fields: dict) -> dict:
    gold, silver = divmod(fields["coins"], 10)
    return {"gold": gold, "silver": silver}


@plugin.method("purse.put")
def put(ctx: Context, me: Player, coins: int) -> dict:
    me.gold, me.silver = divmod(me.gold * 10 + me.silver + coins, 10)
    return {"gold": me.gold, "silver": me.silver}
"""


@pytest.fixture
def stopped() -> Iterator[Cluster]:
    with new_cluster(nodes=1, groups=1, plugins=[Path("purse")]) as made:
        yield made


def write(cluster: Cluster, code: str, version: str) -> None:
    """Put a version of the plugin in the place of the last."""
    folder = cluster.folder / "purse"
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(code)
    (folder / "plugin.toml").write_text(
        f'name = "purse"\nversion = "{version}"\nlanguage = "python"\nentry = "main.py"\n'
    )


def put(cluster: Cluster, user: str, coins: int) -> dict[str, Any]:
    """What the game answers a user who puts coins in."""
    typed = [{"msg": "login", "user": user}, {"msg": "purse.put", "coins": coins}]
    done = cluster.cli("client", given="".join(json.dumps(line) + "\n" for line in typed))
    reply: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert reply.pop("msg") == "purse.put" and reply.pop("status") == 0, done.stdout + done.stderr
    return reply


def test_a_newer_plugin_then_an_older_one(stopped: Cluster) -> None:
    write(stopped, FIRST, "1.0.0")
    stopped.up()
    assert put(stopped, "ann", 12) == {"coins": 12} and put(stopped, "bob", 30) == {"coins": 30}
    write(stopped, SECOND, "2.0.0")
    assert stopped.down() == 0
    stopped.up()
    assert put(stopped, "ann", 1) == {"coins": 13}, "what was attached runs on, whatever the files hold now"
    assert stopped.ask("plugin", "reload", "purse")["now"] == "2.0.0"
    assert put(stopped, "ann", 4) == {"gold": 1, "silver": 7}
    assert stopped.down() == 0

    stopped.up()
    write(stopped, FIRST, "1.0.0")
    refused = stopped.cli("plugin", "reload", "purse")
    assert refused.returncode == 1, "a version without the way back is refused"
    assert "plugin purse has kind player in schema 1, objects are stored in schema 2" in refused.stderr
    assert "@plugin.migrate('player', to=1, down=True) is missing" in refused.stderr
    assert refused.stderr.endswith("; nothing was changed\n")
    assert put(stopped, "ann", 0) == {"gold": 1, "silver": 7}

    write(stopped, FIRST + DOWN, "1.0.0")
    assert stopped.ask("plugin", "reload", "purse")["now"] == "1.0.0"
    assert put(stopped, "ann", 1) == {"coins": 18} and put(stopped, "bob", 1) == {"coins": 31}
    assert stopped.down() == 0
