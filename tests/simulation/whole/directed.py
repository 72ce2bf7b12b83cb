"""Directed traces of sessions, outboxes and streams: for bugs that seeds rarely show.

Each asserts, or lets the checkers of a whole world judge; with the bug put back it must fail.
"""

from __future__ import annotations

from collections.abc import Callable

from connserver.ids import group_of, named_id, partition_of
from connserver.messages import AdminReply, RequestKind
from partition.commit import CommitQueue
from partition.table import PluginTable
from partition.turn import Turn
from tests.simulation.whole.bots import Bot
from tests.simulation.whole.environment import surroundings
from tests.simulation.whole.failpoints import Failpoints
from tests.simulation.whole.processes import Process
from tests.simulation.whole.trade import Trader
from tests.simulation.whole.world import WholeNode, WholeWorld
from tests.unit.partition.shards import Shards

OVER_S = 15.0


class Scene:
    """A calm whole world with a speaker and a listener in one room, all three at home in group 0."""

    def __init__(self, seed: int) -> None:
        self.failpoints = Failpoints()
        self.world = WholeWorld(seed)
        self.world.settings.window_s = 120
        self.speaker, self.listener = self.world.settings.names("user", 0, 2)
        (self.room,) = self.world.settings.names("room", 0, 1)
        self.bots: list[Bot] = []

    def play(self, acts: Callable[[Scene, Trader, Trader], None]) -> None:
        """Until everybody is there; then the acts; then whatever follows, and the verdict."""
        world = self.world
        with surroundings(world), self.failpoints.watching():
            for node in world.nodes.values():
                world.boot(node)
            world.run_until(0.5)
            speaker, listener = (
                Trader(world, user, [], (self.room,)) for user in (self.speaker, self.listener)
            )
            self.bots = [speaker, listener]
            self.until_done()
            acts(self, speaker, listener)
            self.until_done()
            world.run_until(world.now + 1.5)
            self.until_done()
            world.until_equal(OVER_S)
            world.judge.check_whole(self.bots)
            world.end()

    def until_done(self) -> None:
        """Everything that was asked is answered."""
        end = self.world.now + OVER_S
        while not all(bot.done and bot.number for bot in self.bots) or self.world.judge.still_pending():
            assert self.world.now < end, "they wait for ever"
            self.world.run_until(self.world.now + 0.05)

    def say(self, bot: Trader, item: int) -> None:
        """One thing said in the room."""
        bot.ask({"msg": "room.send", "room": self.room, "item": item})

    def kill_before_outputs(self) -> None:
        """The primary dies right before the next outputs leave, which have committed."""

        def kill(process: Process) -> None:
            assert isinstance(process.node, WholeNode)
            next(seat for seat in process.node.seats.values() if seat.process is process).replace("killed")

        self.failpoints.kill_before("serving._release: _peers.outputs", kill)

    def primary(self) -> Process:
        """The worker that executes for group 0."""
        for node in self.world.whole_nodes:
            seat = node.seats[0]
            if seat.serving and seat.process is not None:
                return seat.process
        raise AssertionError("nobody serves")


def a_resume_replays_once() -> None:
    """Its worker dies when it has committed the resume: the next one has it, and gets it again."""

    def acts(scene: Scene, speaker: Trader, listener: Trader) -> None:
        listener.drop()
        for item in range(3):
            scene.say(speaker, item)
        calls = listener._calls
        while not speaker.done and listener._calls == calls:
            scene.world.run_until(scene.world.now + 0.001)
        scene.kill_before_outputs()

    for seed in range(4, 10):
        Scene(seed).play(acts)


def what_has_committed_is_sent_by_the_next() -> None:
    """The primary dies between the commit of a room event and its leaving."""

    def acts(scene: Scene, speaker: Trader, listener: Trader) -> None:
        scene.kill_before_outputs()
        scene.say(speaker, 1)
        scene.until_done()
        scene.say(speaker, 2)

    for seed in (4, 5):
        Scene(seed).play(acts)


def what_was_sent_and_did_not_arrive_is_sent_again() -> None:
    """Events are under way on connections that stand still, and end with the primary."""

    def acts(scene: Scene, speaker: Trader, listener: Trader) -> None:
        world = scene.world
        process = scene.primary()
        for pipe in world.wires.pipes.values():
            if pipe.far.process is process and pipe.near.process.name.startswith("gateway"):
                pipe.stalled[pipe.near] = world.now + 5
        for item in range(6):
            scene.say(speaker, item)
            world.run_until(world.now + 0.05)
        node = process.node
        assert isinstance(node, WholeNode)
        node.seats[0].replace("killed")

    for seed in (4, 5, 6, 7):
        Scene(seed).play(acts)


class Twice(Shards):
    """Every parcel comes twice."""

    def _parcel(self, source: int, target: int, number: int, body: bytes) -> bool:
        super()._parcel(source, target, number, body)
        return super()._parcel(source, target, number, body)


def a_parcel_takes_effect_once() -> None:
    """The cursor drops what comes again."""
    shards = Twice(PluginTable())
    room = next(f"r{n}" for n in range(100) if group_of(partition_of(named_id("room", f"r{n}")), 2) == 1)
    user = next(f"u{n}" for n in range(100) if group_of(partition_of(named_id("user", f"u{n}")), 2) == 0)
    shards.login(1, user)
    shards.call(1, "room.join", room=room, id=1)
    for number in (2, 3):
        assert shards.call(1, "room.send", room=room, text="x", id=number)["seq"] == number - 1


def a_connection_that_lost_its_session_does_not_get_it_back() -> None:
    """Its gateway did not hear of that, and tells the next worker what it knows."""
    shards = Shards(PluginTable())
    token = shards.login(1, "ann")["resume"]
    shards.home[7] = shards.home[1]
    shards.send(7, RequestKind.RESUME, {"resume": token, "message": {"msg": "session.resume"}})
    shards.reload(shards.home[1])
    shards.send(1, RequestKind.RESUME, {"resume": token, "rebind": True})
    assert shards.call(7, "ping")["status"] == 0


def a_read_waits_for_its_barrier() -> None:
    """What was read is told when it is known that nobody else executed meanwhile."""
    queue = CommitQueue(10, 10)
    queue.submit(Turn(replies=[AdminReply(1, None, "")]))
    token = queue.to_ask(1.0)
    assert token and not queue.ready()
    assert queue.barrier_passed(token)


TRACES = [
    a_parcel_takes_effect_once,
    a_connection_that_lost_its_session_does_not_get_it_back,
    a_read_waits_for_its_barrier,
    what_has_committed_is_sent_by_the_next,
    what_was_sent_and_did_not_arrive_is_sent_again,
    a_resume_replays_once,
]
