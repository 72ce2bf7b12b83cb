"""Bundles of replica messages as bytes, and back with every field checked.

Guards the border of the core: what `decode_bundle` lets through has the right shape, bounded numbers,
dense ops and entries whose checksum fits. A bundle is one msgpack array
`[version, sender, incarnation, [[kind, field, …], …]]`. The heartbeats and acks of idle groups are the
same turn after turn, so `Encoder` and `Decoder` remember what they made last: with 64 idle groups
this, and the same memory in `replica`, is the difference between a tenth of a core and a hundredth.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import msgpack

from connserver.errors import WireError
from connserver.limits import WIRE_MESSAGE_BYTES
from gossip import protocol as p

VERSION = 1
NODE_NAME_CHARS = 64
HIGHEST = 2**63 - 1
REMEMBERED_BUNDLES = 16
"""Two streams and two kinds of acks per peer, and some that come in between."""
REMEMBERED_BYTES = 65_536
"""A bundle of heartbeats of a thousand groups; what is longer carries entries and never comes twice."""


class Bundle(NamedTuple):
    """What one node said to another in one turn."""

    sender: str
    incarnation: int
    messages: tuple[p.Message, ...]


def encode_bundle(sender: str, incarnation: int, messages: tuple[p.Message, ...]) -> bytes:
    """The bytes of one turn's messages."""
    body = [VERSION, sender, incarnation, [(_NUMBERS[type(m)], *m) for m in messages]]
    return msgpack.packb(body, default=_plain)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, p.Status):
        return value.value
    raise TypeError(f"{type(value).__name__} does not travel")


