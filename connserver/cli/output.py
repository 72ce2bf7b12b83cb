"""How commands show things: tables for people, JSON for programs.

Guards one rule: colour only on a terminal, and not there either where NO_COLOR is set; both are
what rich does by itself, so no escape is written anywhere else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH: Final = 160
"""Width of tables in a file or pipe: nothing wraps them there."""

GOOD: Final = frozenset({"ready", "alive", "ok", "standby"})
BAD: Final = frozenset({"failed", "dead", "down", "unavailable", "critical", "refused"})

json_option = click.option("--json", "as_json", is_flag=True, help="JSON for programs instead of tables.")


def print_json(document: Any, *, pretty: bool = True) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(document, indent=2 if pretty else None, ensure_ascii=False))


def console() -> Console:
    """Where tables go."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=False)


def styled(state: str) -> RenderableType:
    """A state in the colour of what it means."""
    from rich.text import Text

    style = "green" if state in GOOD else "bold red" if state in BAD else "yellow"
    return Text(state, style=style)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> RenderableType:
    """A plain table; cells of the column `state` are coloured. Cells are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, title=title or None, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, header_style="bold", overflow="fold")
    for row in rows:
        cells = zip(columns, row, strict=True)
        made.add_row(*[styled(str(cell)) if name == "state" else Text(str(cell)) for name, cell in cells])
    return made
