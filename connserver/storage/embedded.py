"""The embedded PostgreSQL: one server under the state folder, started and watched by the supervisor.

Guards these rules. The server dies with its supervisor (death signal, where `setpriv` is there; else
it goes on after a `kill -9` until the next start on this folder ends it). A data folder appears under
its name only when complete. Nobody else can reach the sockets (a 0700 folder). Everything here happens
in the main thread, because the death signal follows the *thread* that forked.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from connserver.errors import StorageError
from connserver.storage.account import (
    ENVIRONMENT,
    TEMPORARY_PREFIX,
    Account,
    Programs,
    death_signal_program,
    find_programs,
    own_account,
)
from connserver.storage.lock import StateLock
from connserver.storage.orphans import clear_orphans, names_unknown_process

USER: Final = "connserver"
"""The database's only role; it logs in by being able to reach the socket."""
PORT: Final = 5432
"""Only part of the socket's name; said in the dsn, or the caller's PGPORT would be taken."""
SOCKET_FOLDER_BYTES: Final = 79
"""Longest socket folder: a socket's path has 108 bytes on Linux, 104 elsewhere, name included."""
POLL_S: Final = 0.01
READY_LINE: Final = 7
"""Line of postmaster.pid (from 0) in which the server says that it takes connections."""
LOG_LINES: Final = 12

SETTINGS: Final = {
    # Small: the worlds live in the workers' memory; this is written in batches and rarely read.
    "shared_buffers": "32MB",
    "max_connections": "200",  # one archiver for each group led here, loads, and an operator
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "jit": "off",  # our statements are short: compiling them costs more than it saves
    # No standby and no parallel queries: fewer processes to start, and a quiet disk when idle.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_worker_processes": "2",
    "io_method": "sync",
    # Safe: the replicated log is cut below what is archived, so an archived row must survive power loss.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",  # every batch replaces rows
    "autovacuum_max_workers": "1",
    # A week of log files, each overwritten after seven days; no statements and no values in them.
    "logging_collector": "on",
    "log_filename": "%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_size": "0",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
}
"""Settings of every start; the caller's come after them and win."""


class Stage(enum.Enum):
    """Where the server is in its life."""

    STOPPED = "stopped"
    INITDB = "making the data folder"
    STARTING = "starting"
    READY = "ready"
    EXITED = "exited"


