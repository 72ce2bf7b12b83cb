"""Trade between shards under kills: `plugins/world` as it is shipped, and nothing may come or go.

Guards one rule: gold and things only change hands. What each trader has at the end is held against every
trade that anybody was told of (`judge_trades`), and no call is left over ten seconds after the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from connserver.errors import ConnServerError
from connserver.ids import format_oid, named_id
from tests.failures import pauses
from tests.failures.inventory import inventory
from tests.failures.judge import Demand, Verdict, judge
from tests.failures.line import Line
from tests.failures.load import Load
from tests.failures.nodes import ROOT, World, until
from tests.failures.transcript import Part, Transcript
from tests.failures.trial import DRAIN_S, READY_S, audit
from tests.failures.wire import BOTH
from tests.failures.workloads import GOLD, home, things

WORLD: Final = ROOT / "plugins" / "world"
TRADERS: Final = 20
ROUND: Final = 8
PENDING_S: Final = 10.0
FULL_S: Final = 60.0
PERIOD_S: Final = 0.05
PENDING_KINDS: Final = ("cs.call", "cs.parcel")
MIXED: Final = ("worker", "gossip", "node")


@dataclass
class Round:
    """Some kills under one load of trades."""

    kills: int
    verdict: Verdict
    transcript: Transcript


def parts(tag: str, groups: int) -> list[Part]:
    """Traders in pairs, the two of a pair at home in different groups."""
    found: list[Part] = []
    number = 0
    while len(found) < TRADERS:
        user = f"{tag}-trader{number}"
        number += 1
        group = home("user", user, groups)
        index = len(found)
        if index % 2 and group == found[-1].group:
            continue
        found.append(Part(index, user, "trader", BOTH[index // 2 % len(BOTH)], group))
    return [replace(part, others=(found[part.number ^ 1].user,)) for part in found]


def rounds(world: World, kills: int, kinds: Sequence[str] = MIXED, tag: str = "trade") -> Iterator[Round]:
    """So many kills, the kinds and the groups in turn; every few of them everything is counted."""
    done = 0
    while done < kills:
        count = min(ROUND, kills - done)
        yield _round(world, count, done, kinds, f"{tag}{done}")
        done += count


def _round(world: World, kills: int, first: int, kinds: Sequence[str], tag: str) -> Round:
    traders = parts(tag, world.groups)
    assert until("a cluster in full", world.in_full, FULL_S), "the cluster did not come back in full"
    provide(world, traders)
    load = Load(world.gateways, traders, seed=first, period_s=PERIOD_S)
    verdict = Verdict()
    load.start()
    try:
        assert until("sessions", load.ready, READY_S), "traders could not begin"
        load.ask()
        for number in range(first, first + kills):
            kind = kinds[number % len(kinds)]
            pauses.strike(world, load, pauses.KINDS[kind](), number % world.groups)
        load.ask_no_more()
        if not until("the last answers", load.finished, DRAIN_S):
            verdict.accuse("weak", f"not everything was answered within {DRAIN_S:g} s")
    finally:
        transcript = load.close()
    if not until("nothing pending", lambda: _pending(world) == [], PENDING_S):
        verdict.accuse("lost", f"pending {PENDING_S:g} s after the last trade: {_pending(world)}")
    audit(world, transcript)
    judged = judge(transcript, Demand(least_acked=30 * kills))
    for kind, number in verdict.found.items():
        judged.accuse(kind, "; ".join(verdict.reasons), number)
    return Round(kills, judged, transcript)


def _pending(world: World) -> list[str] | None:
    """The kinds of what is under way between groups; None while somebody cannot be asked."""
    try:
        return sorted(kind for kind, _ in inventory(world, *PENDING_KINDS).values())
    except ConnServerError:
        return None


def provide(world: World, traders: list[Part]) -> None:
    """Let every trader be, and have what it begins with."""
    for part in traders:
        with Line(world.gateways[part.number % len(world.gateways)]) as line:
            assert line.ask({"msg": "login", "user": part.user})["status"] == 0
            assert line.ask({"msg": "world.inventory"})["status"] == 0
        with world.nodes["n1"].admin() as admin:
            oid = format_oid(named_id("user", part.user))
            admin.ask("object.put", oid=oid, kind="player", fields={"gold": GOLD, "bag": things(part)})
