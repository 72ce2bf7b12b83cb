"""The worker's tie to the gossip process of its node: attaching, its role, reports, administration.

Guards: a worker serves only under a grant it was given; when the gossip process has restarted (no
role heard for a second) the worker attaches again and goes on under its grant until told another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from connserver import sockets
from connserver.codec import decode, encode
from connserver.driver import Port
from connserver.errors import WireError
from connserver.messages import AdminReply, AdminRequest, Attach, Role, WorkerReport

ATTACH_AGAIN_S = 1.0
"""Silence after which the gossip process is taken to have restarted (it speaks every 250 ms)."""

FIRST_ATTACH_S = 0.1


class GossipLink:
    """`on_role` and `on_admin` are called in the loop; `report` is asked for once a second."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: sockets.Context,
        endpoint: str,
        attach: Attach,
        on_role: Callable[[Role], None],
        on_admin: Callable[[AdminRequest], AdminReply],
        report: Callable[[], WorkerReport],
    ) -> None:
        self._loop = loop
        self._attach = attach
        self._on_role = on_role
        self._on_admin = on_admin
        self._report = report
        self._heard = 0.0
        self._reported = 0.0
        identity = b"worker:%d:%d" % (attach.group, attach.pid)
        self._port = Port(loop, sockets.dealer(context, identity, endpoint), self._received)
        self._timer = loop.call_soon(self._tick)

    def attached_at(self, archived: int) -> None:
        """What a new attach says of the archive."""
        self._attach = Attach(self._attach.group, self._attach.pid, self._attach.endpoint, archived)

    def report_now(self) -> None:
        """Something changed that others wait for."""
        self._reported = self._loop.time()
        self._port.send([encode(self._report())])

    def close(self) -> None:
        """Stop talking."""
        self._timer.cancel()
        self._port.close()

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._heard > ATTACH_AGAIN_S:
            self._port.send([encode(self._attach)])
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
            self._port.send([encode(self._on_admin(message))])
