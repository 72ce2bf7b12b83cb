"""`cs-cluster down`: asks the supervisor of this host to stop, and waits until it has."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final

import click

from connserver.cli.find import load
from connserver.cli.output import json_option, print_json
from connserver.errors import ClusterError, StorageError

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
        pid = holder(folder / LOCK_FILE)
        stop(pid, folder)
        stopped = True
    else:
        stopped = False
    if as_json:
        print_json({"cluster": config.cluster.name, "stopped": stopped})
    else:
        name = config.cluster.name
        click.echo(f"{name} has stopped." if stopped else f"{name} does not run on this host.")


def holder(lock: Path) -> int:
    """The process that holds the lock; the file's word for it is not enough, a pid may be anyone's."""
    import psutil

    try:
        pid = int(lock.read_text())
        opened = {file.path for file in psutil.Process(pid).open_files()}
    except (OSError, ValueError, psutil.Error) as error:
        raise ClusterError(
            f"{lock} is held, but not to be seen by whom ({error}); try as its owner"
        ) from None
    if str(lock.resolve()) not in opened:
        raise ClusterError(f"{lock} is held by another process than the one it names ({pid}); look at `ps`")
    return pid


def stop(pid: int, folder: Path) -> None:
    """SIGTERM to the supervisor, and wait for its lock to be free."""
    from connserver.storage.lock import StateLock

    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while time.monotonic() < until:
        try:
            StateLock(folder).acquire().release()
        except StorageError:
            time.sleep(LOOK_S)
        else:
            return
    raise ClusterError(
        f"the supervisor (pid {pid}) has not stopped within {STOP_S:g} s; `kill -9 {pid}` ends it and all "
        "of its processes at once"
    )
