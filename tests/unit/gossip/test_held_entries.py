"""Entries on their way to backups' workers: held for a moment, never out of order, never too many."""

from __future__ import annotations

from connserver.messages import Committed, Deliver
from gossip.held_entries import HELD_BYTES, HELD_S, HeldEntries

A, B = b"worker:0:1", b"worker:1:2"


def entries(first: int, *payloads: bytes, group: int = 0, era: int = 1) -> Deliver:
    """What a replica delivers."""
    return Deliver(group, era, first, list(payloads))


def test_entries_are_held_and_told_together_when_they_are_due() -> None:
    held = HeldEntries()
    assert held.tell(A, entries(5, b"five"), 1.0) == []
    assert held.tell(B, entries(1, b"other", group=1), 1.01) == []
    assert held.tell(A, entries(6, b"six", b"seven"), 1.02) == []
    held.check_invariants()
    assert held.due(1.0 + 0.9 * HELD_S) == []
    assert held.due(1.0 + HELD_S) == [(A, entries(5, b"five", b"six", b"seven"))]
    assert held.due(2.0) == [(B, entries(1, b"other", group=1))]
    assert held.due(3.0) == []


def test_what_else_a_worker_hears_comes_after_what_was_held_for_it() -> None:
    held = HeldEntries()
    held.tell(A, entries(5, b"five"), 1.0)
    held.tell(B, entries(1, b"other", group=1), 1.0)
    word = Committed(7, 5)
    assert held.tell(A, word, 1.0) == [entries(5, b"five"), word]
    assert held.tell(A, word, 1.0) == [word]
    assert held.due(2.0) == [(B, entries(1, b"other", group=1))]


def test_entries_that_do_not_follow_are_not_put_together() -> None:
    """A worker that began anew is delivered the same again, one of a new era other ones."""
    held = HeldEntries()
    held.tell(A, entries(5, b"five"), 1.0)
    assert held.tell(A, entries(5, b"five"), 1.0) == [entries(5, b"five")]
    assert held.tell(A, entries(6, b"new", era=2), 1.0) == [entries(5, b"five")]
    held.check_invariants()
    assert held.due(2.0) == [(A, entries(6, b"new", era=2))]


def test_much_is_told_at_once() -> None:
    held = HeldEntries()
    held.tell(A, entries(5, b"five"), 1.0)
    assert held.tell(A, entries(6, bytes(HELD_BYTES)), 1.0) == [entries(5, b"five", bytes(HELD_BYTES))]
    held.check_invariants()
    assert held.due(2.0) == []
