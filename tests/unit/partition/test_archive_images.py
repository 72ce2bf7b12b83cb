"""Kept images: the last one wins, the order is that of operations, the size is always right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver.limits import ARCHIVE_ROW_BYTES, ARCHIVE_STATEMENT_BYTES, ARCHIVE_STATEMENT_ROWS, NAME_CHARS
from connserver.messages import Image
from partition.archive_images import KeptImages, check_image
from partition.archive_sql import statements


def image(oid: int, data: bytes | None = b"") -> Image:
    return Image(oid, "thing", 1, data)


def test_the_last_image_of_an_object_wins() -> None:
    kept = KeptImages()
    kept.put(1, image(7, b"one"))
    kept.put(1, image(8, b"other"))
    kept.put(2, image(7, None))
    kept.check_invariants()
    assert list(kept.by_id.items()) == [(8, (1, image(8, b"other"))), (7, (2, image(7, None)))]
    assert kept.size == 2 * ARCHIVE_ROW_BYTES + len(b"other")


def test_forgetting_leaves_what_is_newer() -> None:
    kept = KeptImages()
    for op in range(1, 6):
        kept.put(op, image(op % 3))
    kept.forget_through(3)
    kept.check_invariants()
    assert kept.by_id == {1: (4, image(1)), 2: (5, image(2))}


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=4) | st.none())), st.data())
def test_taking_a_part_away_and_putting_it_back_under_changes_nothing(
    changes: list[tuple[int, bytes | None]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(changes)))
    all_at_once, older, newer = KeptImages(), KeptImages(), KeptImages()
    for op, (oid, content) in enumerate(changes):
        all_at_once.put(op, image(oid, content))
        (older if op < cut else newer).put(op, image(oid, content))
    newer.put_under(older)
    newer.check_invariants()
    assert list(newer.by_id.items()) == list(all_at_once.by_id.items())
    assert newer.size == all_at_once.size


@pytest.mark.parametrize(
    "bad",
    [
        Image(-1, "thing", 1, b""),
        Image(1 << 64, "thing", 1, b""),
        Image(1, "thing", -1, b""),
        Image(1, "thing", 1 << 31, b""),
        Image(1, "nul\0", 1, b""),
        Image(1, "half \ud800", 1, b""),
        Image(1, "x" * (NAME_CHARS + 1), 1, b""),
    ],
)
def test_what_postgresql_could_never_store_is_refused_at_once(bad: Image) -> None:
    with pytest.raises(ValueError):
        check_image(bad)


def test_statements_are_bounded_by_rows_and_by_bytes() -> None:
    many = [image(number) for number in range(2 * ARCHIVE_STATEMENT_ROWS + 1)]
    assert [len(part) for part in statements(many)] == [ARCHIVE_STATEMENT_ROWS, ARCHIVE_STATEMENT_ROWS, 1]
    half = bytes(ARCHIVE_STATEMENT_BYTES // 2)
    large = [image(1, half), image(2, half), image(3, half + half + b"x"), image(4, b"x")]
    assert [[row.oid for row in part] for part in statements(large)] == [[1, 2], [3], [4]]
    assert list(statements([])) == []
