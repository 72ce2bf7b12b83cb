"""What one loop turn of a worker produced, gathered so that it leaves as one.

Guards the rule on which durability rests: all changes of a turn are one log entry of absolute
after-images, and no output caused by them leaves before that entry has committed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from connserver.messages import AdminReply, Entry, Image, OutputBatch, OutputKind
from connserver.model import Message, pack

IMAGE_BYTES = 64
"""What an image costs in an entry besides its data, about."""

_VOLATILE = int(OutputKind.VOLATILE)


@dataclass(slots=True)
class Turn:
    """A finished turn. `entry` None: nothing changed, so nothing is to be committed.

    `parcels`: (target group, number, body), number 0 for volatile ones; `done`: (source group,
    number up to which its parcels are part of this or an earlier entry). `opened`: streams of other
    groups (by their serial) that begin with what `done` says. `replies`: answers to administrators.
    """

    entry: Entry | None = None
    outputs: list[OutputBatch] = field(default_factory=list)
    parcels: list[tuple[int, int, bytes]] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    replies: list[AdminReply] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing to commit and nothing to send."""
        return self.entry is None and not (self.outputs or self.parcels or self.done or self.replies)

    @property
    def tells_state(self) -> bool:
        """Whether anything in it says what was read here: a reply, an error, an event."""
        return bool(self.replies) or any(kind != _VOLATILE for batch in self.outputs for kind in batch.kinds)


def lasting(batch: OutputBatch) -> OutputBatch | None:
    """The batch without what may be lost, which no log has to keep; None if nothing is left."""
    if _VOLATILE not in batch.kinds:
        return batch
    rows = [
        row
        for row in zip(batch.targets, batch.kinds, batch.answers, batch.bodies, strict=True)
        if row[1] != _VOLATILE
    ]
    if not rows:
        return None
    targets, kinds, answers, bodies = (list(column) for column in zip(*rows, strict=True))
    return OutputBatch(batch.gateway, targets, kinds, answers, bodies)


@dataclass(slots=True)
class TurnBuilder:
    """The turn under way. Images of one object replace each other; outputs keep their order.

    `size`: bytes that its entry will have, about, at most.
    """

    size: int = 0
    _images: dict[int, Image] = field(default_factory=dict)
    _outputs: dict[int, OutputBatch] = field(default_factory=dict)
    _parcels: list[tuple[int, int, bytes]] = field(default_factory=list)
    _done: dict[int, int] = field(default_factory=dict)

    def image(self, image: Image) -> None:
        """An object is from now on like this."""
        self._images[image.oid] = image
        self.size += IMAGE_BYTES + len(image.data or b"")

    def output(
        self, gateway: int, connections: list[int], kind: OutputKind, body: bytes, answer: int = 0
    ) -> None:
        """One payload to connections of one gateway."""
        batch = self._outputs.get(gateway)
        if batch is None:
            batch = self._outputs[gateway] = OutputBatch(gateway, [], [], [], [])
        batch.targets.append(connections)
        batch.kinds.append(int(kind))  # a plain integer travels at a third of an Enum's cost
        batch.answers.append(answer)
        batch.bodies.append(body)
        self.size += len(body)

    def message(
        self, gateway: int, connection: int, kind: OutputKind, message: Message, answer: int = 0
    ) -> None:
        """The same for one connection and a message not packed yet."""
        self.output(gateway, [connection], kind, pack(message), answer)

    def parcel(self, target: int, number: int, body: bytes) -> None:
        """A call to another group; number 0 if it may be lost."""
        self._parcels.append((target, number, body))

    def done(self, source: int, upto: int) -> None:
        """Everything of that group up to this number has had its effect."""
        self._done[source] = upto

    def finish(self) -> Turn:
        """Hand out the turn and begin the next."""
        outputs = list(self._outputs.values())
        entry = None
        if self._images:
            kept = [batch for batch in map(lasting, outputs) if batch is not None]
            entry = Entry(list(self._images.values()), kept)
        turn = Turn(entry, outputs, self._parcels, list(self._done.items()))
        self._images, self._outputs, self._parcels, self._done = {}, {}, [], {}
        self.size = 0
        return turn
