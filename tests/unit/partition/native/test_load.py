"""A library that gives wrong tables, and calls the host wrongly: refused or failed, each with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from connserver.errors import PluginLoadError
from connserver.plugin.declare import Plugin
from partition.loader import load_plugin, load_plugins
from partition.testing import TestWorld
from tests.native import KEPT_APART, folder, library

SOURCE = Path(__file__).with_name("hostile.c")


@pytest.fixture(scope="module")
def hostile() -> Path:
    return library(folder() / "hostile", SOURCE.read_text(), *KEPT_APART)


@pytest.fixture(scope="module")
def plugin(hostile: Path) -> Plugin:
    return load_plugin(hostile)


@pytest.fixture
def world(plugin: Plugin) -> Iterator[TestWorld]:
    world = TestWorld([plugin])
    yield world
    world.incidents.clear()
    world.check()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("null", "cannot work with this version"),
        ("size", "a table that is none"),
        ("short", "shorter than its ABI says"),
        ("future", "it needs the ABI 99 to 99, and this ConnServer has 1"),
        ("past", "it needs the ABI 0 to 0"),
        ("unnamed", "its name is NULL"),
        ("endless", "its name is too long for a name, or has no end"),
        ("bytes", "its name is no text in UTF-8"),
        ("badname", "'Small Plugin' is no plugin name"),
        ("other", "it names small 1.0.0, but .* makes small 9.9.9"),
        ("kinds", "its kinds are more than a plugin may have"),
        ("nokinds", "its kinds are counted, but their table is NULL"),
        ("unaligned", "its methods are in a table out of line"),
        ("stride", "its kinds have a size in their table that is none"),
        ("strides", "its methods have a size in their table that is none"),
        ("norun", "a method has no function"),
        ("sort", "77 is no sort of method"),
        ("flags", "small.wrong: its flags 0x1"),
        ("roles", "later: only clients have roles"),
        ("rate", "small.wrong: its rate is not finite"),
        ("topic", "'small' is no name for a plugin's method"),
        ("taken", "'session.end' is no name for a plugin's method"),
        ("dotted", "'small.later' is no name of a function"),
        ("me", "small.wrong: 'ghost' is no kind that the library declares"),
        ("type", "kind purse, field 'gold': 'integers' is no type"),
        ("types", "kind purse, field 'gold': a type of more than 8 levels"),
        ("default", "kind purse, field 'gold': its default does not fit"),
        ("packed", "kind purse, field 'gold': its default: 1 bytes are no value"),
        ("field", "kind purse, field 'oid': this name is not possible"),
        ("twice", "kind purse, field 'gold': no name for a field, or the name of two"),
        ("transient", "kind purse, field 'friends': a transient field needs a default"),
        ("index", "kind purse: 'friends' cannot be indexed"),
        ("reserved", "small.wrong: the name 'msg' is reserved"),
        ("ctx", "small.wrong: two arguments are called 'ctx'"),
        ("argument", "small.wrong, argument 'what': '' is no type"),
        ("migration", "migrate: 'ghost' is no kind of plugin small"),
        ("beyond", "a migration to 3 leads past it"),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(PluginLoadError, match=words) as caught:
        load_plugins([hostile])
    assert "libsmall.so" in str(caught.value)
    assert "partition" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (1, "it returned 42 and did not say why"),
        (2, "it returned 3 and did not say why"),
        (3, "it returned 2 and did not say why"),
        (4, "RuntimeError: it said so \N{REPLACEMENT CHARACTER}"),
        (6, "1 bytes are no value"),
        (7, "extension type 5 is none of ours"),
        (8, "int is not allowed for map key"),
        (9, "kind purse, field 'gold': an integer is wanted, not 'x'"),
        (10, "kind purse has no field 'glory'"),
        (11, "WrongPartition: 0000000000000001 lives in partition 0"),
        (12, "object is NULL"),
        (13, "a view without data"),
        (14, "a view of 1099511627776 bytes; at most 16777216"),
        (15, "the answer: a map is wanted, not a int"),
        (16, "the name 'status' is reserved"),
        (17, "it answers with its call 3, and made 0"),
        (18, "it answers with the result of a call, and is no `then`"),
        (19, "small.none is no internal method"),
        (20, "UnicodeDecodeError"),
        (21, "no attached plugin declares a kind 'ghost'"),
        (22, "'' is no room"),
        (23, "alloc: no 68157440 bytes more"),
        (25, "WrongPartition"),
        (28, "after_s is not finite"),
        (29, "log: 9 is no level"),
        (30, "say about->size"),
        (31, re.escape("an array of [oid, fields] is wanted")),
        (32, "kind purse has no field 'glory'"),
        (33, "100000 bytes are no value"),
    ],
)
def test_a_wrong_call_fails_with_the_reason_and_changes_nothing(
    world: TestWorld, what: int, words: str
) -> None:
    ann = world.login("ann")
    world.put(ann, gold=5)
    assert ann.call("small.wrong", what=what)["error"] == "plugin_error"
    (told,) = world.incidents.values()
    assert re.search(words, told), told
    assert "small.wrong of plugin small 1.0.0 failed" in told
    assert world.fields(ann) == {"gold": 5, "friends": []}
    assert ann.call("small.wrong", what=0)["status"] == 0


def test_what_a_method_is_told_is_what_the_client_gets(world: TestWorld) -> None:
    ann = world.login("ann")
    refused = ann.call("small.wrong", what=5)
    assert (refused["error"], refused["code"], refused["reason"]) == ("refused", "small.no", "because")
    assert ann.call("small.wrong", what=24)["status"] == 0
    assert ann.call("small.wrong", what="x")["error"] == "bad_argument"


def test_the_context_of_a_call_that_has_ended_is_of_no_use(world: TestWorld) -> None:
    ann = world.login("ann")
    assert [ann.call("small.wrong", what=what)["status"] for what in (26, 27)] == [0, 0]


def test_a_migration_has_nothing_but_the_fields(world: TestWorld) -> None:
    ann = world.login("ann")
    world.overwrite(ann, "purse", 1, {"gold": 1, "friends": [], "cs.name": "ann"})
    assert ann.call("small.wrong", what=0)["error"] == "plugin_error"
    assert "a migration has nothing but the fields" in str(world.incidents)
    world.overwrite(ann, "purse", 2, {"gold": 1, "friends": [], "cs.name": "ann"})


def test_a_file_that_is_no_library_is_refused(hostile: Path, tmp_path: Path) -> None:
    entry = tmp_path / "libsmall.so"
    (tmp_path / "plugin.toml").write_text((hostile / "plugin.toml").read_text())
    whole = (hostile / "libsmall.so").read_bytes()
    with pytest.raises(PluginLoadError, match="cs-cluster plugin build"):
        load_plugins([tmp_path])
    for content, words in [
        (b"", "it ends before"),
        (b"#!/bin/sh\n" * 100, "it is no shared library"),
        (whole[:1000], "damaged"),
        (whole[:18] + b"\x28\x00" + whole[20:], "it is for another processor"),
        (whole[:4] + b"\x01" + whole[5:], "not for a machine of 64 bits"),
        (whole[:16] + b"\x02\x00" + whole[18:], "it is not a shared library"),
    ]:
        entry.write_bytes(content)
        with pytest.raises(PluginLoadError, match=words):
            load_plugins([tmp_path])


def test_a_library_without_the_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginLoadError, match="it has no function connserver_plugin"):
        load_plugins([library(tmp_path, "int nothing(void) { return 0; }\n")])


def test_a_library_that_misses_a_symbol_is_refused(tmp_path: Path) -> None:
    source = "int missing_here(void); int nothing(void) { return missing_here(); }\n"
    with pytest.raises(PluginLoadError, match="undefined symbol: missing_here"):
        load_plugins([library(tmp_path, source, "-fvisibility=hidden", "-Wl,-u,nothing")])


def test_a_library_is_replaced_while_it_is_loaded(hostile: Path, tmp_path: Path) -> None:
    """As a compiler does it that writes into the file itself."""
    for name in ("plugin.toml", "libsmall.so"):
        (tmp_path / name).write_bytes((hostile / name).read_bytes())
    world = TestWorld([tmp_path])
    ann = world.login("ann")
    with (tmp_path / "libsmall.so").open("r+b") as file:
        file.truncate(0)
    assert ann.call("small.wrong", what=24)["status"] == 0