class EmbeddedPostgres:
    """One server on `state_dir`, whose lock the caller holds. `settings` are PostgreSQL's own.

    `launch` and `poll` never wait for the server, so that a supervisor can do other work meanwhile;
    after EXITED it may `launch` again, with whatever patience it likes.
    """

    def __init__(
        self, state_dir: Path, settings: Mapping[str, str] | None = None, *, lock: StateLock
    ) -> None:
        self.state = Path(state_dir).resolve()
        self.settings = {**SETTINGS, **(settings or {})}
        self.exit_status: int | None = None
        self._lock = lock
        self._stage = Stage.STOPPED
        self._process: subprocess.Popen[bytes] | None = None
        self._unfinished: Path | None = None
        self._progress: Callable[[str], None] = lambda _: None
        self._account: Account
        self._programs: Programs
        self._data: Path
        self._sockets: Path

    @property
    def stage(self) -> Stage:
        """The stage that the last `poll` saw."""
        return self._stage

    @property
    def alive(self) -> bool:
        """Whether the server's process runs now (it may still be starting)."""
        return self._stage in (Stage.STARTING, Stage.READY) and self.poll() is not Stage.EXITED

    @property
    def pid(self) -> int | None:
        """The server's process, None while there is none."""
        return self._process.pid if self._process is not None and self._stage is not Stage.INITDB else None

    @property
    def dsn(self) -> str:
        """How to connect, valid once launched; the same over all restarts."""
        return _dsn(self._sockets)

    def start(self, timeout_s: float = 60.0) -> str:
        """Launch and wait until ready; the dsn. StorageError says what is wrong and what to do."""
        self.launch()
        return self.wait_ready(timeout_s)

    def launch(self, on_progress: Callable[[str], None] | None = None) -> None:
        """Begin to start: old servers are ended, then initdb (once) or the server is on its way."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded PostgreSQL is started from the main thread only")
        if self._stage in (Stage.INITDB, Stage.STARTING, Stage.READY):
            raise RuntimeError(f"the embedded PostgreSQL is already {self._stage.value}")
        if not self._lock.held or self._lock.path != self.state:
            raise StorageError(f"{self.state}: hold this state folder's lock before starting PostgreSQL")
        self._progress = on_progress or self._progress
        try:
            self._prepare()
            if self._data.exists():
                self._start_server()
            else:
                self._start_initdb()
        except OSError as error:
            raise StorageError(f"{self.state}: PostgreSQL cannot be started: {error}") from error

    def poll(self) -> Stage:
        """Look once, without waiting, and take the next step if it is time."""
        if self._process is None:
            return self._stage
        status = self._process.poll()
        if self._stage is Stage.INITDB and status is not None:
            self._finish_initdb(status)
        elif status is not None:
            self.exit_status = status
            self._process = None
            self._stage = Stage.EXITED
        elif self._stage is Stage.STARTING and self._says_ready(self._process.pid):
            self._stage = Stage.READY
        return self._stage

    def wait_ready(self, timeout_s: float = 60.0) -> str:
        """Wait until connections are taken; the dsn. Stops everything again if that does not happen."""
        deadline = time.monotonic() + timeout_s
        while (stage := self.poll()) in (Stage.INITDB, Stage.STARTING):
            if time.monotonic() > deadline:
                self.stop()
                raise StorageError(
                    f"PostgreSQL was not ready within {timeout_s:g} s (it was {stage.value}); "
                    f"its last words:\n{self._last_words()}"
                )
            time.sleep(POLL_S)
        if stage is not Stage.READY:
            raise StorageError(
                f"PostgreSQL ended at once with status {self.exit_status}; its last words:\n"
                f"{self._last_words()}"
            )
        return self.dsn

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server: fast, then immediately (it recovers at the next start), then by force."""
        process, self._process = self._process, None
        if process is not None:
            steps = ((signal.SIGINT, 0.6), (signal.SIGQUIT, 0.2), (signal.SIGKILL, 0.2))
            for number, share in steps:
                self._send(process, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout_s * share)
                    break
            self.exit_status = process.poll()
        if self.exit_status:  # not in order: its sessions may still be there
            clear_orphans(self._work_folders(), self._account)
        if self._unfinished is not None:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._unfinished = None
        self._stage = Stage.STOPPED

    @staticmethod
    def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Signal the server, and wake it and its children: stopped ones could not act on it."""
        process.send_signal(number)
        with contextlib.suppress(psutil.Error):
            server = psutil.Process(process.pid)
            for child in [server, *server.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    child.send_signal(signal.SIGCONT)

    # --- what a start is made of ------------------------------------------------------------------

    def _prepare(self) -> None:
        self._account = own_account()
        self._check_reachable()
        self._sockets = self._socket_folder()
        self._programs = find_programs(self._account, self.state)
        self._data = self.state / f"pg{self._programs.major}"
        self._check_data()
        clear_orphans(self._work_folders(), self._account)
        for path in self.state.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)
        # Nobody works here any more (that was just ended, and the lock keeps others out), so what these
        # files name is a dead process or a stranger that got its number. Where we may not look at that
        # process the files stay, and PostgreSQL itself decides.
        for path in (self._data / "postmaster.pid", self._sockets / f".s.PGSQL.{PORT}.lock"):
            if not names_unknown_process(path, self._account):
                path.unlink(missing_ok=True)

    def _work_folders(self) -> list[Path]:
        return [self._data, *self.state.glob(f"{TEMPORARY_PREFIX}*")]

    def _check_reachable(self) -> None:
        """A private ancestor would stop the account; say so instead of opening it."""
        if self._account.foreign and self._account.run(["test", "-x", self.state]).returncode != 0:
            raise StorageError(
                f"{self.state}: the account {self._account.name}, under which PostgreSQL runs, cannot reach "
                "this folder; choose a state_dir outside of private folders, for example below /var/lib"
            )

    def _check_data(self) -> None:
        for path in sorted(self.state.glob("pg[0-9]*")):
            if path != self._data and (path / "PG_VERSION").exists():
                raise StorageError(
                    f"{path}: this state folder was written by another PostgreSQL than the installed "
                    f"{self._programs.major}; move it with `cs-cluster backup` (old version) and `restore`"
                )
        with contextlib.suppress(FileNotFoundError):
            owner = self._data.stat().st_uid
            if owner != self._account.uid:
                raise StorageError(
                    f"{self._data} belongs to uid {owner}, and PostgreSQL would run as {self._account.name} "
                    f"(uid {self._account.uid}); start the cluster as before, or change the folder's owner"
                )

    def _socket_folder(self) -> Path:
        folder = _socket_place(self.state, self._account)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), self._account.uid):
            raise StorageError(f"{folder}: somebody else made this; remove it, or use a shorter state_dir")
        if self._account.foreign:
            os.chown(folder, self._account.uid, self._account.gid, follow_symlinks=False)
        folder.chmod(0o700)
        return folder

    def _start_initdb(self) -> None:
        self._progress(f"setting up PostgreSQL {self._programs.major} (first start only)")
        self._unfinished = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self.state))
        if self._account.foreign:
            os.chown(self._unfinished, self._account.uid, self._account.gid)
        command = ["-D", ".", "-U", USER, "-E", "UTF8", "--locale=C", "--auth-local=trust"]
        self._process = self._spawn(
            [str(self._programs.folder / "initdb"), *command, "--auth-host=scram-sha-256"],
            death_signal="TERM",
            folder=self._unfinished,
        )
        self._stage = Stage.INITDB

    def _finish_initdb(self, status: int) -> None:
        unfinished, self._unfinished, self._process = self._unfinished, None, None
        assert unfinished is not None
        if status != 0:
            words = self._last_words()
            shutil.rmtree(unfinished, ignore_errors=True)
            self.exit_status, self._stage = status, Stage.STOPPED
            raise StorageError(f"{self.state}: initdb failed with status {status}:\n{words}")
        unfinished.rename(self._data)  # initdb has synced what is in it
        parent = os.open(self.state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
        self._start_server()

    def _start_server(self) -> None:
        self._progress(f"starting PostgreSQL {self._programs.major}")
        quoted = '"' + str(self._sockets).replace('"', '""') + '"'
        fixed = {
            "listen_addresses": "",
            "unix_socket_directories": quoted,
            "unix_socket_permissions": "0700",
            "port": str(PORT),
        }
        command = [str(self._programs.folder / "postgres"), "-D", str(self._data)]
        for name, value in {**self.settings, **fixed}.items():
            command += ["-c", f"{name}={value}"]
        self._process = self._spawn(command, death_signal="INT", folder=Path("/"))
        self.exit_status = None
        self._stage = Stage.STARTING

    def _spawn(self, command: list[str], *, death_signal: str, folder: Path) -> subprocess.Popen[bytes]:
        """Start a program as the account, in a session of its own: ^C is the supervisor's to handle."""
        drop = self._account.drop()
        setpriv = death_signal_program()
        if setpriv is not None:
            become = [f"--reuid={self._account.uid}", f"--regid={self._account.gid}", "--clear-groups"]
            tied = [setpriv, f"--pdeathsig={death_signal}", *(become if drop else []), "--"]
            command, drop = tied + command, {}
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        output = os.open(self._output_file(), flags, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=ENVIRONMENT,
                start_new_session=True,
                **drop,
            )
        finally:
            os.close(output)

    # --- what it says -----------------------------------------------------------------------------

    def _says_ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text("utf-8", "replace").splitlines()
            return int(lines[0]) == pid and lines[READY_LINE].strip() == "ready"
        except (OSError, IndexError, ValueError):
            return False

    def _output_file(self) -> Path:
        return self.state / "postgres.out"

    def _last_words(self) -> str:
        """The last lines of what was printed and of the newest log file."""
        files = [self._output_file()]
        with contextlib.suppress(OSError, AttributeError):
            logs = sorted((self._data / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
            files += logs[-1:]
        lines: list[str] = []
        for path in files:
            with contextlib.suppress(OSError):
                lines += path.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
        return "\n".join(lines)


def embedded_dsn(state_dir: Path) -> str:
    """How to connect to the server on this folder, running or not; for whoever started before it."""
    return _dsn(_socket_place(Path(state_dir).resolve(), own_account()))


def _socket_place(state: Path, account: Account) -> Path:
    folder = state / "sockets"
    # Too long for a socket, or a comma, at which clients take it for a list of hosts.
    if len(os.fsencode(folder)) > SOCKET_FOLDER_BYTES or "," in str(folder):
        name = hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
        return Path("/tmp") / f"connserver-{account.uid}-{name}"
    return folder


def _dsn(sockets: Path) -> str:
    quoted = str(sockets).replace("\\", "\\\\").replace("'", "\\'")
    return f"host='{quoted}' port={PORT} user={USER} dbname=postgres"
