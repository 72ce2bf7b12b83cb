"""Between a finished turn and its leaving: the log's position, and what waits for it.

Guards the rule that nothing an operation caused leaves before it has committed. A turn without an
entry (reads, refusals) waits for the entries before it. Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from partition.turn import Turn


@dataclass(slots=True)
class CommitQueue:
    """Turns in order. `head`: the last op given to the log; `commit`: the last that is safe."""

    head: int
    commit: int
    _held: deque[tuple[int, Turn]] = field(default_factory=deque)

    def submit(self, turn: Turn) -> int:
        """Take a finished turn; returns the op its entry has, or 0 when it has none."""
        op = 0
        if turn.entry is not None:
            self.head += 1
            op = self.head
        self._held.append((self.head, turn))
        return op

    def committed(self, op: int) -> list[tuple[int, Turn]]:
        """The log has everything up to `op`: the turns that may leave now, with their positions."""
        self.commit = max(self.commit, op)
        released = []
        while self._held and self._held[0][0] <= self.commit:
            released.append(self._held.popleft())
        return released

    @property
    def waiting(self) -> int:
        """Turns that may not leave yet."""
        return len(self._held)

    def check_invariants(self) -> None:
        """Nothing that is safe is still held, and positions rise."""
        positions = [op for op, _ in self._held]
        assert positions == sorted(positions) and all(op > self.commit for op in positions)
        assert self.commit <= self.head
