"""Plugins in C++ for tests: compiled once per session, outside of the source tree.

Without a compiler the tests that need one are skipped, with the reason. `library` is for small sources that
a test writes itself, `sample` for a folder of `plugins/`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from connserver.errors import PluginLoadError
from connserver.native.build import EXPORTS, HERE, build_plugin, find_compiler
from connserver.plugin.declare import Plugin
from partition.loader import load_plugin
from partition.manifest import NATIVE, read_manifest

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"

KEPT_APART = ("-fvisibility=hidden", "-fno-gnu-unique", f"-Wl,--version-script={EXPORTS}")
"""What keeps a library's names its own."""


@cache
def folder() -> Path:
    """A folder for this session's libraries; also for workers of another account."""
    made = Path(tempfile.mkdtemp(prefix="cs-native-"))
    made.chmod(0o755)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def compiler(language: str = "c++") -> tuple[str, ...]:
    """The compiler's command; skips the test if there is none."""
    try:
        found = find_compiler(language)
    except PluginLoadError as error:
        pytest.skip(str(error))
    if found.clang:
        pytest.skip("the tests' own flags are GCC's")
    return found.command


@cache
def sample(name: str) -> Path:
    """A folder with a sample plugin, built."""
    compiler()
    target = folder() / name
    shutil.copytree(PLUGINS / name, target, ignore=shutil.ignore_patterns("*.so"))
    manifest = read_manifest(target, built=False)
    build_plugin(target, manifest.entry, ("-g0", "-O1"))
    return target


@cache
def loaded(name: str) -> Plugin:
    """A sample plugin, in Python or C++, loaded once."""
    path = PLUGINS / name
    return load_plugin(sample(name) if read_manifest(path, built=False).language == NATIVE else path)


def library(where: Path, source: str, *flags: str, plugin: str = "small", version: str = "1.0.0") -> Path:
    """A folder with a plugin of one source in C, or in C++ if its first line is `// c++`."""
    language = "c++" if source.lstrip().startswith("// c++") else "c"
    where.mkdir(parents=True, exist_ok=True)
    text = where / ("main.cpp" if language == "c++" else "main.c")
    text.write_text(source)
    (where / "plugin.toml").write_text(
        f'name = "{plugin}"\nversion = "{version}"\nlanguage = "c++"\nentry = "libsmall.so"\n'
    )
    command = [*compiler(language), "-shared", "-fPIC", "-O1", f"-I{HERE}", os.fspath(text), *flags]
    done = subprocess.run(
        [*command, "-o", os.fspath(where / "libsmall.so")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return where
