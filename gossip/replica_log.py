"""The log of one replica in memory: a base, the entries above it, and where each view begins.

Guards the matching rule: an (op, view) pair was written by one primary, once, upon one predecessor.
So two logs that agree at an op agree below it, and everything that asks "where do these logs part"
asks `meeting_point`, which needs only outlines.
"""

from __future__ import annotations

from bisect import bisect_right

from gossip.protocol import Entry, Outline

OUTLINE_RUNS = 64
"""Views named in an outline: more than any log between two truncations has seen; the commit anchors it."""


class ReplicaLog:
    """Entries `base + 1 … head`, without gaps. The base itself is committed and archived."""

    __slots__ = ("_checked", "_entries", "_run_ops", "_run_views", "base", "base_view", "payload_bytes")

    def __init__(self, base: int = 0, base_view: int = 0) -> None:
        self.base = base
        self.base_view = base_view
        self.payload_bytes = 0
        self._entries: list[Entry] = []
        self._run_ops: list[int] = []
        self._run_views: list[int] = []
        self._checked: tuple[int, ...] = ()

    @property
    def head(self) -> int:
        """The last op; the base where there are no entries."""
        return self.base + len(self._entries)

    @property
    def head_view(self) -> int:
        """The view in which the last op was first written."""
        return self._run_views[-1] if self._run_views else self.base_view

    def view_at(self, op: int) -> int | None:
        """The view of an op within base … head; None outside."""
        if op == self.base:
            return self.base_view
        if op < self.base or op > self.head:
            return None
        return self._run_views[bisect_right(self._run_ops, op) - 1]

    def entry(self, op: int) -> Entry:
        """The entry at an op within base + 1 … head."""
        assert self.base < op <= self.head, (self.base, op, self.head)
        return self._entries[op - self.base - 1]

    def after(self, op: int, up_to: int, most_bytes: int) -> tuple[Entry, ...]:
        """Entries op + 1 … up_to, ended early (but not before the first) at most_bytes of payload."""
        first = op - self.base
        last = min(up_to, self.head) - self.base
        size = 0
        for position in range(first, last):
            size += len(self._entries[position].payload)
            if size > most_bytes and position > first:
                return tuple(self._entries[first:position])
        return tuple(self._entries[first:last])

    def append(self, entry: Entry) -> None:
        """Add the next op."""
        assert entry.op == self.head + 1, (entry.op, self.head)
        if not self._run_views or self._run_views[-1] != entry.view:
            self._run_ops.append(entry.op)
            self._run_views.append(entry.view)
        self._entries.append(entry)
        self.payload_bytes += len(entry.payload)

    def cut_after(self, op: int) -> None:
        """Drop everything above an op."""
        keep = op - self.base
        self.payload_bytes -= sum(len(entry.payload) for entry in self._entries[keep:])
        del self._entries[keep:]
        runs = bisect_right(self._run_ops, op)
        del self._run_ops[runs:], self._run_views[runs:]

    def truncate(self, op: int) -> None:
        """Make `op` (within base … head) the new base."""
        view = self.view_at(op)
        assert view is not None
        count = op - self.base
        self.payload_bytes -= sum(len(entry.payload) for entry in self._entries[:count])
        del self._entries[:count]
        runs = bisect_right(self._run_ops, op + 1) - 1
        if runs > 0:
            del self._run_ops[:runs], self._run_views[:runs]
        self.base, self.base_view = op, view
        if not self._entries:
            self._run_ops.clear()
            self._run_views.clear()

    def reset(self, base: int, base_view: int) -> None:
        """Forget everything and begin after a base."""
        self.__init__(base, base_view)  # type: ignore[misc]

    def outline(self, commit: int) -> Outline:
        """This log's shape; `commit` must be within it."""
        commit_view = self.view_at(commit)
        assert commit_view is not None
        runs = tuple(zip(self._run_ops[-OUTLINE_RUNS:], self._run_views[-OUTLINE_RUNS:], strict=True))
        return Outline(self.base, self.base_view, commit, commit_view, runs, self.head)

    def last_ops(self) -> list[tuple[int, int]]:
        """(view, last op written in it) for the base and every run, oldest first."""
        ends = [first - 1 for first in self._run_ops[1:]] + [self.head]
        runs = zip(self._run_views, ends, strict=False)  # without entries there are no runs, but an end
        return [(self.base_view, self.base), *runs]

    def check_invariants(self) -> None:
        """Runs agree with entries; ops are dense; views never fall. Looked at when something changed."""
        now = (self.base, self.base_view, self.head, self.payload_bytes, *self._run_ops, *self._run_views)
        if now == self._checked:
            return
        self._checked = now
        views = [entry.view for entry in self._entries]
        assert [entry.op for entry in self._entries] == list(range(self.base + 1, self.head + 1))
        assert views == sorted(views), "a view falls along the log"
        assert not views or views[0] >= self.base_view
        assert [self.view_at(entry.op) for entry in self._entries] == views
        assert self.payload_bytes == sum(len(entry.payload) for entry in self._entries)


def extended(outline: Outline, prev_op: int, prev_view: int, entries: list[Entry]) -> Outline:
    """The outline of a log cut after prev_op, with entries put behind it (a transfer under way)."""
    runs = [run for run in outline.runs if run[0] <= prev_op]
    last = prev_view
    for entry in entries:
        if entry.view != last or not runs:
            runs.append((entry.op, entry.view))
            last = entry.view
    return outline._replace(runs=tuple(runs[-OUTLINE_RUNS:]), head=prev_op + len(entries))


def meeting_point(log: ReplicaLog, other: Outline) -> int | None:
    """The highest op up to which `log` and the outlined log are the same; None: they meet nowhere."""
    last_of = dict(log.last_ops())
    last = other.head
    for first, view in reversed(other.runs):
        op = min(last, last_of.get(view, -1))
        if op >= first and log.view_at(op) == view:
            return op
        last = first - 1
    for op, view in ((other.commit, other.commit_view), (other.base, other.base_view)):
        if log.view_at(op) == view:
            return op
    return None
