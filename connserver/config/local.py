"""What is this host's alone: its node, its state folder, its secret files, its log level.

Guards one rule, the order of precedence: flags, then `CS_…` variables, then local.toml beside
cluster.toml, then cluster.toml, then the default. Relative paths begin at the folder of the file
they are written in, or at the working folder for variables and flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from connserver.config.positions import Where
from connserver.config.reading import Problem, Reader, did_you_mean
from connserver.config.schema import SecretFiles

ROOT_STATE_DIR: Final = Path("/var/lib/connserver")

VARIABLES: Final[Mapping[str, Where]] = {
    "CS_NODE": ("node",),
    "CS_STATE_DIR": ("state_dir",),
    "CS_LOG_LEVEL": ("log_level",),
    "CS_LOG_FORMAT": ("log_format",),
    "CS_AUTH_SECRET_FILE": ("secrets", "auth_secret_file"),
    "CS_TLS_CERTIFICATE_FILE": ("secrets", "tls_certificate_file"),
    "CS_TLS_KEY_FILE": ("secrets", "tls_key_file"),
    "CS_DSN_FILE": ("secrets", "dsn_file"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says; None where it says nothing."""

    node: str | None = None
    state_dir: Path | None = None
    log_level: str | None = None
    log_format: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """What local.toml may hold."""

    node: str | None = None
    state_dir: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    log_format: Literal["logfmt", "json"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place of settings: its name and text for faults, and what was read from it."""

    name: str
    text: str | None
    settings: LocalFile
    secrets: SecretFiles
    problems: tuple[Problem, ...]
    faulty: frozenset[str]


def from_values(values: dict[str, Any], base: Path, name: str, text: str | None = None) -> Source:
    """Read the values of a local.toml (with its text), or the same tree made of variables or flags."""
    reader = Reader(base)
    secrets = values.get("secrets", {})
    if not isinstance(secrets, dict):
        reader.report(("secrets",), "secrets is a section: write [secrets] and its keys below it")
        secrets = {}
    return Source(
        name=name,
        text=text,
        settings=reader.section(LocalFile, values, (), also=("secrets",)),
        secrets=reader.section(SecretFiles, secrets, ("secrets",)),
        problems=tuple(reader.problems),
        faulty=frozenset(reader.faulty),
    )


def from_environment(environ: Mapping[str, str]) -> list[Source]:
    """One source per `CS_…` variable; a near miss of a known name is a fault, others are not ours."""
    sources = []
    for variable in sorted(name for name in environ if name.startswith("CS_")):
        name = f"environment variable {variable}"
        where = VARIABLES.get(variable)
        if where is None:
            hint = did_you_mean(variable, VARIABLES, cutoff=0.85)
            if "did you mean" in hint:
                sources.append(
                    replace(from_values({}, Path(), name), problems=(Problem((), f"unknown{hint}"),))
                )
        elif environ[variable]:
            values: Any = environ[variable]
            for key in reversed(where):
                values = {key: values}
            sources.append(from_values(values, Path.cwd(), name))
    return sources


def from_flags(flags: Overrides) -> list[Source]:
    """One source per flag that was given."""
    given = {
        "node": flags.node,
        "state_dir": None if flags.state_dir is None else str(flags.state_dir),
        "log_level": flags.log_level,
        "log_format": flags.log_format,
    }
    return [
        from_values({key: value}, Path.cwd(), f"--{key.replace('_', '-')}")
        for key, value in given.items()
        if value is not None
    ]


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """/var/lib/connserver for root, else `$XDG_STATE_HOME/connserver`, ~/.local/state by default."""
    if os.geteuid() == 0:
        return ROOT_STATE_DIR
    written = environ.get("XDG_STATE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(written) if written.startswith("/") else Path.home() / ".local" / "state"
    return base / "connserver"
