"""Trades: who has what at the end, against every sale that anybody was told of.

Guards conservation, and more: gold and things are those of the beginning, and each trader's gold is what
the acknowledged sales make it. Pure.
"""

from __future__ import annotations

from collections import Counter

from tests.failures.judge_objects import Accuse
from tests.failures.reading import History
from tests.failures.workloads import GOLD, things


def check(clients: list[History], auditors: list[History], accuse: Accuse) -> None:
    """Hold all traders' inventories against each other and the trades."""
    traders = [history for history in clients if history.part.role == "trader"]
    if not traders:
        return
    shown = {
        history.part.user: asked.answers[0][1]
        for history in auditors
        for asked in history.of("world.inventory")
        if asked.acked
    }
    if any(history.part.user not in shown for history in traders):
        accuse("weak", "what traders have could not be read at the end")
        return
    gold = sum(int(shown[history.part.user]["gold"]) for history in traders)
    if gold != GOLD * len(traders):
        more = gold - GOLD * len(traders)
        accuse(
            "doubled" if more > 0 else "lost", f"there is {gold} gold, {more:+} of it from nowhere", abs(more)
        )
    begun: Counter[str] = Counter(thing for history in traders for thing in things(history.part))
    there: Counter[str] = Counter()
    for row in (shown[history.part.user] for history in traders):
        there.update([*row["bag"], *row["offers"]])
    if lost := begun - there:
        accuse("lost", f"things are gone: {sorted(lost)[:5]}", lost.total())
    if doubled := there - begun:
        accuse("doubled", f"things are there too often: {sorted(doubled)[:5]}", doubled.total())
    for history in traders:
        _gold(history, traders, int(shown[history.part.user]["gold"]), accuse)


def _gold(trader: History, traders: list[History], gold: int, accuse: Accuse) -> None:
    """What it was told, and others of it; sales without an answer may have been or not."""
    user = trader.part.user
    least = most = GOLD
    for history in traders:
        for asked in history.of("trade.buy"):
            price = int(asked.fields["price"])
            sold = price if asked.fields["seller"] == f"user:{user}" else 0
            spent = price if history is trader else 0
            if asked.acked:
                least, most = least + sold - spent, most + sold - spent
            elif asked.unknown:
                least, most = least - spent, most + sold
    if not least <= gold <= most:
        accuse(
            "lost" if gold < least else "doubled", f"{user} has {gold} gold and should have {least} to {most}"
        )
