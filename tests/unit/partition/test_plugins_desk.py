"""A worker's plugins: changes are tried whole in a process of their own, and follow the group's state."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from connserver.config import ClusterConfig, load_cluster
from connserver.errors import PluginLoadError
from connserver.messages import Image
from connserver.plugin.package import pack
from partition.ledger import Ledger
from partition.loader import PACKAGE
from partition.objects import Store
from partition.plugins_desk import Order, PluginDesk, plugin_desk
from partition.turn import TurnBuilder
from tests.unit.partition.plugin_folders import DOWN, UP, pets, plugin_folder

OID = 1 << 20


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    plugin_folder(tmp_path / "pets", "pets", pets(1))
    file = tmp_path / "cluster.toml"
    file.write_text('[cluster]\nname = "desk"\n[[nodes]]\nname = "n1"\n[[plugins]]\npath = "pets"\n')
    return load_cluster(file)


class World:
    """A group's state and the desk of its primary."""

    def __init__(self, config: ClusterConfig, node: Path) -> None:
        self.config, self.node = config, node
        self.store = Store()
        self.ledger = Ledger(self.store, TurnBuilder())
        self.desk = self.started()

    def started(self) -> PluginDesk:
        """A worker that starts with the state as it is."""
        desk = plugin_desk(self.config, self.node, 0)
        desk.prefetch()
        desk.adopt(self.store)
        return desk

    def change(self, action: str, name: str = "", folder: Path | None = None, **more: Any) -> dict[str, Any]:
        """As a primary does it, without the calls around."""
        if folder is not None:
            more |= {"code": pack(folder).data, "folder": str(folder)}
        order = Order.of({"action": action, "name": name, **more})
        plan = self.desk.plan(order, self.desk.basis(self.store))
        return self.desk.switched(plan, self.desk.prepare(plan), self.store, self.ledger)

    def refused(self, action: str, name: str = "", folder: Path | None = None, **more: Any) -> str:
        """Why not; checks that nothing was changed."""
        before = self.desk.current, list(self.store)
        with pytest.raises(PluginLoadError) as caught:
            self.change(action, name, folder, **more)
        assert (self.desk.current, list(self.store)) == before
        return str(caught.value)

    @property
    def versions(self) -> dict[str, str]:
        return self.desk.current.table.plugins

    def runs(self) -> str:
        """The version that answers."""
        found: str = self.desk.current.table.methods["pet.version"].function(None, None)
        return found


@pytest.fixture
def world(config: ClusterConfig, tmp_path: Path) -> Iterator[World]:
    made = World(config, tmp_path / "n1")
    made.desk.settle(made.store, made.ledger)
    yield made
    made.desk.current.choice.check_invariants()


def modules() -> int:
    return sum(name.startswith(PACKAGE) for name in sys.modules)


def test_a_group_without_a_choice_makes_that_of_cluster_toml(world: World, tmp_path: Path) -> None:
    assert world.versions == {"pets": "1.0"} and world.desk.current.choice.revision == 1
    plugin_folder(tmp_path / "pets", "pets", pets(1), version="9.0")
    again = world.started()
    assert again.current.table.plugins == {"pets": "1.0"}  # edited files change nothing
    fresh = plugin_desk(world.config, tmp_path / "another", 0)
    fresh.prefetch()
    fresh.adopt(world.store)  # and a node that never had the code gets it with the state
    assert fresh.current.table.plugins == {"pets": "1.0"}
    assert fresh.rows()[0]["folder"] == str(tmp_path / "pets")


def test_a_choice_does_not_need_what_cluster_toml_names(world: World, tmp_path: Path) -> None:
    (tmp_path / "pets" / "main.py").write_text("def broken(:")
    assert world.started().current.table.plugins == {"pets": "1.0"}
    desk = plugin_desk(world.config, tmp_path / "n9", 0)
    desk.prefetch()
    with pytest.raises(PluginLoadError, match=r"pets/main.py:1: SyntaxError"):
        desk.adopt(Store())
    assert desk.begins_anew


