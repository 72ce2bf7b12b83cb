"""The choice of a group: what each change makes of it, and how it is kept among the objects."""

from __future__ import annotations

import pytest

from connserver.errors import PluginLoadError
from connserver.limits import PLUGIN_PART_BYTES
from partition.ledger import Ledger
from partition.objects import Store
from partition.plugins_choice import CODE, Choice, Version, read_choice, read_code, write_choice
from partition.turn import TurnBuilder

ONE, TWO, THREE = (Version(f"{number}.0", str(number) * 32, f"/world-{number}") for number in (1, 2, 3))
CHAT = Version("1.0", "c" * 32, "/chat")


def test_what_changes_make_of_it() -> None:
    choice = Choice().attached("chat", CHAT, 250).attached("world", ONE, 100)
    assert [row.name for row in choice.rows] == ["chat", "world"] and choice.revision == 2
    newer = choice.reloaded("world", TWO)
    row = newer.row("world")
    assert row is not None and (row.chosen, row.previous, row.lender, row.timeout_ms) == (TWO, ONE, None, 100)
    back = newer.rolled_back("world").row("world")
    assert back is not None and (back.chosen, back.previous, back.lender) == (ONE, TWO, TWO)
    forward = newer.rolled_back("world").rolled_back("world").row("world")
    assert forward is not None and (forward.chosen, forward.previous) == (TWO, ONE)
    third = newer.rolled_back("world").reloaded("world", THREE).row("world")
    assert third is not None and (third.chosen, third.previous, third.lender) == (THREE, ONE, TWO)
    assert [row.name for row in newer.detached("chat").rows] == ["world"]
    slower = choice.reloaded("world", ONE, 500).row("world")
    assert slower is not None and (slower.timeout_ms, slower.previous) == (500, None)
    assert newer.digests == {CHAT.digest, ONE.digest, TWO.digest}
    for one in (choice, newer, newer.rolled_back("world"), choice.reloaded("world", ONE, 500)):
        one.check_invariants()
        assert Choice.of(one.fields()) == one


def test_what_cannot_be_is_refused() -> None:
    choice = Choice().attached("world", ONE, 250)
    with pytest.raises(PluginLoadError, match=r"world 1\.0 is attached already"):
        choice.attached("world", TWO, 250)
    with pytest.raises(PluginLoadError, match="chat is not attached; attached: world"):
        choice.detached("chat")
    with pytest.raises(PluginLoadError, match="never reloaded"):
        choice.rolled_back("world")
    with pytest.raises(PluginLoadError, match="just this form"):
        choice.reloaded("world", ONE)


def test_choice_and_code_are_objects_and_old_code_goes() -> None:
    store, turn = Store(), TurnBuilder()
    ledger = Ledger(store, turn)
    code = {ONE.digest: b"1" * (PLUGIN_PART_BYTES + 5), TWO.digest: b"2", CHAT.digest: b""}
    assert read_choice(store, 7) is None and read_code(store) == {}
    first = Choice().attached("world", ONE, 250)
    write_choice(ledger, 7, first, code)
    assert read_choice(store, 7) == first and read_code(store) == {ONE.digest: code[ONE.digest]}
    assert len(list(store.images(CODE))) == 2
    turn.finish()
    second = first.reloaded("world", TWO)
    write_choice(ledger, 7, second, code)
    assert read_code(store) == {digest: code[digest] for digest in (ONE.digest, TWO.digest)}
    entry = turn.finish().entry
    assert entry is not None and len(entry.images) == 2  # the new code and the choice, not the old code
    write_choice(ledger, 7, second.detached("world"), code)
    assert read_code(store) == {} and len(store) == 1
    store.check_invariants()


def test_code_of_which_a_part_is_missing_is_not_there() -> None:
    store = Store()
    ledger = Ledger(store, TurnBuilder())
    choice = Choice().attached("world", ONE, 250)
    write_choice(ledger, 0, choice, {ONE.digest: b"1" * (PLUGIN_PART_BYTES + 5)})
    oid = next(iter(store.images(CODE))).oid
    ledger.delete(oid, CODE)
    assert read_code(store) == {}
