"""Login providers: what a token proves, and everything that proves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from connserver.config import AuthConfig
from connserver.errors import ClientError, ConfigError
from gateway.authentication import GUEST, Authenticator, Identity, authenticator

NOW = 1_800_000_000.0
SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    return file


def provider(config: AuthConfig) -> Authenticator:
    return authenticator(config, lambda: "0badcafe")


def token(claims: dict[str, Any], *, key: Any = None, algorithm: str = "HS256") -> str:
    return jwt.encode({"alg": algorithm}, claims, key or OctKey.import_key(SECRET), algorithms=[algorithm])


def refusal(who: Authenticator, **fields: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        who.identify({"msg": "login", **fields}, NOW)
    return caught.value


def test_anonymous_takes_a_name_or_gives_one() -> None:
    who = provider(AuthConfig())
    assert who.implicit
    assert who.identify({"msg": "login", "user": "ann"}, NOW) == Identity("ann")
    assert who.identify({"msg": "login"}, NOW) == Identity(GUEST + "0badcafe", ("guest",))
    assert who.identify({"msg": "login", "user": ""}, NOW) == Identity(GUEST + "0badcafe", ("guest",))


@pytest.mark.parametrize("user", ["x" * 65, "a\nb", " ann", "ann ", "\u2028", 7, True, ["ann"], {}])
def test_anonymous_refuses_names_that_cannot_be_shown(user: Any) -> None:
    assert refusal(provider(AuthConfig()), user=user).error == "bad_argument"


def test_a_valid_token_gives_user_and_roles(secret_file: Path) -> None:
    who = provider(AuthConfig(provider="hmac", secret_file=secret_file))
    assert not who.implicit
    good = token({"sub": "ann", "exp": NOW + 60, "roles": ["gm", "gm", "tester"]})
    assert who.identify({"msg": "login", "token": good}, NOW) == Identity("ann", ("gm", "tester"))
    assert who.identify({"msg": "login", "token": good, "user": "ann"}, NOW).user == "ann"
    assert refusal(who, token=good, user="bob").error == "unauthorized"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "ann", "exp": NOW - 60},
        {"sub": "ann"},
        {"exp": NOW + 60},
        {"sub": "ann", "exp": NOW + 60, "nbf": NOW + 50},
        {"sub": "ann", "exp": "tomorrow"},
        {"sub": "", "exp": NOW + 60},
        {"sub": "a\nb", "exp": NOW + 60},
        {"sub": "ann", "exp": NOW + 60, "roles": "gm"},
        {"sub": "ann", "exp": NOW + 60, "roles": ["not a name"]},
        {"sub": "ann", "exp": NOW + 60, "roles": [1]},
        {"sub": "ann", "exp": NOW + 60, "roles": ["r"] * 33},
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused(secret_file: Path, claims: dict[str, Any]) -> None:
    who = provider(AuthConfig(provider="hmac", secret_file=secret_file))
    assert refusal(who, token=token(claims)).error == "unauthorized"


@pytest.mark.parametrize(
    "forged",
    [
        None,
        "",
        7,
        "a.b.c",
        "....",
        "é.é.é",
        "MQ.MQ.MQ",
        "W10.W10.W10",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.",
        token({"sub": "ann", "exp": NOW + 60}, key=OctKey.import_key(b"x" * 32)),
        token({"sub": "ann", "exp": NOW + 60}, algorithm="HS512"),
        token({"sub": "ann", "exp": NOW + 60})[:-3] + "AAA",
    ],
)
def test_anything_but_a_token_of_ours_is_refused_without_a_word_of_it(secret_file: Path, forged: Any) -> None:
    who = provider(AuthConfig(provider="hmac", secret_file=secret_file))
    error = refusal(who, token=forged)
    assert error.error == "unauthorized"
    if forged:
        assert str(forged) not in error.reason


def test_issuer_and_audience_are_required_where_configured(secret_file: Path) -> None:
    who = provider(AuthConfig(provider="jwt", secret_file=secret_file, jwt_issuer="us", jwt_audience="game"))
    right = {"sub": "ann", "exp": NOW + 60, "iss": "us", "aud": ["game", "other"]}
    assert who.identify({"msg": "login", "token": token(right)}, NOW).user == "ann"
    for wrong in ({**right, "iss": "them"}, {**right, "aud": "other"}, {"sub": "ann", "exp": NOW + 60}):
        assert refusal(who, token=token(wrong)).error == "unauthorized"


@pytest.mark.parametrize(
    ("algorithm", "key"), [("RS256", RSAKey.generate_key(2048)), ("ES256", ECKey.generate_key("P-256"))]
)
def test_public_keys_verify_and_never_serve_as_a_shared_secret(
    tmp_path: Path, algorithm: str, key: RSAKey | ECKey
) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(key.as_pem(private=False))
    config = AuthConfig(provider="jwt", secret_file=file, jwt_algorithms=(algorithm,))
    who = provider(config)
    claims = {"sub": "ann", "exp": NOW + 60}
    good = token(claims, key=key, algorithm=algorithm)
    assert who.identify({"msg": "login", "token": good}, NOW).user == "ann"
    assert refusal(who, token=token(claims)).error == "unauthorized"
    with pytest.raises(ConfigError, match="PEM"):
        provider(AuthConfig(provider="hmac", secret_file=file))


@pytest.mark.parametrize("algorithms", [("HS256", "RS256"), ("none",), ()])
def test_algorithms_of_different_keys_are_refused_at_start(
    secret_file: Path, algorithms: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="jwt_algorithms"):
        provider(AuthConfig(provider="jwt", secret_file=secret_file, jwt_algorithms=algorithms))


def test_a_secret_that_cannot_be_used_is_named_but_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="secret_file"):
        provider(AuthConfig(provider="hmac"))
    with pytest.raises(ConfigError, match="cannot be used"):
        provider(AuthConfig(provider="hmac", secret_file=tmp_path / "absent"))
    short = tmp_path / "short"
    short.write_bytes(b"hunter2")
    with pytest.raises(ConfigError) as caught:
        provider(AuthConfig(provider="hmac", secret_file=short))
    assert "32 bytes" in str(caught.value) and "hunter2" not in str(caught.value)


def test_where_a_plugin_decides_what_the_client_says_goes_to_it() -> None:
    who = provider(AuthConfig(provider="plugin"))
    found = who.identify({"msg": "login", "id": 5, "user": "ann", "token": "t", "world": "w"}, 0.0)
    assert found.user == "ann" and found.roles == ()
    assert found.proof == {"user": "ann", "token": "t", "world": "w"}
    assert not who.implicit
    assert refusal(who, token="t").error == "unauthorized"
    assert refusal(who, user=" ann").error == "unauthorized"
