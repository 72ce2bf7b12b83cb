"""Many partition groups on three nodes of this machine: what idle ones cost, and how a node fails over.

    scripts/bench/many_groups [--groups 64] [--kills 8] [--sample 8] [--idle-s 10]

Three nodes with all their workers (192 for 64 groups), real processes, folders of their own. Printed are the
memory of all processes, the CPU of each gossip process and of all others while nobody asks anything, and then
how long the clients of a sample of groups waited when every process of a node was killed, the group's primary
among them. Every round is judged; exit status 1 if anything was lost or happened twice.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tests.failures import pauses
from tests.failures.chaos import end, told
from tests.failures.nodes import START_S, World, new_world

SETTLE_S = 5.0
STARTS_S = 2.0
"""More for each group: its three workers are processes that load plugins and a group each."""


def main() -> int:
    parser = argparse.ArgumentParser(
        "scripts/bench/many_groups", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=64, metavar="G")
    parser.add_argument("--kills", type=int, default=8, metavar="N")
    parser.add_argument("--kill", choices=sorted(pauses.KINDS), default="node")
    parser.add_argument("--sample", type=int, default=8, metavar="S", help="groups that have clients")
    parser.add_argument("--idle-s", type=float, default=10.0, metavar="S")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, end)
    with new_world(groups=options.groups) as world:
        began = time.monotonic()
        world.up(START_S + options.groups * STARTS_S)
        print(f"{options.groups} groups on 3 nodes: up after {time.monotonic() - began:.1f} s", flush=True)
        time.sleep(SETTLE_S)
        show_idle(world, options.idle_s)
        rounds = pauses.rounds(world, options.kill, options.kills, "m", options.sample)
        return told(
            rounds, f"kill of the {options.kill}, {options.kills} times, {options.sample} groups asked"
        )


def show_idle(world: World, seconds: float) -> None:
    """Memory now, and CPU in percent of one core over some seconds."""
    pids = {name: pid for node in world.nodes.values() for name, pid in node.pids().items()}
    before, began = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    used = {name: 100 * (cpu_s(pid) - before[name]) / took for name, pid in pids.items()}
    roles: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    count = Counter(name.partition("-")[0] for name in pids)
    for name, pid in pids.items():
        roles[name.partition("-")[0]] += used[name]  # type: ignore[assignment]
        memory[name.partition("-")[0]] += own_bytes(pid)
    gossip = ", ".join(f"{name} {used[name]:.1f} %" for name in sorted(pids) if name.startswith("g-"))
    print(f"idle, percent of a core: {gossip}")
    for role, share in sorted(roles.items()):
        print(f"    {count[role]:4d} {role:3s} {share:6.1f} %  {memory[role] / 2**20:7.0f} MiB of their own")
    print(end="", flush=True)


def cpu_s(pid: int) -> float:
    """User and system time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def own_bytes(pid: int) -> int:
    """Memory that would be free without the process: workers are forked and share much."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [row.split() for row in rows if row.startswith("Private_")]
    return sum(int(row[1]) for row in private) * 1024


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[2])
    sys.exit(main())
