"""What the tests of callbacks share: a dispatcher with one plugin, and the plugin's bare decorators."""

from __future__ import annotations

import random
from typing import Any

from connserver.ids import named_id, object_id, partition_of
from connserver.messages import Image
from connserver.plugin import Plugin, Result
from partition.assembly import assemble
from partition.dispatch import Dispatcher
from partition.effects import Caller, Outcome
from partition.objects import Store

ANN = named_id("user", "ann")
HERE = partition_of(ANN)
ELSEWHERE = object_id((HERE + 1) % 65_536, 1 << 21)


def caller(name: str = "ann", *roles: str, session: int = 7) -> Caller:
    return Caller(user=named_id("user", name), session=session, name=name, roles=frozenset(roles))


class Stage:
    """A dispatcher over `plugins`, in which "ann" has logged in."""

    def __init__(self, *plugins: Plugin, store: Store | None = None, clock: Any = lambda: 0.0) -> None:
        self.store = store or Store()
        self.incidents: list[str] = []
        self.slow: list[tuple[str, float]] = []
        self.logged: list[tuple[str, str, str, dict[str, Any]]] = []
        self.run = Dispatcher(
            self.store,
            assemble(plugins),
            random=random.Random(1),
            on_incident=lambda number, text: self.incidents.append(text),
            clock=clock,
            on_slow=lambda method, milliseconds: self.slow.append((method.name, milliseconds)),
            on_log=lambda *line: self.logged.append(line),
        )
        opened = self.run.open_user(ANN, "ann")
        assert opened.error is None, opened

    def call(
        self, method: str, fields: dict[str, Any] | None = None, now: float = 1.0, **more: Any
    ) -> Outcome:
        """A client's call on ann."""
        outcome = self.run.call(method, fields or {}, me=ANN, caller=more.get("caller") or caller(), now=now)
        self.store.check_invariants()
        return outcome

    def internal(self, method: str, me: int = ANN, result: Result | None = None, **arguments: Any) -> Outcome:
        """A plugin's call."""
        outcome = self.run.internal(method, arguments, me=me, caller=caller(), now=1.0, result=result)
        self.store.check_invariants()
        return outcome

    def ok(self, method: str, **fields: Any) -> Outcome:
        """A client's call that has to succeed."""
        outcome = self.call(method, fields)
        assert outcome.error is None, (outcome.error, self.incidents)
        return outcome

    def fields(self, oid: int = ANN) -> dict[str, Any]:
        """All fields as they are in memory."""
        live = self.store.live(oid)
        assert live is not None
        return dict(live.__dict__)

    def stored(self, oid: int = ANN) -> dict[str, Any]:
        """The kept fields as a worker that takes over would read them."""
        image = self.store.image(oid)
        assert image is not None
        fresh = Store()
        fresh.bind(self.run.plugins.kinds)
        fresh.load([Image(image.oid, image.kind, image.schema, image.data)])
        live = fresh.live(oid)
        assert live is not None
        return dict(live.__dict__)
