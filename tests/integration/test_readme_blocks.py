"""scripts/readme-blocks itself: it runs what a document says, and notices when it is not so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/readme-blocks"


def run(folder: Path, document: str) -> tuple[int, str]:
    """Run a document in a folder of its own: status, and all that was said."""
    file = folder / "DOC.md"
    file.write_text(document.replace("'''", "```"))
    done = subprocess.run(
        [sys.executable, SCRIPT, file, "--tree", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_a_document_that_is_right(tmp_path: Path) -> None:
    document = """\
# A document

'''sh
mkdir -p sub && cd sub
echo one >file
'''

'''text
false
'''

  * indented, and still in the folder of the block before:

    '''console
    $ cat file; echo "two   3.5 ms"
    one
    two 12 ms
    $ printf 'a\\nb\\nc\\n' | \\
      tac
    c
    …
    a
    '''

'''sh status=3
exit 3
'''

'''sh skip="not here"
false
'''

'''sh needs=no-such-program
false
'''

'''sh needs=cat
cat /dev/null
'''
"""
    status, said = run(tmp_path, document)
    assert status == 0, said
    assert said.count("ok   DOC.md:") == 4
    assert "skip DOC.md:29  not here" in said
    assert "skip DOC.md:33  no no-such-program in PATH" in said
    assert (tmp_path / "sub/file").read_text() == "one\n"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("'''sh\ntrue\nfalse\ntrue\n'''", "status 1, not 0"),
        ("'''sh timeout=0.2\nsleep 30\n'''", "did not end within"),
        ("'''console\n$ echo one\ntwo\n'''", "did not print (in this place): two"),
        ("'''console\n$ printf 'a\\nb\\n'\nb\na\n'''", "did not print (in this place): a"),
        ("'''console\n$ echo one two\none\n'''", "did not print (in this place): one"),
        ("'''sh until=\"never\" timeout=0.3\nsleep 30\n'''", "was not printed in time"),
        ("'''sh until=\"never\"\ntrue\n'''", "ended, status 0"),
        ("'''sh\nsetsid sleep 29.75 >/dev/null 2>&1 &\n'''", "left running and had to be stopped"),
    ],
)
def test_a_document_that_is_wrong(tmp_path: Path, document: str, words: str) -> None:
    status, said = run(tmp_path, document)
    assert status == 1, said
    assert words in said
    assert not _runs("sleep 29.75")


def test_a_command_that_keeps_running_is_stopped_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "serve").write_text(
        "#!/bin/sh\ntrap 'echo stopped >stopped; exit 0' INT\necho it is ready\nwhile :; do sleep 0.1; done\n"
    )
    (tmp_path / "serve").chmod(0o755)
    document = "'''sh until=\"is ready\"\n./serve\n'''\n\n'''sh\ntest ! -e stopped\n'''\n"
    status, said = run(tmp_path, document)
    assert status == 0, said
    assert (tmp_path / "stopped").read_text() == "stopped\n"


def test_the_reader_has_a_home_and_a_state_folder_of_its_own(tmp_path: Path) -> None:
    document = "'''sh\necho \"$HOME $CS_STATE_DIR ${CS_NODE-none}\" >seen\n'''\n"
    os.environ["CS_NODE"] = "n9"
    try:
        status, said = run(tmp_path, document)
    finally:
        del os.environ["CS_NODE"]
    assert status == 0, said
    home, state, node = (tmp_path / "seen").read_text().split()
    assert home != os.environ.get("HOME")
    assert state.startswith(home.rpartition("/")[0])
    assert node == "none"


def _runs(command: str) -> bool:
    wanted = command.encode().replace(b" ", b"\0") + b"\0"
    return any(_command_line(entry) == wanted for entry in Path("/proc").glob("[0-9]*"))


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""
