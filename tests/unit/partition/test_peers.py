"""Streams at a worker: grants, order, silence."""

from connserver.codec import decode, encode
from connserver.messages import (
    OpenStream,
    OutputBatch,
    Outputs,
    ParcelsDone,
    Requests,
    StreamAck,
    StreamOpened,
    StreamResend,
    WrongGrant,
)
from partition.peers import GREET_S, SILENT_S, Peers, is_named


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, object]] = []
        self.received: list[tuple[int, int]] = []

    def __call__(self, identity: bytes, data: bytes) -> None:
        self.sent.append((identity, decode(data)))

    def taken(self) -> list[tuple[bytes, object]]:
        sent, self.sent = self.sent, []
        return sent


def requests(number: int, grant: int = 5) -> Requests:
    return Requests(grant, number, 0, [1], [0], [number], [b"\x80"])


def opened() -> tuple[Peers, Wire]:
    wire = Wire()
    peers = Peers(5, wire, lambda boot, op: wire.received.append((boot, op)))
    assert peers.open(b"gw", OpenStream("gw-n1-0", 77, 5, 0), 0.0) is not None
    assert wire.taken() == [(b"gw", StreamOpened(5))]
    return peers, wire


def test_another_grant_is_told_so() -> None:
    wire = Wire()
    peers = Peers(5, wire)
    assert peers.open(b"gw", OpenStream("gw-n1-0", 77, 4, 0), 0.0) is None
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


def output(op: int) -> OutputBatch:
    return OutputBatch(77, [[1]], [1], [0], [b"%d" % op])


def test_what_a_gateway_has_is_learnt_from_what_it_acknowledges() -> None:
    peers, wire = opened()
    for op in (9, 9, 12, 14):
        peers.outputs(output(op), 0, op, 0.2)
    peers.receive(b"gw", StreamAck(5, 1), 0.3)
    peers.receive(b"gw", StreamAck(5, 1), 0.4)
    peers.receive(b"gw", Requests(5, 1, 3, [], [], [], []), 0.5)
    assert wire.received == [(77, 9), (77, 12)]
    peers.receive(b"gw", Requests(5, 3, 4, [], [], [], []), 0.6)
    assert wire.received[2:] == [(77, 14)], "an early one is not executed, and acknowledges nevertheless"


def test_another_stream_of_a_gateway_begins_with_its_own_numbers() -> None:
    peers, wire = opened()
    peers.outputs(output(9), 0, 9, 0.2)
    peers.open(b"gw", OpenStream("gw-n1-0", 77, 5, 0), 0.3)
    wire.taken()
    peers.outputs(output(10), 0, 10, 0.4)
    assert wire.taken() == [(b"gw", Outputs(5, 1, 0, 0, 10, [[1]], [1], [0], [b"10"]))]
    peers.receive(b"gw", StreamAck(5, 1), 0.5)
    assert wire.received == [(77, 10)]
    assert peers.tick(0.6) == [] and len(peers) == 1


def test_a_group_hears_of_parcels_when_it_may() -> None:
    wire = Wire()
    peers = Peers(5, wire)
    stream = peers.open(b"g3", OpenStream("group:3", 78, 5, 0), 0.0)
    assert stream is not None
    wire.taken()
    peers.parcels_done(3, 1, 20, 0.1)
    peers.may_tell(stream.serial + 1)
    peers.parcels_done(3, 1, 20, 0.1)
    assert wire.taken() == []
    peers.may_tell(stream.serial)
    peers.parcels_done(3, 1, 21, 0.2)
    assert wire.taken() == [(b"g3", ParcelsDone(5, 1, 0, 1, 21))]
    assert peers.boots == frozenset()


def test_a_stream_that_is_closed_is_told_so() -> None:
    peers, wire = opened()
    work = peers.receive(b"gw", requests(1), 0.1)
    assert work is not None
    peers.close(work[0])
    assert peers.receive(b"gw", requests(2), 0.2) is None
    assert wire.taken() == [(b"gw", WrongGrant(5, 5))]


def test_a_gateway_with_a_newer_stream_is_not_gone() -> None:
    peers, _ = opened()
    peers.open(b"gw again", OpenStream("gw-n1-0", 77, 5, 0), SILENT_S)
    assert peers.tick(SILENT_S + 1) == []
    assert peers.boots == {77}
    assert peers.tick(3 * SILENT_S) == [77]


def test_a_connection_that_was_taken_over_is_known_by_its_name() -> None:
    assert is_named(b"gateway:n1:5") and not is_named(b"\0\x8b\x12\x00\x01")


def test_a_former_primary_that_comes_late_does_not_take_the_new_ones_place() -> None:
    """Both have a stream; the cursor is told to each, also when the other has fallen silent."""
    wire = Wire()
    peers = Peers(5, wire)
    new = peers.open(b"group:2:new", OpenStream("group:2", 1, 5, 0), 0.0)
    old = peers.open(b"group:2:old", OpenStream("group:2", 2, 5, 0), 0.1)
    assert new is not None and old is not None
    wire.taken()
    peers.may_tell(new.serial)
    peers.parcels_done(2, 3, 7, 0.2)
    assert wire.taken() == [(b"group:2:new", ParcelsDone(5, 1, 0, 3, 7))]
    peers.may_tell(old.serial)
    peers.parcels_done(2, 3, 8, 0.3)
    assert [identity for identity, _ in wire.taken()] == [b"group:2:new", b"group:2:old"]
    peers.receive(b"group:2:new", StreamAck(5, 2), SILENT_S)
    assert peers.tick(SILENT_S + 0.2) == []
    wire.taken()
    peers.parcels_done(2, 3, 9, SILENT_S + 0.3)
    assert wire.taken() == [(b"group:2:new", ParcelsDone(5, 3, 0, 3, 9))]
