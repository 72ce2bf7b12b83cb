"""The note that survives a worker's death."""

from pathlib import Path

from partition.suspects import Suspects


def test_two_deaths_under_one_source_quarantine_it(tmp_path: Path) -> None:
    note = tmp_path / "note"
    first = Suspects(note)
    assert first.last_death is None and not first.any
    first.enter(11, 1, 7)
    second = Suspects(note)  # the process died without a word
    assert second.last_death is not None and second.last_death.source == (11, 1, 7)
    known = second.get(11, 1, 7)
    assert known is not None and not known.quarantined
    second.enter(11, 1, 7)
    third = Suspects(note)
    again = third.get(11, 1, 7)
    assert again is not None and again.quarantined and again.deaths == 2
    assert third.get(11, 1, 8) is None


def test_an_orderly_end_accuses_nobody(tmp_path: Path) -> None:
    note = tmp_path / "note"
    suspects = Suspects(note)
    suspects.enter(1, 2, 3)
    suspects.close()
    assert Suspects(note).last_death is None


def test_old_suspects_make_room(tmp_path: Path) -> None:
    note = tmp_path / "note"
    for number in range(1, 101):
        Suspects(note).enter(1, 1, number)
    suspects = Suspects(note)
    assert len(suspects.all()) == 63
    assert suspects.get(1, 1, 100) is not None and suspects.get(1, 1, 1) is None
