"""`pytest tests/scenarios --rewrite` writes what happened into the files; read the diff before keeping it."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when this folder is named on the command line."""
    parser.addoption("--rewrite", action="store_true", help="rewrite the expected output of scenarios")
