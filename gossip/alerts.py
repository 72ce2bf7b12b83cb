"""What a person should act on: conditions that hold now, each with the time since when.

Guards one rule: an alert is a state and not an event, so that it ends by itself when its cause does,
and no one has to clear anything. What is an event by nature is noted for ALERT_NOTE_MS. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from connserver.limits import ALERT_NOTE_MS
from connserver.messages import AlertRecord, RouteEntry, WorkerRecord
from gossip.picture import Picture
from gossip.routing import STARTING, UNAVAILABLE

WARNING, CRITICAL = "warning", "critical"
SLOW_START_S = 10.0
"""A group that is starting for longer than this is worth a look."""
STORAGE_BAD = {"down": CRITICAL, "deposed": WARNING, "lagging": WARNING}


@dataclass(frozen=True, slots=True)
class Alert:
    """One condition. `text` says what is wrong and what to do, without numbers that run."""

    about: str
    severity: str
    text: str


class AlertBook:
    """The conditions that hold, and since when."""

    def __init__(self) -> None:
        self._since: dict[Alert, float] = {}
        self._notes: dict[Alert, float] = {}

    def note(self, alert: Alert, now: float) -> None:
        """Something happened; it is shown for a while."""
        self._notes[alert] = now

    def update(self, holding: Iterable[Alert], now: float) -> tuple[list[Alert], list[Alert]]:
        """Take what holds now; gives what is new and what is over."""
        for alert, noted_at in list(self._notes.items()):
            if now - noted_at >= ALERT_NOTE_MS / 1000:
                del self._notes[alert]
        wanted = dict.fromkeys([*holding, *self._notes])
        new = [alert for alert in wanted if alert not in self._since]
        over = [alert for alert in self._since if alert not in wanted]
        for alert in over:
            del self._since[alert]
        for alert in new:
            self._since[alert] = now
        return new, over

    def records(self, wall_ms: int, now: float) -> list[AlertRecord]:
        """As they travel; `wall_ms` is the Unix time at `now`."""
        return [
            AlertRecord(wall_ms - round((now - since) * 1000), alert.severity, alert.text, alert.about)
            for alert, since in self._since.items()
        ]


def cluster_alerts(
    picture: Picture, routes: Iterable[RouteEntry], starting_since: Mapping[int, float], now: float
) -> list[Alert]:
    """What follows from what everybody knows. `starting_since`: by group that is starting."""
    alerts = [*_nodes(picture), *_processes(picture), *_storage(picture), *_plugins(picture)]
    for entry in routes:
        if entry.state == UNAVAILABLE:
            alerts.append(
                Alert(f"group:{entry.group}", CRITICAL, f"Group {entry.group} is not served: {entry.reason}.")
            )
        elif entry.state == STARTING and now - starting_since.get(entry.group, now) >= SLOW_START_S:
            text = f"Group {entry.group} has been starting for more than {SLOW_START_S:g} s: {entry.reason}."
            alerts.append(Alert(f"group:{entry.group}", WARNING, text))
    return alerts


def _nodes(picture: Picture) -> Iterable[Alert]:
    for name, state in picture.states.items():
        if state == "dead":
            never = not picture.incarnations[name]
            what = "has not been heard since this node started" if never else "is dead: nobody hears it"
            yield Alert(f"node:{name}", CRITICAL, f"Node {name} {what}. {_why_dead(picture, name)}.")
        elif state == "stopped":
            yield Alert(
                f"node:{name}", WARNING, f"Node {name} was stopped in order. Start it again when ready."
            )


def _why_dead(picture: Picture, name: str) -> str:
    """What its gossip process said at its end, or what its supervisor says of it; else where to look."""
    process = next((row for row in picture.processes() if row.name == f"g-{name}"), None)
    said = picture.farewells.get(name, "") or (process.reason or process.last_end if process else "")
    if said:
        return f"Its gossip process ended, and said: {said}"
    return f"Look at its host and at the log of g-{name}, then start it again"


def _processes(picture: Picture) -> Iterable[Alert]:
    for row in picture.processes():
        if row.state == "failed":
            reason = row.reason or "it died again and again"
            text = f"Process {row.name} on {row.node} is left down: {reason}. See its log, then restart it."
            yield Alert(f"process:{row.name}", CRITICAL, text)


def _plugins(picture: Picture) -> Iterable[Alert]:
    for name in picture.states:
        record = picture.current(name)
        for row in record.workers if record else ():
            if row.state != "gone":
                yield from _of_worker(name, row)


def _of_worker(node: str, row: WorkerRecord) -> Iterable[Alert]:
    for plugin in row.plugins:
        state, known = str(plugin.get("state", "")), plugin.get("name", "?")
        if state.startswith("cannot be loaded"):
            text = f"Plugin {known} {plugin.get('version', '')} of group {row.group} on {node} {state}."
            yield Alert(f"plugin:{known}", CRITICAL, f"{text} This node does not take over.")
            break  # the reason is the same for all of them
    if row.state != "serving":
        return
    for one in row.quarantined:
        incident, plugin_name = one.get("incident", ""), one.get("plugin") or "?"
        text = (
            f"{one.get('method', '?')} of plugin {plugin_name} {one.get('version', '')} has ended its worker "
            f"and is quarantined in group {row.group}: `cs-cluster logs --incident {incident}`. After a "
            f"repair, `cs-cluster plugin release {incident}`."
        )
        yield Alert(f"plugin:{plugin_name}", WARNING, text)
    if row.parked_calls:
        text = (
            f"Calls wait in group {row.group} because what was to follow them could not run: "
            "`cs-cluster call list` shows why. After a repair, `cs-cluster call retry`."
        )
        yield Alert(f"group:{row.group}", WARNING, text)
    if row.held_timers:
        text = (
            f"Timers are overdue in group {row.group} because no attached plugin has their method, or it is "
            "quarantined. They run as soon as one has it."
        )
        yield Alert(f"group:{row.group}", WARNING, text)


def _storage(picture: Picture) -> Iterable[Alert]:
    worst: dict[str, tuple[str, list[int]]] = {}
    for name in picture.states:
        record = picture.current(name)
        for row in record.workers if record else ():
            if row.storage in STORAGE_BAD and row.state != "gone":
                text, groups = worst.setdefault(row.storage, (row.storage_error, []))
                worst[row.storage] = (text or row.storage_error, [*groups, row.group])
    for state, (error, groups) in worst.items():
        which = ", ".join(map(str, sorted(set(groups))))
        what = f"PostgreSQL is {state} for groups {which}" + (f": {error}" if error else "")
        text = f"{what}. Commits go on and the log grows until it is back."
        yield Alert("storage", STORAGE_BAD[state], text)
