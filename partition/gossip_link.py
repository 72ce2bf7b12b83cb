"""The worker's tie to the gossip process of its node: attaching, roles, the log, administration.

Guards: what gossip says is handed on in its order, since the order of Deliver, Committed and Role is
part of their meaning; and when nothing was heard for a second the worker says that it is there, as a
gossip process that has started again knows nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from connserver import sockets
from connserver.codec import decode, encode
from connserver.driver import Port
from connserver.errors import WireError
from connserver.messages import (
    AdminReply,
    AdminRequest,
    Archived,
    Attach,
    Drained,
    GetBarrier,
    Role,
    Submit,
    WorkerReport,
)

ATTACH_AGAIN_S = 1.0
"""Silence after which the gossip process is taken to have restarted (it speaks every 250 ms)."""

FIRST_ATTACH_S = 0.1


class GossipLink:
    """`on_message` gets everything of the log, `on_role` and `on_admin` the rest, in order, in the loop;
    `report` is asked for once a second."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        endpoint: str,
        hello: Attach,
        on_role: Callable[[Role], None],
        on_message: Callable[[Any], None],
        on_admin: Callable[[AdminRequest], None],
        report: Callable[[], WorkerReport],
    ) -> None:
        self._loop = loop
        self._hello = hello
        self._on_role = on_role
        self._on_message = on_message
        self._on_admin = on_admin
        self._report = report
        self._heard = float("-inf")
        self._reported = 0.0
        identity = b"worker:%d:%d" % (hello.group, hello.pid)
        self._port = Port(loop, sockets.dealer(context, identity, endpoint), self._received)
        self._timer = loop.call_soon(self._tick)

    def send(self, message: Any) -> None:
        """Say something; lost if gossip is not there, as it then knows nothing of us anyway."""
        self._port.send([encode(message)])

    def report_now(self) -> None:
        """Something changed that others wait for."""
        self._reported = self._loop.time()
        self.send(self._report())

    def close(self) -> None:
        """Stop talking."""
        self._timer.cancel()
        self._port.close()

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._heard > ATTACH_AGAIN_S:
            self.send(self._hello)
            self._timer = self._loop.call_later(FIRST_ATTACH_S, self._tick)
            return
        if now - self._reported >= 1.0:
            self.report_now()
        self._timer = self._loop.call_later(0.25, self._tick)

    def _received(self, frames: list[bytes]) -> None:
        try:
            message = decode(frames[-1])
        except WireError:
            return
        self._heard = self._loop.time()
        if isinstance(message, Role):
            self._on_role(message)
        elif isinstance(message, AdminRequest):
            self._on_admin(message)
        else:
            self._on_message(message)


class GrantedLog:
    """The group's log under one grant, as `Serving` uses it."""

    def __init__(self, link: GossipLink, group: int, grant: int) -> None:
        self._link = link
        self._group = group
        self._grant = grant

    def submit(self, first_op: int, payloads: list[bytes]) -> None:
        """Hand in packed entries from `first_op` on."""
        self._link.send(Submit(self._group, self._grant, first_op, payloads))

    def ask_barrier(self, token: int) -> None:
        """Ask for the word that the grant still holds."""
        self._link.send(GetBarrier(self._group, self._grant, token))

    def drained(self) -> None:
        """Everything executed is handed in."""
        self._link.send(Drained(self._group, self._grant))

    def archived(self, op: int) -> None:
        """The log may forget up to here."""
        self._link.send(Archived(self._group, op))

    def reply(self, reply: AdminReply) -> None:
        """Answer an administrator."""
        self._link.send(reply)
