"""Which object a plugin means: an object, a reference, or an id."""

from __future__ import annotations

from connserver.ids import parse_oid
from connserver.plugin.context import Target
from connserver.plugin.objects import Object
from connserver.plugin.references import Ref


def oid_of(target: Target) -> int:
    """The id that a plugin means; TypeError or ValueError for what is none."""
    if isinstance(target, Object):
        return target._oid
    if isinstance(target, str):
        return int(target, 16) if isinstance(target, Ref) else parse_oid(target)
    if isinstance(target, int) and 0 <= target < 1 << 64:
        return target
    raise TypeError(f"{target!r} is no object, Ref or object id")
