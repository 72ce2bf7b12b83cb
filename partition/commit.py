"""Between a finished turn and its leaving: the log's position, and what waits for it.

Guards the rule that nothing an operation caused leaves before it has committed, and that nothing
that was read leaves before it is known to have been current: a turn without an entry (reads,
refusals) waits for the entries before it and for a barrier asked for after it. A later entry that
commits proves the same. Turns leave strictly in their order. Pure; times in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from connserver.messages import GAP, OVERLOADED, Refused
from partition.turn import Turn

SUBMIT_BYTES = 1 << 20
"""Payloads in one Submit (at least one): a long outage is not handed in as one huge message."""

UNCOMMITTED_BYTES = 32 << 20
"""Payloads kept until they have committed; past it clients are refused until the log goes on."""

RETRY_S = 0.25
"""Between two attempts to hand something in while the log takes nothing."""

STALL_S = 1.0
"""Silence about what was handed in after which it is taken for lost on the way and said again."""

Released = list[tuple[int, Turn]]


@dataclass(frozen=True, slots=True)
class Held:
    """A turn that may not leave yet: `op` it rests on, `token` of the barrier it needs (0: none)."""

    op: int
    token: int
    turn: Turn


class CommitQueue:
    """Turns in order. `head`: the last op given out; `commit`: the last that is safe."""

    def __init__(self, head: int, commit: int) -> None:
        self.head = head
        self.commit = commit
        self.bytes = 0
        """Size of the payloads that have not committed."""
        self._held: deque[Held] = deque()
        self._payloads: deque[bytes] = deque()  # of the ops commit + 1 … head
        self._sent = head  # the last op handed to the log
        self._asked = self._passed = self._needed = 0  # barriers
        self._progress_at = self._asked_at = 0.0
        self._blocked = 0  # the op that the log refused to take
        self._retry_at = 0.0

    # --- from the worker ---

    def submit(self, turn: Turn, payload: bytes = b"") -> int:
        """Take a finished turn and its packed entry; returns the entry's op, or 0 when it has none."""
        if turn.entry is not None:
            self.head += 1
            self._payloads.append(payload)
            self.bytes += len(payload)
            self._held.append(Held(self.head, 0, turn))
            return self.head
        token = 0
        if turn.tells_state:
            token = self._needed = self._asked + 1
        self._held.append(Held(self.head, token, turn))
        return 0

    # --- to the log ---

    def to_submit(self, now: float) -> tuple[int, list[bytes]] | None:
        """The next portion to hand in, (first op, payloads); None: nothing now."""
        if self._blocked:
            if now < self._retry_at or self._sent == self.head:
                return self._stalled(now)
            self._retry_at = now + RETRY_S
            return self._portion(1, now)
        if self._sent < self.head:
            return self._portion(SUBMIT_BYTES, now)
        return self._stalled(now)

    def _portion(self, limit: int, now: float) -> tuple[int, list[bytes]]:
        if self._sent == self.commit:
            self._progress_at = now
        first, size, portion = self._sent + 1, 0, []
        while self._sent < self.head and size < limit:
            portion.append(self._payloads[self._sent - self.commit])
            size += len(portion[-1])
            self._sent += 1
        return first, portion

    def _stalled(self, now: float) -> tuple[int, list[bytes]] | None:
        """The last payload once more: the log skips what it has, and asks for what it has not."""
        if self._sent == self.commit or now - self._progress_at < STALL_S:
            return None
        self._progress_at = now
        return self._sent, [self._payloads[self._sent - self.commit - 1]]

    def to_ask(self, now: float) -> int:
        """The token of the barrier to ask for now; 0: none. One is under way at a time."""
        if self._asked > self._passed:
            if not self._held or now - self._asked_at < STALL_S:
                return 0
        elif self._held and self._needed > self._asked:
            self._asked += 1
        else:
            return 0
        self._asked_at = now
        return self._asked

    # --- from the log ---

    def committed(self, op: int, now: float) -> Released:
        """The log has everything up to `op`: the turns that may leave now, with their positions."""
        if op > self.head:
            raise ValueError(f"op {op} has committed, and this worker has executed up to {self.head}")
        op = max(op, self.commit)
        for _ in range(op - self.commit):
            self.bytes -= len(self._payloads.popleft())
        self.commit = op
        self._sent = max(self._sent, op)
        self._progress_at = now
        if op >= self._blocked:
            self._blocked = 0
        return self.ready()

    def barrier_passed(self, token: int) -> Released:
        """What was read before this barrier was asked for was current."""
        self._passed = max(self._passed, min(token, self._asked))
        return self.ready()

    def ready(self) -> Released:
        """Turns that may leave now."""
        released = []
        while self._held:
            held = self._held[0]
            if held.op > self.commit:
                break
            if held.token > self._passed and held.op == self.commit:
                break
            released.append((held.op, held.turn))
            self._held.popleft()
        return released

    def refused(self, refusal: Refused, now: float) -> None:
        """The log did not take a Submit (GAP: go on from its head; OVERLOADED: later) or a barrier."""
        if not refusal.first_op:
            self._asked_at = now + RETRY_S - STALL_S
            return
        if refusal.reason not in (GAP, OVERLOADED) or not self.commit <= refusal.head < self.head:
            return
        self._sent = min(self._sent, refusal.head)
        if refusal.reason == OVERLOADED:
            self._blocked = refusal.head + 1
            self._retry_at = now + RETRY_S

    @property
    def overloaded(self) -> bool:
        """Whether clients have to be refused: the log takes nothing now, or far too slowly."""
        return self._blocked > 0 or self.bytes > UNCOMMITTED_BYTES

    @property
    def at_rest(self) -> bool:
        """Whether everything that was executed is safe."""
        return self.head == self.commit

    @property
    def waiting(self) -> int:
        """Turns that may not leave yet."""
        return len(self._held)

    def check_invariants(self) -> None:
        """Nothing that may leave is held, positions rise, and every uncommitted payload is kept."""
        positions = [held.op for held in self._held]
        tokens = [held.token for held in self._held if held.token]
        assert positions == sorted(positions) and tokens == sorted(tokens)
        assert not self._held or self._held[0].op >= self.commit
        assert self.commit <= self._sent <= self.head
        assert len(self._payloads) == self.head - self.commit
        assert self.bytes == sum(map(len, self._payloads))
        assert self._passed <= self._asked <= self._passed + 1
