"""Several groups in one process, with the carrying between them done by hand."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from connserver.ids import group_of, named_id, partition_of
from connserver.messages import OutputKind, RequestKind
from connserver.model import pack, unpack
from partition.dispatch import Dispatcher
from partition.group import Group
from partition.objects import Store
from partition.table import PluginTable


class Shards:
    """`groups` groups and one gateway (boot 1); every turn commits at once."""

    def __init__(self, plugins: PluginTable, groups: int = 2) -> None:
        self.groups = groups
        self.plugins = plugins
        self.now = 1000.0
        self.incidents: list[str] = []
        self.secrets = count(1)
        self.members = [self._group(number, Store()) for number in range(groups)]
        self.home: dict[int, int] = {}
        self.sequences: dict[int, int] = {}
        self.received: dict[int, list[tuple[OutputKind, int, dict[str, Any]]]] = {}
        self.lost_groups: set[int] = set()

    def _group(self, number: int, store: Store) -> Group:
        dispatcher = Dispatcher(
            store,
            self.plugins,
            random=random.Random(number),
            on_incident=lambda incident, text: self.incidents.append(text),
        )
        group = Group(
            group=number,
            groups=self.groups,
            store=store,
            dispatcher=dispatcher,
            secret=lambda: f"secret{next(self.secrets)}",
            resume_window_s=120.0,
            background=lambda work, caller: None,
        )
        group.at(self.now)
        group.load()
        return group

    def reload(self, number: int) -> None:
        """The worker dies and is started again from what is kept."""
        store = Store()
        store.load(list(self.members[number].store.images()))
        self.members[number] = self._group(number, store)
        for group in range(self.groups):
            for target, parcel, body in self.members[group].outbox.waiting():
                self._parcel(group, target, parcel, body)
        self.settle()

    def login(self, connection: int, user: str) -> dict[str, Any]:
        """Log a user in at a connection; the reply."""
        self.home[connection] = group_of(partition_of(named_id("user", user)), self.groups)
        body = {"user": user, "roles": [], "encoding": 3, "message": {"msg": "login", "id": 0}}
        return self.send(connection, RequestKind.LOGIN, body)[-1]

    def call(self, connection: int, msg: str, **fields: Any) -> dict[str, Any]:
        """One request; its reply (KeyError if there was none)."""
        replies = self.send(connection, RequestKind.CALL, {"msg": msg, **fields})
        return replies[-1]

    def send(self, connection: int, kind: RequestKind, body: Any, sequence: int = 0) -> list[dict[str, Any]]:
        """One item; the replies it got, to its sequence."""
        if not sequence:
            sequence = self.sequences[connection] = self.sequences.get(connection, 0) + 1
        group = self.members[self.home[connection]]
        group.request(1, connection, kind, sequence, pack(body) if body else b"", self.now)
        self.settle()
        got = self.received.get(connection, [])
        return [message for kind_, answer, message in got if kind_ == OutputKind.REPLY and answer == sequence]

    def events(self, connection: int) -> list[dict[str, Any]]:
        """Everything that came to a connection and was no reply, taken away."""
        got = self.received.get(connection, [])
        self.received[connection] = []
        return [message for kind, _, message in got if kind != OutputKind.REPLY]

    def advance(self, seconds: float) -> None:
        """Time passes in steps of 50 ms."""
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            for group in self.members:
                group.tick(self.now)
            self.settle()

    def settle(self) -> None:
        """Carry what the groups have for each other and for the gateway until nothing is left."""
        moved = True
        while moved:
            moved = False
            for number, group in enumerate(self.members):
                turn = group.end_turn()
                for batch in turn.outputs:
                    rows = zip(batch.targets, batch.kinds, batch.answers, batch.bodies, strict=True)
                    for targets, kind, answer, body in rows:
                        for connection in targets:
                            self.received.setdefault(connection, []).append(
                                (OutputKind(kind), answer, dict(unpack(body)))
                            )
                for target, parcel, body in turn.parcels:
                    moved = self._parcel(number, target, parcel, body) or moved
                for source, upto in turn.done:
                    self.members[source].parcels_done(number, upto)
                    moved = True
        for group in self.members:
            group.check_invariants()

    def _parcel(self, source: int, target: int, number: int, body: bytes) -> bool:
        if target in self.lost_groups:
            return False
        self.members[target].parcel(source, number, body, self.now)
        return True
