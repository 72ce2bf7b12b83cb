"""One cluster per state folder: an advisory lock that dies with its holder.

Guards one rule: whoever starts, clears or changes anything in a state folder holds its lock. The
kernel drops a `flock` with the last descriptor, so nothing has to be cleaned up after `kill -9`.
The holder's pid in the file is for the message only; nobody is ever signalled because of it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

from connserver.errors import StorageError

LOCK_FILE = "lock"


class StateLock:
    """The lock of the state folder `path` (made if missing); raises StorageError when it is taken.

    Python's descriptors are not inherited by programs we start, so only this process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - keeps links: the folder itself is opened
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now."""
        return self._descriptor is not None

    def acquire(self) -> StateLock:
        """Take the lock or raise StorageError at once; it never waits."""
        if self._descriptor is not None:
            return self
        try:
            self.path = make_state_folder(self.path)
            descriptor = os.open(
                self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise StorageError(
                f"{self.path}: the state folder cannot be used ({error.strerror}); choose another state_dir"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise StorageError(
                f"a cluster already runs on this state folder (pid {holder}): {self.path}; "
                "stop that one with `cs-cluster down`, or give this one another state_dir"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise StorageError(
                f"{self.path}: this file system cannot lock files ({error.strerror}); "
                "choose a state_dir on a local disk"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def release(self) -> None:
        """Give the lock back; calling it again does nothing."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> StateLock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def make_state_folder(path: Path) -> Path:
    """Make the state folder, private to its owner, and return it without links.

    As root it can be passed through (0711), because PostgreSQL runs there under an account of its
    own. Nobody else may write in it, and a folder of somebody else is refused: he could swap our files
    while we use them.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = path.resolve()
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()) or (os.geteuid() == 0 and found.st_uid != 0):
        raise StorageError(
            f"{path}: the state folder belongs to uid {found.st_uid}, not to uid {os.geteuid()} who starts "
            "the cluster; start it as the owner, or choose another state_dir"
        )
    mode = stat.S_IMODE(found.st_mode)
    wanted = ((mode | 0o711) if os.geteuid() == 0 else mode) & ~0o022
    if mode != wanted:
        path.chmod(wanted)
    return path


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return text if text.isdigit() else "unknown"
