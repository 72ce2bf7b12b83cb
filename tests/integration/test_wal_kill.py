"""A process is killed while it writes its log: everything it reported as written is there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from connserver.ids import GroupId
from gossip.records import Boot
from gossip.wal_files import WalFiles

pytestmark = pytest.mark.integration

WRITER = """
import sys
from pathlib import Path
from threading import Semaphore
from gossip.protocol import Entry, Write, entry_crc
from gossip.records import Append, Boot, Formed, Opened
from gossip.wal_files import WalFiles
from gossip.wal_thread import WalThread

opened = WalFiles.open(Path(sys.argv[1]), Boot("boot", False, "demo", "n1"))
first = opened.node.groups[0].head + 1 if 0 in opened.node.groups else 1
room = Semaphore(4)  # as much as a core leaves unwritten

last = 0

def written(upto):
    global last
    print(upto, flush=True)
    room.release(max(1, (upto - last) // 50))
    last = upto

thread = WalThread(opened.files, written, lambda full: None)
if first == 1:
    room.acquire()
    thread.submit(Write((Formed(0, 1, 0, ("n1", "n2", "n3"), False, "n1"), Opened(0)), 0, False))
op = first
last = first - 1
while True:
    room.acquire()
    entries = []
    for _ in range(50):
        payload = b"%d" % op * 40
        entries.append(Append(0, Entry(op, 0, entry_crc(op, payload), payload)))
        op += 1
    thread.submit(Write(tuple(entries), op - 1, False))
"""


def test_what_was_reported_is_there_after_a_kill(tmp_path: Path) -> None:
    """Three lives of one log, each ended by SIGKILL in the middle of its work."""
    folder = tmp_path / "wal"
    before = 0
    for life in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        try:
            for _ in range(5 + 3 * life):
                line = writer.stdout.readline()
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
            writer.wait(10)
        reported = int((line + rest).rstrip("\n").split("\n")[-1] or 0) if rest.endswith("\n") else int(line)
        opened = WalFiles.open(folder, Boot("boot", False, "demo", "n1"))
        assert opened.problems == ()
        group = opened.node.groups[GroupId(0)]
        entries = group.dense_entries()
        assert entries is not None
        assert len(entries) >= reported > before
        assert all(entry.payload == b"%d" % entry.op * 40 for entry in entries)
        before = len(entries)
        opened.files.close(clean=False)
