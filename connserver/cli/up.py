"""`cs-cluster up`: the supervisor in the foreground, or behind the scenes with `--detach`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from errno import EADDRINUSE
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from connserver.cli.find import load
from connserver.cli.output import json_option, print_json
from connserver.cli.screen import Screen, show_table
from connserver.errors import ClusterError
from connserver.messages import ProcessRecord

if TYPE_CHECKING:
    from connserver.config import ClusterConfig, Places
    from connserver.supervisor.shell import Supervisor

    Companion = Callable[[Supervisor], Coroutine[Any, Any, None]]

PROGRAM: Final = "connserver.cli"
"""What runs in the background: this program."""
LOOK_S: Final = 0.5
"""Between two looks at a start that waits for something."""

RESTARTED: Final = {"process.died": "is started again", "process.left_down": "stays down"}


@click.command("up")
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@click.option("--node", metavar="NAME", help="Run this node of the file only: the one this host is.")
@click.option("--state-dir", type=click.Path(file_okay=False), metavar="FOLDER", help="Keep the state here.")
@click.option(
    "--detach", is_flag=True, help="Return when the cluster is ready; it goes on without a terminal."
)
@click.option("--report-fd", type=int, hidden=True)
@json_option
@click.pass_context
def up_command(
    context: click.Context,
    file: str | None,
    node: str | None,
    state_dir: str | None,
    detach: bool,
    report_fd: int | None,
    as_json: bool,
) -> int:
    """Start this host's processes and watch over them.

    Shows what it waits for, then a table. A process that dies is started again; one that dies five
    times in a minute is left down. ^C, SIGTERM and `cs-cluster down` stop everything in order.

    \b
    Examples:
      cs-cluster up cluster.toml
      cs-cluster up cluster.toml --detach
      cs-cluster up cluster.toml --node n2
    """
    given = context.find_root().obj
    given.update(node=node or given["node"], state_dir=state_dir or given["state_dir"])
    config = load(context, file)
    if detach:
        return Detached(config, as_json=as_json).run()
    reporter = TerminalReporter(config, as_json=as_json) if report_fd is None else PipeReporter(report_fd)
    return run_supervisor(config, reporter)


class Reporter:
    """Who is told how a supervisor is doing."""

    def starting(self, records: Sequence[ProcessRecord]) -> bool:
        """The table changed while starting; whether the start has come to its end."""
        raise NotImplementedError

    def up(self, records: Sequence[ProcessRecord]) -> None:
        """Everything is ready, or left down."""

    def note(self, event: str, name: str, detail: str) -> None:
        """Something to read happened to a process."""

    def stopping(self, records: Sequence[ProcessRecord]) -> None:
        """The table changed while stopping."""

    def end(self, failure: str) -> None:
        """All has stopped; `failure` says why, if it was not asked for."""


class TerminalReporter(Reporter):
    """Tells the person before the terminal."""

    def __init__(self, config: ClusterConfig, *, as_json: bool) -> None:
        self._config = config
        self._as_json = as_json
        self._screen = Screen(config.cluster.name, quiet=as_json)
        self._is_up = False

    def starting(self, records: Sequence[ProcessRecord]) -> bool:
        """As Reporter has it."""
        return self._screen.show(records).ready

    def up(self, records: Sequence[ProcessRecord]) -> None:
        """As Reporter has it."""
        self._screen.clear()
        self._is_up = True
        if self._as_json:
            print_json({"processes": [asdict(record) for record in records]}, pretty=False)
        else:
            show_table(records, self._config.file, foreground=True)

    def note(self, event: str, name: str, detail: str) -> None:
        """As Reporter has it."""
        if self._is_up and event in RESTARTED:
            click.echo(f"{name} died ({detail}); it {RESTARTED[event]}", err=self._as_json)

    def stopping(self, records: Sequence[ProcessRecord]) -> None:
        """As Reporter has it."""
        self._screen.show_stop(records)

    def end(self, failure: str) -> None:
        """As Reporter has it."""
        self._screen.clear()
        if not failure and not self._as_json:
            click.echo(f"{self._config.cluster.name} has stopped.")


class PipeReporter(Reporter):
    """Tells the `up --detach` that waits at the other end of a pipe; one JSON document a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def starting(self, records: Sequence[ProcessRecord]) -> bool:
        """As Reporter has it."""
        from connserver.cli.progress import progress

        self._say({"starting": [asdict(record) for record in records]})
        return progress(records).ready

    def up(self, records: Sequence[ProcessRecord]) -> None:
        """As Reporter has it."""
        self._say({"up": [asdict(record) for record in records]})
        self._close()

    def end(self, failure: str) -> None:
        """As Reporter has it."""
        self._say({"failed": failure})
        self._close()

    def _say(self, document: dict[str, Any]) -> None:
        if self._descriptor < 0:
            return
        try:
            os.write(self._descriptor, json.dumps(document).encode() + b"\n")
        except OSError:
            self._close()  # nobody waits any more; the cluster goes on

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def run_supervisor(
    config: ClusterConfig,
    reporter: Reporter,
    companion: Companion | None = None,
    errands: Mapping[str, str] | None = None,
) -> int:
    """Supervise until told to stop; the exit status.

    `companion` runs beside it from the start; `errands` are roles, with their modules, for it to run.
    """
    from connserver import telemetry
    from connserver.config import Places
    from connserver.storage.lock import StateLock

    places = Places(config)
    with StateLock(places.cluster_dir), places.log_file("supervisor").open("a") as stream:
        refuse_taken_endpoints(config)
        first = config.host_nodes[0].name
        telemetry.configure(
            role="supervisor",
            node=first,
            name="supervisor",
            format=config.log.format,
            level=config.log.level,
            stream=stream,
        )
        with asyncio.Runner() as runner:
            watch = Watch(runner.get_loop(), config, places, reporter, errands or {})
            failure = runner.run(watch.run(companion))
    reporter.end(failure)
    if failure:
        raise ClusterError(failure)
    return 0


