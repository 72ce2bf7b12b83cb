"""What README and the tutorial say to type works as it says, in a fresh copy of the tree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native import compiler

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_every_command_of_readme_and_tutorial_does_what_it_says() -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "readme-blocks"),
            "README.md",
            "docs/plugins.md",
            "docs/tutorial.md",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_every_command_about_plugins_in_cpp_does_what_it_says(tmp_path: Path) -> None:
    """In an empty folder: the page is for those who have installed the package."""
    compiler()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "readme-blocks"), "docs/native.md", "--tree", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
