"""Compiling: what is found, what is said, and that only whole libraries appear."""

from __future__ import annotations

import struct
import subprocess
import sysconfig
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest
from click.testing import CliRunner

from connserver.cli.plugin_build import build_command
from connserver.errors import ConnServerError, PluginLoadError
from connserver.native.build import (
    HERE,
    HOST_SOURCES,
    build_plugin,
    cache_folder,
    find_compiler,
    host_library,
)
from tests.native import compiler, folder

pytestmark = pytest.mark.timeout(300)  # a compiler on a busy machine takes its time

MANIFEST = 'name = "tiny"\nversion = "1.0.0"\nlanguage = "c++"\nentry = "libtiny.so"\n'
TINY = """
#include "connserver.h"
static int32_t run(void *, cs_context *, uint64_t, cs_view) { return CS_OK; }
static cs_method method = {sizeof(cs_method), CS_CLIENT, 0, 0, "tiny.run", 0, 0, 0, 0, {0, 0}, run, 0};
static cs_plugin plugin = {sizeof(cs_plugin), CS_ABI, CS_ABI, 0, 1, 0, "tiny", "1.0.0", 0, &method, 0};
int named = 1;
extern "C" const cs_plugin *connserver_plugin(const cs_host *) { return &plugin; }
"""


def tiny(where: Path, source: str = TINY) -> Path:
    (where / "src").mkdir(parents=True)
    (where / "plugin.toml").write_text(MANIFEST)
    (where / "src" / "tiny.cpp").write_text(source)
    return where


# --- cs-cluster plugin build ---


