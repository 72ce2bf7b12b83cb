"""Incidents: what a plugin's failure is called towards the client, and told to the operator.

Guards the rule that a client learns a number and nothing of the plugin's insides; the traceback goes
to the log under the same number.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from connserver.errors import ClientError
from connserver.limits import TRACEBACK_CHARS
from partition.table import Method

_DIGITS = "0123456789abcdefghijkmnpqrstuvwxyz"
"""No l and no o: incident numbers are read out over the telephone."""


class Incidents:
    """Numbers the incidents of one life of a worker."""

    def __init__(self, prefix: str, seed: int, on_incident: Callable[[str, str], None]) -> None:
        self._prefix = f"{prefix}-{_short(seed % len(_DIGITS) ** 4)}"
        self._count = 0
        self._on_incident = on_incident

    def report(self, method: Method, error: BaseException) -> ClientError:
        """Hand the traceback to the operator; what the client is told."""
        self._count += 1
        incident = f"{self._prefix}-{self._count}"
        told = "".join(traceback.format_exception(error, chain=True))
        if len(told) > TRACEBACK_CHARS:
            told = "…" + told[-TRACEBACK_CHARS:]
        where = f"{method.name} of plugin {method.plugin} {method.version}"
        self._on_incident(incident, f"{where} failed, nothing of the call happened\n{told}")
        return ClientError("plugin_error", f"{method.name} failed; incident {incident}", incident=incident)


def _short(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text or "0"
