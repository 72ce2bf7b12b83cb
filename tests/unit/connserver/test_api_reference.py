"""docs/api.md has every public name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_no_public_name_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "api-reference"), "--missing"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"run scripts/api-reference; docs/api.md lacks:\n{done.stdout}{done.stderr}"
