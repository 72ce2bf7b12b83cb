"""Bad disks under real gossip processes: named, never believed, and nothing acknowledged is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from connserver.codec import decode
from connserver.messages import AdminReply, AdminRequest, Committed, Role
from gossip.members import ABLE
from gossip.records import Boot, GroupState
from gossip.wal import RECORD_HEADER_BYTES, read_segment, restore
from gossip.wal_files import MARKER, WalFiles
from gossip.wal_thread import STATUS_FAILED
from tests.integration.bad_disk import (
    BadDisks,
    about_log,
    everywhere_normal,
    fill,
    flip,
    may_mount,
    records,
    seen_by,
)
from tests.integration.cluster import wait_for
from tests.integration.gossip_cluster import DEADLINE_S, Cluster, Table, Worker, cluster

pytestmark = pytest.mark.integration

G = 1
"""The group that most is said about."""
APPEND = 9
"""The kind of a record that holds an entry."""


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadDisks]:
    """Three nodes that are not started yet."""
    with cluster() as made:
        yield BadDisks(made, monkeypatch)
        made.context.destroy(linger=0)  # also what a failed test left open, or the end would wait for it


def begin(demo: Cluster, file: Path | None = None) -> None:
    """Start all nodes, with a worker of each of the three groups on each, and wait until they serve."""
    demo.start(file=file)
    demo.attach_all()
    demo.status_when("n1", lambda status: everywhere_normal(status) and len(status["groups"]) == 3)


def primary(demo: Cluster) -> Worker:
    """The worker that serves the group now, as a living node says, once it knows that it does."""
    asked = next(name for name in demo.names if demo.children[name].process.poll() is None)
    entry = demo.routes_when(asked, lambda table: served_by_newest(demo, table))[G]
    worker = demo.worker_of(entry.node, G)
    if worker.model.grant < entry.grant:
        worker.hear(Role, lambda role: role.grant >= entry.grant)
    return worker


def served_by_newest(demo: Cluster, table: Table) -> bool:
    """Not by a worker, or a node, that is dead already and of which the table does not know it yet."""
    entry = table[G]
    alive = bool(entry.node) and demo.children[entry.node].process.poll() is None
    return entry.state == "ready" and alive and entry.endpoint == demo.worker_of(entry.node, G).endpoint


def write(demo: Cluster, *payloads: bytes) -> Worker:
    """Have entries committed by the primary of the group; its worker."""
    worker = primary(demo)
    known = len(worker.model.entries)
    worker.submit(*payloads)
    assert worker.learn(known + len(payloads))[known:] == list(payloads)
    return worker


def others(demo: Cluster, *nodes: str) -> list[str]:
    return [name for name in demo.names if name not in nodes]


def back(demo: Cluster, node: str, file: Path | None = None) -> Worker:
    """Start a node again, with its workers; that of the group."""
    demo.start(node, file=file)
    return demo.attach_all(node)[node, G]


def ended(demo: Cluster, node: str) -> str:
    """The process has ended because of its disk; its reason."""
    child = demo.children[node]
    assert child.process.wait(DEADLINE_S) == STATUS_FAILED
    return next(line for line in child.log.read_text().splitlines() if "cannot be written" in line)


def test_a_torn_tail_is_no_event_and_what_it_held_comes_again(disks: BadDisks) -> None:
    demo = disks.cluster
    begin(demo)
    expected = [b"one", b"two"]
    node = others(demo, write(demo, *expected).node)[0]
    demo.worker_of(node, G).learn(2)

    def ends_with_an_entry() -> bool:
        last = records(disks.segments(node)[-1])[-1]
        if (last.kind, last.group) == (APPEND, G):
            return True
        expected.append(b"%d" % len(expected))  # another group has had its say meanwhile
        write(demo, expected[-1])
        demo.worker_of(node, G).learn(len(expected))
        return False

    wait_for("a log that ends with an entry", ends_with_an_entry)
    demo.kill_node(node)
    last = records(disks.segments(node)[-1])[-1]
    assert (last.kind, last.group) == (APPEND, G), "the cut would lose nothing"
    os.truncate(last.path, last.path.stat().st_size - 3)
    expected.append(b"last")
    write(demo, expected[-1])
    assert back(demo, node).learn(len(expected)) == expected
    status = demo.status_when(node, everywhere_normal)
    assert about_log(status, node) == []
    assert not list(disks.folder(node).glob("damaged-*"))


@pytest.mark.parametrize("part", ["header", "payload"])
def test_a_flipped_bit_is_named_and_what_it_hit_recovers_from_both_peers(disks: BadDisks, part: str) -> None:
    demo = disks.cluster
    begin(demo)
    expected = [b"%d" % number * 8_000 for number in range(6)]
    for payload in expected:
        write(demo, payload)
    for position, age in ((0, "old"), (-1, "newest")):
        expected.append(age.encode())
        worker = write(demo, expected[-1])
        node = others(demo, worker.node)[0]
        demo.worker_of(node, G).learn(len(expected))
        demo.kill_node(node)
        segments = disks.segments(node)
        assert len(segments) > 1
        hit = [row for row in records(segments[position]) if (row.kind, row.group) == (APPEND, G)][-1]
        flip(hit.path, hit.at + 5 if part == "header" else hit.at + RECORD_HEADER_BYTES + hit.body - 1)

        assert back(demo, node).learn(len(expected)) == expected
        found = f"segment {int(hit.path.stem)}: damaged " + (
            f"header at byte {hit.at}" if part == "header" else f"records of groups {G}"
        )
        for asked in demo.names:
            demo.status_when(asked, partial(told, node, (found, f"{disks.folder(node)}/damaged-", "look at")))
            demo.status_when(asked, everywhere_normal)
        phases = phases_of(disks.segments(node)[0])
        wanted = (
            ["lost"] * 3 if part == "header" else ["lost" if group == G else "open" for group in (0, 1, 2)]
        )
        assert phases == wanted
        assert log_on_disk(disks, node) == expected


def told(node: str, words: tuple[str, ...], status: Any) -> bool:
    """Whether an alert about the log of a node says all of it; one of its life before may still be there."""
    return any(all(word in text for word in words) for text in about_log(status, node))


def phases_of(path: Path) -> list[str]:
    """How the groups came out of a damaged log, as the one that replaces it says."""
    reading = read_segment(path.read_bytes(), int(path.stem), None, last=True)
    states = [record for record in reading.records if isinstance(record, GroupState)]
    return [state.phase for state in sorted(states[:3], key=lambda state: state.group)]


def log_on_disk(disks: BadDisks, node: str) -> list[bytes]:
    """The entries of the group as a restart would find them."""
    found = restore([(int(path.stem), path.read_bytes()) for path in disks.segments(node)])
    return [entry.payload for entry in found.node.groups[G].dense_entries() or []]  # type: ignore[index]


def move(demo: Cluster, worker: Worker, to: str) -> None:
    """Hand the group over from this primary's worker."""
    assert not demo.ask(worker.node, "failover", group=G, to=to).error
    worker.hear(Role, lambda role: role.grant == 0)
    for name in demo.names:
        demo.routes_when(name, lambda table: table[G].state == "ready" and table[G].node == to)


