"""The ELF reader: what it finds, and that damaged files are refused and never anything else."""

from __future__ import annotations

import platform
from pathlib import Path
from random import Random

import pytest

from partition.native.elf import read_elf
from tests.native import compiler, library

SOURCE = """// c++
int shown = 1;
static int hidden = 2;
__attribute__((weak)) int weak() { return hidden; }
template <class T> struct Cell { static int value; };
template <class T> int Cell<T>::value = 1;
int use() { return Cell<int>::value; }
extern "C" int puts(const char *);
int say() { return puts("x"); }
"""


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_names_dependencies_and_symbols(style: str, tmp_path: Path) -> None:
    flags = ("-Wl,-soname,libown.so.1", "-Wl,-rpath,/opt/one:$ORIGIN/two", f"-Wl,--hash-style={style}")
    path = library(tmp_path, SOURCE, *flags) / "libsmall.so"
    elf = read_elf(path.read_bytes(), platform.machine())
    assert elf.soname == "libown.so.1" and elf.search == ("/opt/one", "$ORIGIN/two")
    assert "libc.so.6" in elf.needed
    assert {"shown", "_Z4weakv", "_Z3usev", "_Z3sayv", "_ZN4CellIiE5valueE"} <= elf.exports
    assert not {"puts", "hidden"} & elf.exports
    assert elf.unique == {"_ZN4CellIiE5valueE"}
    assert not elf.makes_global


def test_without_unique_symbols_and_with_nothing_to_show(tmp_path: Path) -> None:
    path = library(tmp_path, "// c++\nstatic int only = 1;\n", "-nostdlib") / "libsmall.so"
    elf = read_elf(path.read_bytes(), platform.machine())
    assert (elf.exports, elf.unique, elf.needed, elf.soname) == (frozenset(), frozenset(), (), "")


def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    compiler()
    whole = (library(tmp_path, SOURCE) / "libsmall.so").read_bytes()
    dice = Random(5)
    refused = 0
    for _ in range(600):
        damaged = bytearray(whole)
        if dice.random() < 0.3:
            del damaged[dice.randrange(len(damaged)) :]
        for _ in range(dice.choice((1, 1, 4))):
            at = dice.randrange(min(len(damaged), dice.choice((64, 1024, 4096))) or 1)
            if at < len(damaged):
                damaged[at : at + 8] = dice.randbytes(8) if dice.random() < 0.5 else b"\xff" * 8
        try:
            read_elf(bytes(damaged), platform.machine())
        except ValueError:
            refused += 1
    assert 100 < refused < 600
