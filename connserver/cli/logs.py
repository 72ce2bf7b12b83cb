"""`cs-cluster logs`: the logs of all processes of this host as one stream, in the order of time."""

from __future__ import annotations

import heapq
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from connserver.cli.find import load
from connserver.cli.output import json_option, print_json
from connserver.errors import ClusterError

FOLLOW_S: Final = 0.1
"""Between two looks for new lines."""
TAIL_BYTES: Final = 4 << 20
"""Read of each file at first: more than anyone looks through."""

_PAIR = re.compile(r'([A-Za-z0-9_.-]+)=("(?:[^"\\]|\\.)*"|\S*)')
_TIME = re.compile(r'(?:time=|\{"time":")(\d{4}-\d\d-\d\dT[0-9:.]+Z)')


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """A line of a log; what has no time of its own, such as a traceback, has that of the line before."""

    time: str
    process: str
    number: int
    text: str


def parse(text: str) -> dict[str, Any]:
    """The fields of a line in either format; of anything else only its `message`."""
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except ValueError:
            return {"message": text}
        return document if isinstance(document, dict) else {"message": text}
    if not _TIME.match(text):
        return {"message": text}
    return {key: _value(value) for key, value in _PAIR.findall(text)}


def _value(text: str) -> Any:
    if text.startswith('"') or re.fullmatch(r"-?\d+(\.\d+)?|true|false|null", text):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def lines(process: str, texts: Iterable[str], *, last: str = "") -> Iterator[Line]:
    """The lines of one file, each with its time."""
    for number, text in enumerate(texts):
        found = _TIME.match(text)
        last = found[1] if found else last
        yield Line(last, process, number, text)


class LogFile:
    """One process's log, read on from where it was left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = max(0, path.stat().st_size - TAIL_BYTES)
        self._cut = self._position > 0
        self._last = ""

    def read(self) -> list[Line]:
        """What is new, in whole lines."""
        if self.path.stat().st_size < self._position:
            self._position = 0  # it was moved aside
        with self.path.open("rb") as stream:
            stream.seek(self._position)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        texts = whole.decode("utf-8", "replace").split("\n")[:-1]
        if self._cut:
            texts, self._cut = texts[1:], False
        found = list(lines(self.path.stem, texts, last=self._last))
        self._last = found[-1].time if found else self._last
        return found


@click.command("logs")
@click.option("--process", "-p", multiple=True, metavar="NAME", help="Of this process only, such as w-n1-0.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on, until ^C.")
@click.option("--lines", "-n", "count", type=click.IntRange(0), default=100, show_default=True)
@click.option("--incident", metavar="N", help="All about one incident, with its traceback.")
@json_option
@click.pass_context
def logs_command(
    context: click.Context,
    process: tuple[str, ...],
    follow: bool,
    count: int,
    incident: str | None,
    as_json: bool,
) -> None:
    """Show the last log lines of all processes of this host, in the order of time.

    \b
    Examples:
      cs-cluster logs --follow
      cs-cluster logs --process w-n1-0 -n 20
      cs-cluster logs --incident n1-7
    """
    from connserver.config import Places

    config = load(context)
    folder = Places(config).log_dir
    files = _files(folder, process)
    found = list(heapq.merge(*[file.read() for file in files.values()]))
    if incident is not None:
        _show_incident(found, incident, folder, as_json=as_json)
        return
    _show(found[len(found) - min(count, len(found)) :], as_json=as_json)
    while follow:
        time.sleep(FOLLOW_S)
        for name, file in _files(folder, process).items():
            files.setdefault(name, file)
        _show(list(heapq.merge(*[file.read() for file in files.values()])), as_json=as_json)


def _files(folder: Path, names: tuple[str, ...]) -> dict[str, LogFile]:
    here = {path.stem: path for path in sorted(folder.glob("*.log"))}
    unknown = [name for name in names if name not in here]
    if unknown or not here:
        known = ", ".join(here) or "none: nothing has run here yet"
        raise ClusterError(
            f"there is no log of {', '.join(unknown) or 'any process'} in {folder}; there are {known}"
        )
    return {name: LogFile(path) for name, path in here.items() if not names or name in names}


def _show(found: list[Line], *, as_json: bool) -> None:
    for line in found:
        if as_json:
            print_json({"process": line.process, **parse(line.text)}, pretty=False)
        else:
            click.echo(line.text if _TIME.match(line.text) else f"[{line.process}] {line.text}")


def _show_incident(found: list[Line], incident: str, folder: Path, *, as_json: bool) -> None:
    about = [
        (line, fields)
        for line in found
        if incident in line.text and str((fields := parse(line.text)).get("incident", "")) == incident
    ]
    if not about:
        raise ClusterError(
            f"there is no incident {incident} in the logs of this host ({folder}); "
            "it may have happened on another host, or long ago"
        )
    for line, fields in about:
        if as_json:
            print_json(fields, pretty=False)
            continue
        traceback = fields.pop("traceback", "")
        click.echo("\n".join(f"{key}: {value}" for key, value in fields.items()))
        click.echo(f"\n{traceback}" if traceback else f"({line.process} gives no traceback)")
