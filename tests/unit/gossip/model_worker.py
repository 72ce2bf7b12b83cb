"""A worker as the contract has it, without objects: what it says of itself, hears and believes.

It checks while it runs what every worker rests on: entries come dense and each once, and leave to
execute comes after everything that is to be applied.
"""

from __future__ import annotations

from typing import Any

from connserver.messages import (
    NO_STATE,
    STALE_GRANT,
    Attach,
    BarrierPassed,
    Committed,
    Deliver,
    Drained,
    Rebase,
    Refused,
    Role,
    Submit,
)

SILENCE_S = 1.0
"""After so long without a Role it asks whether anybody is there."""


class ModelWorker:
    """One process. `react` and `tick` give what it says; `submit` too."""

    def __init__(self, group: int, pid: int, endpoint: str, now: float, *, loaded: bool = True) -> None:
        self.group, self.pid, self.endpoint = group, pid, endpoint
        self.identity = b"worker:%d:%d" % (group, pid)
        self.loaded = loaded
        self.attempt, self.era, self.applied = 1, 1, 0
        self.gossip = self.grant = 0
        self.ended = ""
        """Why a new process has to take its place, "" if it goes on."""
        self.entries: dict[int, bytes] = {}
        """By op: what it knows to be committed."""
        self.pending: dict[int, bytes] = {}
        self.barriers: list[int] = []
        self._heard_at = now
        self._said = self._attach()

    # --- what it says -----------------------------------------------------------------------------

    def hello(self) -> Attach:
        """The first thing that it says; also that it has loaded now."""
        return self._said if self.loaded else self._question()

    def load(self) -> Attach:
        """Its state is there."""
        self.loaded = True
        self._said = self._attach()
        return self._said

    def submit(self, *payloads: bytes) -> Submit:
        """Execute something under the grant it has."""
        assert self.grant and not self.ended
        first = self.head + 1
        self.pending.update(enumerate(payloads, first))
        return Submit(self.group, self.grant, first, list(payloads))

    def tick(self, now: float) -> list[Any]:
        """Ask, when nobody has spoken for a while."""
        if self.ended or now - self._heard_at < SILENCE_S:
            return []
        self._heard_at = now
        return [self._question()]

    @property
    def head(self) -> int:
        """The last op it has applied or executed."""
        return max(self.pending, default=self.applied)

    # --- what it hears ----------------------------------------------------------------------------

    def react(self, message: Any, now: float) -> list[Any]:
        """What it answers."""
        if self.ended:
            return []
        match message:
            case Role():
                self._heard_at = now
                return self._role(message)
            case Deliver():
                self._deliver(message)
            case Committed(grant, op) if grant == self.grant:
                for done in [one for one in self.pending if one <= op]:
                    self.entries[done] = self.pending.pop(done)
                self.applied = op
            case Refused(grant, _, reason, _) if grant == self.grant and reason == STALE_GRANT:
                return self._begin_anew()
            case BarrierPassed(grant, token) if grant == self.grant:
                self.barriers.append(token)
            case Rebase(_, era, op) if era != self.era or self.applied < op:
                self.ended = f"its state is older than op {op} of era {era}"
        return []

    def _role(self, role: Role) -> list[Any]:
        known, self.gossip = self.gossip, role.gossip
        if known not in (0, role.gossip):
            return self._begin_anew()
        if self.grant and role.grant != self.grant:
            return self._begin_anew()
        if role.grant and not self.grant:
            assert role.commit == self.applied, "granted before all of it was applied"
            assert role.attached and not self.pending
            self.grant = role.grant
        if role.grant and role.role == "draining" and not self.pending:
            return [Drained(self.group, self.grant)]
        return [self._said] if self.loaded and not role.attached else []

    def _deliver(self, said: Deliver) -> None:
        assert not self.grant and said.era == self.era
        assert said.first_op <= self.applied + 1, "a gap"
        for op, payload in enumerate(said.payloads, said.first_op):
            assert self.entries.get(op, payload) == payload, "another entry for an op it has"
            if op > self.applied:
                self.entries[op] = payload
                self.applied = op

    def _begin_anew(self) -> list[Any]:
        self.grant = 0
        if self.pending:
            self.ended = "it executed what may not have been committed"
            return []
        self.attempt += 1
        self._said = self._attach()
        return [self._said] if self.loaded else []

    def _attach(self) -> Attach:
        return Attach(self.group, self.pid, self.endpoint, self.attempt, self.era, self.applied, self.applied)

    def _question(self) -> Attach:
        return Attach(self.group, self.pid, self.endpoint, 0, 0, NO_STATE, 0)