@pytest.mark.skipif(not may_mount(), reason="only root may mount a small disk")
def test_a_full_disk_hands_over_says_so_and_goes_on_when_there_is_room(disks: BadDisks) -> None:
    demo = disks.cluster
    for name in demo.names:
        disks.use_tmpfs(name)
    begin(demo)
    worker = write(demo, b"before")
    node = worker.node
    log = seen_by(demo.children[node], disks.folder(node))
    assert (log / "reserve").exists(), "the small disk is not under the log"
    ballast = fill(log)
    expected = [b"before", b"f" * 20_000]
    worker.submit(expected[1])
    assert worker.learn(2) == expected, "what was under way has the reserve"
    worker.hear(Role, lambda role: role.grant == 0)
    left = others(demo, node)
    demo.routes_when(left[0], lambda table: table[G].state == "ready" and table[G].node in left)
    for asked in demo.names:
        demo.status_when(asked, lambda status: any("no room" in text for text in about_log(status, node)))
    expected.append(b"elsewhere")
    first = write(demo, expected[-1])
    # a view change while it is full, in which it has to write down what it votes for
    second = next(name for name in left if name != first.node)
    move(demo, first, second)
    expected.append(b"and there")
    write(demo, expected[-1])
    assert demo.children[node].process.poll() is None

    ballast.unlink()
    assert worker.learn(4) == expected
    demo.status_when(left[0], lambda status: not about_log(status, node) and everywhere_normal(status))
    move(demo, demo.worker_of(second, G), node)
    expected.append(b"here again")
    assert write(demo, expected[-1]).node == node
    assert (log / "reserve").stat().st_size == 4 << 20


def says_why(node: str, reason: str, status: Any) -> bool:
    """Whether an alert tells what a process that is gone said at its end."""
    texts = [row["text"] for row in status["alerts"] if row["about"] == f"node:{node}"]
    return any(reason in text for text in texts)


