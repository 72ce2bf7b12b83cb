"""The fork server: one process that imports everything once and makes the others by forking.

A child made this way starts in milliseconds and shares its code's memory with its sisters. Guards
two rules. Nothing that does not survive a fork (a thread, a ZeroMQ context, an event loop) exists
here. And whatever happens, nothing stays behind: children die with this process (PDEATHSIG), this
process ends everything below it when the supervisor is gone (end of file on the control socket),
and it adopts orphans, such as PostgreSQL's processes, to see them end as well.

Requests and events are JSON, one a line; modules to load are given as `role=module`, loaded in that
order, and a request waits until its role's module is there.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from connserver.config import ClusterConfig

GRACE_S: Final = 3.0
"""From SIGTERM to SIGKILL when the supervisor is gone: nobody is left to see an orderly stop."""
ORPHAN_GRACE_S: Final = 1.0
"""After that, from SIGQUIT to SIGKILL for what the children left behind."""
LINE_BYTES: Final = 65_536
"""Longest request or status line; both are short, so a longer one is a fault and is dropped."""

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36


def process_control(option: int, argument: int | bytes) -> None:
    """prctl(2); does nothing where there is none."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0)


@dataclass(slots=True)
class Child:
    """One process made here; `status` is our end of its status pipe."""

    name: str
    pid: int
    status: int
    received: bytes = b""


@dataclass(frozen=True, slots=True)
class Birth:
    """What the newly forked process finds: it is to become this."""

    module: ModuleType
    options: dict[str, Any]


