"""The `cs` script: what makes .venv, when, and that a call which was interrupted never counts.

Most tests give it a Python that only pretends, so that they take a moment; one lets it install
everything, in a path with a space, with nothing but PATH in its environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
TREE = (
    "cs",
    "pyproject.toml",
    "requirements.lock",
    "README.md",
    "connserver",
    "gateway",
    "partition",
    "gossip",
)
WAIT_S = 20

# Does what `cs` asks of a Python: the lock for real, a virtual environment for show. Files beside the
# script steer it: `no-venv` (the venv module is missing), `pip-fails`, `pip-hangs` (a pipe to read).
FAKE_PYTHON = """#!/bin/sh
here={here}
echo "python $*" | head -n 1 >>"$here/calls"
case "$1 $2" in
  "-c import ensurepip"*) [ ! -e "$here/no-venv" ] ;;
  "-c import sys; print("*) echo python3.11-venv ;;
  "-c "*) exec {python} "$@" ;;
  "-m venv")
    rm -rf "$4/bin"; mkdir -p "$4/bin"  # a stamp is left: clearing, too, may be interrupted
    cp "$here/fake-venv-python" "$4/bin/python"
    printf '#!/bin/sh\\nprintf "%%s\\\\n" "$PWD" "$@"\\n' >"$4/bin/cs-cluster"
    chmod +x "$4/bin/cs-cluster" ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
FAKE_VENV_PYTHON = """#!/bin/sh
here={here}
echo "venv $*" >>"$here/calls"
case "$2" in
  pip) if [ -p "$here/pip-hangs" ]; then read -r _ <"$here/pip-hangs"; fi; [ ! -e "$here/pip-fails" ] ;;
  pytest) printf '%s\\n' "$PWD" "$@" ;;
esac
"""


