"""What a worker says to be delivered to."""

import pytest

from connserver.messages import NO_STATE, Attach
from partition.attachment import Attachment


def test_each_wish_has_its_number_and_a_repeat_the_same() -> None:
    attachment = Attachment(3, 100, "ipc://w")
    assert attachment.hello() == Attach(3, 100, "ipc://w", 0, 0, NO_STATE, 0)
    first = attachment.begin(1, 40, 0)
    assert first == Attach(3, 100, "ipc://w", 1, 1, 40, 0) == attachment.current()
    assert attachment.begin(1, 45, 45) == Attach(3, 100, "ipc://w", 2, 1, 45, 45)
    assert attachment.hello().attempt == 0


def test_entries_after_the_state_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="after 41"):
        Attachment(3, 100, "ipc://w").begin(1, 40, 41)
