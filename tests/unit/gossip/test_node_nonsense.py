"""What a gossip machine refuses: messages that cannot be, or come from the wrong process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connserver.limits import INCARNATION_LIMIT, PLACEMENT_WAIT_MS, RECORD_ROWS
from connserver.messages import (
    NO_STATE,
    AdminReply,
    Archived,
    Attach,
    Drained,
    GatewayRecord,
    GatewayReport,
    GetBarrier,
    GetRecords,
    GroupPosition,
    Heartbeat,
    Introduction,
    ProcessRecord,
    ProcessTable,
    Records,
    Role,
    Sighting,
    StreamAck,
    Submit,
    WorkerReport,
)
from gossip.effects import SendPeer
from tests.unit.gossip.mesh import Mesh, heartbeat

WAIT_S = PLACEMENT_WAIT_MS / 1000
POSITION = GroupPosition(0, 1, 0, "normal", 0, 0, 0, 0, True, "")
ATTACH = Attach(0, 100, "ipc://x", 1, 1, 0, 0)


@pytest.fixture
def mesh() -> Mesh:
    """Three nodes that serve."""
    mesh = Mesh()
    mesh.start()
    mesh.run(1.0)
    mesh.attach_all()
    mesh.run(1.1)
    return mesh


# --- nonsense ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"incarnation": 0},
        {"incarnation": INCARNATION_LIMIT},
        {"number": 0},
        {"number": 1 << 63},
        {"sightings": [Sighting("n3", 1, 1, "undead", False)]},
        {"sightings": [Sighting("n3", -1, 1, "alive", False)]},
        {"sightings": [Sighting("n3", 1, 1 << 63, "alive", False)]},
        {"sightings": [Sighting("n3", 1, 1, "alive", False)] * (RECORD_ROWS + 1)},
    ],
)
def test_heartbeats_that_cannot_be_are_ignored(mesh: Mesh, wrong: dict[str, Any]) -> None:
    host = mesh.hosts["n1"]
    before = host.machine.membership.sightings()
    host.machine.published("n2", replace(heartbeat(mesh, "n2"), **wrong), mesh.now)
    host.machine.check_invariants()
    assert host.machine.membership.sightings() == before
    assert mesh.states("n1")["n2"] == "refused"


def test_sightings_of_strangers_are_ignored(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    beat = replace(heartbeat(mesh, "n2"), sightings=[Sighting("nx", 5, 5, "dead", True)])
    mesh.perform(host.name, host.machine.published("n2", beat, mesh.now))
    assert mesh.states("n1") == dict.fromkeys(mesh.names, "alive")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"node": "n1"}, "no other node"),
        ({"node": "nx"}, "no other node"),
        ({"incarnation": 0}, "out of range"),
        ({"version": 1 << 63}, "out of range"),
        ({"positions": [POSITION] * (RECORD_ROWS + 1)}, "more than 2048 positions"),
        ({"positions": [POSITION] * 2}, "two replicas of one group"),
        ({"refusal": "x" * 3000}, "2000 characters"),
        ({"storage": dict.fromkeys(map(str, range(70)))}, "64 facts"),
        ({"gateways": [GatewayRecord("g", 1, "", -1, 0.0)]}, "gateway's numbers"),
        ({"gateways": [GatewayRecord("g", 1, "", 1, float("nan"))]}, "gateway's numbers"),
    ],
)
def test_records_that_cannot_be_are_refused(mesh: Mesh, wrong: dict[str, Any], words: str) -> None:
    host = mesh.hosts["n1"]
    known = host.machine.book.records["n2"]
    host.notes.clear()
    forged = replace(known, **{"version": known.version + 1, **wrong})
    mesh.perform(host.name, host.machine.direct("n2", Records([forged]), mesh.now))
    assert words in host.notes[-1].facts["reason"]
    assert host.machine.book.records["n2"] == known


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"state": "asleep"}, "worker state"),
        ({"grant": -1}, "a grant of group 0 that cannot be"),
        ({"grant": 1 << 63}, "a grant of group 0 that cannot be"),
        ({"endpoint": "x" * 3000}, "2000 characters"),
        ({"plugins": [{"name": b"x"}]}, "cannot be shown"),
        ({"group": 1}, "two workers of one group"),
        ({"group": 9}, "outside 0..3"),
    ],
)
def test_worker_rows_that_cannot_be_are_refused(mesh: Mesh, wrong: dict[str, Any], words: str) -> None:
    host = mesh.hosts["n1"]
    known = host.machine.book.records["n2"]
    host.notes.clear()
    workers = [replace(known.workers[0], **wrong), *known.workers[1:]]
    forged = replace(known, version=known.version + 1, workers=workers)
    mesh.perform(host.name, host.machine.direct("n2", Records([forged]), mesh.now))
    assert words in host.notes[-1].facts["reason"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"group": 4}, "outside 0..3"),
        ({"group": -1}, "outside 0..3"),
        ({"era": -1}, "a replica of group 0 that cannot be"),
        ({"view": -1}, "that cannot be"),
        ({"head": -1}, "that cannot be"),
        ({"commit": 1 << 63}, "that cannot be"),
        ({"base": -1}, "that cannot be"),
        ({"archived": -1}, "that cannot be"),
        ({"status": "asleep"}, "that cannot be"),
        ({"problem": "x" * 3000}, "2000 characters"),
    ],
)
def test_positions_that_cannot_be_are_refused(mesh: Mesh, wrong: dict[str, Any], words: str) -> None:
    host = mesh.hosts["n1"]
    known = host.machine.book.records["n2"]
    host.notes.clear()
    forged = replace(known, version=known.version + 1, positions=[replace(POSITION, **wrong)])
    mesh.perform("n1", host.machine.direct("n2", Records([forged]), mesh.now))
    assert words in host.notes[-1].facts["reason"]
    assert host.machine.book.records["n2"] == known


def test_an_older_record_changes_nothing(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    known = host.machine.book.records["n2"]
    older = replace(known, version=known.version - 1, refusal="old")
    mesh.perform(host.name, host.machine.direct("n2", Records([older]), mesh.now))
    assert host.machine.book.records["n2"] is known


def test_messages_that_do_not_belong_there_are_noted(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    host.notes.clear()
    stray = StreamAck(1, 1)
    mesh.perform(host.name, host.machine.published("n2", stray, mesh.now))
    mesh.perform(host.name, host.machine.direct("n2", stray, mesh.now))
    mesh.local("n1", b"cli:1", stray)
    assert [note.event for note in host.notes] == ["peer.refused", "peer.refused", "local.refused"]


def test_records_are_given_to_whoever_asks_but_only_those_that_are_there(mesh: Mesh) -> None:
    effects = mesh.hosts["n1"].machine.direct("n2", GetRecords(["n3", "n3", "nx", "n1"]), mesh.now)
    sent = [effect.message.records[0].node for effect in effects if isinstance(effect, SendPeer)]
    assert sent == ["n3", "n1"]


def test_an_introduction_of_someone_else_is_not_believed(mesh: Mesh) -> None:
    host = mesh.hosts["n1"]
    host.machine.direct("n2", Introduction("shop", "n2", 1, {"x": "y"}, [["n9"]]), mesh.now)
    host.machine.direct("n2", Introduction("demo", "n3", 1, {"x": "y"}, [["n9"]]), mesh.now)
    assert host.machine.peering._sections.get("n2", {}).get("x") is None
    assert mesh.route_states("n1") == ["ready"] * 4


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (b"worker:0:101", ATTACH),
        (b"worker:1:100", ATTACH),
        (b"worker:9:100", replace(ATTACH, group=9)),
        (b"worker:0:1", replace(ATTACH, pid=1)),
        (b"gateway:x:1", ATTACH),
        (b"worker:0:100", replace(ATTACH, endpoint="http://x")),
        (b"worker:0:100", replace(ATTACH, endpoint="ipc://" + "x" * 300)),
        (b"worker:0:100", replace(ATTACH, applied=NO_STATE - 1)),
        (b"worker:0:100", replace(ATTACH, applied=1 << 63)),
        (b"worker:0:100", replace(ATTACH, after=-1)),
        (b"worker:0:100", Submit(0, 1, 1, [b"x"])),
        (b"worker:1:10000", Submit(0, 1, 1, [b"x"])),
        (b"worker:0:10000", Submit(9, 1, 1, [b"x"])),
        (b"worker:1:10000", Archived(0, 1)),
        (b"cli:1", GetBarrier(0, 1, 1)),
        (b"gateway:a:1", Drained(0, 1)),
        (b"worker:0:100", WorkerReport(0, 0, 0, 0, "ok", "", {})),
        (b"gateway:a:1", GatewayReport("b", 1, "", 0, 0.0, {})),
        (b"gateway:b:1", GatewayReport("b", 1, "", -1, 0.0, {})),
        (b"gateway:b:1", GatewayReport("b", 1, "", 0, float("nan"), {})),
        (b"gateway:b:1", ProcessTable("h", [], {})),
        (b"supervisor:1", ProcessTable("h", [ProcessRecord("n1", "", "", 0, "", 0, "", "")] * 3000, {})),
        (b"cli:1", AdminReply(1, None, "")),
        (b"worker:0:100", AdminReply(1, None, "")),
        (b"worker:x:100", AdminReply(1, None, "")),
        (b"\xff\xfe", Role(0, 1, "primary", 1, 0, True, 0, 0, 1)),
    ],
)
def test_local_messages_from_the_wrong_identity_are_noted_and_nothing_else(
    mesh: Mesh, identity: bytes, message: Any
) -> None:
    host = mesh.hosts["n1"]
    host.notes.clear()
    before = host.machine.desk.workers.rows()
    mesh.local("n1", identity, message)
    assert [note.event for note in host.notes] == ["local.refused"]
    assert host.machine.desk.workers.rows() == before
