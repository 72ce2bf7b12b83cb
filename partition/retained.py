"""Outputs of committed entries, kept until their gateways have them; a part of every replica's state.

Guards the rule that an output that has committed reaches its gateway whoever dies: each replica keeps
the outputs of the entries it applied, and gives them up only by an entry that says the gateway has
them (or is dead). So a new primary, and a new stream, begin with exactly what the gateway lacks. What
is kept is bounded per gateway: past the bound it is given up and the gateway is known to lack it.
Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from connserver.messages import GATEWAY_GONE, OutputBatch

RETAINED_BATCHES = 16_384
"""Batches kept for one gateway: some seconds of a busy group, as long as a gateway may be silent."""

RETAINED_BYTES = 64 << 20
"""Their size, for a gateway that is away while rooms speak in large messages."""

GATEWAYS = 1_024
"""Gateways that lack something and may come back; of more the longest gone are forgotten."""

JOINED_BYTES = 1 << 20
"""Batches that wait leave joined into messages of about this size."""

ITEM_BYTES = 48
"""What an item of a batch costs besides its body, about."""


@dataclass(slots=True)
class _Kept:
    """What one gateway has not got. `floor`: outputs up to here were given up, had or not."""

    batches: deque[tuple[int, OutputBatch, int]] = field(default_factory=deque)
    size: int = 0
    floor: int = 0
    gone: bool = False

    def give_up(self) -> None:
        if self.batches:
            self.floor = self.batches[-1][0]
            self.batches.clear()
            self.size = 0


class Retained:
    """All that gateways have not confirmed, by their boot."""

    def __init__(self) -> None:
        self._by_boot: dict[int, _Kept] = {}

    def add(self, op: int, batches: Iterable[OutputBatch]) -> list[int]:
        """The outputs of entry `op`; returns the gateways of which too much was kept."""
        overflowed = []
        for batch in batches:
            kept = self._by_boot.get(batch.gateway)
            if kept is None:
                kept = self._by_boot[batch.gateway] = _Kept()
            if kept.gone:
                kept.floor = op
                continue
            size = _size(batch)
            kept.batches.append((op, batch, size))
            kept.size += size
            if len(kept.batches) > RETAINED_BATCHES or kept.size > RETAINED_BYTES:
                kept.give_up()
                overflowed.append(batch.gateway)
        return overflowed

    def received(self, pairs: Iterable[list[int]]) -> None:
        """What a committed entry says: (gateway boot, op it has everything up to, or GATEWAY_GONE)."""
        for boot, op in pairs:
            kept = self._by_boot.get(boot)
            if op == GATEWAY_GONE:
                kept = kept or self._by_boot.setdefault(boot, _Kept())
                kept.give_up()
                kept.gone = True
                self._by_boot[boot] = self._by_boot.pop(boot)  # the newest of the gone
                self._forget_oldest()
            elif kept is not None:
                kept.gone = False
                while kept.batches and kept.batches[0][0] <= op:
                    kept.size -= kept.batches.popleft()[2]
                if not kept.batches and kept.floor <= op:
                    del self._by_boot[boot]

    def _forget_oldest(self) -> None:
        gone = [boot for boot, kept in self._by_boot.items() if kept.gone]
        for boot in gone[: max(0, len(gone) - GATEWAYS)]:
            del self._by_boot[boot]

    def after(self, boot: int, op: int) -> list[tuple[int, OutputBatch]]:
        """What a gateway that has everything up to `op` lacks, in order, joined: (last op, batch)."""
        kept = self._by_boot.get(boot)
        return _joined(boot, [row for row in kept.batches if row[0] > op]) if kept is not None else []

    def lacks(self, boot: int, op: int) -> bool:
        """Whether a gateway that has everything up to `op` lacks something that was given up."""
        kept = self._by_boot.get(boot)
        return kept is not None and op < kept.floor

    def has_upto(self, boot: int, op: int) -> bool:
        """Whether something is kept that this gateway, having everything up to `op`, needs no more."""
        kept = self._by_boot.get(boot)
        return kept is not None and bool(kept.batches) and kept.batches[0][0] <= op

    def is_gone(self, boot: int) -> bool:
        """Whether the log holds this gateway for dead."""
        kept = self._by_boot.get(boot)
        return kept is not None and kept.gone

    @property
    def oldest(self) -> int:
        """The op of the oldest output that is kept; 0: none is."""
        return min((kept.batches[0][0] for kept in self._by_boot.values() if kept.batches), default=0)

    @property
    def boots(self) -> frozenset[int]:
        """The gateways for which something is kept."""
        return frozenset(boot for boot, kept in self._by_boot.items() if kept.batches)

    def check_invariants(self) -> None:
        """What is kept is in order, above what was given up, bounded, and its size is known."""
        for kept in self._by_boot.values():
            ops = [op for op, _, _ in kept.batches]
            assert ops == sorted(ops) and (not ops or ops[0] > kept.floor)
            assert kept.size == sum(size for _, _, size in kept.batches) <= RETAINED_BYTES
            assert len(ops) <= RETAINED_BATCHES
            assert not (kept.gone and ops)


class Receipts:
    """What the primary has learnt about gateways and the log does not say yet."""

    def __init__(self, retained: Retained) -> None:
        self._retained = retained
        self._news: dict[int, int] = {}

    def has(self, boot: int, op: int) -> None:
        """A gateway has everything up to `op`."""
        if self._retained.has_upto(boot, op):
            self._news[boot] = op

    def gone(self, boot: int) -> None:
        """A gateway is dead."""
        self._news[boot] = GATEWAY_GONE

    def back(self, boot: int, op: int) -> None:
        """A gateway that was held for dead is there."""
        self._news.pop(boot, None)
        if self._retained.is_gone(boot):
            self._news[boot] = op
        else:
            self.has(boot, op)

    @property
    def any(self) -> bool:
        """Whether there is something to say."""
        return bool(self._news)

    def take(self) -> list[list[int]]:
        """For the entry that is being made."""
        if not self._news:
            return []
        news, self._news = self._news, {}
        return [[boot, op] for boot, op in news.items()]


def _size(batch: OutputBatch) -> int:
    return sum(map(len, batch.bodies)) + sum(8 * len(targets) + ITEM_BYTES for targets in batch.targets)


def _joined(boot: int, rows: list[tuple[int, OutputBatch, int]]) -> list[tuple[int, OutputBatch]]:
    found: list[tuple[int, OutputBatch]] = []
    size = JOINED_BYTES
    for op, batch, more in rows:
        if size + more > JOINED_BYTES:
            found.append((op, OutputBatch(boot, [], [], [], [])))
            size = 0
        size += more
        joined = found[-1][1]
        joined.targets.extend(batch.targets)
        joined.kinds.extend(batch.kinds)
        joined.answers.extend(batch.answers)
        joined.bodies.extend(batch.bodies)
        found[-1] = (op, joined)
    return found
