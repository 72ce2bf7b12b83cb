"""Counters, lists, gifts and bells: what clients were told against what is there at the end.

Guards exactly-once for everything that lives in objects, the order of a session's requests, and
real-time order: whoever was answered before another asked comes first, whichever gateways they use. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise

from tests.failures.reading import Asked, History

Accuse = Callable[..., None]


def check(clients: list[History], auditors: list[History], accuse: Accuse) -> None:
    """Hold all users' objects against what their clients and auditors were told."""
    for user, own in _by_user(clients).items():
        audits = [history for history in auditors if history.part.user == user]
        adds = [asked for history in own for asked in history.of("count.add")]
        gets = [asked for history in (*own, *audits) for asked in history.of("count.get")]
        if adds:
            _totals(f"counter of {user}", adds, _final(audits, "count.get", "value"), accuse)
            _values(f"counter of {user}", adds, gets, accuse)
            for history in own:
                _session_order(history, accuse)
        bells = [asked for history in own for asked in history.of("bell.set")]
        if bells:
            _totals(f"bells of {user}", bells, _final(audits, "bell.count", "value"), accuse)
        for history in own:
            _list(history, audits, accuse)
    _gifts(clients, auditors, accuse)


def _by_user(histories: Iterable[History]) -> dict[str, list[History]]:
    found: dict[str, list[History]] = {}
    for history in histories:
        found.setdefault(history.part.user, []).append(history)
    return found


def _final(audits: list[History], method: str, name: str) -> int | None:
    """What the last auditor was told; None where nobody could find out."""
    told = [asked for history in audits for asked in history.of(method) if asked.acked]
    return max(told, key=lambda asked: asked.ended).number(name) if told else None


def _totals(what: str, asked: list[Asked], final: int | None, accuse: Accuse) -> None:
    """Between those acknowledged and those and the unknown ones."""
    acked = sum(one.acked for one in asked)
    unknown = sum(one.unknown for one in asked)
    if final is None:
        accuse("weak", f"{what} could not be read at the end")
    elif final < acked:
        accuse("lost", f"{what} is {final} after {acked} acknowledged", acked - final)
    elif final > acked + unknown:
        accuse(
            "doubled",
            f"{what} is {final} after {acked} acknowledged and {unknown} unknown",
            final - acked - unknown,
        )


def _values(what: str, adds: list[Asked], gets: list[Asked], accuse: Accuse) -> None:
    """Each acknowledged addition has a value of its own, and nobody is told an older one than before."""
    done = sorted((one for one in adds if one.acked), key=lambda one: one.ended)
    times = [one.ended for one in done]
    newest = list(accumulate((one.number() for one in done), max))
    begun = sorted(one.begun for one in adds)
    for value, times_told in Counter(one.number() for one in done).items():
        if times_told > 1:
            accuse("lost", f"{what} became {value} {times_told} times", times_told - 1)
    for one in [*done, *(get for get in gets if get.acked)]:
        before = bisect_left(times, one.begun)
        least = newest[before - 1] if before else 0
        most = bisect_left(begun, one.ended)
        if one.msg == "count.get" and one.number() < least:
            accuse("stale", f"{what} was read as {one.number()} after {least} was acknowledged")
        elif one.msg == "count.add" and one.number() <= least:
            accuse("disordered", f"{what} became {one.number()} after {least} was acknowledged")
        if one.number() > most:
            accuse("doubled", f"{what} was {one.number()} after {most} additions were asked for")


def _session_order(history: History, accuse: Accuse) -> None:
    """A session's requests take effect in the order of their ids.

    A read that was sent again may have run again, so what came after it is not held against it.
    """
    least, by = 0, 0
    for asked in history.of("count.add", "count.get"):
        if not asked.acked:
            continue
        value = asked.number()
        if value < least + (asked.msg == "count.add"):
            name = f"{history.part.user}'s requests {by} and {asked.id}"
            accuse("disordered", f"{name} gave {least} and then {value}")
        if asked.msg == "count.add" or len(asked.sent) == 1:
            least, by = max(least, value), asked.id


def _list(history: History, audits: list[History], accuse: Accuse) -> None:
    """What was appended is there once, in the order of asking."""
    appends = {asked.id: asked for asked in history.of("list.append")}
    if not appends:
        return
    user = history.part.user
    pages = [asked for audit in audits for asked in audit.of("list.page")]
    if not pages or not all(page.acked for page in pages):
        accuse("weak", f"the list of {user} could not be read at the end")
        return
    items = [int(text) for page in pages for text in str(page.answers[0][1]["items"]).split()]
    there = Counter(items)
    lost = [number for number, asked in appends.items() if asked.acked and not there[number]]
    twice = [number for number, times in there.items() if times > 1]
    invented = [number for number in there if number not in appends or appends[number].refused]
    if lost:
        accuse("lost", f"the list of {user} has not {lost[:5]}, which were acknowledged", len(lost))
    if twice:
        accuse("doubled", f"the list of {user} has {twice[:5]} more than once", len(twice))
    if invented:
        accuse("doubled", f"the list of {user} has {invented[:5]}, which were refused", len(invented))
    if any(second < first for first, second in pairwise(items)):
        accuse("disordered", f"the list of {user} is not in the order of asking")


def _gifts(clients: list[History], auditors: list[History], accuse: Accuse) -> None:
    """What was given is what was taken, by each and in all."""
    gifts = [(history, asked) for history in clients for asked in history.of("gift.give")]
    if not gifts:
        return
    shown = {history.part.user: asked for history in auditors for asked in history.of("gift.show")}
    users = sorted({history.part.user for history, _ in gifts})
    if any(user not in shown or not shown[user].acked for user in users):
        accuse("weak", "what was given could not be read at the end")
        return
    for user in users:
        own = [asked for history, asked in gifts if history.part.user == user]
        _totals(f"gifts by {user}", own, shown[user].number("given"), accuse)
        to_user = [asked for _, asked in gifts if asked.fields["to"] == user]
        _totals(f"gifts to {user}", to_user, shown[user].number("taken"), accuse)
    given = sum(shown[user].number("given") for user in users)
    taken = sum(shown[user].number("taken") for user in users)
    if given != taken:
        kind = "lost" if taken < given else "doubled"
        accuse(kind, f"{given} gifts were given and {taken} taken", abs(given - taken))
