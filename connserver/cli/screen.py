"""What `up` shows while it starts, when it is up, and while it stops.

On a terminal one line that changes in place, else a line for each thing reached.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from connserver.cli.output import console, table
from connserver.cli.progress import Progress, progress, shown_endpoint
from connserver.messages import ProcessRecord

if TYPE_CHECKING:
    from rich.live import Live

LASTING_S: Final = 1.0
"""What a process waits for is told when it has waited so long."""

CALLED_AS: Final = "CONNSERVER_CALLED_AS"
"""Set by a script that wraps `cs-cluster`: what its user types."""


class Screen:
    """The terminal of one `up`. `quiet`: only what went wrong."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title = title
        self._quiet = quiet
        self._live: Live | None = None
        self._shown = ""
        self._told: set[str] = set()
        self._since: dict[str, float] = {}

    def show(self, records: Sequence[ProcessRecord]) -> Progress:
        """Show how far the start is; the same as a value."""
        now = progress(records)
        if self._quiet:
            return now
        if sys.stdout.isatty():
            waits = "".join(f"\n  {wait}" for wait in now.waits[:5])
            self._change(f"{self._title}: {' · '.join(now.steps)}{waits}")
        else:
            for line in (*now.reached, *self._lasting(now.waits)):
                self._tell_once(line)
        return now

    def show_stop(self, records: Sequence[ProcessRecord]) -> None:
        """Show what is still to stop."""
        left = [record.name for record in records if record.pid and record.role != "supervisor"]
        if not self._quiet and sys.stdout.isatty():
            self._change(f"stopping {self._title}: {len(left)} processes left")

    def say(self, text: str) -> None:
        """One line that stays."""
        self.clear()
        click.echo(text)

    def clear(self) -> None:
        """Take away the line that changes."""
        if self._live is not None:
            self._live.update("", refresh=True)
            self._live.stop()
            self._live = None

    def _lasting(self, waits: Sequence[str]) -> list[str]:
        now = time.monotonic()
        self._since = {wait: self._since.get(wait, now) for wait in waits}
        return [wait for wait, since in self._since.items() if now - since >= LASTING_S]

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            click.echo(line)

    def _change(self, text: str) -> None:
        from rich.live import Live
        from rich.text import Text

        if text == self._shown:
            return
        self._shown = text
        if self._live is None:
            self._live = Live(console=console(), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text(text), refresh=True)


def show_table(records: Sequence[ProcessRecord], file: Path, *, foreground: bool) -> None:
    """The table of processes, what is wrong with them, and what to type next."""
    columns = ("node", "process", "pid", "endpoint", "state")
    rows = [
        (record.node, record.name, record.pid or "", shown_endpoint(record), record.state)
        for record in records
    ]
    console().print(table(columns, rows))
    for record in records:
        if record.state == "failed":
            click.echo(
                f"{record.name}: {record.reason}\n  more: {command('logs', file)} --process {record.name}"
            )
    click.echo("\nNow try:")
    for line in ("status", 'send \'{"msg":"ping"}\'', "client"):
        click.echo(f"  {command(line, file)}")
    click.echo("^C stops the cluster." if foreground else f"To stop it:\n  {command('down', file)}")


def program(folder: Path | None = None) -> str:
    """What to type for `cs-cluster`, here or in that folder."""
    called = os.environ.get(CALLED_AS, "cs-cluster")
    if folder is not None and "/" in called:
        return os.path.relpath(called, folder)
    return called


def command(line: str, file: Path) -> str:
    """What to type, here, for a command about this cluster."""
    words = [program()]
    if file != Path("cluster.toml").absolute():
        with contextlib.suppress(ValueError):
            file = file.relative_to(Path.cwd())
        words += ["--cluster", shlex.quote(str(file))]
    context = click.get_current_context(silent=True)
    state_dir = context.find_root().obj["state_dir"] if context else None
    if state_dir:
        words += ["--state-dir", shlex.quote(state_dir)]
    return " ".join([*words, line])
