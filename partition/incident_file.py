"""Incidents: what went wrong inside a plugin, kept under the number that the client was given.

Guards: the client learns a number, never a traceback; the operator finds the traceback by it.
"""

from __future__ import annotations

import secrets
import traceback
from pathlib import Path

from connserver import telemetry
from connserver.limits import INCIDENTS_BYTES, TRACEBACK_CHARS

log = telemetry.get_logger(__name__)


class IncidentFile:
    """Appends to one file per node; when it has grown too large it is moved aside once."""

    def __init__(self, folder: Path, node: str) -> None:
        self._path = folder / f"incidents-{node}.log"
        self._node = node

    def record(self, incident: str, text: str) -> None:
        """Keep the text of an incident that already has its number."""
        what, _, told = text.strip().partition("\n")
        log.error("plugin.incident", incident=incident, what=what, traceback=told[-TRACEBACK_CHARS:])
        lines = "".join(f"  {line}\n" for line in text[-TRACEBACK_CHARS:].splitlines())
        try:
            if self._path.exists() and self._path.stat().st_size > INCIDENTS_BYTES:
                self._path.replace(self._path.with_suffix(".log.1"))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"incident {incident}\n{lines}\n")
        except OSError as error:
            log.error("incident.not_kept", incident=incident, error=str(error))

    def failed(self, what: str, failure: BaseException) -> str:
        """Give an exception a number and keep it; returns the number."""
        text = "".join(traceback.format_exception(failure))
        return self.opened(f"{what}\n{text}")

    def opened(self, text: str) -> str:
        """Keep a text under a new number; returns that."""
        incident = f"{self._node}-{secrets.token_hex(4)}"
        self.record(incident, text)
        return incident
