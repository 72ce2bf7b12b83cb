"""The supervisor's end of making processes: through the fork server, or one by one without it.

Guards one rule: news of a process that belonged to an earlier fork server never reaches the tree.
Both ways give the same events; what differs is that without a fork server (there is no
fork to trust, or no PDEATHSIG) every process imports its code itself and starts slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connserver.process import START_ANEW
from connserver.supervisor.events import BecameReady, Died, Event, Forked, Waits
from connserver.supervisor.forkserver import LINE_BYTES, Lines, describe_exit
from connserver.supervisor.plan import FORK_SERVER

if TYPE_CHECKING:
    from connserver.config import ClusterConfig, Places

LAST_WORDS: Final = "; its last words: "
LAST_WORDS_CHARS: Final = 500
"""Of a dead process's last log line, in the reason of its death."""

_HEAD = re.compile(r"time=\S+ level=\S+ node=\S+ process=\S+ ")

OnEvent = Callable[[Event], None]


def news(name: str, pid: int, said: Any) -> Event | None:
    """The event in a status line of a child; None for what is no status line."""
    if not isinstance(said, dict):
        return None
    if said.get("ready") is True:
        return BecameReady(name, pid, str(said.get("endpoint", "")))
    if "waiting" in said:
        return Waits(name, pid, str(said["waiting"]))
    return None


