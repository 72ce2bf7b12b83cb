"""Reads cluster.toml, local.toml, variables and flags into one checked ClusterConfig.

Guards one rule: all faults of all these places are reported together, sorted by file and line, or
there is none and the configuration holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from connserver.config.checks import SECRET_BYTES, SECRET_FILE_BYTES, check_all
from connserver.config.local import (
    LocalFile,
    Overrides,
    Source,
    default_state_dir,
    from_environment,
    from_flags,
    from_values,
)
from connserver.config.positions import Positions, Where, read_toml
from connserver.config.reading import Problem, Reader, did_you_mean
from connserver.config.schema import ClusterConfig, LocalConfig, SecretFiles
from connserver.errors import ConfigError, Fault

FILE_BYTES: Final = 1 << 20
"""A configuration larger than this is another file, given by mistake."""

Settings = TypeVar("Settings", LocalFile, SecretFiles)


@dataclass(slots=True)
class Faults:
    """Faults found so far, in the order of the places they were found in."""

    found: list[tuple[int, Fault]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def add(self, file: str, line: int, message: str) -> None:
        """Note a fault once."""
        place = self.places.setdefault(file, len(self.places))
        fault = Fault(file, line, message)
        if (place, fault) not in self.found:
            self.found.append((place, fault))

    def place(self, file: str, text: str | None, problems: Iterable[Problem]) -> None:
        """Note problems with the lines that they have in a text."""
        positions = Positions(text or "")
        for problem in problems:
            self.add(file, 0 if text is None else positions.line(problem.where), problem.message)

    def raise_if_any(self) -> None:
        """Raise ConfigError with every fault, by file and line."""
        if self.found:
            ordered = sorted(self.found, key=lambda item: (item[0], item[1].line))
            raise ConfigError([fault for _, fault in ordered])


@dataclass(frozen=True, slots=True)
class Document:
    """One TOML file: its values, and whether they are all that stands there."""

    name: str
    text: str
    values: dict[str, Any] | None
    whole: bool


def load_cluster(
    path: Path, *, environ: Mapping[str, str] | None = None, flags: Overrides | None = None
) -> ClusterConfig:
    """Read and check a cluster.toml with what is this host's alone.

    `environ` is the process's own unless given. Raises ConfigError with all faults at once, sorted
    by file and line; the first file is cluster.toml, named as `path` was written.
    """
    environ = os.environ if environ is None else environ
    faults = Faults(places={str(path): 0})
    file = path.absolute()
    document = _read_document(path, faults)
    sources = [*from_flags(flags or Overrides()), *from_environment(environ), *_local_file(path, faults)]
    reader = Reader(file.parent, whole=document is not None and document.whole)
    config = ClusterConfig(file=file)
    if document is not None and document.values is not None:
        config = replace(config, **reader.document(document.values))
        faults.place(document.name, document.text, reader.problems)
    for source in sources:
        faults.place(source.name, source.text, source.problems)
    if document is not None and document.whole:
        faulty = reader.faulty.union(*(source.faulty for source in sources))
        config = _with_local(config, sources, environ)
        config = _with_files_read(config, sources, faults, document)
        if faulty.isdisjoint({"nodes", "nodes.name", "node"}):
            _check_node(config, sources, faults, document)
        faults.place(document.name, document.text, check_all(config, faulty))
    faults.raise_if_any()
    return config


def _read_document(path: Path, faults: Faults) -> Document | None:
    """Read one TOML file; None, and a fault, where there is nothing to read."""
    name = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES + 1)
    except OSError as error:
        faults.add(name, 0, f"cannot be read: {error.strerror}")
        return None
    if len(data) > FILE_BYTES:
        faults.add(name, 0, f"is larger than {FILE_BYTES} bytes and thus no configuration")
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        faults.add(name, data.count(b"\n", 0, error.start) + 1, "this line is not UTF-8, which TOML must be")
        return None
    reading = read_toml(text)
    for syntax in reading.faults:
        faults.add(name, syntax.line, syntax.message)
    return Document(name, text, reading.values, whole=not reading.faults)


def _local_file(path: Path, faults: Faults) -> list[Source]:
    """The local.toml beside cluster.toml, if there is one."""
    local = path.parent / "local.toml"
    if not local.exists():
        return []
    document = _read_document(local, faults)
    if document is None or document.values is None:
        return []
    return [from_values(document.values, local.absolute().parent, document.name, document.text)]


def _with_local(config: ClusterConfig, sources: list[Source], environ: Mapping[str, str]) -> ClusterConfig:
    """Lay what is this host's alone over what the cluster shares."""
    settings = _first_of([source.settings for source in sources], LocalFile())
    secrets = _first_of([source.secrets for source in sources], SecretFiles())
    state_dir = settings.state_dir or default_state_dir(environ)
    certificate_file = secrets.tls_certificate_file or config.gateway.tls_certificate_file
    key_file = secrets.tls_key_file or config.gateway.tls_key_file
    level, form = settings.log_level or config.log.level, settings.log_format or config.log.format
    return replace(
        config,
        gateway=replace(config.gateway, tls_certificate_file=certificate_file, tls_key_file=key_file),
        auth=replace(config.auth, secret_file=secrets.auth_secret_file or config.auth.secret_file),
        storage=replace(config.storage, dsn_file=secrets.dsn_file or config.storage.dsn_file),
        log=replace(config.log, level=level, format=form),
        local=LocalConfig(node=settings.node, state_dir=state_dir, secrets=secrets),
    )