def build(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(build_command, arguments)
    error = done.exception
    if error is not None and not isinstance(error, (ConnServerError, SystemExit)):
        raise error
    return done.exit_code, done.output + (str(error) if error else "")


def test_a_plugin_is_built_and_loaded(tmp_path: Path) -> None:
    compiler()
    where = tiny(tmp_path / "tiny")
    status, said = build(str(where))
    assert (status, said) == (0, f"{where / 'libtiny.so'}: tiny 1.0.0, 1 methods\n")
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", str(where / "libtiny.so")], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in symbols.stdout.splitlines()] == ["connserver_plugin"]
    assert sorted(path.name for path in where.iterdir()) == ["libtiny.so", "plugin.toml", "src"]


def test_what_the_compiler_says_is_shown_and_the_old_library_stays(tmp_path: Path) -> None:
    compiler()
    where = tiny(tmp_path / "tiny", TINY + "int broken(")
    (where / "libtiny.so").write_bytes(b"the old one")
    status, said = build(str(where))
    assert status == 1
    assert "tiny.cpp" in said and "error:" in said and "ended with status 1" in said
    assert (where / "libtiny.so").read_bytes() == b"the old one"
    (where / "src" / "tiny.cpp").write_text(TINY + "int missing();\nint use() { return missing(); }\n")
    status, said = build(str(where))
    assert status == 1 and "undefined reference" in said
    assert sorted(path.name for path in where.iterdir()) == ["libtiny.so", "plugin.toml", "src"]


def test_words_after_the_folder_go_to_the_compiler(tmp_path: Path) -> None:
    compiler()
    where = tiny(tmp_path / "tiny", "#ifndef WANTED\n#error it is not there\n#endif\n" + TINY)
    with pytest.raises(PluginLoadError, match="it is not there"):
        build_plugin(where, "libtiny.so")
    library, said = build_plugin(where, "libtiny.so", ["-DWANTED", "-O0"])
    assert library.is_file() and not said


def test_a_folder_that_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text(MANIFEST)
    status, said = build(str(tmp_path))
    assert status == 1 and "there are no sources to compile" in said
    (tmp_path / "main.py").write_text("")
    (tmp_path / "plugin.toml").write_text(MANIFEST.replace("c++", "python").replace("libtiny.so", "main.py"))
    status, said = build(str(tmp_path))
    assert status == 1 and "a plugin in python, and needs no building" in said


# --- compilers ---


def test_without_a_compiler_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    status, said = build(str(tiny(tmp_path / "tiny")))
    assert status == 1 and "there is no compiler for C++" in said and "apt-get install g++" in said
    monkeypatch.setenv("CS_NATIVE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PluginLoadError, match=r"need a C compiler once, for .*apt-get install g"):
        host_library()
    monkeypatch.setenv("CXX", "nowhere-g++ -m32")
    with pytest.raises(PluginLoadError, match=r"\$CXX names nowhere-g\+\+"):
        find_compiler()


def test_the_host_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler("c")
    monkeypatch.setenv("CS_NATIVE_CACHE", str(tmp_path / "cache"))
    library = host_library()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("PATH", "")
    assert host_library() == library


def test_nothing_is_loaded_from_where_others_can_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("CS_NATIVE_CACHE", str(tmp_path / "open"))
    with pytest.raises(PluginLoadError, match=r"others can write to .*chmod 700"):
        cache_folder()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CS_NATIVE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(PluginLoadError, match="cannot be made"):
        cache_folder()


# --- the sources ---

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only")


@pytest.mark.parametrize("standard", ["c11", "c++17", "c++20"])
def test_the_header_is_plain_c_and_c_plus_plus(standard: str, tmp_path: Path) -> None:
    language = "c++" if "++" in standard else "c"
    include = tmp_path / "only.h"
    include.write_text('#include "connserver.h"\n')
    command = [*compiler(language), f"-std={standard}", *STRICT, f"-I{HERE}", "-x", language, str(include)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_host_compiles_without_a_warning() -> None:
    sources = [str(HERE / name) for name in HOST_SOURCES]
    flags = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
    done = subprocess.run([*compiler("c"), *flags, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_host_knows_of_python_is_what_python_says(tmp_path: Path) -> None:
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").is_file():
        pytest.skip(f"{include} has no Python.h")
    source = tmp_path / "compare.c"
    source.write_text(
        "#define Py_LIMITED_API 0x030b0000\n#include <Python.h>\n"
        '#define CS_COMPARE_WITH_PYTHON_H\n#include "python_abi.h"\n'
        '_Static_assert(METH_FASTCALL == 0x80, "");\n'
    )
    flags = ("-std=c11", "-Wall", "-Werror", "-fsyntax-only", f"-I{HERE}", f"-I{include}")
    done = subprocess.run([*compiler("c"), *flags, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ECHO = """
#include <iostream>
#include <iterator>

#include "connserver_values.hpp"

int main() {
    const std::string all{std::istreambuf_iterator<char>(std::cin), {}};
    std::string out;
    for (std::size_t at = 0; at < all.size();) {
        std::uint32_t size;
        std::memcpy(&size, all.data() + at, 4);
        // a copy of its own, so that reading past its end is noticed
        const std::string one = all.substr(at + 4, size);
        at += 4 + size;
        cs::Writer writer;
        try {
            cs::Reader reader({one.data(), one.size()});
            reader.value().write(writer);
            cs::Reader({one.data(), one.size()}).skip();
            if (!reader.done()) writer.out = "!";
        } catch (const cs::BadValue &) {
            writer.out = "!";
        }
        size = static_cast<std::uint32_t>(writer.out.size());
        out.append(reinterpret_cast<const char *>(&size), 4).append(writer.out);
    }
    std::cout << out;
}
"""


def echoed(samples: list[bytes]) -> list[bytes]:
    """Samples, read and written again by the C++ wrapper; b"!" for what it refuses."""
    where = folder() / "echo"
    if not where.exists():
        where.with_suffix(".cpp").write_text(ECHO)
        flags = ("-std=c++17", "-O1", f"-I{HERE}", "-fsanitize=address,undefined", "-fno-sanitize-recover")
        command = [*compiler(), *flags, str(where.with_suffix(".cpp")), "-o", str(where)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "cannot find" in done.stderr:
            pytest.skip("the compiler has no sanitizers")
        assert done.returncode == 0, done.stderr
    given = b"".join(struct.pack("<I", len(sample)) + sample for sample in samples)
    answered = subprocess.run([str(where)], input=given, capture_output=True, check=False)
    assert answered.returncode == 0, answered.stderr.decode()
    found, out = [], answered.stdout
    while out:
        (size,) = struct.unpack_from("<I", out)
        found.append(out[4 : 4 + size])
        out = out[4 + size :]
    return found


def value(dice: Random, levels: int = 4) -> Any:
    sort = dice.randrange(9 if levels else 7)
    if sort < 2:
        return dice.choice((1, -1)) * dice.randrange(1 << dice.randrange(1, 63))
    if sort < 7:
        size = dice.choice((0, 3, 31, 32, 255, 256, 70_000) if levels == 4 else (0, 1, 40))
        return (None, dice.random() < 0.5, dice.uniform(-1e9, 1e9), "x" * size, b"\xff" * size)[sort - 2]
    count = dice.choice((0, 1, 15, 16) if levels > 2 else (0, 1))
    items = [value(dice, levels - 1) for _ in range(count)]
    return items if sort == 7 else {f"m{number}": item for number, item in enumerate(items)}


def test_values_come_back_from_cpp_as_they_were() -> None:
    dice = Random(3)
    samples = [msgpack.packb(value(dice)) for _ in range(500)]
    assert echoed(samples) == samples


def test_broken_values_are_refused_by_cpp_and_nothing_is_read_beyond_them() -> None:
    dice = Random(4)
    samples = [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xc7\x01\x05x",
    ]
    for _ in range(500):
        sample = bytearray(msgpack.packb(value(dice, 3)))
        if dice.random() < 0.5:
            del sample[dice.randrange(len(sample)) :]
        else:
            sample[dice.randrange(len(sample))] = dice.randrange(256)
        samples.append(bytes(sample))
    answers = echoed(samples)
    assert answers[:6] == [b"!"] * 6
    assert 100 < answers.count(b"!") < 500
