"""Bundles that say nothing new: the heartbeats and acks of idle groups, handled without a loop over them.

A bundle is *quiet* when every message in it was heard before and changed nothing. When the same comes
again and none of its groups was touched in between, all it says is that its sender is alive: the time
is noted once, and the acks of the last time are said again. Whoever looks at a replica's clocks calls
`settle` first. This makes the cost of idle groups independent of their number; it guards no rule, and
`disturb` on every other event is what keeps it from breaking one.
"""

from __future__ import annotations

from collections.abc import Callable

from connserver.ids import GroupId
from gossip.protocol import Message

Slot = tuple[str, type]
Touch = Callable[[str, Message, float], None]


class QuietBundle:
    """One bundle, the acks it brings, and when it was heard last."""

    __slots__ = ("acks", "at", "messages")

    def __init__(self, messages: tuple[Message, ...], acks: tuple[Message, ...], at: float) -> None:
        self.messages = messages
        self.acks = acks
        self.at = at


class Quiet:
    """The quiet bundles of a node: at most one stream of heartbeats and one of acks per peer."""

    def __init__(self, touch: Touch) -> None:
        self._touch = touch  # (sender, message, time): this replica's sender was alive then
        self._bundles: dict[Slot, QuietBundle] = {}
        self._slots: dict[GroupId, list[Slot]] = {}

    def heard(self, sender: str, messages: tuple[Message, ...], now: float) -> QuietBundle | None:
        """The quiet bundle that these messages are, with its time moved on; None: look at them."""
        if not messages:
            return None
        bundle = self._bundles.get((sender, type(messages[0])))
        if bundle is None or bundle.messages != messages:
            return None
        bundle.at = now
        return bundle

    def arm(self, sender: str, messages: tuple[Message, ...], acks: tuple[Message, ...], now: float) -> None:
        """All of these said nothing new, and `acks` is all they led to."""
        slot = (sender, type(messages[0]))
        self._drop(slot)
        self._bundles[slot] = QuietBundle(messages, acks, now)
        for message in messages:
            self._slots.setdefault(message.group, []).append(slot)

    def disturb(self, group: GroupId) -> None:
        """Something happened to this group: bundles with it are looked at again."""
        slots = self._slots.get(group)
        while slots:
            self._drop(slots[-1])

    def settle(self) -> None:
        """Bring the replicas' clocks up to date."""
        for (sender, _), bundle in self._bundles.items():
            for message in bundle.messages:
                self._touch(sender, message, bundle.at)

    def _drop(self, slot: Slot) -> None:
        bundle = self._bundles.pop(slot, None)
        if bundle is None:
            return
        for message in bundle.messages:
            self._touch(slot[0], message, bundle.at)
            self._slots[message.group].remove(slot)
