"""Finding a compiler, and what is compiled with it: plugins in C++, and the host that loads them.

Guards three rules. What a compiler is told is a list of words, never a line for a shell. What is built
appears whole under its name or not at all, so a worker never loads half a library. And code is only
loaded from a folder that nobody else can write to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connserver.errors import PluginLoadError
from connserver.limits import COMPILER_OUTPUT_CHARS, COMPILER_S

HERE: Final = Path(__file__).parent
"""Where connserver.h and connserver.hpp are: the include folder of plugins."""

EXPORTS: Final = HERE / "exports.map"

PLUGIN_SOURCES: Final = (".cpp", ".cc", ".cxx")
PLUGIN_HEADERS: Final = (".h", ".hpp")
PLUGIN_FLAGS: Final = (
    "-std=c++17",
    "-O2",
    "-g1",
    "-Wall",
    "-Wextra",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
)
HOST_SOURCES: Final = ("host.c", "call.c", "table.c")
HOST_HEADERS: Final = ("connserver.h", "host.h", "python_abi.h")
HOST_FLAGS: Final = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-z,now")

INSTALL: Final = (
    "install one: apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora), apk add g++"
)


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler as it is called. `clang`: it is Clang, which never makes the symbols that
    -fno-gnu-unique is there to avoid, and does not know that word."""

    command: tuple[str, ...]
    clang: bool


def find_compiler(language: str = "c++") -> Compiler:
    """$CXX, else g++, clang++ or c++; for "c" $CC, else gcc, clang or cc. PluginLoadError: none is there."""
    variable, known = (
        ("CXX", ("g++", "clang++", "c++")) if language == "c++" else ("CC", ("gcc", "clang", "cc"))
    )
    try:
        chosen = shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise PluginLoadError(f"${variable} cannot be read: {error}") from None
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise PluginLoadError(f"${variable} names {chosen[0]}, and there is no such program")
        return _told(tuple(chosen))
    for name in known:
        if shutil.which(name) is not None:
            return _told((name,))
    raise PluginLoadError(f"there is no compiler for {language.upper()} ({', '.join(known)}); {INSTALL}")


def _told(command: tuple[str, ...]) -> Compiler:
    return Compiler(command, "clang" in _run([*command, "--version"], None).lower())


def build_plugin(folder: Path, entry: str, more: Sequence[str] = ()) -> tuple[Path, str]:
    """Compile a plugin's sources (in its folder and in `src` below it) into `entry`.

    `more`: further words for the compiler. The library, and what the compiler said (warnings).
    PluginLoadError with the compiler's words if it fails.
    """
    sources = sources_of(folder)
    if not sources:
        raise PluginLoadError(f"{folder}: there are no sources to compile; {', '.join(PLUGIN_SOURCES)} are")
    compiler = find_compiler()
    # Clang's linker merges nothing, so only GCC needs to be told
    unique = () if compiler.clang else ("-fno-gnu-unique",)
    command = [
        *compiler.command,
        *PLUGIN_FLAGS,
        *unique,
        f"-I{HERE}",
        f"-ffile-prefix-map={folder}=.",
        *map(os.fspath, sources),
        f"-Wl,--version-script={EXPORTS}",
        "-Wl,--no-undefined",
        *more,
    ]
    library = folder / entry
    return library, _compile(command, library)


def sources_of(folder: Path) -> list[Path]:
    """The C++ sources of a plugin, in order."""
    found = [path for place in (folder, folder / "src") for path in place.glob("*") if path.is_file()]
    return sorted(path for path in found if path.suffix in PLUGIN_SOURCES)


def is_stale(folder: Path, entry: str) -> bool:
    """Whether a plugin's library is missing, or older than one of its sources or headers.

    One that has no sources here was made elsewhere, and is never stale.
    """
    if not sources_of(folder):
        return False
    library = folder / entry
    if not library.is_file():
        return True
    written = [
        path.stat().st_mtime_ns
        for place in (folder, folder / "src")
        for path in place.glob("*.*")
        if path.suffix in (*PLUGIN_SOURCES, *PLUGIN_HEADERS)
    ]
    return max(written) > library.stat().st_mtime_ns


def host_library() -> Path:
    """The host for this machine, compiled if it is not there yet; PluginLoadError says what is missing."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise PluginLoadError(
            "plugins in C++ need a Python with the interpreter lock; this one is built without"
        )
    folder = cache_folder()
    library = folder / f"host-{_fingerprint()}.so"
    if library.is_file():
        return library
    try:
        compiler = find_compiler("c")
    except PluginLoadError as error:
        raise PluginLoadError(f"plugins in C++ need a C compiler once, for {library}: {error}") from None
    with _locked(folder / "lock"):
        if not library.is_file():
            sources = [os.fspath(HERE / name) for name in HOST_SOURCES]
            _compile([*compiler.command, *HOST_FLAGS, *sources, "-ldl"], library)
    return library


def cache_folder() -> Path:
    """The user's folder for what is compiled, made if it is not there; nobody else can write to it.

    $CS_NATIVE_CACHE, else connserver in $XDG_CACHE_HOME or ~/.cache.
    """
    given = os.environ.get("CS_NATIVE_CACHE")
    folder = Path(given) if given else _user_cache() / "connserver"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise PluginLoadError(
            f"{folder} cannot be made ({error.strerror}); CS_NATIVE_CACHE=/path names another folder"
        ) from None
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise PluginLoadError(
            f"others can write to {folder}, and programs are loaded from it: chmod 700 it as its owner, or "
            "CS_NATIVE_CACHE=/path names another folder"
        )
    return folder


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given) if given and Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise PluginLoadError("there is no home folder; CS_NATIVE_CACHE=/path names a folder") from None


def _fingerprint() -> str:
    """Differs whenever the host would: by its sources, how it is compiled, and the kind of machine."""
    digest = hashlib.sha256(f"{platform.machine()} {platform.libc_ver()} {HOST_FLAGS}".encode())
    for name in (*HOST_SOURCES, *HOST_HEADERS):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(command: list[str], library: Path) -> str:
    """Run a compiler; its result takes the library's place at once."""
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=library.parent) as folder:
            built = Path(folder) / f"{library.name}.part"
            said = _run([*command, "-o", os.fspath(built)], library)
            built.replace(library)
    except OSError as error:
        raise PluginLoadError(f"{library} cannot be built: {error.strerror or error}") from None
    return said


def _run(command: list[str], building: Path | None) -> str:
    """What a command says; PluginLoadError with its words if it fails."""
    for_whom = f" for {building}" if building else ""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMPILER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PluginLoadError(f"{command[0]} did not end within {COMPILER_S} s{for_whom}") from None
    said = done.stdout.decode(errors="replace").strip()
    if len(said) > COMPILER_OUTPUT_CHARS:
        # the first fault is the one to mend
        said = said[:COMPILER_OUTPUT_CHARS] + "\n… (more was said)"
    if done.returncode != 0:
        raise PluginLoadError(
            f"{shlex.join(command)}\nended with status {done.returncode}{for_whom}:\n{said}"
        )
    return said
