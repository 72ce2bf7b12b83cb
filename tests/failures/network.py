"""A network of the test's own: each node in its own network namespace, on one bridge, with routes to cut.

Guards one rule: a cut is the kernel's doing, so no process of the cluster can tell it from a broken cable;
packets in one direction vanish, what was under way is lost, and nobody's socket is closed. Clients reach all
nodes at all times. Needs root and namespaces; `possible` says whether they are there. Without them nodes have
loopback addresses of their own and cannot be cut.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterable
from itertools import count

_numbers = count(1)


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def possible() -> bool:
    """Whether this process may make namespaces here."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"cf-try-{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "del", name)
    except OSError:
        return False
    return True


class Network:
    """Addresses of nodes, and the ways between them. `close` removes every trace."""

    def __init__(self, nodes: Iterable[str], *, cuttable: bool) -> None:
        self.nodes = tuple(nodes)
        self.cuttable = cuttable
        self._cuts: set[tuple[str, str]] = set()
        number = next(_numbers)
        self._tag = f"{os.getpid() % 100_000}{number % 10}"
        self._net = f"10.{100 + os.getpid() % 100}.{(os.getpid() // 100 + 16 * number) % 256}"
        if cuttable:
            self._make()

    def address(self, node: str) -> str:
        """Where the others reach a node."""
        index = self.nodes.index(node) + 1
        return f"{self._net}.{index}" if self.cuttable else f"127.77.{int(self._tag) % 251}.{index}"

    def inside(self, node: str) -> list[str]:
        """What to write before a command that is to run on this node."""
        return ["ip", "netns", "exec", self._space(node)] if self.cuttable else []

    def cut(self, source: str, target: str) -> None:
        """From now on nothing that `source` sends reaches `target`."""
        self._cuts.add((source, target))
        self._route(source, "replace", target)

    def mend(self, source: str, target: str) -> None:
        """It does again."""
        if (source, target) in self._cuts:
            self._cuts.discard((source, target))
            self._route(source, "del", target)

    def mend_all(self) -> None:
        """No cuts any more."""
        for source, target in list(self._cuts):
            self.mend(source, target)

    def is_cut(self, source: str, target: str) -> bool:
        """What the kernel says about the way from one node to another."""
        space, address = self._space(source), self.address(target)
        done = subprocess.run(
            ["ip", "-n", space, "route", "get", address], capture_output=True, text=True, check=False
        )
        return done.returncode != 0

    def close(self) -> None:
        """Remove the namespaces and the bridge."""
        if not self.cuttable:
            return
        for node in self.nodes:
            with contextlib.suppress(OSError):
                _run("ip", "netns", "del", self._space(node))
        with contextlib.suppress(OSError):
            _run("ip", "link", "del", self._bridge)

    @property
    def _bridge(self) -> str:
        return f"cf{self._tag}b"

    def _space(self, node: str) -> str:
        return f"cf-{self._tag}-{node}"

    def _make(self) -> None:
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{self._net}.254/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
            for node in self.nodes:
                self._join(node)
        except OSError:
            self.close()
            raise

    def _join(self, node: str) -> None:
        space, outer = self._space(node), f"cf{self._tag}{node}"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "e0", "netns", space)
        _run("ip", "link", "set", outer, "master", self._bridge, "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "addr", "add", f"{self.address(node)}/24", "dev", "e0")
        _run("ip", "-n", space, "link", "set", "e0", "up")

    def _route(self, source: str, verb: str, target: str) -> None:
        _run("ip", "-n", self._space(source), "route", verb, "blackhole", f"{self.address(target)}/32")
