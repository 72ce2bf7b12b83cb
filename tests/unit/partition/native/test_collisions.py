"""Libraries of equal names: kept apart where that is possible, named and refused where it is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from connserver.errors import PluginLoadError
from connserver.plugin.declare import Plugin
from partition.loader import load_plugin
from partition.native import load
from partition.native.collisions import ENTRY, File, Loaded, Report, compare
from partition.native.elf import Elf
from partition.testing import TestWorld
from tests.native import KEPT_APART, compiler, folder, library

SOURCE = """// c++
#include "connserver.h"

struct Shape {
    virtual ~Shape() {}
    virtual int sides() { return WHO; }
};
int ordinary = WHO;
inline int in_line = WHO;
template <class T> struct Cell { static int value; };
template <class T> int Cell<T>::value = WHO;
inline int &counter() {
    static int count = WHO;
    return count;
}
template <class T> int &counter_of() {
    static int count = WHO;
    return count;
}
Shape *make() { return new Shape; }

static const cs_host *host;

static int32_t tell(void *, cs_context *context, uint64_t, cs_view) {
    Shape *shape = make();
    const int numbers[] = {++ordinary, ++in_line,           ++Cell<int>::value,
                           ++counter(), ++counter_of<int>(), shape->sides()};
    delete shape;
    unsigned char reply[64] = {0x81, 0xa7, 'n', 'u', 'm', 'b', 'e', 'r', 's', 0x96};
    for (int i = 0; i < 6; i++) reply[10 + i] = (unsigned char)numbers[i];
    return host->reply(context, cs_view{reply, 16});
}

static cs_method methods[] = {
    {sizeof(cs_method), CS_CLIENT, 0, 0, NAME ".tell", 0, 0, 0, 0, {0, 0}, tell, 0}};
static cs_plugin plugin = {
    sizeof(cs_plugin), CS_ABI, CS_ABI, 0, 1, 0, NAME, VERSION, nullptr, methods, nullptr};

extern "C" CS_EXPORT const cs_plugin *connserver_plugin(const cs_host *table) {
    host = table;
    return &plugin;
}
"""


def built(name: str, who: int, *flags: str, version: str = "1.0.0") -> Path:
    where = folder() / f"{name}-{version}-{who}-{abs(hash(flags))}"
    if not where.exists():
        named = (f'-DNAME="{name}"', f'-DVERSION="{version}"', f"-DWHO={who}")
        library(where, SOURCE, "-std=c++17", *named, *flags, plugin=name, version=version)
    return where


def loaded(path: Path) -> Plugin:
    return load_plugin(path)


def numbers(world: TestWorld, name: str) -> list[int]:
    ann = world.login("ann")
    reply = ann.call(f"{name}.tell")
    assert reply["status"] == 0, world.incidents
    return list(reply["numbers"])


class FakeLog:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def warning(self, event: str, *, library: str, note: str) -> None:
        self.notes.append(note)


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have loaded is none of this one's."""
    monkeypatch.setattr(load, "_loaded", [])
    monkeypatch.setattr(load, "_brought", set())


# --- kept apart ---


def test_two_plugins_with_the_same_class_and_variables_keep_apart() -> None:
    world = TestWorld([loaded(built("one", 10, *KEPT_APART)), loaded(built("two", 60, *KEPT_APART))])
    assert numbers(world, "one") == [11, 11, 11, 11, 11, 10]
    assert numbers(world, "two") == [61, 61, 61, 61, 61, 60]
    assert numbers(world, "one") == [12, 12, 12, 12, 12, 10]


def test_two_versions_of_one_plugin_run_side_by_side() -> None:
    old, new = built("both", 10, *KEPT_APART), built("both", 60, *KEPT_APART, version="2.0.0")
    one, two = TestWorld([loaded(old)]), TestWorld([loaded(new)])
    assert numbers(one, "both") == [11, 11, 11, 11, 11, 10]
    assert numbers(two, "both") == [61, 61, 61, 61, 61, 60]
    assert numbers(one, "both")[0] == 12


def test_a_library_that_is_loaded_twice_is_two() -> None:
    path = built("again", 10, *KEPT_APART)
    first, second = TestWorld([loaded(path)]), TestWorld([loaded(path)])
    assert numbers(first, "again") == numbers(second, "again") == [11, 11, 11, 11, 11, 10]


def test_equal_sonames_of_two_plugins_do_no_harm() -> None:
    flags = (*KEPT_APART, "-Wl,-soname,libsame.so")
    world = TestWorld([loaded(built("sona", 10, *flags)), loaded(built("sonb", 60, *flags))])
    assert numbers(world, "sona")[0] == 11
    assert numbers(world, "sonb")[0] == 61


# --- foreign flags ---


def test_a_library_with_foreign_flags_is_named_and_refused() -> None:
    with pytest.raises(PluginLoadError) as caught:
        loaded(built("foreign", 10))
    words = str(caught.value)
    assert "_ZN4CellIiE5valueE" in words and "in_line" in words
    assert "unique in the whole process" in words and "-fno-gnu-unique" in words


