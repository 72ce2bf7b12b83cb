"""References: how one object keeps the id of another, and how ids look in messages.

Guards the rule that object ids are sixteen hex digits everywhere. A reference *is* that text, so it
can be kept in fields, sent in messages and compared like any text, and needs no conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Self, TypeVar

from connserver.ids import ObjectId, format_oid, parse_oid

if TYPE_CHECKING:
    from connserver.plugin.objects import Object

K = TypeVar("K", covariant=True)


class Ref(str, Generic[K]):
    """The id of an object, here or in any other partition; `Ref[Player]` says of which kind.

    `Ref(value)` takes an id as a number, 16 hex digits, decimal `partition:local`, or an object.
    ValueError for text that is no id. `named` is the name the id was made from, as long as the
    reference has not been kept or sent; else "".
    """

    __slots__ = ("named",)

    if TYPE_CHECKING:
        named: str

    def __new__(cls, target: int | str | Object, named: str = "") -> Self:
        if isinstance(target, str):
            text = format_oid(parse_oid(target))
        elif isinstance(target, int):
            text = format_oid(target)
        else:
            text = format_oid(target.oid)
        reference = super().__new__(cls, text)
        reference.named = named
        return reference

    @property
    def oid(self) -> ObjectId:
        """The 64-bit id."""
        return ObjectId(int(self, 16))

    def __repr__(self) -> str:
        return f"Ref({str(self)!r})"
