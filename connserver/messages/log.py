"""What a log keeps: after-images, and what is to leave once they are committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from connserver.codec import message


@dataclass(frozen=True, slots=True)
class Image:
    """An object as it is after an operation; `data` (msgpack map of kept fields) None = deleted."""

    oid: int
    kind: str
    schema: int
    data: bytes | None


@message(1)
@dataclass(frozen=True, slots=True)
class Entry:
    """What one turn of a worker changed: absolute after-images, and what is to leave once committed.

    `received` are (gateway boot, op): that gateway has all outputs of this group up to there, so no
    replica keeps them any longer; op GATEWAY_GONE: none of them is wanted any more. `suspects` are
    sources that were running when a worker died: (gateway boot, connection, sequence), or
    (0, group + 1, number) for a parcel, or zeros for a tick. Whoever applies the entry counts them.
    """

    images: list[Image]
    outputs: list[OutputBatch] = field(default_factory=list)
    received: list[list[int]] = field(default_factory=list)
    suspects: list[list[int]] = field(default_factory=list)


GATEWAY_GONE = (1 << 63) - 1
"""In `received`: this gateway is dead."""


@dataclass(frozen=True, slots=True)
class OutputBatch:
    """Items for one gateway, as parallel arrays.

    `targets[i]`: the connections (numbers given by that gateway) that `bodies[i]` goes to;
    `kinds[i]`: an OutputKind; `answers[i]`: the request's sequence for a REPLY, else 0.
    """

    gateway: int
    targets: list[list[int]]
    kinds: list[int]
    answers: list[int]
    bodies: list[bytes]


@message(2)
@dataclass(frozen=True, slots=True)
class GetSnapshot:
    """A worker that cannot read the archive asks its group's primary worker for the group's state.

    `asking` is the number of this wish, made up by who asks. Part 0 begins it; each further part is
    asked for when the one before has come, the same one again when it has not.
    """

    group: int
    asking: int
    part: int


@message(3)
@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """A part of the committed state after `op` of `era`; `archived`: what the archive has of it."""

    group: int
    asking: int
    part: int
    op: int
    era: int
    archived: int
    images: list[Image]
    last: bool
