"""What was said on all sockets of a trial: bytes and times, and nothing that was concluded from them.

Guards one rule: the load writes here and knows no verdict; the judge reads here and knows no load. Times
are those of one monotonic clock, in seconds; a record of sending is made before the bytes leave, one of
receiving after they came, so that "answered before asked" is never an artefact.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

OPENED: Final = "opened"
SENT: Final = "sent"
RECEIVED: Final = "received"
LOST: Final = "lost"
NOTE: Final = "note"
NOBODY: Final = -1


@dataclass(frozen=True, slots=True)
class Part:
    """Who a client is: the user it logs in as, and what it does all the time.

    `role` is a key of `workloads.ROLES`; `group` is the user's home; `others` are users it gives to.
    """

    number: int
    user: str
    role: str
    encoding: str
    group: int = 0
    room: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """Bytes of one client's connection, or (client NOBODY) what was done to the cluster.

    `connection` counts a client's connections from 1; of OPENED the data is the gateway's address.
    """

    at: float
    client: int
    connection: int
    what: str
    data: bytes


@dataclass
class Transcript:
    """All records of a trial in the order of their making."""

    parts: list[Part] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def add(self, at: float, client: int, connection: int, what: str, data: bytes) -> None:
        """Write a record down."""
        self.records.append(Record(at, client, connection, what, data))

    def note(self, at: float, text: str) -> None:
        """Write down what was done to the cluster."""
        self.add(at, NOBODY, 0, NOTE, text.encode())

    def save(self, file: Path) -> None:
        """One JSON value a line, the parts first."""
        with file.open("w") as stream:
            print(json.dumps([asdict(part) for part in self.parts]), file=stream)
            for record in self.records:
                data = base64.b64encode(record.data).decode()
                row = [record.at, record.client, record.connection, record.what, data]
                print(json.dumps(row), file=stream)

    @classmethod
    def load(cls, file: Path) -> Transcript:
        """What `save` wrote."""
        with file.open() as stream:
            rows = json.loads(stream.readline())
            parts = [Part(**{**row, "others": tuple(row["others"])}) for row in rows]
            made = cls(parts)
            for line in stream:
                at, client, connection, what, data = json.loads(line)
                made.add(at, client, connection, what, base64.b64decode(data))
        return made
