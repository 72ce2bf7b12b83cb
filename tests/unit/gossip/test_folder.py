"""The files that have to survive: whole or not at all, and damage is never "absent"."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connserver.errors import ClusterError
from gossip.folder import Damaged, NodeFolder
from gossip.placement import compute

PLACEMENT = compute("demo", ("n1", "n2", "n3"), 4)


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    """An empty one."""
    return NodeFolder(tmp_path)


def test_every_start_has_a_higher_incarnation(folder: NodeFolder) -> None:
    assert [folder.next_incarnation() for _ in range(3)] == [1, 2, 3]
    folder.keep_incarnation(40)
    assert folder.next_incarnation() == 41


def test_the_placement_comes_back_as_it_was(folder: NodeFolder) -> None:
    assert folder.placement() is None
    folder.keep_placement(PLACEMENT)
    assert folder.placement() == PLACEMENT


def test_the_folder_is_for_one_process(folder: NodeFolder) -> None:
    with pytest.raises(ClusterError, match="another gossip process of this node is running"):
        NodeFolder(folder.path)
    folder.close()
    NodeFolder(folder.path).close()


@pytest.mark.parametrize("position", [0, 10, 20, -2])
def test_a_changed_byte_is_damage(folder: NodeFolder, position: int) -> None:
    folder.keep_placement(PLACEMENT)
    folder.next_incarnation()
    for name in ("placement", "incarnation"):
        path = folder.path / name
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
    with pytest.raises(Damaged):
        folder.placement()
    with pytest.raises(ClusterError, match="incarnation is damaged"):
        folder.next_incarnation()


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_cut_file_is_damage(folder: NodeFolder, left: int) -> None:
    folder.keep_placement(PLACEMENT)
    folder.keep_incarnation(7)
    os.truncate(folder.path / "placement", left)
    os.truncate(folder.path / "incarnation", left)
    with pytest.raises(Damaged):
        folder.placement()
    with pytest.raises(ClusterError, match="damaged"):
        folder.next_incarnation()


def test_a_write_that_fails_leaves_what_was_there(
    folder: NodeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.keep_incarnation(7)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            folder.keep_incarnation(8)
    assert folder.next_incarnation() == 8


def test_everything_is_synced_before_and_after_the_rename(
    folder: NodeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        done.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    folder.keep_incarnation(3)
    assert done == ["sync incarnation.new", "rename incarnation.new", f"sync {folder.path.name}"]


def test_its_files_are_for_the_owner_only(folder: NodeFolder) -> None:
    folder.keep_placement(PLACEMENT)
    folder.next_incarnation()
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}
