"""What comes back from a call to another object, the promise of it, and the answer to a login.

Guards one rule: an error of the callee travels whole, so that a `then` that returns its `result`
answers the client exactly as if the callee had been called directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connserver.errors import ClientError
from connserver.limits import SESSION_ROLES
from connserver.model import Message, Value, is_name


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer that a call to another object will give; return it to answer the client with it.

    `call` counts the calls that this callback made.
    """

    call: int


@dataclass(frozen=True, slots=True)
class Login:
    """What a callback of `@plugin.login` returns for a user whom it lets in, with these roles.

    ValueError for more than 32 roles, or one that is no name.
    """

    roles: tuple[str, ...] | list[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.roles, str) or not all(isinstance(role, str) for role in self.roles):
            raise ValueError(f"roles are a list of names, not {self.roles!r}")
        object.__setattr__(self, "roles", tuple(dict.fromkeys(self.roles)))
        for role in self.roles:
            if not is_name(role):
                raise ValueError(f"{role!r} cannot be the name of a role")
        if len(self.roles) > SESSION_ROLES:
            raise ValueError(f"{len(self.roles)} roles are more than the {SESSION_ROLES} that may be")


@dataclass(frozen=True, slots=True)
class Result:
    """How a call ended: `value` if it was carried out, else `error` and what goes with it.

    `value` is what the callee returned as a map: None, its fields, or `{"result": …}`. `error` is one
    of the protocol's errors ("refused", "not_found", …), `code` the word of a refusing plugin.
    """

    value: Value = None
    error: str = ""
    reason: str = ""
    code: str | None = None
    retry_after_ms: int | None = None
    incident: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the call was carried out."""
        return not self.error

    def __getitem__(self, name: str) -> Any:
        """A field of the value; KeyError if there is none of this name."""
        if not isinstance(self.value, dict):
            raise KeyError(name)
        return self.value[name]

    def failure(self) -> ClientError | None:
        """The error to answer with, if there was one."""
        if not self.error:
            return None
        return ClientError(
            self.error,
            self.reason,
            code=self.code,
            retry_after_ms=self.retry_after_ms,
            incident=self.incident,
        )

    @classmethod
    def of(cls, value: Value, error: ClientError | None) -> Result:
        """The result of a callback that gave this value or this error."""
        if error is None:
            return cls(value)
        return cls(None, error.error, error.reason, error.code, error.retry_after_ms, error.incident)

    def to_message(self) -> Message:
        """The form in which a result travels between groups."""
        if not self.error:
            return {"value": self.value}
        fields: Message = {"error": self.error, "reason": self.reason}
        for name in ("code", "retry_after_ms", "incident"):
            if getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        return fields

    @classmethod
    def from_message(cls, message: Message) -> Result:
        """Read what `to_message` wrote; TypeError for other fields."""
        return cls(**message)  # type: ignore[arg-type]