class Tree:
    """A tree with `cs` in it and a Python that pretends."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a tree with spaces"
        self.tools = folder / "tools"
        self.root.mkdir()
        self.tools.mkdir()
        for name in ("cs", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.root / name)
        for name, text in (("fake-python", FAKE_PYTHON), ("fake-venv-python", FAKE_VENV_PYTHON)):
            path = self.tools / name
            path.write_text(
                text.replace("{here}", f"'{self.tools}'").replace("{python}", f"'{sys.executable}'")
            )
            path.chmod(0o755)
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: str, cwd: Path | None = None, path: str = "/usr/bin:/bin"
    ) -> subprocess.Popen[str]:
        """Start `cs` in a process group of its own."""
        process = subprocess.Popen(
            ["sh", str(self.root / "cs"), *arguments],
            env={"PATH": path, "PYTHON": str(self.tools / "fake-python")},
            cwd=cwd or self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(
        self, *arguments: str, cwd: Path | None = None, path: str = "/usr/bin:/bin"
    ) -> tuple[int, str, str]:
        """Run `cs` to its end: status, output, messages."""
        process = self.start(*arguments, cwd=cwd, path=path)
        out, errors = process.communicate(timeout=WAIT_S)
        return process.returncode, out, errors

    def calls(self, what: str) -> int:
        """How often the pretended Python was asked for something."""
        calls = self.tools / "calls"
        return calls.read_text().count(what) if calls.exists() else 0

    def hang_pip(self) -> Path:
        """Have pip wait until something is written to the pipe that this returns."""
        pipe = self.tools / "pip-hangs"
        os.mkfifo(pipe)
        return pipe

    def stop(self) -> None:
        """End whatever a failed test left behind."""
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.communicate(timeout=WAIT_S)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    yield made
    made.stop()


def wait_for_line(process: subprocess.Popen[str], word: str) -> str:
    """Read the messages of a process up to the line with a word."""
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return line
    raise AssertionError(f"{word!r} was never said")


def test_first_call_installs_and_the_second_does_not(tree: Tree) -> None:
    status, out, errors = tree.run("status", "--json", "two words")
    assert status == 0, errors
    assert out.splitlines() == [str(tree.root), "status", "--json", "two words"]
    assert "installing into" in errors
    status, out, errors = tree.run("status")
    assert (status, errors) == (0, "")
    assert tree.calls("-m venv") == 1
    assert tree.calls("-m pip install") == 2


def test_the_lock_file_is_installed_by_its_hashes(tree: Tree) -> None:
    tree.run("status")
    calls = (tree.tools / "calls").read_text().splitlines()
    assert any("--require-hashes" in call and "requirements.lock" in call for call in calls)


def test_paths_in_arguments_count_from_where_the_caller_is(tree: Tree, tmp_path: Path) -> None:
    status, out, errors = tree.run("check", "cluster.toml", cwd=tmp_path)
    assert status == 0, errors
    assert out.splitlines() == [str(tmp_path), "check", "cluster.toml"]


def test_test_runs_pytest_in_the_tree(tree: Tree, tmp_path: Path) -> None:
    status, out, errors = tree.run("test", "-k", "a or b", cwd=tmp_path)
    assert status == 0, errors
    assert out.splitlines() == [str(tree.root), "-m", "pytest", "-k", "a or b"]


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_installs_anew_and_so_does_going_back(tree: Tree, name: str) -> None:
    before = (tree.root / name).read_text()
    tree.run("status")
    (tree.root / name).write_text(before + "\n# changed\n")
    tree.run("status")
    (tree.root / name).write_text(before)
    tree.run("status")
    assert tree.calls("-m venv") == 3


def test_a_moved_tree_installs_anew(tree: Tree) -> None:
    tree.run("status")
    tree.root = tree.root.rename(tree.root.with_name("elsewhere"))
    status, out, _ = tree.run("status")
    assert (status, out.splitlines()[0]) == (0, str(tree.root))
    assert tree.calls("-m venv") == 2


def test_a_vanished_python_installs_anew(tree: Tree) -> None:
    tree.run("status")
    (tree.root / ".venv/bin/python").unlink()
    assert tree.run("status")[0] == 0
    assert tree.calls("-m venv") == 2


def test_a_failed_install_does_not_count(tree: Tree) -> None:
    (tree.tools / "pip-fails").touch()
    status, out, _ = tree.run("status")
    assert (status != 0, out) == (True, "")
    (tree.tools / "pip-fails").unlink()
    assert tree.run("status")[0] == 0
    assert tree.calls("-m venv") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_install_does_not_count(tree: Tree, number: signal.Signals) -> None:
    tree.run("status")
    with (tree.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    pipe = tree.hang_pip()
    process = tree.start("status")
    wait_for_line(process, "installing into")
    with pipe.open("w"):  # opens once pip reads: the environment is half made
        os.killpg(process.pid, number)
        process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    pipe.unlink()
    shutil.copy(ROOT / "requirements.lock", tree.root / "requirements.lock")
    assert tree.run("status")[0] == 0
    assert tree.calls("-m venv") == 3, "what was there before the interrupted call counted again"


def test_two_first_calls_at_once_install_once(tree: Tree) -> None:
    pipe = tree.hang_pip()
    first = tree.start("status", "first")
    wait_for_line(first, "installing into")
    second = tree.start("status", "second")
    wait_for_line(second, "waiting for it")
    pipe_out = pipe.open("w")
    pipe.unlink()
    pipe_out.write("go on\n")
    pipe_out.close()
    for process, word in ((first, "first"), (second, "second")):
        out, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors
        assert out.splitlines()[-1] == word
    assert tree.calls("-m venv") == 1


def test_a_bare_debian_gets_its_venv_module_or_is_told_what_to_type(tree: Tree) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may install packages; others are told what to type")
    (tree.tools / "no-venv").touch()
    apt_get = tree.tools / "apt-get"
    apt_get.write_text(f"#!/bin/sh\necho \"apt-get $*\" >>'{tree.tools}/calls'\nexit 1\n")
    apt_get.chmod(0o755)
    path = f"{tree.tools}:/usr/bin:/bin"
    status, _, errors = tree.run("status", path=path)
    assert status == 1
    assert errors.splitlines()[-1] == "cs: that did not work; as root, type: apt-get install python3.11-venv"
    apt_get.write_text(
        f"#!/bin/sh\necho \"apt-get $*\" >>'{tree.tools}/calls'\nrm -f '{tree.tools}/no-venv'\n"
    )
    status, out, errors = tree.run("status", path=path)
    assert status == 0, errors
    assert out.splitlines() == [str(tree.root), "status"], "what apt-get prints is no output of ours"
    assert tree.calls("apt-get install -yq --no-install-recommends python3.11-venv") == 1


def test_an_old_or_missing_python_is_named(tree: Tree) -> None:
    (tree.tools / "fake-python").write_text(
        f"#!/bin/sh\nshift; exec '{sys.executable}' -c \"import sys; sys.version_info = (3, 9, 2)\n$1\"\n"
    )
    status, _, errors = tree.run("status")
    assert status == 1
    assert "Python 3.11 or newer is needed" in errors
    (tree.tools / "fake-python").unlink()
    status, _, errors = tree.run("status")
    assert status == 1
    assert "install Python 3.11 or newer" in errors
    assert not (tree.root / ".venv").exists()


def test_an_installed_tree_adds_less_than_50_ms(tree: Tree) -> None:
    tree.run("status")
    best = min(_seconds(tree) for _ in range(5))
    assert best < 0.05, f"{best * 1000:.0f} ms"


def _seconds(tree: Tree) -> float:
    begun = time.perf_counter()
    tree.run("status")
    return time.perf_counter() - begun


@pytest.mark.timeout(400)
def test_everything_installs_from_nothing_but_path(tmp_path: Path) -> None:
    root = tmp_path / "from nothing"
    root.mkdir()
    for name in TREE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        ["sh", "./cs", "test", "--version"],
        cwd=root,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pytest ")
    python = root / ".venv/bin/python"
    check = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, timeout=60)
    assert check.returncode == 0, f"requirements.lock is not complete:\n{check.stdout}"
    where = subprocess.run(
        [python, "-P", "-c", "import connserver; print(connserver.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert where.stdout.strip() == str(root / "connserver/__init__.py"), where.stderr
