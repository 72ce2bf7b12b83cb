"""What workers say, brought to the clients it is for.

Guards two rules: only the worker of a session may bind or close its connection (all may answer and send
events, since rooms have members of all groups); and one item that cannot be used costs none of the
others.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from connserver import telemetry
from connserver.errors import ClientError, WireError
from connserver.messages import OutputKind, Outputs, RequestKind
from connserver.model import Message, unpack, unpack_checked
from gateway import greeting
from gateway.client import Client
from gateway.delivery import Broadcast
from gateway.effects import Shut
from gateway.forwarding import Link
from gateway.line import LOGINS, Line, Pending
from gateway.states import State

# looked up once for the message path: members of an Enum are slow to reach in Python 3.11
_REPLY, _EVENT, _VOLATILE = int(OutputKind.REPLY), int(OutputKind.EVENT), int(OutputKind.VOLATILE)
_BOUND, _CLOSE = int(OutputKind.BOUND), int(OutputKind.CLOSE)
_LOGGING_IN = State.LOGGING_IN

noise = telemetry.RateLimited(telemetry.get_logger(__name__), per_s=1.0, burst=20)


@dataclass(slots=True)
class Counts:
    """Plain numbers of the message path; metrics are brought up to date once a second."""

    requests: int = 0
    payloads: int = 0
    too_slow: int = 0
    failed: int = 0


class Distribution:
    """Hands outputs on. `clients` by connection number and `links` by group, as the gateway keeps them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clients: dict[int, Client],
        links: list[Link],
        counts: Counts,
    ) -> None:
        self._loop = loop
        self._clients = clients
        self._links = links
        self._counts = counts

    def outputs(self, link: Link, outputs: Outputs) -> None:
        """What a worker says to clients of this gateway. One bad item costs none of the others."""
        items = zip(outputs.kinds, outputs.targets, outputs.answers, outputs.bodies, strict=False)
        for kind, targets, answer, body in items:
            try:
                if kind == _REPLY:
                    self._reply(targets[0], answer, body)
                elif kind == _EVENT:
                    self._event(link, targets, body)
                elif kind == _VOLATILE:
                    self._volatile(targets, body)
                elif kind == _BOUND:
                    self._bound(link, targets[0], unpack(body))
                elif kind == _CLOSE:
                    self._close(link, targets[0], unpack(body))
            except (WireError, TypeError, ValueError, LookupError) as error:
                noise.error("output.refused", group=link.group, kind=kind, reason=repr(error))

    def _of(self, link: Link, number: int) -> tuple[Client, Line] | None:
        """The connection, if its session is the link's to speak for."""
        client = self._clients.get(number)
        if client is None or client.line is None or client.line.group != link.group:
            return None
        return client, client.line

    def _reply(self, number: int, answer: int, body: bytes) -> None:
        # An answer may come over any link: a room's home answers whom another group's worker sent on.
        client = self._clients.get(number)
        line = client.line if client is not None else None
        if client is None or line is None or line.group < 0:
            return
        link = self._links[line.group]
        request = link.answered(line, answer)
        if request is None:
            return
        self._counts.payloads += 1
        session = client.session
        reply = unpack_checked(body)
        client.say(reply)
        if request[0] in LOGINS or session.state is _LOGGING_IN:
            self._login_answered(link, client, line, request[0], reply)
        if session.backlog or session.ending:
            client.work_soon()

    def _login_answered(self, link: Link, client: Client, line: Line, kind: int, reply: Message) -> None:
        """The end of a login. An implicit one has no reply of its own: what follows it tells."""
        if kind in LOGINS:
            refused = reply.get("status") != 0
        else:
            refused = reply.get("error") == "unauthorized"
            self._drop_implicit(link, line)
        if refused:
            client.perform(client.session.login_refused(self._loop.time()))
        else:
            client.bound()

    def _drop_implicit(self, link: Link, line: Line) -> None:
        for sequence, (kind, body, _) in list(line.pending.items()):
            if kind == RequestKind.LOGIN and "message" not in unpack(body):
                link.answered(line, sequence)

    def _bound(self, link: Link, number: int, body: Message) -> None:
        found = self._of(link, number)
        if found is None:
            return
        client, line = found
        n = body.get("n")
        line.bind(str(body["resume"]), n if type(n) is int else 0)
        line.encoding = int(client.session.encoding or 0)
        self._drop_implicit(link, line)
        client.bound()
        if client.session.backlog or client.session.ending:
            client.work_soon()

    def _event(self, link: Link, targets: list[int], body: bytes) -> None:
        broadcast = Broadcast(body)
        clients = self._clients
        if len(targets) == 1 and not self._is_new(link, targets[0], broadcast.message):
            return
        for number in targets:
            client = clients.get(number)
            if client is not None:
                client.deliver(broadcast)
        self._counts.payloads += len(targets)

    def _is_new(self, link: Link, number: int, message: Message) -> bool:
        """Whether a direct event has not been sent before; `n` counts them per session."""
        n = message.get("n")
        found = self._of(link, number) if type(n) is int else None
        if found is None or type(n) is not int:
            return True
        _, line = found
        if n <= line.last_event:
            return False
        line.last_event = n
        return True

    def _volatile(self, targets: list[int], body: bytes) -> None:
        broadcast = Broadcast(body)
        for number in targets:
            client = self._clients.get(number)
            if client is None:
                continue
            if client.is_blocked:
                client.outbox.keep_state(broadcast.message)
            else:
                client.deliver(broadcast)
        self._counts.payloads += len(targets)

    def _close(self, link: Link, number: int, body: Message) -> None:
        found = self._of(link, number)
        if found is not None:
            code = body.get("code")
            code = code if type(code) is int and 1000 <= code < 5000 else 1000
            found[0].shut(Shut(code, str(body.get("reason", ""))[:100], spoken=True))

    def expired(self, line: Line, requests: list[Pending], error: ClientError) -> None:
        """Tell a client that these requests have no answer; what waits behind them may go on."""
        client = self._clients.get(line.number)
        if client is None:
            return
        for kind, body, _ in requests:
            message: Any = unpack(body)
            if kind in LOGINS:
                client.perform(client.session.login_refused(self._loop.time()))
                message = message.get("message")
            if kind == RequestKind.REJECTED:
                client.say(message)
            elif isinstance(message, dict):
                client.say(greeting.refusal(message, error))
        client.work_soon()
