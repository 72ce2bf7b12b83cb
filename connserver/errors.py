"""The one exception tree.

    ConnServerError
    ├── ConfigError            cluster.toml or local.toml cannot be used; carries every fault found
    ├── ClientError            a request that was not carried out; carries a code of the closed list
    │   └── Refused            a plugin said no, with the plugin's own code
    ├── WrongPartition         a callback touched an object of another partition
    ├── PluginLoadError        a plugin cannot be attached; nothing was changed
    ├── WireError              bytes from another process are not a message of ours
    ├── StorageError           PostgreSQL cannot be started, reached or used as it is
    │   └── Fenced             a newer view or era owns the rows this archiver wanted to write
    ├── ClusterError           the running cluster cannot do what was asked of it; says what to do
    ├── Unreachable            a client finds no gateway that takes it; says which it tried, and why not
    └── SessionOver            a client's session has ended; says whether the call may have run
        ├── SessionExpired     nobody was connected to it for too long, or the cluster has forgotten it
        ├── SessionReplaced    another connection has taken it over
        ├── SessionKicked      an operator or a plugin has ended it
        └── SessionClosed      the program itself has closed the client

Expected outcomes inside the machines are values; these are for borders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ERROR_CODES: Final = frozenset(
    {"bad_message", "unknown_method", "bad_argument", "unauthorized", "forbidden", "not_found"}
    | {"conflict", "rate_limited", "overloaded", "too_large", "timeout", "id_expired", "quarantined"}
    | {"plugin_error", "unavailable", "session_expired", "refused"}
)
"""Every value that `error` can have in a reply (protocol 1)."""


class ConnServerError(Exception):
    """Anything that ConnServer raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a configuration file; `line` counts from 1, 0 where there is none."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class ConfigError(ConnServerError):
    """A configuration that cannot be used, with all its faults at once."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


class ClientError(ConnServerError):
    """A request that was not carried out.

    `error` is one of ERROR_CODES, `reason` a sentence for a person; `code` (refused),
    `retry_after_ms` (rate_limited, overloaded) and `incident` (plugin_error) as the protocol says.
    """

    def __init__(
        self,
        error: str,
        reason: str,
        *,
        code: str | None = None,
        retry_after_ms: int | None = None,
        incident: str | None = None,
    ) -> None:
        assert error in ERROR_CODES, error
        super().__init__(f"{error}: {reason}")
        self.error = error
        self.reason = reason
        self.code = code
        self.retry_after_ms = retry_after_ms
        self.incident = incident

    def fields(self) -> dict[str, str | int]:
        """The error's part of a reply: `status`, `error`, `reason` and what goes with them."""
        out: dict[str, str | int] = {"status": 1, "error": self.error, "reason": self.reason}
        for name in ("code", "retry_after_ms", "incident"):
            value = getattr(self, name)
            if value is not None:
                out[name] = value
        return out


class Refused(ClientError):
    """Raised by a plugin: the rules of the game say no. `code` is the plugin's own word."""

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__("refused", reason or code, code=code)


class WrongPartition(ConnServerError):
    """A callback is one transaction over one partition and touched an object of another."""


class PluginLoadError(ConnServerError):
    """A plugin cannot be attached; says which, and why."""


class WireError(ConnServerError):
    """Bytes that are no message of this version; the sender is another program or another version."""


class StorageError(ConnServerError):
    """PostgreSQL cannot be started, reached or used; says where and what to do."""


class Fenced(StorageError):
    """The archive refused a write because a newer view or era owns the group."""


class ClusterError(ConnServerError):
    """The running cluster cannot do what was asked; the message says what to do about it."""


class Unreachable(ConnServerError):
    """No gateway takes this client; the message names the gateways and what the last one said."""


class SessionOver(ConnServerError):
    """A client's session has ended.

    `may_have_run`: this call was sent and not answered, so nobody can say any more whether it ran. False
    for a call that was never sent, and where the error is about no call.
    """

    def __init__(self, reason: str, *, may_have_run: bool = False) -> None:
        super().__init__(f"{reason}; this call may have run" if may_have_run else reason)
        self.reason = reason
        self.may_have_run = may_have_run

    def about_call(self, *, sent: bool) -> SessionOver:
        """The same for one call."""
        return type(self)(self.reason, may_have_run=sent)


class SessionExpired(SessionOver):
    """Nobody was connected to the session for longer than its window, or the cluster has lost it."""


class SessionReplaced(SessionOver):
    """Another connection has resumed the session; it goes on there."""


class SessionKicked(SessionOver):
    """An operator or a plugin has ended the session."""


class SessionClosed(SessionOver):
    """The program has closed the client."""