def test_without_the_report_it_would_be_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report is there for; if this fails, it guards against nothing."""
    monkeypatch.setattr(load, "compare", lambda *_, **__: Report())
    world = TestWorld([loaded(built("mixa", 10)), loaded(built("mixb", 60))])
    assert numbers(world, "mixa") == [11, 11, 11, 11, 11, 10]
    assert numbers(world, "mixb") == [61, 12, 12, 12, 12, 60]


def test_exported_names_of_two_libraries_are_told_and_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FakeLog()
    monkeypatch.setattr(load, "log", log)
    flags = ("-fno-gnu-unique",)
    world = TestWorld([loaded(built("opena", 10, *flags)), loaded(built("openb", 60, *flags))])
    assert numbers(world, "opena") == [11, 11, 11, 11, 11, 10]
    assert numbers(world, "openb") == [61, 61, 61, 61, 61, 60]
    (note,) = log.notes
    assert "_Z4makev" in note and "exported by opena 1.0.0" in note


def test_names_that_the_program_has_are_refused() -> None:
    flags = ("-fno-gnu-unique", "-Dordinary=PyList_New")
    with pytest.raises(PluginLoadError, match="PyList_New: exported, and the program has them too"):
        loaded(built("taker", 10, *flags))


def test_a_library_that_makes_itself_global_is_refused() -> None:
    with pytest.raises(PluginLoadError, match="DF_1_GLOBAL"):
        loaded(built("global", 10, *KEPT_APART, "-Wl,-z,global"))


# --- dependencies ---


def dependency(name: str, soname: str, value: int) -> Path:
    """A folder with a library of this soname, whose function `dependency` gives `value`."""
    where = folder() / name
    where.mkdir()
    source = where / "dependency.c"
    source.write_text(f"int dependency(void) {{ return {value}; }}\n")
    command = [*compiler("c"), "-shared", "-fPIC", f"-Wl,-soname,{soname}", str(source)]
    subprocess.run([*command, "-o", str(where / soname)], check=True)
    return where


def needing(name: str, of: Path, soname: str, runpath: str) -> Path:
    """A plugin that needs this library: WHO is what its function gives."""
    source = SOURCE.replace("struct Shape {", 'extern "C" int dependency();\nstruct Shape {', 1)
    named = (f'-DNAME="{name}"', '-DVERSION="1.0.0"', "-DWHO=dependency()", "-std=c++17")
    search = (str(of / soname), f"-Wl,-rpath,{runpath}")
    return library(folder() / name, source, *named, *KEPT_APART, *search, plugin=name)


def test_a_dependency_of_the_same_name_from_elsewhere_is_named_and_refused() -> None:
    here, there = dependency("dep-a", "libdep.so", 10), dependency("dep-b", "libdep.so", 60)
    world = TestWorld([loaded(needing("needa", here, "libdep.so", str(here)))])
    assert numbers(world, "needa")[0] == 11
    other = needing("needb", there, "libdep.so", str(there))
    with pytest.raises(PluginLoadError) as caught:
        loaded(other)
    assert f"it needs libdep.so from {there / 'libdep.so'}" in str(caught.value)
    assert f"from {here / 'libdep.so'} already" in str(caught.value)
    again = TestWorld([loaded(needing("needc", here, "libdep.so", str(here)))])
    assert numbers(again, "needc")[0] == 11


def test_a_dependency_beside_the_library_is_found_by_origin() -> None:
    here = dependency("dep-o", "liborigin.so", 20)
    world = TestWorld([loaded(needing("origin", here, "liborigin.so", "$ORIGIN/../dep-o"))])
    assert numbers(world, "origin")[0] == 21


# --- the comparison itself ---


def elf(**fields: object) -> Elf:
    usual: dict[str, object] = {
        "soname": "",
        "needed": (),
        "search": (),
        "exports": frozenset({ENTRY}),
        "unique": frozenset(),
        "makes_global": False,
    }
    return Elf(**{**usual, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "brought", "refused"),
    [
        (None, set(), False),
        (None, {"libz.so"}, True),
        (File("/b/libz.so", (1, 2)), set(), True),
        (File("/b/libz.so", (1, 1)), set(), False),
    ],
)
def test_what_a_needed_name_means(own: File | None, brought: set[str], refused: bool) -> None:
    report = compare(
        elf(),
        [],
        needed={"libz.so": own},
        mapped={"libz.so": File("/a/libz.so", (1, 1))},
        brought=brought,
        in_program=lambda name: False,
    )
    assert bool(report.refusals) == refused


def test_long_lists_are_cut_and_what_linkers_add_is_nobodys() -> None:
    names = frozenset(f"name{number:02}" for number in range(20))
    report = compare(
        elf(exports=names | {"_end", ENTRY}),
        [Loaded("other 1.0", elf(exports=names | {"_end", ENTRY}))],
        needed={},
        mapped={},
        brought=(),
        in_program=lambda name: name == "_end",
    )
    assert not report.refusals
    assert "name07 and 12 more" in report.notes[0] and "_end" not in report.notes[0]
