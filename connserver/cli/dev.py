"""`cs-cluster dev`: the game in this folder on one node, reloaded when a file is saved."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from connserver.cli.find import load
from connserver.cli.output import json_option, print_json
from connserver.cli.up import TerminalReporter, run_supervisor
from connserver.errors import ClusterError
from connserver.limits import COMPILER_S
from connserver.messages import ProcessRecord
from connserver.native.build import PLUGIN_HEADERS, PLUGIN_SOURCES, sources_of
from connserver.supervisor.nursery import LAST_WORDS

if TYPE_CHECKING:
    from connserver.cli.pages import PageServer
    from connserver.config import ClusterConfig
    from connserver.supervisor.shell import Supervisor

CHECK: Final = "plugin-check"
SETTLE_MS: Final = 100
"""An editor writes a file in steps; this long after the first one they count as one save."""
CHECK_S: Final = 10.0
"""For a plugin to load; one that takes longer would never serve."""
BEGIN_S: Final = 0.5
BEGIN_ATTEMPTS: Final = 120
"""So often it is looked whether the game is served, at its start."""
RELOADED: Final = frozenset(
    {".py", ".toml", ".json", ".yaml", ".csv", ".txt", *PLUGIN_SOURCES, *PLUGIN_HEADERS}
)
"""What a plugin may be made of; an editor's own files are none of it."""


@click.command("dev")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="Of the page; 0: any."
)
@json_option
@click.pass_context
def dev_command(context: click.Context, port: int, as_json: bool) -> int:
    """Run the game in this folder on one node, and reload its plugins when a file is saved.

    Serves the folder `web` beside cluster.toml to this machine. A plugin that cannot be loaded is
    reported, and the one before it goes on. Clients stay connected.

    \b
    Example:
      cs-cluster new meadow && cd meadow && cs-cluster dev
    """
    from connserver.cli.pages import PageServer

    config = load(context)
    if len(config.host_nodes) != 1:
        raise ClusterError(
            f"{config.file} has {len(config.nodes)} nodes, and dev runs one: name it with --node, or use `up`"
        )
    folder = config.file.parent / "web"
    pages = PageServer(folder, port) if folder.is_dir() else None
    try:
        reporter = DevReporter(config, pages, as_json=as_json)
        companion = Reloader(config, reporter).run
        return run_supervisor(config, reporter, companion, {CHECK: "connserver.cli.plugin_check"})
    finally:
        if pages is not None:
            pages.close()


class DevReporter(TerminalReporter):
    """Tells where to look instead of what runs."""

    def __init__(self, config: ClusterConfig, pages: PageServer | None, *, as_json: bool) -> None:
        super().__init__(config, as_json=as_json)
        self._pages = pages
        self.reloading = False

    def up(self, records: Sequence[ProcessRecord]) -> None:
        """As Reporter has it."""
        self._screen.clear()
        self._is_up = True
        gateways = [record.endpoint for record in records if record.role == "gateway"]
        failed = [record for record in records if record.state == "failed"]
        page = self._pages.url if self._pages else ""
        if self._as_json:
            print_json({"page": page, "gateways": gateways}, pretty=False)
            return
        for record in failed:
            click.echo(f"{record.name}: {record.reason}")
        click.echo(f"page      {page}" if page else "page      none (there is no folder `web`)")
        click.echo(f"gateway   {' '.join(gateways)}")
        click.echo("Save a file of a plugin, and it is reloaded. ^C stops.")

    def told(self, text: str) -> None:
        """A line about a reload."""
        if self._as_json:
            print_json({"reload": text}, pretty=False)
        else:
            click.echo(text)


class Reloader:
    """Watches the plugins' folders, and reloads what was saved while the game goes on.

    A game is what its cluster.toml and its files say, also where its state remembers another choice.
    """

    def __init__(self, config: ClusterConfig, reporter: DevReporter) -> None:
        self._config = config
        self._folders = {plugin.path: plugin.handler_timeout_ms for plugin in config.plugins}
        self._reporter = reporter
        self._one = asyncio.Lock()
        """A save may come while what was saved before is being reloaded."""
        self._followed = False

    async def run(self, supervisor: Supervisor) -> None:
        """Until cancelled."""
        from watchfiles import awatch

        if not self._folders:
            return
        beginning = asyncio.ensure_future(self._begin())
        try:
            await self._watch(supervisor, awatch)
        finally:
            beginning.cancel()

    async def _begin(self) -> None:
        """What was saved while the game did not run."""
        for _ in range(BEGIN_ATTEMPTS):
            try:
                async with self._one:
                    if self._followed:
                        return  # a save was quicker; what is written now may be half of the next
                    changed = await in_thread(self._follow)
            except NotServed:
                await asyncio.sleep(BEGIN_S)
                continue
            except ClusterError as error:
                self._reporter.told(f"not reloaded, the version before goes on: {error}")
                return
            if changed:
                self._reporter.told(f"{', '.join(changed)}: reloaded, as saved since the last time")
            return

    def _follow(self) -> list[str]:
        """Bring the game to its files; NotServed if nobody serves it now."""
        from connserver.cli.find import Admin
        from connserver.cli.plugin_change import follow_files
        from connserver.config import Places

        try:
            cluster = Admin(self._config, Places(self._config))
        except ClusterError as error:
            raise NotServed(str(error)) from None
        with cluster:
            for route in cluster.ask("routes")["routes"]:
                if route["state"] != "ready":
                    raise NotServed(route["reason"])
            return follow_files(cluster, self._folders)

    async def _watch(self, supervisor: Supervisor, awatch: Any) -> None:
        async for changes in awatch(
            *self._folders,
            watch_filter=lambda _, path: matters(path),
            debounce=SETTLE_MS,
            step=SETTLE_MS // 2,
        ):
            names = ", ".join(sorted({Path(path).name for _, path in changes}))
            # In a process of its own: a plugin runs its code when it is loaded.
            compiling = any(sources_of(folder) for folder in self._folders)
            problem = await supervisor.errand(CHECK, CHECK_S + compiling * COMPILER_S)
            problem = problem.partition(LAST_WORDS)[2] or problem
            if problem:
                self._reporter.told(f"{names}: not reloaded, the version before goes on: {problem}")
                continue
            try:
                async with self._one:
                    await in_thread(self._follow)
                    self._followed = True
            except NotServed:
                # nothing runs that could go on: its workers begin with what was saved
                workers = tuple(record.name for record in supervisor.records() if record.role == "worker")
                supervisor.restart(workers)
            except ClusterError as error:
                self._reporter.told(f"{names}: not reloaded, the version before goes on: {error}")
                continue
            self._reporter.told(f"{names}: reloaded")


class NotServed(ClusterError):
    """A group has no primary now."""


T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run what blocks, in a thread that no end of this process waits for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await done


def matters(path: str) -> bool:
    """Whether a changed file is part of a plugin."""
    name = Path(path).name
    return (
        Path(path).suffix in RELOADED and not name.startswith(".") and "__pycache__" not in Path(path).parts
    )
