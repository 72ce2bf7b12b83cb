"""What a client has seen of its rooms: the next `seq` of each, and the latest volatile values.

Guards: every ordered event of a room is passed on once and in order, or a RoomGap says which are missing;
values of a room are those that its home has, also after a reconnect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from connserver.client.events import Change, Loss, RoomChange, RoomEvent, RoomGap, RoomMessage
from connserver.client.reading import listed, text, whole
from connserver.limits import CLIENT_RESUME_BYTES, CLIENT_ROOMS, ROOM_HISTORY
from connserver.model import Message, Value

_EVENT_HEAD = ("msg", "room", "seq", "from")


@dataclass(slots=True)
class Track:
    """One room. `last`: the newest seq passed on, None while no seq of it is known.

    `joining`: the answer and the history are still to come, or the answer to a leave; `wanted`: this client
    has joined it by itself, and would again.
    """

    name: str
    last: int | None = None
    joining: bool = False
    wanted: bool = False
    values: dict[str, dict[str, Value]] = field(default_factory=dict)
    """Key → sender → value."""


class Rooms:
    """The rooms of one client."""

    def __init__(self) -> None:
        self._tracks: dict[str, Track] = {}

    def get(self, name: str) -> Track | None:
        """What is known of a room."""
        return self._tracks.get(name)

    def join_sent(self, name: str) -> None:
        """A join is under way: what comes of a new room before its answer is from before the join."""
        track = self._tracks.get(name)
        if track is None:
            if len(self._tracks) < CLIENT_ROOMS:
                self._tracks[name] = Track(name, joining=True, wanted=True)
            return
        track.wanted = True

    def join_refused(self, name: str) -> None:
        """The join was answered with an error."""
        track = self._tracks.get(name)
        if track is not None and track.joining:
            del self._tracks[name]

    def joined(self, name: str, seq: int, history: int) -> list[RoomEvent]:
        """The join was answered: the room is at `seq`; up to `history` past events and the values follow."""
        track = self._tracks.get(name)
        if track is None:
            return []
        if track.joining or track.last is None or seq < track.last:  # a lower seq: the room has begun anew
            track.last = seq - min(history, seq)
            track.joining = False
        gone = _gone(track, set())
        track.values.clear()
        return [RoomChange(name, 0.0, tuple(gone))] if gone else []

    def leave_sent(self, name: str) -> None:
        """A leave is under way: what still comes of the room is of no interest, nor is a way back into it."""
        track = self._tracks.get(name)
        if track is not None:
            track.joining, track.wanted = True, False
            track.values.clear()

    def left(self, name: str) -> None:
        """This client has left the room."""
        self._tracks.pop(name, None)

    def resume_list(self) -> tuple[list[Value], list[str]]:
        """For `session.resume`: rooms with what was seen of them; and those to be joined again instead."""
        told: list[Value] = []
        rest: list[str] = []
        size = 0
        for track in self._tracks.values():
            if track.joining or track.last is None:
                continue
            entry: Message = {"room": track.name, "seq": track.last}
            size += len(json.dumps(entry)) + 1
            if size <= CLIENT_RESUME_BYTES:
                told.append(entry)
            else:
                rest.append(track.name)
        return told, rest

    def entered(self) -> list[str]:
        """Rooms that this client is in."""
        return [track.name for track in self._tracks.values() if not track.joining]

    def forget_session(self) -> list[str]:
        """The session is over: rooms that this client joined, to be joined again; others are forgotten."""
        self._tracks = {name: track for name, track in self._tracks.items() if track.wanted}
        return [name for name, track in self._tracks.items() if not track.joining]

    # --- what comes -----------------------------------------------------------------------------------------

    def received(self, message: Message) -> list[RoomEvent]:
        """An event of a room, as the program is to be told it."""
        name = text(message, "room")
        track = self._tracks.get(name)
        match message.get("msg"):
            case "room.message":
                return self._message(track, name, message)
            case "room.gap":
                return self._gap(track, name, whole(message, "from"), whole(message, "to"))
            case "room.state":
                return self._state(track, name, message)
        return []

    def _message(self, track: Track | None, name: str, message: Message) -> list[RoomEvent]:
        seq = whole(message, "seq")
        fields = {key: value for key, value in message.items() if key not in _EVENT_HEAD}
        event = RoomMessage(name, seq, text(message, "from"), fields)
        if track is None:  # a plugin has taken this user into the room
            track = self._found(name)
            if track is None:
                return [event]
        if track.last is None and not track.joining:
            track.last = seq - 1
        if track.joining or track.last is None or seq <= track.last:
            return []
        missing = [RoomGap(name, track.last + 1, seq - 1, Loss.SKIPPED)] if seq > track.last + 1 else []
        track.last = seq
        return [*missing, event]

    def _gap(self, track: Track | None, name: str, first: int, last: int) -> list[RoomEvent]:
        if track is None or track.joining or track.last is None or last <= track.last:
            return []
        first = max(first, track.last + 1)
        track.last = last
        return [RoomGap(name, first, last, Loss.GONE)]

    def _state(self, track: Track | None, name: str, message: Message) -> list[RoomEvent]:
        track = track or self._found(name)
        if track is None or track.joining:
            return []
        changes = [
            Change(text(item, "from"), text(item, "key"), item.get("value"))
            for item in listed(message.get("changes"))
        ]
        if message.get("all") is True:  # what it does not tell is not there any more
            changes = [*_gone(track, {(change.key, change.sender) for change in changes}), *changes]
        for change in changes:
            by_sender = track.values.setdefault(change.key, {})
            if change.value is None:
                by_sender.pop(change.sender, None)
            else:
                by_sender[change.sender] = change.value
            if not by_sender:
                del track.values[change.key]
        time = message.get("t")
        when = float(time) if isinstance(time, (int, float)) else 0.0
        return [RoomChange(name, when, tuple(changes))] if changes else []

    def _found(self, name: str) -> Track | None:
        """A room that events come of unasked."""
        if len(self._tracks) >= CLIENT_ROOMS:
            return None
        return self._tracks.setdefault(name, Track(name))

    def check_invariants(self) -> None:
        """Called after each test."""
        assert len(self._tracks) <= CLIENT_ROOMS
        for name, track in self._tracks.items():
            assert track.name == name and (track.last is None or track.last >= 0)
            assert not (track.joining and track.values), track
            assert all(track.values.values()), "a key without senders"


REJOIN_HISTORY = ROOM_HISTORY
"""Asked for when a room is joined again: all that there is; what was seen before is left out."""


def _gone(track: Track, kept: set[tuple[str, str]]) -> list[Change]:
    """The volatile values of a room but for those of `kept` (key, sender), taken away."""
    return [
        Change(sender, key, None)
        for key, by in track.values.items()
        for sender in by
        if (key, sender) not in kept
    ]
