"""The shell of the replicated logs: the write-ahead log, sockets, the clock, notes of running workers.

Guards two rules. A turn of the loop is one flush: whatever came in, of however many groups, leaves as
one write and one publish; the write comes last, so that the other nodes write at the same time. And what
rests on a write leaves when that is done, in the same turn if the disk is quick (`gossip.wal_thread`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, Protocol, assert_never

from connserver import telemetry
from connserver.codec import encode
from connserver.config.schema import ReplicationConfig
from connserver.errors import WireError
from connserver.messages import Attach, GroupPosition
from connserver.running import NoteReader, Source, note_path
from gossip.hangs import LOOK_S, Hangs
from gossip.held_entries import HeldEntries
from gossip.protocol import Write
from gossip.records import Boot
from gossip.replica import ReplicaStatus
from gossip.replica_state import Timing
from gossip.replication import Granted, Positioned, PublishLog, Replication, SendLog, Tell, WriteLog
from gossip.wal_files import WalFiles, kernel_boot_id
from gossip.wal_thread import STATUS_FAILED, WalThread
from gossip.wal_words import not_written
from gossip.wire import Decoder, Encoder

LOG_TOPIC = b"log"
LOG_FOLDER = "log"
FAREWELL_S = 0.1
"""Between a disk that fails and the end of the process: enough to say why, too little to be missed."""
DISK_FULL = "no room on the disk of"
MAKE_ROOM = (
    "it takes no new entries, and its groups are served elsewhere or refuse writes as overloaded. "
    "Make room there; it goes on by itself"
)

log = telemetry.get_logger(__name__)
noise = telemetry.RateLimited(log)

commits = telemetry.gauge("connserver_log_commit", "Committed entries of all logs of this node")
views = telemetry.gauge("connserver_log_views_begun", "Views that this node has led since it started")
bytes_kept = telemetry.gauge("connserver_log_bytes", "Payload of the logs kept in memory")


class Node(Protocol):
    """What the logs tell the gossip process around them."""

    def granted(self, grants: list[tuple[int, int]]) -> None:
        """The workers of these groups have these grants; 0: none."""

    def positioned(self, rows: list[GroupPosition], urgent: bool) -> None:
        """Where the replicas stand."""

    def accepts(self, peer: str) -> bool:
        """Whether a peer's word counts."""

    def publish_log(self, payload: bytes) -> None:
        """To all nodes."""

    def dying(self, why: str) -> None:
        """This process ends in a moment."""

    def send_log(self, peer: str, payload: bytes) -> None:
        """To one node."""

    def tell_worker(self, identity: bytes, payload: bytes) -> None:
        """To a worker of this node."""


