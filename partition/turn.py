"""What one loop turn of a worker produced, gathered so that it leaves as one.

Guards the rule on which durability rests: all changes of a turn are one log entry of absolute
after-images, and no output caused by them leaves before that entry has committed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from connserver.messages import Entry, Image, OutputBatch, OutputKind
from connserver.model import Message, pack


@dataclass(slots=True)
class Turn:
    """A finished turn. `entry` None: nothing changed, so nothing is to be committed.

    `parcels`: (target group, number, body), number 0 for volatile ones; `done`: (source group,
    number up to which its parcels are part of this or an earlier entry).
    """

    entry: Entry | None = None
    outputs: list[OutputBatch] = field(default_factory=list)
    parcels: list[tuple[int, int, bytes]] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing to commit and nothing to send."""
        return self.entry is None and not (self.outputs or self.parcels or self.done)


@dataclass(slots=True)
class TurnBuilder:
    """The turn under way. Images of one object replace each other; outputs keep their order."""

    _images: dict[int, Image] = field(default_factory=dict)
    _outputs: dict[int, OutputBatch] = field(default_factory=dict)
    _parcels: list[tuple[int, int, bytes]] = field(default_factory=list)
    _done: dict[int, int] = field(default_factory=dict)

    def image(self, image: Image) -> None:
        """An object is from now on like this."""
        self._images[image.oid] = image

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
        entry = Entry(list(self._images.values()), outputs) if self._images else None
        turn = Turn(entry, outputs, self._parcels, list(self._done.items()))
        self._images, self._outputs, self._parcels, self._done = {}, {}, [], {}
        return turn
