"""Bundles as bytes: everything survives, and nothing malformed gets through."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver.errors import WireError
from connserver.ids import GroupId
from gossip import protocol as p
from gossip.wire import decode_bundle, encode_bundle

G = GroupId(3)
ENTRY = p.Entry(8, 2, p.entry_crc(8, b"x"), b"x")
OUTLINE = p.Outline(1, 0, 5, 1, ((2, 1), (6, 2)), 9)
PLACEMENT = ("n1", "n2", "n3")
MESSAGES: tuple[p.Message, ...] = (
    p.Prepare(G, 1, 2, 7, 2, (ENTRY,), 6, (4096, 3), 5),
    p.PrepareOk(G, 1, 2, 8, (4096, 3), True),
    p.Higher(G, 1, 2),
    p.GetView(G, 1, 2, OUTLINE),
    p.ExitView(G, 1, 2),
    p.JoinView(G, 1, 2, p.NEVER_INSTALLED, OUTLINE),
    p.View(G, 1, 2, 9, 5),
    p.Fetch(G, 1, 2, OUTLINE),
    p.Entries(G, 1, 2, 1, 7, 1, (ENTRY,), False, 9, 5),
    p.Recover(G, 1, 0, 2**62),
    p.RecoverResponse(G, 1, 2, 5, 4096, p.Status.VIEW_CHANGE, 9, PLACEMENT),
    p.Form(G, 1, 0, 5, PLACEMENT, False),
    p.FormOk(G, 1, 0, PLACEMENT),
    p.FormOk(G, 1, 0, ("n1",)),
)


def test_every_message_survives() -> None:
    """What goes in comes out, types and all."""
    bundle = decode_bundle(encode_bundle("n1", 4097, MESSAGES))
    assert bundle == ("n1", 4097, MESSAGES)
    assert [type(message) for message in bundle.messages] == [type(message) for message in MESSAGES]


def test_the_table_is_complete() -> None:
    """No message without a place on the wire."""
    assert {type(message) for message in MESSAGES} == set(p.Message.__args__)


@pytest.mark.parametrize(
    "message",
    [
        p.Prepare(G, 1, 2, 6, 2, (ENTRY,), 6, (1, 1), 5),
        p.Prepare(G, 1, 2, 7, 2, (ENTRY._replace(payload=b"y"),), 6, (1, 1), 5),
        p.Prepare(G, 1, 1, 7, 1, (ENTRY,), 6, (1, 1), 5),
        p.Fetch(G, 1, 2, OUTLINE._replace(commit=10)),
        p.Fetch(G, 1, 2, OUTLINE._replace(runs=((6, 1), (2, 2)))),
        p.Fetch(G, 1, 2, OUTLINE._replace(runs=((12, 1),))),
        p.View(G, -1, 2, 9, 5),
        p.View(G, 1, 2, 2**63, 5),
        p.Form(G, 1, 0, 5, ("n1", "n1", "n3"), False),
        p.Form(G, 1, 0, 5, ("n1", "n2"), False),
        p.Form(G, 1, 0, 5, (), False),
        p.Form(G, 1, 0, 5, ("n1", ""), False),
        p.PrepareOk(G, 1, 2, 8, (1, 1), 1),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_are_refused(message: p.Message) -> None:
    """Gaps, wrong checksums, views from the future, numbers out of range."""
    with pytest.raises(WireError):
        decode_bundle(encode_bundle("n1", 1, (message,)))


@pytest.mark.parametrize(
    "body",
    [
        None, 7, [], [1], [2, "n1", 1, []], [1, "", 1, []], [1, "n" * 65, 1, []], [1, "n1", -1, []],
        [1, "n1", 1, 5], [1, "n1", 1, [5]], [1, "n1", 1, [[]]], [1, "n1", 1, [[99, 1, 1, 1]]],
        [1, "n1", 1, [[3, 1, 1]]], [1, "n1", 1, [[3, 1, 1, 1, 1]]], [1, "n1", 1, [[3, "1", 1, 1]]],
        [1, "n1", 1, [["3", 1, 1, 1]]], [1, "n1", 1, [[3, True, 1, 1]]],
    ],
)  # fmt: skip
def test_wrong_shapes_are_refused(body: object) -> None:
    """Anything but a bundle."""
    with pytest.raises(WireError):
        decode_bundle(msgpack.packb(body))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    """Random bytes are an error and nothing else."""
    with pytest.raises(WireError):
        decode_bundle(data)


@given(st.data())
def test_damaged_bundles_are_refused_or_well_formed(data: st.DataObject) -> None:
    """A flipped byte never gives anything but a WireError or a bundle of checked messages."""
    good = bytearray(encode_bundle("n1", 4097, MESSAGES))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        bundle = decode_bundle(bytes(good))
    except WireError:
        return
    assert all(type(message) in p.Message.__args__ for message in bundle.messages)