class LogShell:
    """From the start of a gossip process to its end.

    `problems`: what the disk lost, and while it is full, that it is, in sentences; the list changes.
    ClusterError if the log cannot be used.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cluster: str,
        name: str,
        boot: int,
        folder: Path,
        config: ReplicationConfig,
        node: Node,
    ) -> None:
        power = config.durability == "power"
        opened = WalFiles.open(folder / LOG_FOLDER, Boot(kernel_boot_id(), power, cluster, name))
        self.problems = list(opened.problems)
        for problem in opened.problems:
            log.error("log.damaged", folder=str(folder / LOG_FOLDER), reason=problem)
        self._loop = loop
        self._name = name
        self._folder = folder
        self._node = node
        timing = Timing(
            heartbeat_ms=config.heartbeat_ms,
            suspicion_ms=config.suspicion_ms,
            log_bytes=config.wal_max_bytes,
        )
        self._tick_s = timing.tick_ms / 1000
        now = loop.time()
        self.machine = Replication(name, boot, opened.node, timing, SystemRandom(), self._source, now)
        self._wal = WalThread(opened.files, self._written_in_thread, self._full_in_thread, self._cannot_write)
        self._encoder = Encoder(name)
        self._decoder = Decoder()
        self._notes: dict[int, NoteReader] = {}
        self._grants: dict[int, int] = {}
        self._hangs = Hangs(now)
        self._held = HeldEntries()
        self._marked = self._full = self._broken = False
        self._due = now
        self._timer: asyncio.Handle = loop.call_soon(self._tick)
        self._looker: asyncio.Handle = loop.call_later(LOOK_S, self._look)
        self._measure()

    def _measure(self) -> None:
        replicas = self.machine.set.replicas
        commits.set_function(lambda: sum(replica.commit for replica in replicas.values()))
        bytes_kept.set_function(lambda: sum(replica.log.payload_bytes for replica in replicas.values()))
        views.set_function(lambda: self.machine.set.counters["views_begun"])

    def close(self, *, clean: bool) -> None:
        """Write what is left; `clean`: in order, so that nothing has to be recovered."""
        self._timer.cancel()
        self._looker.cancel()
        if clean:
            self._flush()
        self._wal.close(clean)
        for note in self._notes.values():
            note.close()

    # --- events -----------------------------------------------------------------------------------------

    def place(self, groups: Mapping[int, tuple[str, ...]]) -> None:
        """This node holds replicas of these groups."""
        self.machine.place(groups, self._loop.time())
        if self._full:
            self.machine.disk_full(True, self._loop.time())
        self._mark()

    def hired(self, identity: bytes, said: Attach) -> None:
        """The worker process of a group is there, or has a state now."""
        if said.group not in self._notes:
            self._notes[said.group] = NoteReader(note_path(self._folder, said.group))
        self.machine.hired(identity, said, self._loop.time())
        self._mark()

    def gone(self, group: int) -> None:
        """The worker process of a group is dead."""
        self.machine.gone(group, self._loop.time())
        self._mark()

    def worker_says(self, identity: bytes, message: Any) -> None:
        """A worker's word about its log."""
        if self.machine.worker_says(identity, message, self._loop.time()):
            self._mark()
        else:
            noise.warning("local.refused", sender=repr(identity[:80]), reason=type(message).__name__)

    def peer_says(self, peer: str, payload: bytes) -> None:
        """Bytes of another gossip process."""
        if not self._node.accepts(peer):
            return
        try:
            bundle = self._decoder.decode(payload)
        except WireError as error:
            noise.warning("log.refused", source=peer, reason=str(error))
            return
        if bundle.sender == peer:
            self.machine.peer_says(peer, bundle.incarnation, bundle.messages, self._loop.time())
            self._mark()

    def resign(self, group: int, target: str | None) -> str:
        """Begin a planned handoff; returns why not, or ""."""
        refusal = self.machine.resign(group, target, self._loop.time())
        self._mark()
        return refusal

    def holds(self, group: int) -> ReplicaStatus | None:
        """What the replica of a group holds; None: there is none here."""
        return self.machine.holds(group)

    def begin_era(self, group: int, base: int | None, above: tuple[int, int]) -> str:
        """Begin a new history of a group here; returns why not, or ""."""
        refusal = self.machine.begin_era(group, base, above, self._loop.time())
        self._mark()
        return refusal

    def _tick(self) -> None:
        now = self._loop.time()
        self._due = max(self._due + self._tick_s, now)
        self._timer = self._loop.call_at(self._due, self._tick)
        self.machine.tick(now)
        self._flush()
        for identity, entries in self._held.due(now):
            self._node.tell_worker(identity, encode(entries))

    def _look(self) -> None:
        self._looker = self._loop.call_later(LOOK_S, self._look)
        progress = {
            group: (worker.said.pid, self._notes[group].progress)
            for group, worker in self.machine.workers.items()
            if self._grants.get(group)
        }
        for group, pid in self._hangs.look(progress, self._loop.time()):
            log.error("worker.hangs", group=group, pid=pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _source(self, group: int) -> Source | None:
        note = self._notes.get(group)
        return note.source if note is not None else None

    # --- the write-ahead log ----------------------------------------------------------------------------

    def _written_in_thread(self, upto: int) -> None:
        self._loop.call_soon_threadsafe(self._written, upto)

    def _full_in_thread(self, full: bool) -> None:
        self._loop.call_soon_threadsafe(self._disk_full, full)

    def _cannot_write(self, error: OSError) -> None:
        """The end of this process, after a moment in which the other nodes are told why; in any thread."""
        words = not_written(self._folder / LOG_FOLDER, error)
        print(words, file=sys.stderr, flush=True)
        try:
            if threading.current_thread() is threading.main_thread():
                self._end(words)
            else:
                self._loop.call_soon_threadsafe(self._end, words)
            time.sleep(FAREWELL_S)
        finally:
            os._exit(STATUS_FAILED)

    def _end(self, words: str) -> None:
        self._broken = True
        self._node.dying(words)

    def _written(self, upto: int) -> None:
        self.machine.written(upto, self._loop.time())
        self._mark()

    def _disk_full(self, full: bool) -> None:
        log.error("log.disk_full" if full else "log.disk_has_room", folder=str(self._folder))
        text = f"{DISK_FULL} {self._folder / LOG_FOLDER}: {MAKE_ROOM}"
        self.problems[:] = [problem for problem in self.problems if problem != text] + [text] * full
        self._full = full
        self.machine.disk_full(full, self._loop.time())
        self._mark()

    # --- effects ----------------------------------------------------------------------------------------

    def _mark(self) -> None:
        if not self._marked:
            self._marked = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Do what the turn added up to, and what follows from its write if that is done at once."""
        self._marked = False
        written = self._perform()
        if written:
            self.machine.written(written, self._loop.time())
            written = self._perform()
            if written:
                self._loop.call_soon(self._written, written)  # seldom: not for ever in one turn

    def _perform(self) -> int:
        """The number of the last write that is done; 0: none."""
        now = self._loop.time()
        if self._broken:
            return 0  # what the disk does not have is not said
        incarnation = self.machine.set.incarnation
        writes: list[Write] = []
        grants: list[tuple[int, int]] = []
        for effect in self.machine.drain(now):
            match effect:
                case Tell(identity, message):
                    for each in self._held.tell(identity, message, now):
                        self._node.tell_worker(identity, encode(each))
                case PublishLog(messages):
                    self._node.publish_log(self._encoder.encode("", incarnation, messages))
                case SendLog(node, messages):
                    self._node.send_log(node, self._encoder.encode(node, incarnation, messages))
                case WriteLog(write):
                    writes.append(write)
                case Granted(group, grant):
                    self._grants[group] = grant
                    grants.append((group, grant))
                case Positioned(rows, urgent):
                    if grants:
                        self._node.granted(grants)  # together: with each, all groups are looked at
                        grants = []
                    self._node.positioned(rows, urgent)
                case _:
                    assert_never(effect)
        if grants:
            self._node.granted(grants)
        return max([write.upto for write in writes if self._wal.write(write)], default=0)
