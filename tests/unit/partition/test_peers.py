"""Streams at a worker: grants, order, silence."""

from connserver.codec import decode, encode
from connserver.messages import (
    OpenStream,
    OutputBatch,
    Outputs,
    Requests,
    StreamAck,
    StreamOpened,
    StreamResend,
    WrongGrant,
)
from partition.peers import GREET_S, HELD_S, SILENT_S, Peers


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, object]] = []

    def __call__(self, identity: bytes, data: bytes) -> None:
        self.sent.append((identity, decode(data)))

    def taken(self) -> list[tuple[bytes, object]]:
        sent, self.sent = self.sent, []
        return sent


def requests(number: int, grant: int = 5) -> Requests:
    return Requests(grant, number, 0, [1], [0], [number], [b"\x80"])


def opened() -> tuple[Peers, Wire]:
    wire = Wire()
    peers = Peers(5, wire)
    assert peers.receive(b"gw", OpenStream("gw-n1-0", 77, 5), 0.0) is None
    assert wire.taken() == [(b"gw", StreamOpened(5))]
    return peers, wire


def test_another_grant_is_told_so() -> None:
    wire = Wire()
    peers = Peers(5, wire)
    peers.receive(b"gw", OpenStream("gw-n1-0", 77, 4), 0.0)
    assert peers.receive(b"gw", requests(1), 0.0) is None
    assert wire.taken() == [(b"gw", WrongGrant(4, 5)), (b"gw", WrongGrant(5, 5))]


def test_items_come_in_their_order_and_gaps_are_asked_for() -> None:
    peers, wire = opened()
    accepted = [peers.receive(b"gw", requests(number), 0.1) is not None for number in (1, 3, 2, 2, 3)]
    assert accepted == [True, False, True, False, True]
    assert wire.taken() == [(b"gw", StreamResend(5, 2))]


def test_outputs_go_to_the_gateway_of_that_boot() -> None:
    peers, wire = opened()
    batch = OutputBatch(77, [[1]], [0], [1], [b"\x80"])
    peers.outputs(batch, 0, 9, 0.2)
    peers.outputs(OutputBatch(78, [[1]], [0], [1], [b"\x80"]), 0, 9, 0.2)
    assert wire.taken() == [(b"gw", Outputs(5, 1, 0, 0, 9, [[1]], [0], [1], [b"\x80"]))]


def test_a_silent_gateway_is_reported_once_and_a_greeting_keeps_it() -> None:
    peers, wire = opened()
    assert peers.tick(GREET_S) == []
    assert (b"gw", StreamAck(5, 0)) in wire.taken()
    peers.receive(b"gw", StreamAck(5, 0), 4.0)
    assert peers.tick(SILENT_S + 3.9) == []
    assert peers.tick(SILENT_S + 4.1) == [77]
    assert peers.tick(SILENT_S + 9.0) == []
    assert encode(StreamAck(5, 0)) and len(peers) == 0


def test_outputs_wait_for_a_gateway_that_has_yet_to_open_its_stream_and_not_for_ever() -> None:
    wire = Wire()
    peers = Peers(5, wire)
    peers.outputs(OutputBatch(77, [[1]], [1], [0], [b"early"]), 0, 9, 0.0)
    peers.receive(b"gw", OpenStream("gw-n1-0", 77, 5), 1.0)
    assert wire.taken() == [
        (b"gw", StreamOpened(5)),
        (b"gw", Outputs(5, 1, 0, 0, 9, [[1]], [1], [0], [b"early"])),
    ]
    peers.outputs(OutputBatch(78, [[1]], [1], [0], [b"early"]), 0, 10, 1.0)
    peers.tick(HELD_S)
    peers.outputs(OutputBatch(78, [[1]], [1], [0], [b"late"]), 0, 11, HELD_S + 1)
    wire.taken()
    peers.receive(b"other", OpenStream("gw-n2-0", 78, 5), HELD_S + 2)
    assert wire.taken() == [(b"other", StreamOpened(5))]


def test_a_gateway_with_a_newer_stream_is_not_gone() -> None:
    peers, _ = opened()
    peers.receive(b"gw again", OpenStream("gw-n1-0", 77, 5), SILENT_S)
    assert peers.tick(SILENT_S + 1) == []
    assert peers.boots == {77}
    assert peers.tick(3 * SILENT_S) == [77]
