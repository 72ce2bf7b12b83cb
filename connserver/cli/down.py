"""`cs-cluster down`: asks the supervisor of this host to stop, and waits until it has."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from connserver.cli.find import load
from connserver.cli.output import json_option, print_json
from connserver.errors import ClusterError, StorageError

if TYPE_CHECKING:
    import psutil

STOP_S: Final = 45.0
"""Four ranks of processes with ten seconds each, and some air."""
LOOK_S: Final = 0.05


@click.command("down")
@json_option
@click.pass_context
def down_command(context: click.Context, as_json: bool) -> None:
    """Stop this host's processes in order: gateways, workers, gossip, PostgreSQL.

    Succeeds also when nothing runs. Other hosts of the cluster go on.

    \b
    Example:
      cs-cluster down
    """
    from connserver.config import Places
    from connserver.storage.lock import LOCK_FILE, StateLock

    config = load(context)
    folder = Places(config).cluster_dir
    try:
        StateLock(folder).acquire().release()
    except StorageError:
        stop(holder(folder / LOCK_FILE))
        stopped = True
    else:
        stopped = False
    if as_json:
        print_json({"cluster": config.cluster.name, "stopped": stopped})
    else:
        name = config.cluster.name
        click.echo(f"{name} has stopped." if stopped else f"{name} does not run on this host.")


def holder(lock: Path) -> psutil.Process:
    """The process that holds the lock; the file's word for it is not enough, a pid may be anyone's."""
    import psutil

    try:
        process = psutil.Process(int(lock.read_text()))
        opened = {file.path for file in process.open_files()}
    except (OSError, ValueError, psutil.Error) as error:
        raise ClusterError(
            f"{lock} is held, but not to be seen by whom ({error}); try as its owner"
        ) from None
    if str(lock.resolve()) not in opened:
        raise ClusterError(
            f"{lock} is held by another process than the one it names ({process.pid}); look at `ps`"
        )
    return process


def stop(supervisor: psutil.Process) -> None:
    """SIGTERM to the supervisor, and wait for its end.

    Its lock is no sign of it: that is free a moment before the process is gone.
    """
    os.kill(supervisor.pid, signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while time.monotonic() < until:
        if has_ended(supervisor):
            return
        time.sleep(LOOK_S)
    raise ClusterError(
        f"the supervisor (pid {supervisor.pid}) has not stopped within {STOP_S:g} s; "
        f"`kill -9 {supervisor.pid}` ends it and all of its processes at once"
    )


def has_ended(process: psutil.Process) -> bool:
    """Whether it is gone, or waits only for whoever started it to take notice."""
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
