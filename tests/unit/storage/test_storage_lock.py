"""The state folder's lock: one holder, a message that names him, no folder of somebody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from connserver.errors import StorageError
from connserver.storage.lock import LOCK_FILE, StateLock


def test_the_second_is_refused_and_told_who_runs(tmp_path: Path) -> None:
    with StateLock(tmp_path / "state") as first:
        assert first.held
        with pytest.raises(StorageError) as refused:
            StateLock(tmp_path / "state").acquire()
    assert f"a cluster already runs on this state folder (pid {os.getpid()})" in str(refused.value)
    assert str(tmp_path / "state") in str(refused.value)


def test_released_it_can_be_taken_again_and_names_nobody(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    lock.acquire()
    assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    assert lock.acquire() is lock, "taking it twice is one taking"
    lock.release()
    lock.release()
    assert not lock.held
    assert (tmp_path / LOCK_FILE).read_text() == ""
    with StateLock(tmp_path):
        pass


def test_what_an_earlier_holder_wrote_does_not_count(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("1\nsomething longer than a pid\n")
    with StateLock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    state = tmp_path / "state"
    state.mkdir()
    (state / LOCK_FILE).symlink_to(victim)
    with pytest.raises(StorageError, match="cannot be used"):
        StateLock(state).acquire()
    assert victim.read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another state_dir"):
        StateLock(tmp_path / "file" / "state").acquire()


def test_the_folder_lets_nobody_list_it(tmp_path: Path) -> None:
    with StateLock(tmp_path / "state") as lock:
        mode = stat.S_IMODE(lock.path.stat().st_mode)
    assert mode == (0o711 if os.geteuid() == 0 else 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 12345)
    with pytest.raises(StorageError, match="belongs to uid 12345"):
        StateLock(state).acquire()
