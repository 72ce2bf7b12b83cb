"""Who is ended, and how: on processes that are only pretended, so that a mistake here hurts nobody."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from connserver.errors import StorageError
from connserver.storage import orphans
from connserver.storage.account import Account
from connserver.storage.orphans import clear_orphans, names_unknown_process

OURS = Path("/state/pg18")
ACCOUNT = Account("somebody", 1234, 1234, foreign=False)


@dataclass
class Pretended:
    """A process as far as orphans.py looks at one; it ends at the signals in `ends_at`."""

    pid: int
    folder: str = str(OURS)
    program: str = "/anywhere/bin/postgres"
    parent: int = 1
    ends_at: frozenset[signal.Signals] = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGKILL})
    hidden: bool = False
    got: list[signal.Signals] = field(default_factory=list)
    alive: bool = True

    def cwd(self) -> str:
        if self.hidden:
            raise psutil.AccessDenied(self.pid)
        return self.folder

    def exe(self) -> str:
        return self.program

    def ppid(self) -> int:
        return self.parent

    def send_signal(self, number: signal.Signals) -> None:
        self.got.append(number)
        if number in self.ends_at:
            self.alive = False


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Pretended]:
    """All processes there are, for orphans.py."""
    everybody: list[Pretended] = []
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([one for one in everybody if one.alive]))
    monkeypatch.setattr(orphans, "STEP_S", (0.0, 0.0, 0.0))
    return everybody


def test_only_our_folder_and_only_its_programs(machine: list[Pretended]) -> None:
    strangers = [
        Pretended(10, folder="/state/pg17"),
        Pretended(11, folder="/state"),
        Pretended(12, folder="/other/state/pg18"),
        Pretended(13, folder="/"),
        Pretended(14, program="/usr/bin/vim"),
        Pretended(15, program="/usr/bin/postgresql-exporter"),
        Pretended(16, hidden=True),
    ]
    ours = [
        Pretended(20),
        Pretended(21, program="/gone/bin/postgres (deleted)"),
        Pretended(22, program="/b/initdb"),
    ]
    machine += [*strangers, *ours]
    assert clear_orphans([OURS], ACCOUNT) == len(ours)
    assert [stranger.got for stranger in strangers] == [[]] * len(strangers)
    assert not any(one.alive for one in ours)


def test_a_postmaster_is_asked_to_be_fast_and_its_children_are_left_to_it(machine: list[Pretended]) -> None:
    postmaster, child, lost = Pretended(20), Pretended(21, parent=20), Pretended(30, parent=1)
    machine += [postmaster, child, lost]
    clear_orphans([OURS], ACCOUNT)
    assert postmaster.got == [signal.SIGINT, signal.SIGCONT]
    assert child.got[0] == signal.SIGCONT, "no signal of its own before its postmaster is gone"
    assert lost.got == [signal.SIGTERM, signal.SIGCONT]


def test_one_that_does_not_listen_is_killed(machine: list[Pretended]) -> None:
    machine.append(Pretended(20, ends_at=frozenset({signal.SIGKILL})))
    clear_orphans([OURS], ACCOUNT)
    sent = [number for number in machine[0].got if number != signal.SIGCONT]
    assert sent == [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL]


def test_one_that_stays_is_an_error(machine: list[Pretended]) -> None:
    machine.append(Pretended(20, ends_at=frozenset()))
    with pytest.raises(StorageError, match=r"pid 20\) cannot be ended"):
        clear_orphans([OURS], ACCOUNT)


def test_a_pid_file_is_kept_only_for_a_process_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {50: Pretended(50, hidden=True), 51: Pretended(51, folder="/elsewhere")}

    def process(pid: int) -> Pretended:
        if pid not in known:
            raise psutil.NoSuchProcess(pid)
        return known[pid]

    monkeypatch.setattr(psutil, "Process", process)
    file = tmp_path / "postmaster.pid"
    assert not names_unknown_process(file, ACCOUNT)
    for text, unknown in [
        ("50\n/x\n", True),
        ("51\n", False),
        ("52\n", False),
        ("garbage", False),
        ("", False),
    ]:
        file.write_text(text)
        assert names_unknown_process(file, ACCOUNT) == unknown, text