def test_an_fsync_error_ends_the_process_and_its_peers_go_on(disks: BadDisks) -> None:
    demo = disks.cluster
    power = demo.write("power.toml", 3, '[replication]\ndurability = "power"\n')
    begin(demo, power)
    worker = write(demo, b"one")
    node = worker.node
    disks.fail(node, "sync", errno.EIO)
    worker.submit(b"maybe")
    reason = ended(demo, node)
    assert "Input/output error" in reason and str(disks.folder(node)) in reason
    assert "Look at the disk" in reason
    demo.kill_node(node)
    left = others(demo, node)
    demo.routes_when(left[0], lambda table: table[G].state == "ready" and table[G].node in left)
    demo.state_when(left[0], node, "dead")
    for name in left:
        demo.status_when(name, partial(says_why, node, reason))
    new = write(demo, b"two")
    known = new.learn(2)
    assert [known[0], known[-1]] == [b"one", b"two"]

    assert "Input/output error" in disks.refused(node, power)
    disks.mend(node, "sync")
    assert back(demo, node, power).learn(len(known)) == known
    demo.status_when(node, everywhere_normal)


def test_a_log_that_cannot_be_written_is_never_acked(disks: BadDisks) -> None:
    demo = disks.cluster
    begin(demo)
    expected = [b"start"]
    write(demo, *expected)
    for number, words in (
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
        (errno.EIO, "Input/output error"),
        (0, "Operation not permitted"),
    ):
        worker = primary(demo)
        node, away = others(demo, worker.node)
        segment = disks.segments(node)[-1]
        demo.kill_node(away)  # so that nothing commits without the node with the bad disk
        if number:
            disks.fail(node, "write", number)
        elif not immutable(segment, on=True):
            pytest.skip("this file system has no immutable files")
        try:
            worker.submit(b"perhaps")  # once the others are back it is committed or not
            reason = ended(demo, node)
            assert words in reason and "Nothing that is not on disk was confirmed" in reason
            assert never_committed(worker)
            if not number:
                assert words in disks.refused(node) and "see that the disk is not" in disks.refused(node)
        finally:
            if not number:
                immutable(segment, on=False)
        if number:
            disks.mend(node, "write")
        demo.kill_node(node)
        demo.start(node, away)
        demo.attach_all(node, away)
        worker.kill()  # it lost its grant in between, or did not
        demo.worker(worker.node, G)
        model = write(demo, words.encode()).model
        got = [model.entries[op] for op in sorted(model.entries)]
        assert [payload for payload in got if payload != b"perhaps"] == [*expected, words.encode()]
        expected.append(words.encode())
        for name in demo.names:
            assert demo.worker_of(name, G).learn(len(got)) == got
        demo.status_when(node, everywhere_normal)


def immutable(path: Path, *, on: bool) -> bool:
    """Whether the kernel now refuses (or allows) every write to a file, open or not."""
    done = subprocess.run(["chattr", "+i" if on else "-i", str(path)], capture_output=True, check=False)
    return done.returncode == 0


def never_committed(worker: Worker) -> bool:
    """What its gossip process has said so far confirms nothing that is pending."""
    while worker.socket.poll(0, zmq.POLLIN):
        message: Any = decode(worker.socket.recv_multipart()[-1])
        if isinstance(message, Committed) and message.op > worker.model.applied:
            return False
        worker.take(message)
    return bool(worker.model.pending) or bool(worker.model.ended)