def _check_node(config: ClusterConfig, sources: list[Source], faults: Faults, document: Document) -> None:
    """See that the node this host is to be exists."""
    names = [node.name for node in config.nodes]
    source = next((source for source in sources if source.settings.node is not None), None)
    if source is not None and config.local.node not in names:
        hint = did_you_mean(str(config.local.node), names)
        message = f"there is no node {config.local.node!r} in {document.name}{hint}"
        faults.place(source.name, source.text, [Problem(("node",), message)])


def _first_of(given: list[Settings], empty: Settings) -> Settings:
    """Per key the first value that is there: the sources come in order of precedence."""
    values = {}
    for item in fields(empty):
        values[item.name] = next(
            (value for one in given if (value := getattr(one, item.name)) is not None), None
        )
    return replace(empty, **values)


def _with_files_read(
    config: ClusterConfig, sources: list[Source], faults: Faults, document: Document
) -> ClusterConfig:
    """See that the secret files can be read, and read the DSN."""
    wanted: dict[str, tuple[Path | None, Where]] = {
        "tls_certificate_file": (config.gateway.tls_certificate_file, ("gateway", "tls_certificate_file")),
        "tls_key_file": (config.gateway.tls_key_file, ("gateway", "tls_key_file")),
        "dsn_file": (config.storage.dsn_file, ("storage", "dsn_file")),
    }
    if config.auth.provider in ("hmac", "jwt"):
        wanted["auth_secret_file"] = (config.auth.secret_file, ("auth", "secret_file"))
    contents: dict[str, bytes] = {}
    for key, (path, where) in wanted.items():
        if path is None:
            continue
        content = _secret(path)
        if isinstance(content, bytes) and key == "auth_secret_file" and len(content.strip()) < SECRET_BYTES:
            content = f"{path} holds fewer than {SECRET_BYTES} bytes, which is no secret for long"
        if isinstance(content, bytes):
            contents[key] = content
            continue
        source = next((source for source in sources if getattr(source.secrets, key) is not None), None)
        if source is None:
            faults.place(document.name, document.text, [Problem(where, content)])
        else:
            faults.place(source.name, source.text, [Problem(("secrets", key), content)])
    if "dsn_file" not in contents:
        return config
    dsn = contents["dsn_file"].decode("utf-8", "replace").strip()
    return replace(config, storage=replace(config.storage, dsn=dsn))


def _secret(path: Path) -> bytes | str:
    """A secret file's content, or the sentence that says why it cannot be used."""
    try:
        with path.open("rb") as stream:
            content = stream.read(SECRET_FILE_BYTES + 1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if not content.strip():
        return f"{path} is empty"
    if len(content) > SECRET_FILE_BYTES:
        return f"{path} is larger than {SECRET_FILE_BYTES} bytes and thus no secret"
    return content
