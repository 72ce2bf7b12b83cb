"""Breaks a cluster of real processes under load, again and again, and judges what clients were told.

    scripts/chaos --minutes 10 [--seed 1] [--workload W]... [--fault F]...   a table, row by row
    scripts/chaos --rows 5 --fault kill-node                                 as many trials
    scripts/chaos --pauses 200 --kill worker|gossip|node|handoff             how long clients wait
    scripts/chaos --workload trade --kills 200                               gold and things change hands only
    scripts/chaos --crowd 500                                                a gateway dies with a crowd
    scripts/chaos --control NAME --fault F                                   with a bug put in: must be caught
    scripts/chaos --list                                                     names

Three nodes with folders and, as root, network namespaces of their own; PostgreSQL beside them. A trial that
does not hold leaves its transcript and the nodes' logs in the folder of --keep. Exit status 0: all held
(with --control: it was caught).
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

from tests.failures import crowd, network, pauses, trades, trial
from tests.failures.catalogue import FAULTS, NEED_CUTS, NEED_TAMPERING
from tests.failures.controls import CONTROLS, with_control
from tests.failures.nodes import World, new_world, tampered_world, until
from tests.failures.trades import ROUND
from tests.failures.wire import BOTH
from tests.failures.workloads import WORKLOADS

FULL_S = 60.0


def main() -> int:
    options = arguments()
    if options.list:
        print("workloads: ", *WORKLOADS, "\nfaults:    ", *FAULTS, "\ncontrols:  ", *CONTROLS)
        return 0
    signal.signal(signal.SIGTERM, end)
    more = f'[replication]\ndurability = "{options.durability}"\n'
    with world_for(options, groups=options.groups, more=more) as world:
        world.up()
        if options.pauses:
            return measure(world, options)
        if "trade" in (options.workload or ()):
            return trade(world, options)
        if options.crowd:
            return int(not shown(crowd.run(world, options.crowd, tag="crowd", seed=options.seed), options))
        good = table(world, options)
    if options.control:
        print(f"{options.control} was {'NOT caught' if good else 'caught'}")
        return int(good)
    return int(not good)


def world_for(options: argparse.Namespace, **given: Any) -> AbstractContextManager[World]:
    """With a bug, or open to faults from within where one may come, or as it is shipped."""
    if "trade" in (options.workload or ()):
        return new_world(**given, plugin=trades.WORLD)
    if options.control:
        return new_world(**given, **with_control(options.control))
    if not (options.pauses or options.crowd) and NEED_TAMPERING.intersection(options.fault or FAULTS):
        return tampered_world(**given)
    return new_world(**given)


def trade(world: World, options: argparse.Namespace) -> int:
    """Trades under kills of all kinds."""
    done, good = 0, True
    for one in trades.rounds(world, options.kills, tag=f"t{options.seed}-"):
        done, good = done + one.kills, good and one.verdict.good
        verdict = one.verdict
        counts = f"{verdict.asked} asked, {verdict.acked} done, {verdict.unknown} unknown"
        print(f"{done} kills: {counts}: {verdict.words}")
        for reason in verdict.reasons:
            print("   ", reason)
        if not verdict.good:
            options.keep.mkdir(parents=True, exist_ok=True)
            one.transcript.save(options.keep / f"trade-{done}.jsonl")
            keep_logs(world, options.keep / f"trade-{done}")
        sys.stdout.flush()
    return int(not good)


def end(number: int, frame: object) -> None:
    """Asked to end, it takes its cluster and its namespaces with it."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--groups", type=int, default=4, metavar="G")
    parser.add_argument("--durability", choices=("process", "power"), default="process")
    parser.add_argument("--workload", action="append", choices=sorted([*WORKLOADS, "trade"]))
    parser.add_argument("--kills", type=int, default=ROUND, metavar="N")
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS))
    parser.add_argument("--encoding", action="append", choices=BOTH)
    parser.add_argument("--pauses", type=int, default=0, metavar="N")
    parser.add_argument("--kill", choices=sorted(pauses.KINDS), default="worker")
    parser.add_argument("--sample", type=int, default=0, metavar="S", help="groups with clients; 0: all")
    parser.add_argument("--crowd", type=int, default=0, metavar="N")
    parser.add_argument("--control", choices=sorted(CONTROLS))
    parser.add_argument("--keep", type=Path, default=Path("chaos-kept"), metavar="FOLDER")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def plan(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """All pairs in an order of the seed's, then all again in another."""
    random = Random(options.seed)
    faults = options.fault or list(FAULTS)
    left_out = set() if network.possible() else NEED_CUTS.intersection(faults)
    if left_out:
        print("left out, for there are no network namespaces here:", *sorted(left_out))
    if options.control:
        left_out |= NEED_TAMPERING
    pairs = list(
        itertools.product(options.workload or WORKLOADS, [one for one in faults if one not in left_out])
    )
    while pairs:
        random.shuffle(pairs)
        yield from pairs


def table(world: World, options: argparse.Namespace) -> bool:
    """Trials until the time or the rows are over; whether all held."""
    random = Random(options.seed)
    ends = time.monotonic() + 60 * options.minutes
    good, count = True, 0
    print(trial.HEAD, flush=True)
    for count, (workload, name) in enumerate(plan(options), 1):
        good = one(world, options, workload, name, count, random) and good
        if time.monotonic() > ends or count >= options.rows or (options.control and not good):
            break
    print(f"{count} trials, {'all held' if good else 'NOT all held'}", flush=True)
    return good


def one(
    world: World, options: argparse.Namespace, workload: str, name: str, count: int, random: Random
) -> bool:
    """One trial on a cluster in full; where that cannot be had, everything is started anew."""
    whole = refresh(world)
    fault = FAULTS[name]()
    fault.target_group = random.randrange(world.groups)
    try:
        result = trial.run(
            world,
            workload,
            fault,
            tag=f"c{count}",
            seed=random.randrange(1 << 30),
            period_s=0.1,
            encodings=tuple(options.encoding or BOTH),
        )
    except (AssertionError, OSError) as error:
        print(f"{workload:8s} {name:26s} the trial itself failed: {error}", flush=True)
        keep_logs(world, options.keep / f"{count}-{workload}-{name}")
        world.network.mend_all()
        again(world)
        return False
    good = shown(result, options)
    if not good and not options.control:
        keep_logs(world, options.keep / f"{count}-{workload}-{name}")
    return good and whole


def shown(result: trial.Result, options: argparse.Namespace) -> bool:
    """Print a trial's row and, where it does not hold, why not; the transcript of such a one is kept."""
    print(result.row(), flush=True)
    if not result.good and not options.control:
        for reason in result.verdict.reasons:
            print("   ", reason)
        print(f"    transcript: {trial.save(result, options.keep)}", flush=True)
    return result.good


def refresh(world: World) -> bool:
    """A cluster in full that no supervisor has given up; whether it came to that by itself."""
    world.rest()
    if until("a cluster in full", world.in_full, FULL_S):
        return True
    found = world.status()
    rows = (
        [f"{row['name']} {row['state']}" for row in found["processes"] if row["state"] != "ready"]
        if found
        else []
    )
    groups = [f"group {row['id']} {row['state']} {row['reason']}" for row in found["groups"]] if found else []
    print(f"    NOT in full {FULL_S:g} s after the last: {rows or 'nobody answers'} {groups}", flush=True)
    again(world)
    return False


def again(world: World) -> None:
    """Everything ends and is started anew, with what is on the disks."""
    world.kill_all([mark for node in world.nodes.values() for mark in node.everyone()])
    if not world.database.answers():
        world.database.thaw()
    world.up()


def keep_logs(world: World, folder: Path) -> None:
    """Copy the nodes' logs."""
    for name, node in world.nodes.items():
        logs = node.state / "failures" / "log"
        if logs.is_dir():
            shutil.copytree(logs, folder / name, dirs_exist_ok=True)


def measure(world: World, options: argparse.Namespace) -> int:
    """Pauses around many kills."""
    rounds = pauses.rounds(world, options.kill, options.pauses, f"p{options.seed}", options.sample)
    return told(rounds, f"{options.kill}, {options.pauses} times")


def told(rounds: Iterator[pauses.Round], what: str) -> int:
    """Print rounds as they come and all of them at the end; 1 if one did not hold."""
    found: list[float] = []
    good = True
    for number, done in enumerate(rounds, 1):
        good = good and done.verdict.good
        found += done.pauses_ms
        print(
            f"round {number}: {done.verdict.words}, pauses {sorted(round(one) for one in done.pauses_ms)}",
            flush=True,
        )
        for reason in done.verdict.reasons:
            print("   ", reason)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    words = ", ".join(f"{name} {pauses.percentile(found, share):.0f}" for name, share in shares.items())
    print(f"{what}: pause {words} ms")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
