"""CLI and supervisor → gossip (→ worker)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connserver.codec import message


@message(50)
@dataclass(frozen=True, slots=True)
class AdminRequest:
    """`command` with `arguments`; `number` comes back in the reply. Workers get theirs forwarded."""

    number: int
    command: str
    arguments: dict[str, Any]


@message(51)
@dataclass(frozen=True, slots=True)
class AdminReply:
    """`error` empty: `result` is the answer. Otherwise a sentence that says what to do."""

    number: int
    result: Any
    error: str
