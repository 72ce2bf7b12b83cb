"""What a message leads to on a connection that has no session yet.

Guards one rule: before login a client gets only what needs no session, and nothing it claims is
passed on unproved: the login provider's word is, and the token that proved it stays here. Only where a
plugin is the provider what a client says goes to the worker that asks it, marked as `proof`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from connserver.encodings import Encoding
from connserver.errors import ClientError
from connserver.limits import KEPT_REPLIES, Limits
from connserver.messages import RequestKind
from connserver.model import Message, Value, pack
from gateway import greeting
from gateway.admission import Rates
from gateway.authentication import Authenticator, Identity
from gateway.routing import home_of_connection, home_of_token, home_of_user


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same for all connections of a gateway. `wall` gives Unix seconds."""

    limits: Limits
    groups: int
    keepalive_ms: int
    authenticator: Authenticator
    wall: Callable[[], float]
    rates: Rates = field(init=False)
    in_flight: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", Rates.of(self.limits))
        # more than a session's kept replies could run twice after a failover
        object.__setattr__(self, "in_flight", min(self.limits.requests_in_flight, KEPT_REPLIES))


@dataclass(frozen=True, slots=True)
class Greeted:
    """The gateway answers by itself."""

    answer: Message


@dataclass(frozen=True, slots=True)
class Entered:
    """These requests, as (kind, body), are for this group; with `login` they begin a session."""

    group: int
    items: list[tuple[int, bytes]]
    login: bool


def enter(message: Message, number: int, encoding: Encoding, rules: Rules) -> Greeted | Entered:
    """What follows from a message before login; ClientError if it is not allowed or not right.

    `number` is the connection's.
    """
    match message["msg"]:
        case "hello":
            return Greeted(greeting.hello(message, rules.limits, rules.keepalive_ms, rules.wall()))
        case "ping":
            return Greeted(greeting.ping(message))
        case "time":
            return Greeted(greeting.time(message, rules.wall()))
        case "methods":
            group = home_of_connection(number, rules.groups)
            return Entered(group, [(RequestKind.CALL, pack(message))], login=False)
        case "login":
            identity = rules.authenticator.identify(message, rules.wall())
            # the token has done its work; it is not to be kept in any log
            shown = {name: value for name, value in message.items() if name != "token"}
            return _login(identity, shown, encoding, rules)
        case "session.resume":
            return _resume(message, encoding, rules)
        case method if not rules.authenticator.implicit or method == "logout":
            raise ClientError("unauthorized", f"{method!s} needs a session: send login first")
    implicit = _login(rules.authenticator.identify({}, rules.wall()), None, encoding, rules)
    implicit.items.append((RequestKind.CALL, pack(message)))
    return implicit


def _login(identity: Identity, message: Message | None, encoding: Encoding, rules: Rules) -> Entered:
    roles: list[Value] = list(identity.roles)
    body: Message = {"user": identity.user, "roles": roles, "encoding": int(encoding)}
    if message is not None:
        body["message"] = message
    if identity.proof is not None:
        body["proof"] = identity.proof
        body["message"] = {name: value for name, value in (message or {}).items() if name in ("msg", "id")}
    _, group = home_of_user(identity.user, rules.groups)
    return Entered(group, [(RequestKind.LOGIN, pack(body))], login=True)


def _resume(message: Message, encoding: Encoding, rules: Rules) -> Entered:
    token = message.get("resume")
    try:
        group = home_of_token(token if isinstance(token, str) else "", rules.groups)
    except ValueError as error:
        raise ClientError("session_expired", str(error)) from None
    shown: Message = {name: message[name] for name in ("msg", "id") if name in message}
    body: Message = {
        "resume": token,
        **greeting.resume_arguments(message),
        "encoding": int(encoding),
        "message": shown,
    }
    return Entered(group, [(RequestKind.RESUME, pack(body))], login=True)
