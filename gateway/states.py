"""The states of a connection, and of the worker it belongs to.

DETECTING ─ encoding known ─▶ OPEN ─ login or resume ─▶ LOGGING_IN ─ bound ─▶ BOUND
                                ▲                           │
                                └────────── refused ────────┘        any ─▶ CLOSED
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Home(Enum):
    """The worker of a session: it answers, it is not there now, or too much waits for it."""

    SERVES = "serves"
    AWAY = "away"
    FULL = "full"


class State(Enum):
    """See the drawing above."""

    DETECTING = "detecting"
    OPEN = "open"
    LOGGING_IN = "logging_in"
    BOUND = "bound"
    CLOSED = "closed"


TRANSITIONS: Final[dict[tuple[State, str], State]] = {
    (State.DETECTING, "detected"): State.OPEN,
    (State.OPEN, "login"): State.LOGGING_IN,
    (State.LOGGING_IN, "bound"): State.BOUND,
    (State.LOGGING_IN, "refused"): State.OPEN,
    (State.BOUND, "bound"): State.BOUND,
}
"""The whole machine; `closed` is possible everywhere, anything else missing here is a bug."""
