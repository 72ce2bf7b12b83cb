"""The JavaScript that is shipped: small, and made from the source beside it."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

SOURCE = files("connserver.client").joinpath("connserver.js").read_bytes()
SHIPPED = files("connserver.client").joinpath("connserver.min.js").read_bytes()
TYPES = files("connserver.client").joinpath("connserver.d.ts").read_text()


def test_what_is_shipped_is_made_from_the_source() -> None:
    digest = hashlib.sha256(SOURCE).hexdigest()[:16]
    assert SHIPPED.startswith(f"// connserver.js {digest},".encode()), "run scripts/minify"


def test_what_is_shipped_is_small() -> None:
    assert len(SHIPPED) < 10 * 1024


def test_whatever_is_exported_has_types() -> None:
    exported = set(re.findall(r"^export class (\w+)", SOURCE.decode(), re.MULTILINE))
    assert exported == set(re.findall(r"^export class (\w+)", TYPES, re.MULTILINE))