def refuse_taken_endpoints(config: ClusterConfig) -> None:
    """ClusterError if a gateway of this host could not listen: all such, before anything is started."""
    faults = []
    for node in config.host_nodes:
        for endpoint in node.gateways:
            family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((endpoint.host, endpoint.port))
                except OSError as error:
                    why = "another program listens there" if error.errno == EADDRINUSE else error.strerror
                    faults.append(f"node {node.name} cannot have a gateway at {endpoint}: {why}")
    if faults:
        advice = f"stop that program, or change `gateways` in {config.file}"
        raise ClusterError("\n".join([*faults, advice]))


class Watch:
    """One life of a supervisor, as `up` shows it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: ClusterConfig,
        places: Places,
        reporter: Reporter,
        errands: Mapping[str, str],
    ) -> None:
        from connserver.supervisor.shell import MODULES, Supervisor

        self._reporter = reporter
        self._is_up = False
        self._has_all_nodes = len(config.host_nodes) == len(config.nodes)
        self._stops = 0
        self._failure = ""
        self._supervisor: Supervisor = Supervisor(
            loop,
            config,
            places,
            modules={**MODULES, **errands},
            on_change=self._changed,
            on_note=reporter.note,
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)

    async def run(self, companion: Companion | None) -> str:
        """Until everything has stopped; why, if it was not asked for."""
        beside = asyncio.ensure_future(companion(self._supervisor)) if companion else None
        timer = asyncio.ensure_future(self._look_again())
        try:
            await self._supervisor.run()
        finally:
            timer.cancel()
            if beside is not None:
                beside.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await beside
        return self._failure

    async def _look_again(self) -> None:
        """What a start waits for is worth telling only when it has lasted."""
        while not self._is_up:
            await asyncio.sleep(LOOK_S)
            self._changed()

    def _asked_to_stop(self) -> None:
        """The second time means it: without waiting for anything but storage."""
        self._stops += 1
        self._supervisor.stop(at_once=self._stops > 1)

    def _changed(self) -> None:
        from connserver.cli.progress import progress

        records = self._supervisor.records()
        if self._stops:
            self._reporter.stopping(records)
            return
        now = progress(records)
        hopeless = now.hopeless or (self._has_all_nodes and bool(now.unserved))
        if hopeless if not self._is_up else now.nothing_left:
            self._failure = now.reasons
            self._asked_to_stop()
        elif not self._is_up and self._reporter.starting(records):
            self._is_up = True
            self._reporter.up(records)


class Detached:
    """`up --detach`: starts the supervisor in a session of its own and watches its start."""

    def __init__(self, config: ClusterConfig, *, as_json: bool) -> None:
        self._config = config
        self._as_json = as_json
        self._screen = Screen(config.cluster.name, quiet=as_json)

    def run(self) -> int:
        """Until it is up (0), or parts of it are left down (1); ClusterError if nothing runs."""
        from connserver.config import Places
        from connserver.supervisor.nursery import last_words

        places = Places(self._config)
        log = places.log_file("supervisor")
        process, report = self._launch(log)
        try:
            for line in report:
                document = json.loads(line)
                if "starting" in document:
                    self._screen.show(_records(document["starting"]))
                elif "up" in document:
                    return self._up(_records(document["up"]))
                elif document["failed"]:
                    raise ClusterError(document["failed"])
        except KeyboardInterrupt:
            process.terminate()
            raise
        finally:
            self._screen.clear()
        process.wait()
        raise ClusterError(last_words(log).removeprefix("cs-cluster: ") or f"the supervisor ended; see {log}")

    def _launch(self, log: Path) -> tuple[subprocess.Popen[bytes], Any]:
        read, write = os.pipe()
        command = [sys.executable, "-P", "-m", PROGRAM, "up", str(self._config.file)]
        command += ["--state-dir", str(self._config.local.state_dir), "--report-fd", str(write)]
        command += ["--node", self._config.local.node] if self._config.local.node else []
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=(write,),
                start_new_session=True,
            )
        os.close(write)
        return process, os.fdopen(read, "rb")

    def _up(self, records: list[ProcessRecord]) -> int:
        self._screen.clear()
        if self._as_json:
            print_json({"processes": [asdict(record) for record in records]}, pretty=False)
        else:
            show_table(records, self._config.file, foreground=False)
        return int(any(record.state == "failed" for record in records))


def _records(rows: list[dict[str, Any]]) -> list[ProcessRecord]:
    return [ProcessRecord(**row) for row in rows]
