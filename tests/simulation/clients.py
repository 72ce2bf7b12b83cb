"""Clients that number their requests and send them again until they are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connserver.ids import GroupId
from tests.simulation.checkers import Finished
from tests.simulation.workers import Reply, Request

if TYPE_CHECKING:
    from tests.simulation.world import World

WINDOW = 3
KEYS = 4


class Client:
    """One session: some requests, up to three in flight."""

    def __init__(self, world: World, name: str, group: GroupId, requests: int) -> None:
        self.world, self.session, self.group = world, name, group
        self.left = requests
        self.number = 0
        self.waiting: dict[int, tuple[Request, float]] = {}
        self.guess = world.random.choice(list(world.nodes))
        self._next()

    @property
    def done(self) -> bool:
        """All requests are answered."""
        return not self.left and not self.waiting

    def _next(self) -> None:
        while self.left and len(self.waiting) < WINDOW:
            self.left -= 1
            self.number += 1
            random = self.world.random
            kind = random.choices(("add", "read", "take"), (5, 3, 2))[0]
            request = Request(self.session, self.number, kind, f"g{self.group}k{random.randrange(KEYS)}")
            self.waiting[self.number] = (request, self.world.now)
            self._send(request)

    def _send(self, request: Request) -> None:
        if request.number not in self.waiting:
            return
        world, random = self.world, self.world.random
        copies = 2 if random.random() < 0.03 else 1
        name = self.guess
        for _ in range(copies):
            if random.random() >= world.faults.loss:
                world.after(random.uniform(1e-4, 2e-3), lambda: self._arrive(name, request))
        world.after(random.uniform(0.1, 0.3), lambda: self._again(request))

    def _again(self, request: Request) -> None:
        if request.number in self.waiting:
            if self.world.random.random() < 0.5:
                self.guess = self.world.random.choice(list(self.world.nodes))
            self._send(request)

    def _arrive(self, name: str, request: Request) -> None:
        node = self.world.nodes[name]
        worker = node.workers.get(self.group)
        if worker is not None:
            worker.request(request, lambda reply: self._answered(name, reply))

    def _answered(self, name: str, reply: Reply) -> None:
        world = self.world
        if world.random.random() < world.faults.loss:
            return
        world.after(world.random.uniform(1e-4, 2e-3), lambda: self._take(name, reply))

    def _take(self, name: str, reply: Reply) -> None:
        if reply.number not in self.waiting:
            return
        if reply.outcome == "not_primary":
            if self.guess == name:
                self.guess = self.world.random.choice(list(self.world.nodes))
            return
        request, start = self.waiting.pop(reply.number)
        self.guess = name
        world = self.world
        world.note(f"{self.session} #{reply.number} {reply.outcome} op {reply.op}")
        world.checkers.finished.append(
            Finished(
                self.session, reply.number, request.kind, request.key, self.group,
                start, world.now, reply.outcome, reply.op, reply.value, reply.era,
            )
        )  # fmt: skip
        world.after(world.random.uniform(0.001, 0.15), self._next)