class Lines:
    """Cuts a byte stream into JSON lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The complete lines so far; what is no JSON object is left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LINE_BYTES:]
        found = []
        for line in lines:
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict):
                found.append(document)
        return found


class ForkServer:
    """The loop: modules, requests, status lines and deaths. `serve` returns only in a new child."""

    def __init__(self, control: socket.socket, loads: Iterable[str], lifeline: int) -> None:
        self._control = control
        self._loads = [load.split("=", 1) for load in loads]
        self._lifeline = lifeline
        self._modules: dict[str, ModuleType | str] = {}
        self._requests: list[dict[str, Any]] = []
        self._reader = Lines()
        self._children: dict[int, Child] = {}
        self._wake, self._wake_write = os.pipe()
        for descriptor in (self._wake, self._wake_write):
            os.set_blocking(descriptor, False)
        self._poll = select.poll()
        self._asked_to_stop = False

    def serve(self) -> Birth | None:
        """Serve until told to stop (None), or, in a child, until it is forked (a Birth)."""
        signal.signal(signal.SIGCHLD, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._load_next()
        self._say({"event": "ready"})
        while True:
            birth = self._fork_what_can()
            if birth is not None:
                return birth
            if not self._turn(0 if self._loads else None):
                return None
            if self._loads:
                self._load_next()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self._asked_to_stop = True

    def _turn(self, timeout_ms: int | None) -> bool:
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._wake:
                os.read(self._wake, 4096)
            elif descriptor == self._control.fileno():
                if not self._read_requests():
                    return False
            else:
                self._read_status(descriptor)
        self._reap()
        return not self._asked_to_stop

    # --- modules --------------------------------------------------------------------------------

    def _load_next(self) -> None:
        role, name = self._loads.pop(0)
        try:
            module: ModuleType | str = importlib.import_module(name)
        except Exception as error:
            traceback.print_exc()
            module = f"cannot import {name}: {type(error).__name__}: {error}"
        threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1  # noqa: PTH112, PTH208
        if threads > 1:
            module = f"importing {name} started a thread, which no fork survives; start it in main()"
        if role:
            self._modules[role] = module

    # --- requests -------------------------------------------------------------------------------

    def _read_requests(self) -> bool:
        try:
            data = self._control.recv(LINE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for request in self._reader.feed(data):
            if request["do"] == "signal":
                self._signal(request["pid"], request["signal"])
            else:
                self._requests.append(request["options"])
        return bool(data)

    def _signal(self, pid: int, number: int) -> None:
        # Only this process reaps, so a pid in the table is still that child's.
        if pid in self._children:
            os.kill(pid, number)

    def _fork_what_can(self) -> Birth | None:
        waiting, self._requests = self._requests, []
        for options in waiting:
            module = self._modules.get(options["role"])
            if module is None and self._loads:
                self._requests.append(options)
            elif isinstance(module, ModuleType):
                birth = self._fork(module, options)
                if birth is not None:
                    return birth
            else:
                reason = module or f"there is no program for the role {options['role']}"
                self._say({"event": "died", "name": options["name"], "pid": 0, "reason": reason})
        return None

    def _fork(self, module: ModuleType, options: dict[str, Any]) -> Birth | None:
        status, status_write = os.pipe()
        parent = os.getpid()
        gc.freeze()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(status)
            os.close(status_write)
            reason = f"cannot be forked: {error.strerror}"
            self._say({"event": "died", "name": options["name"], "pid": 0, "reason": reason})
            return None
        if pid == 0:
            os.close(status)
            self._become_child(parent, options["name"])
            return Birth(module, {**options, "lifeline_fd": self._lifeline, "status_fd": status_write})
        os.close(status_write)
        self._children[pid] = Child(options["name"], pid, status)
        self._poll.register(status, select.POLLIN)
        self._say({"event": "forked", "name": options["name"], "pid": pid})
        return None

    def _become_child(self, parent: int, name: str) -> None:
        """Tie this new process to the fork server and let go of everything of its."""
        process_control(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the fork server died before the line above
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        process_control(PR_SET_NAME, f"cs:{name}".encode()[:15])
        self._control.close()
        for descriptor in (
            self._wake,
            self._wake_write,
            *(child.status for child in self._children.values()),
        ):
            os.close(descriptor)
        gc.enable()

    # --- what becomes of the children -----------------------------------------------------------

    def _read_status(self, descriptor: int) -> None:
        child = next(child for child in self._children.values() if child.status == descriptor)
        data = os.read(descriptor, 4096)
        if not data:
            self._poll.unregister(descriptor)
            return
        *lines, child.received = (child.received + data).split(b"\n")
        child.received = child.received[-LINE_BYTES:]
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            self._say({"event": "said", "name": child.name, "pid": child.pid, "said": said})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue  # an orphan that was adopted
            try:
                self._poll.unregister(child.status)
            except KeyError:
                pass  # it was closed by the child before
            os.close(child.status)
            code = os.waitstatus_to_exitcode(status)
            self._say({"event": "died", "name": child.name, "pid": pid, "status": code})

    def _say(self, event: dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(event).encode() + b"\n")
        except OSError:
            pass  # the supervisor is gone: the next turn reads the end of file

    # --- the end --------------------------------------------------------------------------------

    def end_all(self) -> None:
        """End every process below this one; returns when none is left."""
        for pid in list(self._children):
            self._signal(pid, signal.SIGTERM)
        self._wait_for_end(GRACE_S)
        for pid in list(self._children):
            self._signal(pid, signal.SIGKILL)
        for number in (signal.SIGQUIT, signal.SIGKILL):
            for orphan in descendants():
                try:
                    os.kill(orphan, number)
                except ProcessLookupError:
                    pass
            if self._wait_for_end(ORPHAN_GRACE_S):
                return

    def _wait_for_end(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            self._reap()
            left = until - time.monotonic()
            if not self._children and not descendants():
                return True
            if left <= 0:
                return False
            # SIGCHLD wakes this up; the short step is for grandchildren, which do not.
            select.select([self._wake], [], [], min(left, 0.02))
            try:
                os.read(self._wake, 4096)
            except BlockingIOError:
                pass


def descendants() -> list[int]:
    """The living processes below this one, zombies left out."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def describe_exit(code: int) -> str:
    """An exit status in words: negative numbers are signals, as Python has them."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def live(birth: Birth, config: ClusterConfig) -> int:
    """What a child does with its life."""
    from connserver import process

    options = process.from_document(birth.options, config)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(options.places.log_file(options.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    return process.run(options, birth.module.main)


def main() -> NoReturn:
    """Started by the supervisor: `python -P -m connserver.supervisor.forkserver …`."""
    from connserver.process import child_config, child_parser

    parser = child_parser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--lifeline-fd", type=int, required=True)
    parser.add_argument("--digest", required=True, help="of the configuration that the supervisor read")
    parser.add_argument("--load", action="append", default=[], metavar="ROLE=MODULE")
    given = parser.parse_args()
    gc.disable()
    process_control(PR_SET_CHILD_SUBREAPER, 1)
    process_control(PR_SET_NAME, b"cs:forkserver")
    config = child_config(given)
    if config.digest != given.digest:
        sys.exit(f"{given.config} was changed while the cluster runs: stop it and start it again")
    server = ForkServer(socket.socket(fileno=given.control_fd), given.load, given.lifeline_fd)
    birth = server.serve()
    if birth is None:
        server.end_all()
        sys.exit(0)
    sys.exit(live(birth, config))


if __name__ == "__main__":
    main()