class Lineage:
    """What both ways share: the lifeline, log files, and learning of deaths by SIGCHLD."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: ClusterConfig, places: Places, on_event: OnEvent
    ) -> None:
        self._loop = loop
        self._config = config
        self._places = places
        self._on_event = on_event
        # The write end is this process's alone; it is never used, only closed, by whatever end.
        self._lifeline, self._lifeline_write = os.pipe()
        self._alive: dict[int, str] = {}
        loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def close(self) -> None:
        """Let go of the lifeline: whatever is still alive ends."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        os.close(self._lifeline)
        os.close(self._lifeline_write)

    def _start(self, name: str, command: list[str], keep: tuple[int, ...], stdin: int) -> int:
        with self._places.log_file(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=log,
                stderr=log,
                pass_fds=(self._lifeline, *keep),
                start_new_session=True,
            )
        process.returncode = 0  # reaped below, with all the others, and not by subprocess
        self._alive[process.pid] = name
        return process.pid

    def _reap(self) -> None:
        for pid, name in list(self._alive.items()):
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if not reaped:
                continue
            del self._alive[pid]
            self._is_dead(name, pid, os.waitstatus_to_exitcode(status))
        if os.getpid() == 1:
            self._bury_orphans()

    @staticmethod
    def _bury_orphans() -> None:
        """The first process of a container gets everybody's dead."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _is_dead(self, name: str, pid: int, status: int) -> None:
        raise NotImplementedError

    def _tell_death(self, name: str, pid: int, status: int) -> None:
        # Who ended well has nothing to explain.
        words = last_words(self._places.log_file(name)) if status else ""
        reason = f"{describe_exit(status)}{LAST_WORDS}{words}" if words else describe_exit(status)
        self._on_event(Died(name, pid, reason, anew=status == START_ANEW))


class ForkNursery(Lineage):
    """Processes through the fork server, which is itself a process of the tree."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: ClusterConfig,
        places: Places,
        loads: list[str],
        on_event: OnEvent,
    ) -> None:
        super().__init__(loop, config, places, on_event)
        self._loads = loads
        self._control: socket.socket | None = None
        self._server = 0
        self._lines = Lines()

    def spawn(self, options: dict[str, Any]) -> None:
        """Ask for a process; the answer is Forked or Died."""
        if options["role"] == FORK_SERVER:
            self._launch()
        else:
            self._ask({"do": "spawn", "options": options})

    def signal(self, name: str, pid: int, *, hard: bool) -> None:
        """Signal a process that is alive as far as we know."""
        number = signal.SIGKILL if hard else signal.SIGTERM
        if pid == self._server:
            os.kill(pid, number)  # reaped by us alone, so the pid is still its own
        else:
            self._ask({"do": "signal", "pid": pid, "signal": int(number)})

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # The control socket is full only if the fork server hangs: waiting shows that plainly.
            command = [sys.executable, "-P", "-m", "connserver.supervisor.forkserver"]
            command += self._config.child_arguments()
            command += ["--control-fd", str(theirs.fileno()), "--lifeline-fd", str(self._lifeline)]
            command += ["--digest", self._config.digest]
            command += [part for load in self._loads for part in ("--load", load)]
            self._server = self._start(FORK_SERVER, command, (theirs.fileno(),), subprocess.DEVNULL)
        self._control = ours
        self._lines = Lines()
        self._loop.add_reader(ours, self._readable)
        self._on_event(Forked(FORK_SERVER, self._server))

    def _ask(self, request: dict[str, Any]) -> None:
        if self._control is None:
            return
        try:
            self._control.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            pass  # it is gone, and SIGCHLD says so next

    def _readable(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(LINE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control)
            return
        for line in self._lines.feed(data):
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        match line["event"]:
            case "ready":
                self._on_event(BecameReady(FORK_SERVER, self._server, ""))
            case "forked":
                self._on_event(Forked(line["name"], line["pid"]))
            case "said":
                event = news(line["name"], line["pid"], line["said"])
                if event is not None:
                    self._on_event(event)
            case "died" if line["pid"]:
                self._tell_death(line["name"], line["pid"], line["status"])
            case "died":
                self._on_event(Died(line["name"], 0, line["reason"]))

    def _is_dead(self, name: str, pid: int, status: int) -> None:
        """The fork server is gone, and by the kernel's doing all that it made."""
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None
        self._server = 0
        self._tell_death(name, pid, status)


class SpawnNursery(Lineage):
    """Every process by itself: `python -P -m gateway …`, the options on its standard input."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: ClusterConfig,
        places: Places,
        modules: dict[str, str],
        on_event: OnEvent,
    ) -> None:
        super().__init__(loop, config, places, on_event)
        self._modules = modules
        self._status: dict[int, tuple[str, int, Lines]] = {}

    def spawn(self, options: dict[str, Any]) -> None:
        """Start a process; Forked follows at once."""
        status, status_write = os.pipe()
        stdin, stdin_write = os.pipe()
        document = {**options, "lifeline_fd": self._lifeline, "status_fd": status_write}
        command = [
            sys.executable,
            "-P",
            "-m",
            self._modules[options["role"]],
            *self._config.child_arguments(),
        ]
        try:
            pid = self._start(options["name"], command, (status_write,), stdin)
            os.write(stdin_write, json.dumps(document).encode() + b"\n")  # far less than a pipe holds
        except OSError as error:
            os.close(status)
            self._on_event(Died(options["name"], 0, f"cannot be started: {error}"))
            return
        finally:
            for descriptor in (status_write, stdin, stdin_write):
                os.close(descriptor)
        self._status[pid] = (options["name"], status, Lines())
        self._loop.add_reader(status, self._readable, pid)
        self._on_event(Forked(options["name"], pid))

    def signal(self, name: str, pid: int, *, hard: bool) -> None:
        """Signal a process that is alive as far as we know."""
        if pid in self._alive:
            os.kill(pid, signal.SIGKILL if hard else signal.SIGTERM)

    def _readable(self, pid: int) -> None:
        name, status, lines = self._status[pid]
        data = os.read(status, LINE_BYTES)
        if not data:
            self._loop.remove_reader(status)
        for line in lines.feed(data):
            event = news(name, pid, line)
            if event is not None:
                self._on_event(event)

    def _is_dead(self, name: str, pid: int, status: int) -> None:
        _, pipe, _ = self._status.pop(pid)
        self._loop.remove_reader(pipe)
        os.close(pipe)
        self._tell_death(name, pid, status)


def last_words(log: Path) -> str:
    """The last line of a log file, shortened; empty when there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 4096))
            lines = stream.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    words = _HEAD.sub("", next((line.strip() for line in reversed(lines) if line.strip()), ""))
    return words if len(words) <= LAST_WORDS_CHARS else words[:LAST_WORDS_CHARS] + "…"