def decode_bundle(data: bytes) -> Bundle:
    """The messages in these bytes; WireError if they are anything else."""
    if len(data) > WIRE_MESSAGE_BYTES:
        raise WireError(f"bundle of {len(data)} bytes, at most {WIRE_MESSAGE_BYTES} are read")
    try:
        body = msgpack.unpackb(data, use_list=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not msgpack: {error}") from None
    if type(body) is not tuple or len(body) != 4 or body[0] != VERSION:
        raise WireError("not a bundle of this version")
    _, sender, incarnation, messages = body
    if type(messages) is not tuple:
        raise WireError("a bundle's messages are a list")
    return Bundle(_name(sender), _number(incarnation), tuple(map(_message, messages)))


class Encoder:
    """encode_bundle for one node, with the last bytes per destination."""

    def __init__(self, sender: str) -> None:
        self._sender = sender
        self._last: dict[str, tuple[int, tuple[p.Message, ...], bytes]] = {}

    def encode(self, destination: str, incarnation: int, messages: tuple[p.Message, ...]) -> bytes:
        """`destination`: a node, or "" for what is published."""
        last = self._last.get(destination)
        if last is not None and last[0] == incarnation and last[1] == messages:
            return last[2]
        data = encode_bundle(self._sender, incarnation, messages)
        self._last[destination] = (incarnation, messages, data)
        return data


class Decoder:
    """decode_bundle, giving the same objects again for the same bytes of late."""

    def __init__(self) -> None:
        self._recent: dict[bytes, Bundle] = {}

    def decode(self, data: bytes) -> Bundle:
        """WireError if these are no bundle."""
        bundle = self._recent.get(data)
        if bundle is None:
            bundle = decode_bundle(data)
            if len(data) <= REMEMBERED_BYTES:
                if len(self._recent) >= REMEMBERED_BUNDLES:
                    del self._recent[next(iter(self._recent))]
                self._recent[data] = bundle
        return bundle


def _message(fields: Any) -> p.Message:
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise WireError("a message is a list that begins with its kind")
    cls = _KINDS.get(fields[0])
    if cls is None:
        raise WireError(f"unknown kind of message {fields[0]}")
    checks = _CHECKS[cls]
    if len(fields) != len(checks) + 1:
        raise WireError(f"{cls.__name__} takes {len(checks)} fields")
    values = [check(value) for check, value in zip(checks, fields[1:], strict=True)]
    message = cls(*values)
    if isinstance(message, p.Prepare | p.Entries) and message.entries:
        entries = _dense(message.prev_op, message.prev_view, message.entries, message.view)
        return message._replace(entries=entries)
    return message  # type: ignore[no-any-return]


def _dense(prev_op: int, prev_view: int, items: tuple[Any, ...], most_view: int) -> tuple[p.Entry, ...]:
    """The entries in these items. One loop without calls: this is the path of every commit."""
    entries = []
    for item in items:
        prev_op += 1
        if type(item) is not tuple or len(item) != 4:
            raise WireError("an entry is a list of four")
        op, view, crc, payload = item
        if type(op) is not int or type(view) is not int or type(payload) is not bytes:
            raise WireError("an entry is op, view, checksum and payload")
        if op != prev_op or not prev_view <= view <= most_view:
            raise WireError(f"entry {op} of view {view} does not follow {prev_op - 1} of view {prev_view}")
        if crc != p.entry_crc(op, payload):
            raise WireError(f"entry {op} does not fit its checksum")
        prev_view = view
        entries.append(p.Entry._make(item))
    return tuple(entries)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= HIGHEST:
        raise WireError(f"expected a number from 0 to 2^63-1, got {value!r:.40}")
    return value


def _signed(value: Any) -> int:
    return -1 if value == p.NEVER_INSTALLED and type(value) is int else _number(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise WireError(f"expected true or false, got {value!r:.40}")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= NODE_NAME_CHARS:
        raise WireError(f"expected a node name, got {value!r:.40}")
    return value


def _tuple(value: Any, length: int | None = None) -> tuple[Any, ...]:
    if type(value) is not tuple or (length is not None and len(value) != length):
        raise WireError(f"expected a list of {length if length is not None else 'items'}")
    return value


def _entries(value: Any) -> tuple[Any, ...]:
    return _tuple(value)  # looked at by _dense, which knows what they follow


def _barrier(value: Any) -> p.Barrier:
    incarnation, number = _tuple(value, 2)
    return (_number(incarnation), _number(number))


def _placement(value: Any) -> p.Placement:
    names = tuple(map(_name, _tuple(value)))
    if len(names) not in (1, 3) or len(set(names)) != len(names):
        raise WireError("a placement names one node or three")
    return names


def _status(value: Any) -> p.Status:
    try:
        return p.Status(value)
    except ValueError:
        raise WireError(f"unknown status {value!r:.40}") from None


def _outline(value: Any) -> p.Outline:
    base, base_view, commit, commit_view, runs, head = _tuple(value, 6)
    pairs = tuple(_barrier(run) for run in _tuple(runs))
    outline = p.Outline(
        _number(base), _number(base_view), _number(commit), _number(commit_view), pairs, _number(head)
    )
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))
    if not (outline.base <= outline.commit <= outline.head and rising):
        raise WireError("an outline's numbers do not rise")
    if pairs and pairs[-1][0] > outline.head:
        raise WireError("an outline's last run begins above its head")
    return outline


_Check = Callable[[Any], Any]
_HEAD: tuple[_Check, ...] = (_number, _number, _number)  # group, era, view
_KINDS: dict[int, Any] = {
    1: p.Prepare,
    2: p.PrepareOk,
    3: p.Higher,
    4: p.GetView,
    5: p.ExitView,
    6: p.JoinView,
    7: p.View,
    8: p.Fetch,
    9: p.Entries,
    10: p.Recover,
    11: p.RecoverResponse,
    12: p.Form,
    13: p.FormOk,
}
_NUMBERS = {cls: kind for kind, cls in _KINDS.items()}
_CHECKS: dict[Any, tuple[_Check, ...]] = {
    p.Prepare: (*_HEAD, _number, _number, _entries, _number, _barrier, _number),
    p.PrepareOk: (*_HEAD, _number, _barrier, _flag),
    p.Higher: _HEAD,
    p.GetView: (*_HEAD, _outline),
    p.ExitView: _HEAD,
    p.JoinView: (*_HEAD, _signed, _outline),
    p.View: (*_HEAD, _number, _number),
    p.Fetch: (*_HEAD, _outline),
    p.Entries: (*_HEAD, _signed, _number, _number, _entries, _flag, _number, _number),
    p.Recover: (*_HEAD, _number),
    p.RecoverResponse: (*_HEAD, _number, _number, _status, _number, _placement),
    p.Form: (*_HEAD, _number, _placement, _flag),
    p.FormOk: (*_HEAD, _placement),
}
