"""What must be true of the whole cluster, judged from its committed logs and from what left its processes.

These know the format of entries and the names of kept kinds, and nothing of how sessions, rooms, outboxes
or timers decide.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgpack

from connserver.codec import decode
from connserver.ids import GroupId, named_id
from connserver.messages import Entry, Image, Outputs, Parcels, ParcelsDone, Role
from connserver.model import unpack
from tests.simulation.checkers import Checkers
from tests.simulation.whole.plugin.main import GOLD
from tests.simulation.whole.processes import WALL_S

if TYPE_CHECKING:
    from tests.simulation.machines import Node
    from tests.simulation.whole.bots import Bot
    from tests.simulation.whole.processes import Process
    from tests.simulation.whole.world import WholeWorld

State = dict[int, Image]
BLOCK = 256
"""A session and its replies lie in one block of so many ids."""
LATE_S = 2.0
"""A session that is over is gone after this, clocks being as different as they are."""
APART = ("cs.suspect",)
"""Kinds that every replica counts by itself from words in an entry."""


class Folded:
    """The committed state of one group, entry by entry, and what its log says of parcels."""

    def __init__(self) -> None:
        self.op = 0
        self.state: State = {}
        self.entries: dict[int, Entry] = {}
        self.sent: dict[int, int] = {}
        self.had: dict[int, int] = {}
        self.archived_op = 0
        self.archived: State = {}

    def of_kind(self, kind: str) -> list[tuple[int, dict[str, Any]]]:
        """Living objects of a kind: (id, fields)."""
        return [
            (oid, msgpack.unpackb(image.data, strict_map_key=False))
            for oid, image in self.state.items()
            if image.kind == kind and image.data is not None
        ]


class WholeCheckers(Checkers):
    """See the module."""

    def __init__(self, world: WholeWorld) -> None:
        super().__init__(world)
        self._whole = world
        self.folded = {int(group): Folded() for group in world.placements}
        self._once: dict[tuple[Any, ...], tuple[int, Any]] = {}

    # --- the log ---

    def after_turn(self, node: Node) -> None:
        """Committed prefixes agree; then what they say."""
        super().after_turn(node)
        for group, folded in self.folded.items():
            truth = self.truth[GroupId(group)]
            while folded.op + 1 in truth:
                folded.op += 1
                entry = decode(truth[folded.op][2])
                folded.entries[folded.op] = entry
                self._fold(group, folded, entry)

    def _fold(self, group: int, folded: Folded, entry: Entry) -> None:
        for image in entry.images:
            before = folded.state.get(image.oid)
            apply(folded.state, [image])
            if image.data is not None:
                fields = msgpack.unpackb(image.data, strict_map_key=False)
                self._written(group, folded, image, fields, before)

    def _written(
        self, group: int, folded: Folded, image: Image, fields: dict[str, Any], before: Image | None
    ) -> None:
        match image.kind:
            case "cs.session.reply" if fields["body"] is not None:
                key = fields["key"] if isinstance(fields["key"], int) else tuple(fields["key"])
                self._only(("reply", image.oid - image.oid % BLOCK, key), folded.op, fields["body"])
            case "cs.session.event":
                self._only(("event", image.oid - image.oid % BLOCK, fields["n"]), folded.op, fields["body"])
            case "cs.room.event":
                self._only(("room", fields["room"], fields["seq"]), folded.op, fields["body"])
                if fields["seq"] > 1 and ("room", fields["room"], fields["seq"] - 1) not in self._once:
                    self.violation(f"g{group} op {folded.op}: a room's seq {fields['seq']} leaves one out")
            case "cs.outbox":
                folded.sent[fields["target"]] = fields["last"]
            case "cs.cursor":
                if fields["number"] != folded.had.get(fields["source"], 0) + 1 and not _steps(
                    folded, fields["source"], fields["number"]
                ):
                    self.violation(f"g{group} op {folded.op}: cursor {fields} after {folded.had}")
                folded.had[fields["source"]] = fields["number"]

    def _only(self, key: tuple[Any, ...], op: int, body: Any) -> None:
        """What was once answered or told is never answered or told otherwise."""
        known = self._once.setdefault(key, (op, body))
        if known[1] != body:
            self.violation(f"{key}: {unpack(known[1])} at op {known[0]}, {unpack(body)} at op {op}")

    def archived(self, group: int, op: int, objects: State) -> None:  # type: ignore[override]
        """The archive is the committed state, exactly."""
        folded = self.folded[group]
        if op > folded.op:
            self.violation(f"g{group}: op {op} was archived, {folded.op} is committed")
        for at in range(folded.archived_op + 1, op + 1):
            apply(folded.archived, folded.entries[at].images)
        folded.archived_op = op
        if without_apart(objects.values()) != without_apart(folded.archived.values()):
            self.violation(f"g{group}: the archive at op {op} is not the committed state")

    # --- what leaves ---

    def role(self, node: str, role: Role) -> None:
        """A worker gets a grant: everything that was ever committed is below it."""
        if role.role == "primary":
            self.granted(GroupId(role.group), node, role, role.commit)  # type: ignore[arg-type]

    def sent(self, source: Process, target: Process, message: Any) -> None:
        """Nothing leaves a worker before it has committed."""
        group = int(source.name.rpartition("-")[2])
        folded = self.folded.get(group)
        assert folded is not None
        match message:
            case Outputs():
                if message.op > folded.op:
                    self.violation(f"{source.name}: outputs of op {message.op}, {folded.op} is committed")
            case Parcels():
                to = int(target.name.rpartition("-")[2])
                if max(message.numbers) > folded.sent.get(to, 0):
                    self.violation(f"{source.name}: parcel {max(message.numbers)} to {to} left uncommitted")
            case ParcelsDone():
                to = int(target.name.rpartition("-")[2])
                if message.upto > folded.had.get(to, 0):
                    self.violation(f"{source.name}: parcel {message.upto} of {to} confirmed uncommitted")

    # --- at the end ---

    def _check_workers(self, group: GroupId) -> None:
        folded = self.folded[int(group)]
        for node in self._whole.whole_nodes:
            worker = node.seats[int(group)].worker
            backup = worker._holding.backup if worker is not None else None
            if backup is None:
                continue
            if without_apart(backup.store.images()) != without_apart(folded.state.values()):
                self.violation(f"{node.name} g{group}: the worker's state is not that of op {folded.op}")

    def still_pending(self) -> str:
        """What is on its way between groups, or waits for its time; "" if nothing."""
        for group, folded in self.folded.items():
            for kind in ("cs.parcel", "cs.timer"):
                if folded.of_kind(kind):
                    return f"g{group}: {folded.of_kind(kind)[:3]}"
            waiting = [kept for _, kept in folded.of_kind("cs.call") if not kept.get("parked")]
            if waiting:
                return f"g{group}: calls wait: {waiting[:3]}"
        return ""

    def check_whole(self, bots: list[Bot]) -> None:
        """What clients were told is what happened, once each."""
        pending = self.still_pending()
        if pending:
            self.violation(f"after healing something is still pending: {pending}")
        purses = {oid: fields for folded in self.folded.values() for oid, fields in folded.of_kind("purse")}
        total = sum(fields.get("gold", GOLD) for fields in purses.values())
        if total != GOLD * len(purses):
            self.violation(f"{len(purses)} purses hold {total} gold")
        for bot in bots:
            if not bot.watches:
                self._check_purse(bot, purses[named_id("user", bot.user)])
            self._check_reads(bot, [other for other in bots if other.user == bot.user])
            self._check_replies(bot)
            if not bot.gone:
                self._check_session(bot)
        self._check_expired()
        self._check_parked(bots)
        self._check_rooms(bots)

    def _check_purse(self, bot: Bot, purse: dict[str, Any]) -> None:
        values = [one.reply["value"] for one in bot.asked if one.message["msg"] == "sim.add" and one.reply]
        unknown = sum(1 for one in bot.asked if one.message["msg"] == "sim.add" and not one.reply)
        value = purse.get("value", 0)
        if values != sorted(set(values)):
            self.violation(f"{bot.user}: additions were answered {values}")
        if not unknown and values != list(range(1, len(values) + 1)):
            self.violation(f"{bot.user}: additions were answered {values}")
        if not len(values) <= value <= len(values) + unknown:
            self.violation(f"{bot.user}: counter {value}, {len(values)} answered and {unknown} unknown")
        bells = [one for one in bot.asked if one.message["msg"] == "sim.bell"]
        rung, set_ = purse.get("rung", 0), sum(1 for one in bells if one.done)
        if not set_ <= rung <= len(bells):
            self.violation(f"{bot.user}: {set_} timers set, {rung} have fired")
        rings = [(event["life"], event["item"]) for event in bot.direct if event["msg"] == "sim.rang"]
        if len(set(rings)) != len(rings):
            self.violation(f"{bot.user}: a timer was told of twice: {rings}")

    def _check_reads(self, bot: Bot, of_user: list[Bot]) -> None:
        """A read knows of every addition that anybody was told of before it was asked."""
        adds = sorted(
            one.answered_at
            for other in of_user
            for one in other.asked
            if one.message["msg"] == "sim.add" and one.reply
        )
        for one in bot.asked:
            if one.message["msg"] == "sim.get" and one.reply:
                known = bisect_left(adds, one.at)
                if one.reply["value"] < known:
                    self.violation(f"{bot.user}: {one} read a state before the addition {known}")

    def _check_replies(self, bot: Bot) -> None:
        """What a client was answered is what its log entry keeps for the request."""
        if bot.life > 1:
            return
        session = int(bot.token.partition(".")[0], 16)
        for asked in bot.asked:
            kept = self._once.get(("reply", session, asked.number))
            name = asked.message["msg"]
            if kept is None:
                if asked.done and name in ("sim.add", "sim.give", "room.send", "room.join", "sim.bell"):
                    self.violation(f"{bot.user}: {asked.message} was answered, and its log does not know it")
            elif asked.reply is not None and dict(unpack(kept[1])) != asked.reply:
                self.violation(f"{bot.user}: answered {asked.reply}, kept {unpack(kept[1])}")

    def _check_session(self, bot: Bot) -> None:
        session = int(bot.token.partition(".")[0], 16)
        group = next((folded for folded in self.folded.values() if session in folded.state), None)
        if group is None:
            if not self._whole.settings.expires:
                self.violation(f"{bot.user}: its session is gone")
            return
        last = max((key[2] for key in self._once if key[0] == "event" and key[1] == session), default=0)
        if last != bot.last_event:
            self.violation(f"{bot.user}: told {bot.last_event} direct events of {last}")

    def _check_expired(self) -> None:
        """Nobody's session stays for ever."""
        wall = WALL_S + self._whole.now
        for group, folded in self.folded.items():
            for _, kept in folded.of_kind("cs.session"):
                if kept["place"] is None and kept["expires"] < wall - LATE_S:
                    self.violation(f"g{group}: the session of {kept['name']} is over since {kept['expires']}")

    def _check_parked(self, bots: list[Bot]) -> None:
        parked = sum(len(folded.of_kind("cs.call")) for folded in self.folded.values())
        spilt = [one for bot in bots for one in bot.asked if one.message["msg"] == "sim.spill"]
        told = sum(1 for one in spilt if one.reply)
        if not told <= parked <= len(spilt):
            self.violation(f"{told} of {len(spilt)} failing calls were answered, {parked} are parked")
        self._whole.coverage["parked"] += parked

    def _check_rooms(self, bots: list[Bot]) -> None:
        bodies = {
            (key[1], key[2]): dict(unpack(said[1])) for key, said in self._once.items() if key[0] == "room"
        }
        for bot in bots:
            for name, seen in bot.rooms.items():
                oid = named_id("room", name)
                for seq, event in seen.events.items():
                    if bodies[oid, seq] != event:
                        self.violation(f"{bot.user}: {event}, its log has {bodies[oid, seq]}")
                newest = max((seq for room, seq in bodies if room == oid), default=0)
                if seen.last is not None and seen.last != newest:
                    self.violation(f"{bot.user}: has seen {name} up to {seen.last} of {newest}")
            for asked in bot.asked:
                if asked.message["msg"] == "room.send" and asked.done:
                    assert asked.reply is not None
                    said = bodies[named_id("room", asked.message["room"]), asked.reply["seq"]]
                    if (said["from"], said["item"]) != (bot.user, asked.message["item"]):
                        self.violation(f"{bot.user}: {asked.message} has the seq of {said}")
        said_items = [(said["room"], said["from"], said["item"]) for said in bodies.values()]
        if len(set(said_items)) != len(said_items):
            self.violation("something was said twice in a room")


def _steps(folded: Folded, source: int, number: int) -> bool:
    """Several parcels of one source in one entry leave only the last of their cursors."""
    return number > folded.had.get(source, 0)


def apply(state: State, images: Iterable[Image]) -> None:
    """After-images, absolute."""
    for image in images:
        if image.data is None:
            state.pop(image.oid, None)
        else:
            state[image.oid] = image


def without_apart(images: Iterable[Image]) -> dict[int, tuple[str, Any]]:
    """Objects by id, in a form that can be compared."""
    return {
        image.oid: (image.kind, msgpack.unpackb(image.data, strict_map_key=False))
        for image in images
        if image.data is not None and image.kind not in APART
    }
