"""A client's request while it waits for its answer.

A question travels with the calls it causes, also to other shards, so that whoever completes it can
answer. Guards: one question is answered once, and what it was answered is what is kept for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from connserver.errors import ClientError
from connserver.model import Message, Value, pack
from partition.ledger import Fields
from partition.sessions import RequestKey


class Question(NamedTuple):
    """Who asked what, and where the answer goes: connection and sequence at a gateway.

    A named tuple, since one is made for every request: that costs a third of a frozen dataclass.
    """

    session: int
    key: RequestKey
    gateway: int
    connection: int
    sequence: int
    msg: str
    id: Value

    def fields(self) -> Fields:
        """For travelling inside a parcel or a kept continuation."""
        key = self.key if isinstance(self.key, int) else list(self.key)
        place = [self.gateway, self.connection, self.sequence]
        return {"session": self.session, "key": key, "place": place, "msg": self.msg, "id": self.id}

    @staticmethod
    def of(fields: Fields) -> Question:
        """Read back what `fields` wrote."""
        key = fields["key"] if isinstance(fields["key"], int) else tuple(fields["key"])
        gateway, connection, sequence = fields["place"]
        return Question(fields["session"], key, gateway, connection, sequence, fields["msg"], fields["id"])

    def reply(self, fields: Message) -> bytes:
        """A good answer, packed."""
        if self.id is None:
            return pack({"msg": self.msg, "status": 0, **fields})
        return pack({"msg": self.msg, "id": self.id, "status": 0, **fields})

    def refusal(self, error: ClientError) -> bytes:
        """The answer that says no, packed."""
        return reply(self.msg, self.id, {**error.fields()})


def reply(msg: str, request_id: Value, fields: dict[str, Any]) -> bytes:
    """A reply's bytes: the method, the client's id in its own type where it gave one, the fields."""
    head: Message = {"msg": msg} if request_id is None else {"msg": msg, "id": request_id}
    return pack({**head, **fields})
