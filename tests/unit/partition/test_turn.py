"""What of a turn is kept, and what it says."""

import pytest

from connserver.messages import AdminReply, Image, OutputBatch, OutputKind
from partition.turn import Turn, TurnBuilder, lasting

IMAGE = Image(5, "thing", 1, b"\x80")
REPLY, EVENT, VOLATILE = OutputKind.REPLY, OutputKind.EVENT, OutputKind.VOLATILE


def test_an_entry_has_the_outputs_that_must_not_be_lost() -> None:
    turn = TurnBuilder()
    turn.image(IMAGE)
    turn.output(70, [1], EVENT, b"event")
    turn.output(70, [1, 2], VOLATILE, b"state")
    turn.output(70, [2], REPLY, b"reply", 9)
    turn.output(71, [1], VOLATILE, b"state")
    done = turn.finish()
    assert done.entry is not None
    assert done.entry.outputs == [OutputBatch(70, [[1], [2]], [1, 0], [0, 9], [b"event", b"reply"])]
    assert [batch.bodies for batch in done.outputs] == [[b"event", b"state", b"reply"], [b"state"]]


def test_a_batch_without_anything_volatile_is_kept_as_it_is() -> None:
    batch = OutputBatch(70, [[1]], [0], [1], [b"reply"])
    assert lasting(batch) is batch


@pytest.mark.parametrize(
    ("turn", "tells"),
    [
        (Turn(), False),
        (Turn(done=[(1, 2)], parcels=[(1, 0, b"")]), False),
        (Turn(outputs=[OutputBatch(70, [[1]], [4], [0], [b""])]), False),
        (Turn(outputs=[OutputBatch(70, [[1], [1]], [4, 1], [0, 0], [b"", b""])]), True),
        (Turn(replies=[AdminReply(1, None, "")]), True),
    ],
)
def test_only_some_turns_tell_what_was_read(turn: Turn, tells: bool) -> None:
    assert turn.tells_state is tells


def test_the_size_of_a_turn_grows_and_begins_anew() -> None:
    turn = TurnBuilder()
    turn.image(Image(5, "thing", 1, bytes(1000)))
    turn.output(70, [1], EVENT, bytes(500))
    assert 1500 <= turn.size < 2000
    turn.finish()
    assert turn.size == 0 and turn.finish().empty


def test_a_turn_with_an_answer_for_an_administrator_is_not_empty() -> None:
    assert not Turn(replies=[AdminReply(1, None, "")]).empty
