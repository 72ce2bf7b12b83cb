"""What must not run again because it has killed its worker: turned away, named, and released.

Guards the rule that only what kills suffers: a request, a login, another group's call, a timer, a
callback by the clock or an expiry is recognised by its source, answered or left out, and everything
else of the group goes on. What it was is kept under an incident, for `status` and whoever repairs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from connserver import telemetry
from connserver.errors import ClientError
from connserver.messages import OutputKind, RequestKind
from connserver.model import unpack
from connserver.running import RunningNote
from partition.group import Group
from partition.ledger import Fields
from partition.questions import reply
from partition.suspects import Suspect, Suspects
from partition.table import Method, PluginTable

NamesIncident = Callable[[str], str]
"""Keeps a text and gives it an incident number."""

SHOWN = 16
"""Of the quarantined, in a worker's report."""

log = telemetry.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Culprit:
    """A callback by its name, and whose it is as far as that is known."""

    method: str
    plugin: str = ""
    version: str = ""

    @classmethod
    def of(cls, method: str, plugins: PluginTable) -> Culprit:
        """The callback that clients or plugins call by this name; at a login those that have a say in it."""
        found: list[Method | None] = [plugins.methods.get(method) or plugins.internals.get(method)]
        if method == "login":
            found = [plugins.login, *plugins.hooks.get("on_join", ())]
        whose = dict.fromkeys((one.plugin, one.version) for one in found if one is not None)
        names, versions = zip(*whose, strict=True) if whose else ((), ())
        return cls(method, " or ".join(names), " or ".join(versions))


class Quarantine:
    """Between the streams and the group: `request` and `parcel` say what is not to be run."""

    def __init__(self, group: Group, note: RunningNote, suspects: Suspects, incident: NamesIncident) -> None:
        self._group = group
        self._note = note
        self._suspects = suspects
        self._incident = incident

    @property
    def any(self) -> bool:
        """Whether anything is suspected at all."""
        return self._suspects.any

    def request(self, boot: int, connection: int, kind: int, sequence: int, body: bytes) -> bool:
        """Whether a gateway's item is quarantined; if so it is answered."""
        suspect = self._suspects.get(boot, connection, sequence)
        if suspect is None or not suspect.quarantined:
            return False
        if kind == RequestKind.CALL:
            asked: Any = unpack(body)
            msg = str(asked["msg"])
        elif kind == RequestKind.LOGIN:
            asked, msg = unpack(body).get("message"), "login"
        else:
            return False
        culprit = Culprit.of(msg, self._group.dispatcher.plugins)
        suspect = self._met(suspect, culprit)
        error = _error(suspect)
        if isinstance(asked, dict):
            fields = reply(msg, asked.get("id"), {**error.fields()})
            self._group.output(boot, connection, OutputKind.REPLY, fields, sequence)
        return True

    def parcel(self, source: int, number: int, called: Callable[[], str]) -> Fields | None:
        """The error that another group's call gives instead of running; `called` says what it is."""
        suspect = self._suspects.get(0, source + 1, number)
        if suspect is None or not suspect.quarantined:
            return None
        culprit = Culprit.of(called(), self._group.dispatcher.plugins)
        return dict(_error(self._met(suspect, culprit)).fields())

    # --- what runs by the clock ---

    def allows(self, key: int, method: str, plugin: str, version: str) -> bool:
        """Whether something of the clock may run."""
        suspect = self._suspects.get(0, 0, key) if self._suspects.any else None
        if suspect is None or not suspect.quarantined:
            return True
        self._met(suspect, Culprit(method, plugin, version))
        return False

    def begins(self, key: int) -> None:
        """Something of the clock runs from now on; 0: what is no plugin's."""
        self._note.enter(0, 0, key)

    def _met(self, suspect: Suspect, culprit: Culprit) -> Suspect:
        if suspect.method:
            return suspect
        whose = f" of plugin {culprit.plugin} {culprit.version}" if culprit.plugin else ""
        text = (
            f"{culprit.method}{whose} was running when its worker died, {suspect.deaths} times; it is "
            "quarantined\nWhat the process wrote last is in the logs of the group's workers."
        )
        named = replace(
            suspect,
            method=culprit.method,
            plugin=culprit.plugin,
            version=culprit.version,
            incident=self._incident(text),
        )
        log.error("request.quarantined", **named.describe())
        self._suspects.met(named, self._group.ledger)
        return named

    # --- for operators ---

    def describe(self) -> list[dict[str, Any]]:
        """What was turned away, for `status`."""
        return [suspect.describe() for suspect in self._suspects.named()[:SHOWN]]

    def release(self, incident: str) -> list[dict[str, Any]]:
        """Let it run again; ValueError if nothing is quarantined under this number."""
        found = self._suspects.release(incident, self._group.ledger)
        self._group.timers.release()
        return [suspect.describe() for suspect in found]


def _error(suspect: Suspect) -> ClientError:
    reason = f"{suspect.method} was running when its worker died, {suspect.deaths} times"
    return ClientError("quarantined", reason, incident=suspect.incident or None)
