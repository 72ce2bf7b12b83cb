"""Packages of plugins: the digest is of names and contents, and a hostile package leads nowhere."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver.errors import PluginLoadError
from connserver.limits import PLUGIN_BYTES, PLUGIN_FILES, PLUGIN_PACKED_BYTES
from connserver.plugin.package import digest_of, pack, unpack


def made(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    place = made(tmp_path / "a", main="x = 1", sub__rules="y = 2")
    package = pack(place)
    assert unpack(package.data) == {"main": b"x = 1", "sub/rules": b"y = 2"}
    assert digest_of(unpack(package.data)) == package.digest


def test_the_digest_is_of_names_and_contents_alone(tmp_path: Path) -> None:
    one = made(tmp_path / "one", main="x = 1", rules="")
    two = made(tmp_path / "two", rules="", main="x = 1")
    os.utime(two / "main", (5, 5))
    (two / "main").chmod(0o755)
    assert pack(one) == pack(two)
    assert digest_of({"a": b"bc"}) != digest_of({"ab": b"c"})
    (two / "main").write_text("x = 2")
    assert pack(one).digest != pack(two).digest


def test_what_is_hidden_or_compiled_is_no_part(tmp_path: Path) -> None:
    place = made(tmp_path, main="x = 1")
    before = pack(place)
    made(place, **{".git__config": "x", "__pycache__" + "/main.pyc": "x"})
    (place / ".swp").write_text("x")
    (place / "__pycache__").mkdir(exist_ok=True)
    (place / "__pycache__" / "main.pyc").write_text("x")
    assert pack(place) == before


def test_links_and_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").symlink_to("/etc/passwd")
    with pytest.raises(PluginLoadError, match="secret: only files and folders"):
        pack(tmp_path)
    (tmp_path / "secret").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PluginLoadError, match="pipe: only files and folders"):
        pack(tmp_path)
    with pytest.raises(PluginLoadError, match="No such file"):
        pack(tmp_path / "nowhere")


def test_what_is_too_much_is_refused(tmp_path: Path) -> None:
    for number in range(PLUGIN_FILES + 1):
        (tmp_path / f"f{number}").touch()
    with pytest.raises(PluginLoadError, match=f"more than {PLUGIN_FILES} files"):
        pack(tmp_path)
    big = tmp_path / "big"
    big.mkdir()
    with (big / "data").open("wb") as file:
        file.truncate(PLUGIN_BYTES + 1)
    with pytest.raises(PluginLoadError, match=f"more than {PLUGIN_BYTES} bytes"):
        pack(big)
    (big / "data").write_bytes(os.urandom(PLUGIN_PACKED_BYTES + 1000))
    with pytest.raises(PluginLoadError, match="at most 3145728 travel"):
        pack(big)


def bundle(content: Any) -> bytes:
    return zlib.compress(msgpack.packb(content))


NOT_INSIDE = ["../a", "/etc/passwd", "a/../b", "a//b", "./a", "", ".hidden", "a/.git/b", "a\0b", "a\\b", 5]


@pytest.mark.parametrize("name", NOT_INSIDE)
def test_no_name_leads_outside(name: Any) -> None:
    with pytest.raises(PluginLoadError, match="no file of a plugin"):
        unpack(bundle([[name, b""]]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"nonsense", "cannot be read"),
        (bundle({})[:-6], "cut off"),
        (bundle({"a": b""}), "no list"),
        (bundle([["a", "text"]]), "no file"),
        (bundle([["a"]]), "no file"),
        (bundle([["a", b"1"], ["a", b"2"]]), "two files of one name"),
        (bundle([[f"f{number}", b""] for number in range(PLUGIN_FILES + 1)]), "at most 512 files"),
        (zlib.compress(b"\0" * (PLUGIN_BYTES * 2)), "more than"),
        (b"\0" * (PLUGIN_PACKED_BYTES + 1), "at most"),
    ],
)
def test_what_is_no_package_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PluginLoadError, match=reason):
        unpack(data)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_package_or_refused(data: bytes, compressed: bool) -> None:
    try:
        files = unpack(zlib.compress(data) if compressed else data)
    except PluginLoadError:
        return
    assert all(isinstance(content, bytes) for content in files.values())