def test_a_log_of_another_node_or_cluster_is_refused_in_one_sentence(disks: BadDisks) -> None:
    demo = disks.cluster
    begin(demo)
    expected = [b"one", b"two"]
    write(demo, *expected)
    for worker in (demo.worker_of("n1", G), demo.worker_of("n2", G)):
        worker.learn(2)
    demo.kill_node("n2")
    folder, own = disks.folder("n2"), demo.folder / "own"
    folder.rename(own)

    shutil.copytree(disks.folder("n1"), folder)
    before = {path.name: path.read_bytes() for path in folder.glob("*.wal")}
    said = disks.refused("n2")
    assert "holds the log of node n1 of cluster demo" in said and "this is node n2 of cluster demo" in said
    assert "--state-dir" in said and str(folder) in said
    assert {path.name: path.read_bytes() for path in folder.glob("*.wal")} == before
    shutil.rmtree(folder)

    WalFiles.open(folder, Boot("boot", False, "other", "n2")).files.close(clean=True)
    said = disks.refused("n2")
    assert "holds the log of node n2 of cluster other" in said and "this is node n2 of cluster demo" in said
    assert (folder / MARKER).exists()
    shutil.rmtree(folder)

    folder.write_bytes(b"")
    assert "File exists" in disks.refused("n2")
    folder.unlink()

    own.rename(folder)
    holder = os.open(folder, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert "in use by another gossip process" in disks.refused("n2")
    os.close(holder)
    assert back(demo, "n2").learn(2) == expected
    assert about_log(demo.status_when("n2", everywhere_normal), "n2") == []


def test_a_log_of_an_older_era_joins_the_new_one_and_nothing_of_it_is_believed(disks: BadDisks) -> None:
    demo = disks.cluster
    begin(demo)
    expected = [b"one", b"two"]
    old = write(demo, *expected)
    keeper, lost = others(demo, old.node)
    for name in (keeper, lost):
        demo.worker_of(name, G).learn(2)
        demo.kill_node(name)
    old.submit(b"never")
    demo.status_when(old.node, lambda status: head_of(status, old.node) == 3)
    demo.kill_node(old.node)
    assert log_on_disk(disks, old.node) == [*expected, b"never"]
    shutil.rmtree(disks.folder(lost))
    demo.start(keeper, lost)
    demo.status_when(
        keeper,
        lambda status: (
            [status_of(status, group, lost) for group in range(3)] == ["recovering"] * 3
            and all(status_of(status, group, keeper) in ABLE for group in range(3))
        ),
    )
    for group in range(3):
        assert recovered(demo, keeper, group) == 2
    new = next_era(demo, keeper, lost)
    new.submit(b"three")
    expected.append(b"three")
    assert new.learn(3) == expected

    demo.start(old.node)
    next_era(demo, old.node)
    assert demo.worker_of(old.node, G).learn(3) == expected
    demo.status_when(old.node, everywhere_normal)
    assert log_on_disk(disks, old.node) == expected


def head_of(status: Any, node: str) -> int | None:
    (row,) = (row for row in status["groups"][G]["members"] if row["node"] == node)
    return row["head"]  # type: ignore[no-any-return]


def status_of(status: Any, group: int, node: str) -> str:
    (row,) = (row for row in status["groups"][group]["members"] if row["node"] == node)
    return str(row["status"])


def recovered(demo: Cluster, node: str, group: int) -> int:
    """Begin a new era with the log of a node; which."""
    peer = demo.peer(node, b"cli:recover:%d" % group)
    peer.say(AdminRequest(1, "recover.begin", {"group": group, "node": node}))
    reply = peer.hear(AdminReply)
    assert not reply.error
    return int(reply.result["era"])


def next_era(demo: Cluster, *nodes: str) -> Worker:
    """Workers with an empty state of era 2 on these nodes; the one that has the grant of the group."""
    for name in nodes:
        for group in range(3):
            worker = Worker(demo, name, group)
            worker.model.era = 2
            worker.model.load()
            demo.workers.append(worker)
            worker.attach()
    return primary(demo)


@pytest.mark.parametrize("mode", ["power", "process"])
def test_a_power_failure_of_all_nodes_in_power_mode_costs_nothing(disks: BadDisks, mode: str) -> None:
    """The other mode shows that the failure is one."""
    demo = disks.cluster
    # a view change syncs in either mode, on those that vote in it: none for a busy machine's sake
    file = demo.write("mode.toml", 3, f'[replication]\ndurability = "{mode}"\nsuspicion_ms = 1500\n')
    begin(demo, file)
    expected = [b"%d" % number * 100 for number in range(20)]
    for first in range(0, 20, 4):
        write(demo, *expected[first : first + 4])
    for name in demo.names:
        demo.children[name].process.send_signal(signal.SIGSTOP)
    for name in demo.names:
        demo.kill_node(name)
    lost = [disks.lose_unsynced(name) for name in demo.names]
    if mode == "process":
        assert all(lost) and all(log_on_disk(disks, name) != expected for name in demo.names), lost
        return
    demo.start(file=file)
    demo.attach_all()
    for name in demo.names:
        assert demo.worker_of(name, G).learn(20) == expected
        assert about_log(demo.status_when(name, everywhere_normal), name) == []


def test_an_orderly_reboot_is_no_event_and_a_disorderly_one_is_named(disks: BadDisks) -> None:
    demo = disks.cluster
    begin(demo)
    expected = [b"one", b"two"]
    write(demo, *expected)
    demo.worker_of("n3", G).learn(2)
    child = demo.children["n3"].process
    child.send_signal(signal.SIGTERM)
    assert child.wait(DEADLINE_S) == 0
    demo.kill_node("n3")
    assert (disks.folder("n3") / MARKER).exists()
    disks.boot("n3", "second")
    assert back(demo, "n3").learn(2) == expected
    assert not (disks.folder("n3") / MARKER).exists()
    assert about_log(demo.status_when("n3", everywhere_normal), "n3") == []

    demo.kill_node("n3")
    disks.boot("n3", "third")
    assert back(demo, "n3").learn(2) == expected
    (text,) = about_log(demo.status_when("n3", everywhere_normal), "n3")
    assert "went down without a clean stop" in text and "every group of this node recovers" in text
    assert phases_of(disks.segments("n3")[0]) == ["lost"] * 3
    assert log_on_disk(disks, "n3") == expected
