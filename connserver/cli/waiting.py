"""Waiting, within bounds, until the running cluster shows what a command has asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from connserver.errors import ClusterError

if TYPE_CHECKING:
    from connserver.cli.find import Admin

LOOK_S: Final = 0.02
"""Between two looks: a handoff takes some hundredths of a second."""

T = TypeVar("T")


def until(look: Callable[[], T | None], timeout_s: float) -> T | None:
    """The first true value of `look`; None if there is none within `timeout_s` (seconds)."""
    end = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= end:
            return None
        time.sleep(LOOK_S)


def route_of(cluster: Admin, group: int) -> Mapping[str, Any]:
    """A group's row of the routing table; ClusterError if there is no such group."""
    routes: list[dict[str, Any]] = cluster.ask("routes")["routes"]
    if not 0 <= group < len(routes):
        raise ClusterError(f"there is no partition group {group}; there are 0 to {len(routes) - 1}")
    return routes[group]


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if a person at the terminal says so, or --yes did."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ClusterError(f"{question} Say so with --yes")
    click.confirm(question, abort=True, err=True)
