"""Routing tables as they are read: what comes again is known, and what is none is none."""

from __future__ import annotations

from connserver.codec import encode
from connserver.messages import GetRoutes, Routes
from connserver.route_feed import RouteReader


def table(version: int) -> bytes:
    """A table as it is published."""
    return encode(Routes("demo", "n1", version, []))


def test_what_is_published_again_is_not_decoded_again() -> None:
    reader = RouteReader(2)
    first = reader.read(table(1))
    assert first == Routes("demo", "n1", 1, [])
    assert reader.read(table(1)) is first
    assert reader.read(table(2)) == Routes("demo", "n1", 2, [])
    assert reader.read(table(1)) is first


def test_only_the_last_tables_are_kept() -> None:
    reader = RouteReader(2)
    first = reader.read(table(1))
    for version in range(2, 50):
        assert reader.read(table(version)) is not None
    assert len(reader._recent) == 2
    again = reader.read(table(1))
    assert again == first and again is not first


def test_what_is_no_table_is_none() -> None:
    reader = RouteReader(2)
    assert reader.read(b"") is None and reader.read(b"\x01\xc1") is None
    assert reader.read(encode(GetRoutes("gw"))) is None
