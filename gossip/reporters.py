"""What the local gateways and the supervisor report once a second, as long as they do.

Guards one rule: a report that is not repeated is not true any more. Pure; times in monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from connserver.limits import GATEWAYS_PER_NODE, RECORD_ROWS, RECORD_TEXT_CHARS, REPORTER_SILENT_MS
from connserver.messages import GatewayRecord, GatewayReport, ProcessRecord, ProcessTable

LARGEST_COUNT = (1 << 53) - 1


class Heard(Enum):
    """What a report brought."""

    REFUSED = "it cannot be used"
    NOTHING = "what was known already"
    NUMBERS = "numbers only"
    STATE = "a process that came, went or changed its state"


@dataclass(slots=True)
class Reporters:
    """The last words of this node's gateways and of its host's supervisor."""

    names: Collection[str]
    processes: list[ProcessRecord] = field(default_factory=list)
    storage: dict[str, Any] = field(default_factory=dict)
    _gateways: dict[str, tuple[float, GatewayRecord]] = field(default_factory=dict)
    _supervisor_at: float | None = None

    def gateway(self, said: GatewayReport, now: float) -> Heard:
        """A gateway's report."""
        known = self._gateways.get(said.name)
        if known is None and len(self._gateways) >= GATEWAYS_PER_NODE:
            return Heard.REFUSED
        if max(len(said.name), len(said.endpoint)) > 255:
            return Heard.REFUSED
        if not (0 <= said.clients <= LARGEST_COUNT and 0 <= said.messages_per_s <= LARGEST_COUNT):
            return Heard.REFUSED
        row = GatewayRecord(said.name, said.pid, said.endpoint, said.clients, said.messages_per_s)
        self._gateways[said.name] = now, row
        if known is None or (known[1].pid, known[1].endpoint) != (row.pid, row.endpoint):
            return Heard.STATE
        return Heard.NOTHING if known[1] == row else Heard.NUMBERS

    def table(self, said: ProcessTable, now: float) -> Heard:
        """The supervisor's table; only nodes of this cluster are in it."""
        if len(said.processes) > RECORD_ROWS or len(said.storage) > 64:
            return Heard.REFUSED
        rows = [row for row in said.processes if row.node in self.names]
        texts = [
            text
            for row in rows
            for text in (row.name, row.role, row.state, row.endpoint, row.reason, row.last_end)
        ]
        if any(len(text) > RECORD_TEXT_CHARS for text in texts):
            return Heard.REFUSED
        changed = rows != self.processes or said.storage != self.storage
        self.processes, self.storage = rows, said.storage
        self._supervisor_at = now
        return Heard.STATE if changed else Heard.NOTHING

    def gateways(self) -> list[GatewayRecord]:
        """The gateways that report, by name."""
        return [self._gateways[name][1] for name in sorted(self._gateways)]

    def tick(self, now: float) -> bool:
        """Forget who fell silent; True if someone was forgotten."""
        limit_s = REPORTER_SILENT_MS / 1000
        gone = [name for name, (at, _) in self._gateways.items() if now - at >= limit_s]
        for name in gone:
            del self._gateways[name]
        if self.supervisor_silent(now) and self.processes:
            self.processes, self.storage = [], {}
            return True
        return bool(gone)

    def supervisor_silent(self, now: float) -> bool:
        """Whether a supervisor that used to report does so no more."""
        at = self._supervisor_at
        return at is not None and now - at >= REPORTER_SILENT_MS / 1000

    def stretch(self, late_s: float) -> None:
        """This process itself was late by so much: what waits in its sockets is not silence."""
        self._gateways = {name: (at + late_s, row) for name, (at, row) in self._gateways.items()}
        if self._supervisor_at is not None:
            self._supervisor_at += late_s
