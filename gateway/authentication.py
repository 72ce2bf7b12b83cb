"""Who a client is: what `login` proves, by the configured provider.

Guards one rule: a name is believed only from a token this file has verified, where the operator chose
anonymous login, or once a plugin at the user's home has said so. Tokens are verified here, so that a
gateway logs clients in while everything else is down. They are JWTs (RFC 7519), checked by joserfc:
`sub` is the user, `exp` is required, `roles` is a list of names; `hmac` is the same with HS256 and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from connserver.config import AuthConfig
from connserver.errors import ClientError, ConfigError, Fault
from connserver.limits import GUEST_ROLE, SESSION_ROLES, USER_NAME_CHARS
from connserver.model import Message, is_name

SECRET_BYTES: Final = 32
"""Shortest secret of an HMAC: RFC 7518 asks for as many bytes as the hash has."""

GUEST: Final = "guest-"

Key: TypeAlias = OctKey | RSAKey | ECKey | OKPKey

_KEYS: Final[dict[str, Callable[[bytes], Key]]] = {
    "HS": OctKey.import_key,
    "RS": RSAKey.import_key,
    "PS": RSAKey.import_key,
    "ES": ECKey.import_key,
    "Ed": OKPKey.import_key,
}
"""How to read the key, by the first two letters of an algorithm of RFC 7518 or RFC 8037."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user as the provider knows them."""

    user: str
    roles: tuple[str, ...] = ()
    proof: Message | None = None
    """What the client said to prove it, where a plugin at the user's home decides."""


class Authenticator(Protocol):
    """A login provider. `implicit`: a client is logged in by its first call."""

    implicit: bool

    def identify(self, message: Message, wall: float) -> Identity:
        """Who sent this `login`; `wall` in Unix seconds. ClientError says what is wrong."""


class Anonymous:
    """Everyone is who they say, or a guest with a name of their own. For development."""

    __slots__ = ("_nonce", "implicit")

    def __init__(self, nonce: Callable[[], str]) -> None:
        self.implicit = True
        self._nonce = nonce

    def identify(self, message: Message, wall: float) -> Identity:
        """The user named in `user`, else a fresh guest."""
        user = message.get("user")
        if user is None or user == "":
            return Identity(GUEST + self._nonce(), (GUEST_ROLE,))
        return Identity(user_name(user, "bad_argument"))


class Tokens:
    """Users prove themselves by a signed token."""

    __slots__ = ("_algorithms", "_key", "_options", "implicit")

    def __init__(
        self,
        key: Key,
        algorithms: tuple[str, ...],
        *,
        issuer: str = "",
        audience: str = "",
        leeway_s: int = 30,
    ) -> None:
        self.implicit = False
        self._key = key
        self._algorithms = list(algorithms)
        self._options = (issuer, audience, leeway_s)

    def identify(self, message: Message, wall: float) -> Identity:
        """The user of a valid `token`; a `user` beside it must be the same."""
        token = message.get("token")
        if type(token) is not str or not token:
            raise ClientError("unauthorized", "login needs the field 'token'")
        issuer, audience, leeway_s = self._options
        try:
            claims = jwt.decode(token, self._key, algorithms=self._algorithms).claims
            registry = jwt.JWTClaimsRegistry(now=int(wall), leeway=leeway_s, **_wanted(issuer, audience))
            registry.validate(claims)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            # the library's words name the claim or the algorithm, never the key or the token
            reason = getattr(error, "error", "") or type(error).__name__
            raise ClientError("unauthorized", f"the token is not accepted ({reason})") from None
        user = user_name(claims["sub"], "unauthorized")
        if message.get("user") not in (None, "", user):
            raise ClientError("unauthorized", "the token is for another user")
        return Identity(user, _roles(claims.get("roles", [])))


class ByPlugin:
    """A plugin decides, where the user's objects are: whatever is said here goes there unproved."""

    __slots__ = ("implicit",)

    def __init__(self) -> None:
        self.implicit = False

    def identify(self, message: Message, wall: float) -> Identity:
        """The user named in `user`, and all that the message says for the plugin."""
        user = user_name(message.get("user"), "unauthorized")
        return Identity(
            user, proof={name: value for name, value in message.items() if name not in ("msg", "id")}
        )


def authenticator(config: AuthConfig, nonce: Callable[[], str]) -> Authenticator:
    """The provider of a configuration; ConfigError if its secret cannot be used."""
    if config.provider == "anonymous":
        return Anonymous(nonce)
    if config.provider == "plugin":
        return ByPlugin()
    algorithms = ("HS256",) if config.provider == "hmac" else config.jwt_algorithms
    return Tokens(
        _key(config, algorithms),
        algorithms,
        issuer=config.jwt_issuer,
        audience=config.jwt_audience,
        leeway_s=config.jwt_leeway_s,
    )


def user_name(value: object, error: str) -> str:
    """A user name that can be hashed, logged and shown; ClientError `error` otherwise."""
    if type(value) is not str or not 0 < len(value) <= USER_NAME_CHARS or not value.isprintable():
        raise ClientError(error, f"a user name is 1 to {USER_NAME_CHARS} printable characters")
    if value != value.strip():
        raise ClientError(error, "a user name neither begins nor ends with white space")
    return value


def _roles(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > SESSION_ROLES:
        raise ClientError("unauthorized", f"the token's roles are no list of at most {SESSION_ROLES} names")
    if not all(type(role) is str and is_name(role) for role in value):
        raise ClientError("unauthorized", "the token's roles are not all names")
    return tuple(dict.fromkeys(value))


def _wanted(issuer: str, audience: str) -> dict[str, jwt.ClaimsOption]:
    wanted: dict[str, jwt.ClaimsOption] = {"sub": {"essential": True}, "exp": {"essential": True}}
    if issuer:
        wanted["iss"] = {"essential": True, "value": issuer}
    if audience:
        wanted["aud"] = {"essential": True, "value": audience}
    return wanted


def _key(config: AuthConfig, algorithms: tuple[str, ...]) -> Key:
    """Read the key for these algorithms, which must all use the same kind of it.

    A key of one kind for algorithms of another is the classic way to forge tokens: a public RSA key
    is no secret, and as an HMAC key it would sign anything.
    """
    file = config.secret_file
    if file is None:
        missing = f"[auth] provider {config.provider!r} needs secret_file"
        raise ConfigError([Fault("cluster.toml", 0, missing)])
    readers = {name[:2]: _KEYS.get(name[:2]) for name in algorithms}
    reader = next(iter(readers.values())) if len(set(readers.values())) == 1 else None
    if reader is None:
        wrong = f"[auth] jwt_algorithms {list(algorithms)} do not all use one known kind of key"
        raise ConfigError([Fault("cluster.toml", 0, wrong)])
    try:
        secret = file.read_bytes().strip()
        if "HS" in readers and len(secret) < SECRET_BYTES:
            raise ValueError(f"a secret of at least {SECRET_BYTES} bytes is wanted")
        if "HS" in readers and secret.startswith(b"-----BEGIN"):
            raise ValueError("this is a key in PEM form, but the algorithms want a shared secret")
        return reader(secret)
    except (OSError, ValueError, TypeError, JoseError) as error:
        what = str(error) if isinstance(error, (OSError, ValueError)) else type(error).__name__
        raise ConfigError([Fault(str(file), 0, f"cannot be used as the login secret: {what}")]) from None