def test_attach_and_detach(world: World, tmp_path: Path) -> None:
    code = '@plugin.method("toy.play")\ndef play(ctx: Context, me: Object) -> str: return "squeak"\n'
    toys = plugin_folder(tmp_path / "toys", "toys", code, needs="pets")
    assert world.change("attach", folder=toys)["now"] == "1.0"
    assert set(world.versions) == {"pets", "toys"} and "toy.play" in world.desk.current.table.methods
    assert "toys 1.0 is attached already" in world.refused("attach", folder=toys)
    assert "toys 1.0 needs plugin pets" in world.refused("detach", "pets")
    world.change("detach", "toys")
    assert set(world.versions) == {"pets"} and world.started().current.table.plugins == {"pets": "1.0"}


BAD = {
    "syntax": ("def broken(:", r"bad/main.py:3: SyntaxError"),
    "import": ("import nothing_of_the_kind", r"bad/main.py:3: ModuleNotFoundError"),
    "taken": (
        "@plugin.method('pet.get')\ndef x(ctx, me): pass",
        r"pet.get is declared already by plugin pets",
    ),
    "crash": ("import ctypes\nctypes.string_at(0)", r"killed by SIGSEGV"),
    "abort": ("import os\nos.abort()", r"killed by SIGABRT"),
    "exit": ('import os\nprint(\'{"error": ""}\')\nos._exit(0)', r"ended the process that loaded it: exit"),
    "memory": ("x = bytearray(1 << 40)", r"MemoryError"),
}


@pytest.mark.parametrize("fault", sorted(BAD))
def test_what_cannot_be_loaded_harms_nobody(world: World, tmp_path: Path, fault: str) -> None:
    code, reason = BAD[fault]
    bad = plugin_folder(tmp_path / "bad", "bad", code)
    told = world.refused("attach", folder=bad)
    assert re.search(reason, told), told
    assert str(tmp_path / "n1") not in told  # in the words of the folder that its author knows


def test_a_plugin_that_hangs_while_it_is_loaded_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partition.plugins_check.PLUGIN_CHECK_S", 1.0)
    bad = plugin_folder(tmp_path / "bad", "bad", "import time\ntime.sleep(60)")
    assert "not loaded within 1 s" in world.refused("attach", folder=bad)


def stored(world: World, schema: int, **fields: Any) -> None:
    world.store.put(Image(OID, "pet", schema, msgpack.packb(fields)))


def test_reload_and_rollback_with_migrations(world: World, tmp_path: Path) -> None:
    stored(world, 1, name="rex", noise=3)
    newer = plugin_folder(tmp_path / "pets", "pets", pets(2), version="2.0")
    assert "@plugin.migrate('pet', to=2) is missing" in world.refused("reload", "pets", newer)
    plugin_folder(newer, "pets", pets(2, UP), version="2.0")
    told = world.change("reload", "pets", newer)
    assert (told["was"], told["now"], world.runs()) == ("1.0", "2.0", "2.0")
    assert "to=1, down=True) is missing" in told["way_back"]
    stored(world, 2, name="rex", loud=True)
    assert "to=1, down=True) is missing" in world.refused("rollback", "pets")
    plugin_folder(newer, "pets", pets(2, UP + DOWN), version="2.1")
    told = world.change("reload", "pets", newer)
    assert told["way_back"] == ""
    world.change("rollback", "pets")
    assert world.runs() == "2.0"


def test_a_rollback_goes_down_by_what_the_newer_version_knows(world: World, tmp_path: Path) -> None:
    before = modules()
    newer = plugin_folder(tmp_path / "pets", "pets", pets(2, UP + DOWN), version="2.0")
    assert world.change("reload", "pets", newer)["way_back"] == ""
    stored(world, 2, name="rex", loud=True)
    world.change("rollback", "pets")
    world.store.bind(world.desk.current.table.kinds)
    pet: Any = world.store.live(OID)
    assert (world.runs(), pet.noise) == ("1.0", 1)
    restarted = world.started()
    world.store.bind(restarted.current.table.kinds)
    pet = world.store.live(OID)
    assert pet.noise == 1  # also in a later life, which loads the newer version for its ways down
    world.change("rollback", "pets")
    assert world.runs() == "2.0"
    for number in range(5):
        plugin_folder(newer, "pets", pets(2, UP + DOWN), version=f"2.{number + 1}")
        world.change("reload", "pets", newer)
    world.desk.tidy()
    assert modules() <= before + 2 * 6  # this desk's last versions and the other desks', not all there were
    copies = list((tmp_path / "n1" / "plugins" / "0" / "pets").iterdir())
    assert {copy.name for copy in copies} == world.desk.current.choice.digests


