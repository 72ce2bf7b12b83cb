"""What a worker says to its replica to be delivered to: who it is, and which state it has.

Guards: each wish to begin anew has a number of its own, so that a repeat is known for one, and what
was delivered for an earlier attempt is never taken for an answer to a later one. Pure.
"""

from __future__ import annotations

from connserver.messages import NO_STATE, Attach


class Attachment:
    """The present attempt."""

    def __init__(self, group: int, pid: int, endpoint: str) -> None:
        self._group = group
        self._pid = pid
        self._endpoint = endpoint
        self._attempt = 0
        self._state = (0, NO_STATE, 0)

    def hello(self) -> Attach:
        """I am there: before a state is loaded, and when nothing is heard."""
        return Attach(self._group, self._pid, self._endpoint, 0, 0, NO_STATE, 0)

    def begin(self, era: int, applied: int, after: int) -> Attach:
        """A new attempt: the state is that after `applied`, and entries after `after` are wanted."""
        if not 0 <= after <= applied:
            raise ValueError(f"entries after {after} for a state at {applied}")
        self._attempt += 1
        self._state = (era, applied, after)
        return self.current()

    def current(self) -> Attach:
        """The attempt once more, for a replica that did not hear it."""
        era, applied, after = self._state
        return Attach(self._group, self._pid, self._endpoint, self._attempt, era, applied, after)
