"""An operator's orders about plugins, as a worker carries them out beside its work.

Guards two rules. Nothing of it stops the group: what takes time happens in threads and in a process of
its own, and only the switch itself in the loop, between two calls. And an order is answered once: when
its entry has committed, or with why nothing was changed.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from connserver import telemetry
from connserver.errors import PluginLoadError
from connserver.messages import AdminReply, AdminRequest
from partition.backup import Backup
from partition.objects import Store
from partition.plugins_desk import Order, Plan, PluginDesk
from partition.plugins_loading import Repertoire
from partition.promotion import Tenure

PLUGIN_CHECK, PLUGIN_SET = "replica.plugin.check", "worker.plugin.set"
PLUGIN_ROWS = "worker.plugin.rows"
"""What runs at this moment; `plugin.list` of gossip is a second late."""
PLUGIN_COMMANDS = frozenset({PLUGIN_CHECK, PLUGIN_SET, PLUGIN_ROWS})

Standing = tuple[Backup | None, Tenure | None]

log = telemetry.get_logger(__name__)


class PluginOrders:
    """`standing()`: the state and, on a primary, what serves. `refused(why)`: this node cannot load what
    its group has chosen. `changed()`: what `status` shows is different."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        desk: PluginDesk,
        *,
        standing: Callable[[], Standing],
        reply: Callable[[AdminReply], None],
        refused: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._desk = desk
        self._standing = standing
        self._reply = reply
        self._refused = refused
        self._changed = changed
        self._busy = False
        self._tried_last: tuple[Order, Plan] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def asked(self, request: AdminRequest) -> None:
        """An administrator's order, to be tried or to be carried out; or what there is."""
        if request.command == PLUGIN_ROWS:
            self._reply(AdminReply(request.number, {"plugins": self._desk.rows()}, ""))
            return
        if self._busy:
            self._refuse(request, "another change of plugins is under way here: try again in a moment")
            return
        try:
            order = Order.of(request.arguments)
        except ValueError as error:
            self._refuse(request, str(error))
            return
        self._busy = True
        self._start(self._carry_out(request, order))

    def follow(self, store: Store) -> None:
        """The state of a backup has another choice: have its plugins before they are needed."""
        choice, code = self._desk.wish(store)
        self._start(self._load(choice, code))

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, choice: Any, code: dict[str, bytes]) -> None:
        try:
            await asyncio.to_thread(self._desk.load, choice, code)
        except PluginLoadError as error:
            log.error("plugin.refused", error=str(error))
            self._refused(str(error))
            return
        self._log_choice("plugins.followed")
        self._changed()

    async def _carry_out(self, request: AdminRequest, order: Order) -> None:
        try:
            plan = await self._tried(order)
            if request.command == PLUGIN_CHECK:
                self._reply(AdminReply(request.number, plan.told(), ""))
                return
            new = await asyncio.to_thread(self._desk.prepare, plan)
            self._switch(request, plan, new)
        except PluginLoadError as error:
            self._refuse(request, str(error))
        finally:
            self._busy = False
            self._desk.tidy()

    async def _tried(self, order: Order) -> Plan:
        backup, _ = self._standing()
        if backup is None:
            raise PluginLoadError("the worker is loading its state: try again in a moment")
        basis = self._desk.basis(backup.store)
        tried, self._tried_last = self._tried_last, None
        key = replace(order, revision=None)
        if tried is not None and tried[0] == key and tried[1].before == basis[0]:
            return tried[1]  # by the check right before
        plan = await asyncio.to_thread(self._desk.plan, order, basis)
        self._tried_last = key, plan
        return plan

    def _switch(self, request: AdminRequest, plan: Plan, new: Repertoire) -> None:
        _, tenure = self._standing()
        if tenure is None:
            self._refuse(request, "this worker does not serve the group any more: try again")
            return
        tenure.serving.administer(request.number, functools.partial(self._between_calls, tenure, plan, new))

    def _between_calls(self, tenure: Tenure, plan: Plan, new: Repertoire) -> tuple[Any, str]:
        group = tenure.serving.group
        if self._desk.current.choice.revision != plan.before.revision:
            return None, "the plugins of the group were changed meanwhile: look at them and try again"
        try:
            tenure.use(new)
        except PluginLoadError as error:
            return None, str(error)
        told = self._desk.switched(plan, new, group.store, group.ledger)
        self._log_choice("plugins.switched")
        self._loop.call_soon(self._changed)
        return told, ""

    def _log_choice(self, event: str) -> None:
        choice = self._desk.current.choice
        rows = [f"{row.name} {row.chosen.version} {row.chosen.digest[:8]}" for row in choice.rows]
        log.info(event, revision=choice.revision, plugins=", ".join(rows))

    def _refuse(self, request: AdminRequest, why: str) -> None:
        log.warning("plugins.refused", command=request.command, error=why)
        self._reply(AdminReply(request.number, None, why))