def test_a_stored_object_that_cannot_be_migrated_is_found_beforehand(world: World, tmp_path: Path) -> None:
    stored(world, 1, name="rex")  # without `noise`, as an even older version may have left it
    newer = plugin_folder(tmp_path / "pets", "pets", pets(2, UP), version="2.0")
    assert "failed on 0000000000100000: KeyError: 'noise'" in world.refused("reload", "pets", newer)


def test_a_backup_follows_and_says_what_it_cannot_load(world: World, tmp_path: Path) -> None:
    backup = plugin_desk(world.config, tmp_path / "n2", 0)
    backup.prefetch()
    backup.adopt(world.store)
    assert not backup.is_behind(world.store)
    newer = plugin_folder(tmp_path / "pets", "pets", pets(1), version="1.1")
    world.change("reload", "pets", newer)
    assert backup.is_behind(world.store) and not backup.is_behind(world.store)
    backup.load(*backup.wish(world.store))
    assert backup.current.table.plugins == {"pets": "1.1"}
    flag = tmp_path / "flag"
    here = (
        f"import pathlib\nif pathlib.Path({str(flag)!r}).exists(): raise RuntimeError('not on this node')\n"
    )
    plugin_folder(newer, "pets", pets(1, here), "1.2")
    world.change("reload", "pets", newer)
    flag.touch()
    with pytest.raises(PluginLoadError, match="not on this node"):
        backup.load(*backup.wish(world.store))
    (row,) = backup.rows()
    assert row["version"] == "1.2" and "cannot be loaded" in row["state"] and not backup.begins_anew
    flag.unlink()
    backup.load(*backup.wish(world.store))
    assert backup.rows()[0]["state"] == "attached"


def test_a_change_against_another_choice_is_refused(world: World, tmp_path: Path) -> None:
    newer = plugin_folder(tmp_path / "pets", "pets", pets(1), version="1.1")
    assert "somebody else has changed" in world.refused("reload", "pets", newer, revision=7)
    world.change("reload", "pets", newer, revision=1)
    other = plugin_folder(tmp_path / "other", "other", "")
    assert "is plugin other, not pets" in world.refused("reload", "pets", other)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"action": "burn"}, "action"),
        ({"action": "detach"}, "name"),
        ({"action": "detach", "name": 5}, "name"),
        ({"action": "attach"}, "code"),
        ({"action": "attach", "code": "text"}, "code"),
        ({"action": "attach", "code": b"x" * (4 << 20)}, "code"),
        ({"action": "detach", "name": "a", "code": b"x"}, "code"),
        ({"action": "reload", "name": "a", "code": b"x", "timeout_ms": 1}, "timeout_ms"),
        ({"action": "reload", "name": "a", "code": b"x", "folder": 1}, "folder"),
        ({"action": "detach", "name": "a", "revision": "1"}, "revision"),
        ({"action": "detach", "name": "a", "colour": "red"}, "colour"),
    ],
)
def test_an_order_is_checked_before_anything_is_done(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Order.of(arguments)


def test_a_copy_that_was_edited_is_made_anew(world: World, tmp_path: Path) -> None:
    (copy,) = (tmp_path / "n1" / "plugins" / "0" / "pets").iterdir()
    (copy / "main.py").write_text("raise RuntimeError('edited')")
    assert world.started().current.table.plugins == {"pets": "1.0"}
    assert "edited" not in (copy / "main.py").read_text()
