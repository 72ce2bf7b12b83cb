"""Servers left behind by a supervisor that is gone.

Guards one rule: a process is ours to end only if its working folder is one of our data folders *and*
its program is PostgreSQL's. Pid files are never believed: the number may belong to somebody else by
now. The caller holds the folder's lock, so a server found here has no supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import psutil

from connserver.errors import StorageError
from connserver.storage.account import Account

PROGRAMS: Final = frozenset({"postgres", "initdb"})
STEP_S: Final = (8.0, 3.0, 4.0)
"""Seconds for an orderly end, an immediate one, and a kill."""

LOOK_S: Final = 0.02
"""Pause between two looks; who waits for a process instead may wait for a zombie that nobody reaps."""


def clear_orphans(folders: Iterable[Path], account: Account) -> int:
    """End every server that works in one of `folders`; the number ended. StorageError if one stays."""
    wanted = frozenset(str(folder) for folder in folders)
    found = list(_servers(wanted, account))
    ended = len(found)
    for step, wait_s in enumerate(STEP_S):
        if not found:
            break
        for process, number in _signals(found, step):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)  # one that was stopped cannot act on the other
        deadline = time.monotonic() + wait_s
        while (found := list(_servers(wanted, account))) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
    if found:
        raise StorageError(
            f"an old PostgreSQL of this state folder (pid {found[0].pid}) cannot be ended; "
            "end it and try again"
        )
    return ended


def names_unknown_process(pid_file: Path, account: Account) -> bool:
    """Whether the pid file names a living process of which we may not know what it is."""
    try:
        pid = int(pid_file.read_text("ascii", "replace").split("\n", 1)[0])
        return _look(psutil.Process(abs(pid)), account) == ("", "")
    except (OSError, ValueError, psutil.NoSuchProcess):  # a zombie counts as gone
        return False


def _signals(found: list[psutil.Process], step: int) -> Iterator[tuple[psutil.Process, signal.Signals]]:
    """Who gets which signal: children are left to a living postmaster until the last step."""
    if step == 2:
        yield from ((process, signal.SIGKILL) for process in found)
        return
    parents: dict[int, int] = {}
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            parents[process.pid] = process.ppid()
    for process in found:
        if parents.get(process.pid) in parents:
            continue
        if step == 1:
            yield process, signal.SIGQUIT
        elif process.pid in parents.values():
            yield process, signal.SIGINT  # a postmaster: SIGTERM would wait for its clients to leave
        else:
            yield process, signal.SIGTERM  # a session that lost its postmaster


def _servers(wanted: frozenset[str], account: Account) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            folder, program = _look(process, account)
            if folder in wanted and Path(program).name.removesuffix(" (deleted)") in PROGRAMS:
                yield process


def _look(process: psutil.Process, account: Account) -> tuple[str, str]:
    """Working folder and program; empty texts where we may not know, for then it is not ours."""
    try:
        return process.cwd(), process.exe()
    except psutil.AccessDenied:
        pass
    # A root without CAP_SYS_PTRACE (the usual container) may not look at another account's processes;
    # that account itself may.
    if not account.foreign or process.uids().real != account.uid:
        return "", ""
    links = [f"/proc/{process.pid}/cwd", f"/proc/{process.pid}/exe"]
    shown = account.run(["readlink", "--zero", "--", *links]).stdout.split(b"\0")
    return (os.fsdecode(shown[0]), os.fsdecode(shown[1])) if len(shown) == 3 else ("", "")
